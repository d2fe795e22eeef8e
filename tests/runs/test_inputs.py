"""The inputs of a second `kickoff`: the same ones, in whichever order sets and dicts hold them, continue a run; others are refused."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio
import pytest
from flows import UNFINISHED, Steps, run_that_is
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    computed_field,
    field_serializer,
    model_validator,
)

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start
from asyncflow._runs.inputs import inputs_bytes, inputs_match

ONE, OTHER = {0, 8}, {8, 0}
assert list(ONE) != list(OTHER), "equal sets that tell their members in another order"


class Settings(BaseModel):
    tags: set[int] = set()
    named: int = Field(1, validation_alias="x", serialization_alias="N")
    model_config = ConfigDict(populate_by_name=True)


@dataclass
class Point:
    at: set[int] = field(default_factory=set)


class Own(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64")
    tags: set[int] = Field(set(), serialization_alias="T")
    at: bytes = b""
    word: SecretStr = SecretStr("")

    @field_serializer("tags", when_used="json")
    def listed(self, tags: set[int]) -> list[int]:
        return list(tags)


class Odd(BaseModel):
    word: SecretStr = Field(serialization_alias="W")
    hidden: int = Field(0, exclude=True)

    @computed_field
    def more(self) -> int:
        return 1


SAME: dict[str, tuple[Any, Any]] = {
    "a set": (ONE, OTHER),
    "a frozen set in a list": ([frozenset(ONE)], [frozenset(OTHER)]),
    "a set in a model": (Settings(tags=ONE), Settings(tags=OTHER)),
    "a set in a dataclass": (Point(ONE), Point(OTHER)),
    "a set in a model that has its own way with it": (Own(tags=ONE, at=b"\xff"), Own(tags=OTHER, at=b"\xff")),
    "a set by another name": (Settings(tags=ONE, named=3), Settings(tags=OTHER, named=3)),
    "a set in a root model": (RootModel[set[int]](ONE), RootModel[set[int]](OTHER)),
    "a secret that is no text": (SecretStr("\ud800"), SecretStr("\ud800")),
    "a secret beside a dict": ({"a": 1, "b": SecretStr("x")}, {"b": SecretStr("x"), "a": 1}),
    "a secret": ({"a": SecretStr("x")}, {"a": SecretStr("x")}),
    "a dict in a dict": ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
    "a dict in a list in a model's place": ([{1: ONE, "b": 2}], [{"b": 2, 1: OTHER}]),
    "what JSON has no form for": (
        {"at": datetime(2026, 1, 1), "b": b"\xff", "n": float("nan"), "s": ONE},
        {"s": OTHER, "n": float("nan"), "b": b"\xff", "at": datetime(2026, 1, 1)},
    ),
}
OTHERS: dict[str, tuple[Any, Any]] = {
    "a set with one more": (ONE, {0, 8, 1}),
    "a set with another": (ONE, {0, 1}),
    "a list in another order": ([1, 2], [2, 1]),
    "a set for a list in another order": ([8, 0], ONE),
    "a key that comes twice": ({1: "a", "1": "b"}, {1: "c", "1": "b"}),
    "another secret": (SecretStr("alice"), SecretStr("bob")),
    "what a secret is written as": (SecretStr("alice"), "**********"),
    "another secret in a model": (Own(word=SecretStr("alice")), Own(word=SecretStr("bobby"))),
    "another secret of any type": (Secret[int](1), Secret[int](2)),
    "another secret where names are another's": (Odd(word=SecretStr("alice")), Odd(word=SecretStr("bobby"))),
    "another secret beside a set": ({"s": SecretStr("alice"), "t": ONE}, {"s": SecretStr("bobby"), "t": OTHER}),
    "another secret, in bytes": ([SecretBytes(b"alice")], [SecretBytes(b"bobby")]),
    "a dict with one more": ({"a": 1}, {"a": 1, "b": 2}),
    "a dict with another value": ({"a": {"x": 1}}, {"a": {"x": 2}}),
    "a dict with another key": ({"a": 1}, {"b": 1}),
    "truth for one": ({"a": [True]}, {"a": [1]}),
    "a model with another field": (Settings(tags=ONE), Settings(tags=OTHER, x=2)),
    "text for a list": ([1], "[1]"),
    "something for a set": (3, ONE),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_inputs_are_known_again(name: str) -> None:
    one, other = SAME[name]

    assert inputs_match(inputs_bytes({"n": 1, "it": one}), {"it": other, "n": 1})
    assert inputs_match(inputs_bytes({"n": 1, "it": other}), {"it": one, "n": 1})


@pytest.mark.parametrize("name", OTHERS)
def test_other_inputs_are_distinguished(name: str) -> None:
    one, other = OTHERS[name]

    assert not inputs_match(inputs_bytes({"it": one}), {"it": other})
    assert not inputs_match(inputs_bytes({"it": other}), {"it": one})


def test_what_cannot_be_written_is_compared_by_its_text() -> None:
    stored = inputs_bytes({"it": [object]})

    assert inputs_match(stored, {"it": [object]})
    assert not inputs_match(stored, {"it": [int]})


class Table:
    """As numpy's arrays and pandas' tables: its text leaves out most of what it holds."""

    def __init__(self, values: list[float], dtype: str) -> None:
        self.values, self.dtype, self.shape = values, dtype, (len(values),)

    def __str__(self) -> str:
        return f"[{self.values[0]} ... {self.values[-1]}]"

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    def tolist(self) -> list[float]:
        return self.values

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.found("D4", "D5")
def test_arrays_are_distinguished_by_all_that_they_hold() -> None:
    table = {"t": Table([1.0, 2.0, 3.0], "f8")}
    stored = inputs_bytes(table)

    assert inputs_match(stored, {"t": Table([1.0, 2.0, 3.0], "f8")})
    assert not inputs_match(stored, {"t": Table([1.0, 2.5, 3.0], "f8")})
    assert not inputs_match(stored, {"t": Table([1.0, 2.0, 3.0], "f4")})
    assert inputs_match(b'{"t":"[1.0 ... 3.0]"}', table)  # as 0.1 wrote it


def test_what_is_too_deep_to_be_read_is_compared_as_it_is_written() -> None:
    deep: list[Any] = []
    for _ in range(220):
        deep = [deep]

    assert inputs_match(inputs_bytes({"a": deep, "b": ONE}), {"a": deep, "b": ONE})


def test_what_holds_itself_is_no_other() -> None:
    ring: list[Any] = []
    ring.append(ring)

    assert not inputs_match(inputs_bytes({"it": [1]}), {"it": ring})
    assert inputs_match(inputs_bytes({"it": ring}), {"it": ring})


class Work(FlowState):
    tags: set[int] = Field(default_factory=set)
    more: dict[str, int] = Field(default_factory=dict)


class Fails(Flow[Work]):
    fails = True

    @start()
    async def only(self) -> int:
        if self.fails:
            raise LookupError
        return len(self.state.tags)


async def test_the_same_call_resumes_whatever_the_order_of_its_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryFlowPersistence()
    with pytest.raises(errors.MethodError):
        await Fails(persistence=store).kickoff({"id": "x", "tags": ONE, "more": {"a": 1, "b": 2}})
    monkeypatch.setattr(Fails, "fails", False)
    with pytest.raises(errors.RunInputsError):
        await Fails(persistence=store).kickoff({"id": "x", "tags": {0}, "more": {"a": 1, "b": 2}})

    assert await Fails(persistence=store).kickoff({"id": "x", "tags": OTHER, "more": {"b": 2, "a": 1}}) == 2


async def test_what_a_generator_gives_is_given_to_all_who_ask() -> None:
    class Listed(FlowState):
        tags: list[int] = Field(default_factory=list)

    class Takes(Flow[Listed]):
        @start()
        async def only(self) -> list[int]:
            return self.state.tags

    store = MemoryFlowPersistence()
    async with FlowRunner(store) as runner:
        assert await runner.run(Takes, {"tags": iter([1, 2])}, run_id="x") == [1, 2]
        assert await runner.run(Takes, {"tags": (n for n in (1, 2))}, run_id="x") == [1, 2]
        with pytest.raises(errors.RunInputsError):
            await runner.run(Takes, {"tags": (n for n in (7, 8))}, run_id="x")
    flow = Takes(persistence=store)
    assert await flow.kickoff({"id": "y", "tags": map(int, "12")}) == [1, 2]
    assert (await store.history("y"))[0].inputs == b'{"tags":[1,2]}'


@UNFINISHED
async def test_the_same_line_of_code_continues_an_unfinished_run(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store, {"id": "mine", "size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})

    assert run_id == "mine"
    assert flow.ran == ["second", "third"]
    assert flow.state.size == 13


@pytest.mark.parametrize(
    "inputs", [{"size": 11}, {"done": ["x"]}, {"size": 10, "done": ["x"]}], ids=["value", "name", "one more"]
)
async def test_other_inputs_for_an_unfinished_run_are_refused(inputs: dict[str, Any], store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    with pytest.raises(errors.RunInputsError, match="update_state"):
        await flow.kickoff({"id": run_id, **inputs})

    assert flow.ran == []
    assert (await Steps.load(run_id, persistence=store)).state.size == 11


async def test_no_inputs_continue_a_run_that_was_started_with_some(store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state.size == 13


async def test_unknown_inputs_are_refused_for_a_stored_run(store: Any) -> None:
    run_id = await run_that_is("interrupted", store)

    with pytest.raises(errors.RunInputsError, match="sise"):
        await Steps(persistence=store).kickoff({"id": run_id, "sise": 3})


async def test_the_inputs_of_a_later_pass_are_its_own(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})
    hanging = Steps("hang", persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(hanging.kickoff, {"id": "mine", "size": 20})
            await hanging.hanging.wait()
            scope.cancel()

    with pytest.raises(errors.RunInputsError):
        await Steps(persistence=store).kickoff({"id": "mine", "size": 10})
    again = Steps(persistence=store)
    await again.kickoff({"id": "mine", "size": 20})

    assert again.ran == ["second", "third"]
    assert again.state.size == 23


class Bounds(FlowState):
    low: int = 0
    high: int = 9
    items: list["Named"] = Field(default_factory=list)

    @model_validator(mode="after")
    def in_order(self) -> "Bounds":
        assert self.low <= self.high
        return self


class Named(BaseModel):
    name: str
    uid: uuid.UUID = Field(default_factory=uuid.uuid4)


@pytest.mark.parametrize("inputs", [{"low": 5}, {"items": [{"name": "q"}]}], ids=["state moved on", "made values"])
async def test_the_same_call_resumes_whatever_became_of_the_state(inputs: dict[str, Any]) -> None:
    is_well = False

    class Moving(Flow[Bounds]):
        @start()
        async def a(self) -> None:
            self.state.low, self.state.high = 1, 2

        @listen(a)
        async def b(self) -> str:
            if not is_well:
                raise ValueError
            return "done"

    store = MemoryFlowPersistence()
    with pytest.raises(MethodError):
        await Moving(persistence=store).kickoff({"id": "x", **inputs})
    is_well = True

    assert await Moving(persistence=store).kickoff({"id": "x", **inputs}) == "done"
