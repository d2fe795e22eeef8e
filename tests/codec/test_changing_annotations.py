"""Annotations that change under stored values: what was stored is read as what it was, or refused."""

import datetime as dt
import decimal
import typing
import uuid
from typing import Any, Optional

import pydantic
import pytest
from annotated import NOW, Colour, D, Point, Row, kept, state_codec
from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, MethodError, and_, errors, listen, start
from asyncflow._codec.codec import Misfit, codec_for, plain_codec
from asyncflow._codec.marks import SAME
from asyncflow._values.copying import difference

# ---- an annotation comes, goes, and becomes another --------------------------------------------------------------------


TYPES: dict[str, tuple[Any, Any]] = {
    "datetime": (dt.datetime, NOW),
    "Decimal": (D, D("1.10")),
    "UUID": (uuid.UUID, uuid.UUID(int=7)),
    "bytes": (bytes, b"raw"),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[str], {"a", "b"}),
    "int keys": (dict[int, str], {1: "a"}),
    "model": (Row, Row(when=NOW)),
    "dataclass": (Point, Point(D("2.0"))),
    "enum": (Colour, Colour.RED),
    "list of datetimes": (list[dt.datetime], [NOW]),
    "dict of sets": (dict[str, set[int]], {"a": {1, 2}}),
    "optional": (Optional[dt.date], dt.date(2026, 1, 1)),  # noqa: UP045 - as it is written
}
by_type = pytest.mark.parametrize(("annotation", "value"), TYPES.values(), ids=TYPES)
CLASSES = ("model", "dataclass", "enum")


@pytest.mark.found("B3")
@by_type
@pytest.mark.parametrize("now", [Any, list, dict, list[Any], dict[str, Any], Any | None])
def test_what_an_annotation_wrote_is_not_read_without_it(annotation: Any, value: Any, now: Any) -> None:
    data = kept(codec_for(annotation), value)

    with pytest.raises(Misfit) as caught:
        codec_for(now).decode(data)

    assert caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [TYPES[name] for name in TYPES if name not in CLASSES],
    ids=[name for name in TYPES if name not in CLASSES],
)
def test_what_has_no_annotation_is_read_by_one_that_it_fits(annotation: Any, value: Any) -> None:
    data = kept(plain_codec, value)
    of_0_1 = data[1:]

    for stored in (data, of_0_1):
        assert difference(value, codec_for(annotation).decode(stored)) is None


@pytest.mark.found("B3")
def test_a_misfit_of_a_value_without_an_annotation_names_its_path() -> None:
    data = kept(plain_codec, {"a": NOW, "b": {1}})

    with pytest.raises(Misfit) as caught:
        codec_for(dict[str, dt.datetime]).decode(data)

    assert caught.value.paths == ("b",)
    assert not caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 5),
        (float, 1.5),
        (bool, True),
        (None, None),
        (str, "2026-01-01T00:00:00"),
        (list[str], ["a"]),
        (dict[str, list[int]], {"$set": [1]}),
        (str | None, None),
        (int | str, "5"),
        (typing.Literal["a", 1], 1),
        (dict[str, Any], {"a": [1, {"b": None}]}),
        (list, [1, "a"]),
    ],
    ids=str,
)
def test_what_json_says_by_itself_is_read_without_its_annotation(annotation: Any, value: Any) -> None:
    data = kept(codec_for(annotation), value)

    assert data.startswith(SAME)
    assert difference(value, plain_codec.decode(data)) is None
    assert from_json(data) == value


class S(FlowState):
    when: dt.datetime = NOW
    ids: set[int] = set()  # noqa: RUF012 - pydantic copies it
    n: int = 0


class Strict(S):
    model_config = ConfigDict(strict=True)


STATES: dict[str, Any] = {
    "model": S,
    "strict": Strict,
    "dict": dict,
    "of dates": dict[str, dt.datetime],
    "any": dict[str, Any],
}


@pytest.mark.found("B3")
@pytest.mark.parametrize("now", ["dict", "any"])
@pytest.mark.parametrize("was", ["model", "strict", "of dates"])
def test_a_state_with_a_type_is_not_read_by_a_flow_without_one(was: str, now: str) -> None:
    state = {"id": "x", "when": NOW} if was == "of dates" else STATES[was](id="x", ids={1})
    data = kept(state_codec(STATES[was]), state)

    with pytest.raises(Misfit) as caught:
        state_codec(STATES[now]).decode(data)

    assert caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize("was", ["dict", "any"])
@pytest.mark.parametrize("is_of_0_1", [False, True])
def test_a_state_without_a_type_is_read_by_a_flow_with_one(was: str, is_of_0_1: bool) -> None:
    data = kept(state_codec(STATES[was]), {"id": "x", "when": NOW, "ids": {1, 2}, "n": 3})[is_of_0_1:]
    dated = kept(state_codec(STATES[was]), {"id": "x", "when": NOW})[is_of_0_1:]

    assert state_codec(S).decode(data) == S(id="x", when=NOW, ids={1, 2}, n=3)
    assert state_codec(dict[str, dt.datetime]).decode(dated) == {"id": "x", "when": NOW}
    with pytest.raises(Misfit):
        state_codec(dict[str, dt.datetime]).decode(data)


@pytest.mark.found("B3")
def test_a_strict_model_reads_a_state_without_a_type() -> None:
    data = kept(state_codec(dict), {"id": "x", "when": NOW, "ids": {1, 2}, "n": 3})

    assert state_codec(Strict).decode(data) == Strict(id="x", when=NOW, ids={1, 2}, n=3)


@pytest.mark.found("B3")
def test_a_misfit_of_an_untyped_state_names_the_key_that_the_model_has_no_field_for() -> None:
    data = kept(state_codec(dict), {"id": "x", "when": NOW, "more": {1}})

    with pytest.raises(Misfit) as caught:
        state_codec(S).decode(data)

    assert caught.value.paths == ("more",)


@pytest.mark.found("B3")
@pytest.mark.parametrize("values", [dict[str, Any], list[Any], dict, dict[str, int], int | str, Row, dt.date | None])
def test_a_dict_state_with_typed_values_keeps_them_whatever_its_keys_are(values: Any) -> None:
    held = {dict[str, int]: {"$a": 1}, Row: Row(when=NOW), int | str: "7", dt.date | None: dt.date(2026, 1, 1)}
    value = held.get(values, [NOW] if values == list[Any] else {"k": {1}})
    codec = state_codec(dict[str, values])

    kept(codec, {"id": "x", "a": value, "$b": value})
    kept(codec, {"id": "x"})


def flow_of(annotation: Any, value: Any, *, store: Any, fails: bool = True, joined: bool = False) -> type[Flow[Any]]:
    """A flow named F, whose `one` returns the value under this annotation, and whose `two` receives it."""

    class F(Flow[dict]):
        persistence = store
        received: typing.ClassVar[list[Any]] = []

        async def one(self):
            return value

        if annotation is not None:
            one.__annotations__["return"] = annotation
        one = start()(one)

        @start()
        async def beside(self) -> str:
            return "b"

        @listen(and_(one, beside) if joined else one)
        async def two(self, one: Any = None) -> None:
            if fails:
                raise RuntimeError
            self.received.append(one)

    return F


@pytest.mark.found("B3")
@pytest.mark.parametrize("joined", [False, True], ids=["listener", "join"])
@by_type
async def test_a_run_is_resumed_only_by_a_class_that_can_read_its_results(
    annotation: Any, value: Any, joined: bool
) -> None:
    store = MemoryFlowPersistence()
    flow = flow_of(annotation, value, store=store, joined=joined)()
    with pytest.raises(MethodError):
        await flow.kickoff()
    without = flow_of(None, value, store=store, fails=False, joined=joined)

    with pytest.raises((MethodError, errors.StateSchemaError)) as caught:
        await without.resume(flow.run_id)
    error = caught.value.__cause__ if isinstance(caught.value, MethodError) else caught.value
    back = flow_of(annotation, value, store=store, fails=False, joined=joined)
    await back.resume(flow.run_id)

    assert isinstance(error, errors.StateSchemaError)
    assert "the stored result of one " in str(error)
    assert "keep the annotation until no such run" in str(error)
    assert without.received == []
    assert difference(back.received, [value]) is None


@pytest.mark.found("B3")
async def test_the_output_of_a_finished_run_is_not_shown_as_another_type() -> None:
    store = MemoryFlowPersistence()

    class F(Flow[dict]):
        persistence = store

        @start()
        async def one(self) -> dt.datetime:
            return NOW

    flow = F()
    await flow.kickoff()
    Typed = F

    class F(Flow[dict]):  # type: ignore[no-redef]  # the next version
        persistence = store

        @start()
        async def one(self): ...

    with pytest.raises(errors.StateSchemaError, match="the stored result of one"):
        await F.load(flow.run_id)

    assert (await Typed.load(flow.run_id)).result == NOW


@pytest.mark.found("B3")
@pytest.mark.parametrize("is_large", [False, True])
async def test_a_state_survives_a_change_of_its_type_and_back_again_in_patches(is_large: bool) -> None:
    store = MemoryFlowPersistence()
    filler = ["x" * 50] * 2_000 if is_large else []

    def made(state: Any, do: Any) -> type[Flow[Any]]:
        class F(Flow[state]):
            persistence = store

            @start()
            async def one(self) -> None:
                do(self.state)

            @listen(one)
            async def two(self) -> None:
                do(self.state)
                raise RuntimeError

        return F

    class Large(FlowState):
        filler: list[str] = []  # noqa: RUF012 - pydantic copies it
        when: dt.datetime = NOW
        n: int = 0

    def in_dict(state: dict[str, Any]) -> None:
        state["n"] = state.get("n", 0) + 1

    def in_model(state: Large) -> None:
        state.n += 1

    flow = made(dict, in_dict)()
    with pytest.raises(MethodError):
        await flow.kickoff({"filler": filler, "when": NOW})
    with pytest.raises(MethodError):
        await made(Large, in_model).resume(flow.run_id)
    await (await made(Large, in_model).load(flow.run_id)).update_state(n=10)
    loaded = await made(Large, in_model).load(flow.run_id)

    assert (loaded.state.n, loaded.state.when, loaded.state.filler) == (10, NOW, filler)
    with pytest.raises(errors.StateSchemaError, match="another type of state"):
        await made(dict, in_dict).resume(flow.run_id)
    with pytest.raises(errors.StateSchemaError, match="another type of state"):
        await made(dict, in_dict).fork(flow.run_id)


@pytest.mark.found("B3")
async def test_a_runner_shows_runs_of_flows_it_does_not_know() -> None:
    store = MemoryFlowPersistence()
    flow = flow_of(dict[str, Any], {"a": NOW}, store=store, fails=False)()
    await flow.kickoff({"when": NOW})

    async with FlowRunner(store) as runner:
        view = await (await runner.get(flow.run_id)).snapshot()

    assert view.state["when"] == NOW


# ---- fields within a model that lose their type ----------------------------------------------------------------------


LOSSY = {
    "Decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "datetime": (dt.datetime, NOW),
    "UUID": (uuid.UUID, uuid.UUID(int=1)),
    "bytes": (bytes, b"ab"),
    "a set": (set[int], {1}),
    "a tuple": (tuple[int, ...], (1, 2)),
    "numbers as keys": (dict[int, str], {1: "a"}),
    "optional": (decimal.Decimal | None, decimal.Decimal("1.10")),
    "a list of dates": (list[dt.date], [dt.date(2026, 1, 1)]),
}
GONE = {
    "Any": {"v": (Any, None)},
    "object": {"v": (object, None)},
    "an open dict": {"v": (dict[str, Any] | Any, None)},
    "an unknown field": {},
}


def inner_and_outer(fields: dict[str, Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    extra: Any = "ignore" if fields else "allow"
    inner = pydantic.create_model("Inner", __config__=ConfigDict(extra=extra), **fields)
    return inner, pydantic.create_model("Outer", inner=(inner, ...), day=(dt.date, dt.date(2026, 1, 1)))


@pytest.mark.found("B3")
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("kind", LOSSY)
def test_a_field_of_a_model_that_loses_its_type_is_not_read_as_its_json(kind: str, gone: str) -> None:
    annotation, value = LOSSY[kind]
    (was, was_outer), (now, now_outer) = inner_and_outer({"v": (annotation, ...)}), inner_and_outer(GONE[gone])

    for old, new, stored in ((was, now, was(v=value)), (was_outer, now_outer, was_outer(inner=was(v=value)))):
        data, _ = codec_for(old).encode(stored)
        with pytest.raises(Misfit) as misfit:
            codec_for(new).decode(data)
        assert misfit.value.is_gone
        assert codec_for(old).decode(data) == stored


@pytest.mark.found("B3")
def test_a_model_may_gain_a_field_of_any_type_and_a_number_says_what_it_is() -> None:
    class Was(BaseModel):
        day: dt.date
        n: int | None = None
        x: float = 0.5

    class Now(BaseModel):
        day: dt.date
        n: Any = None
        x: Any = None
        more: Any = None
        meta: dict[str, Any] = {}

    for was in (Was(day=dt.date(2026, 1, 1)), Was(day=dt.date(2026, 1, 1), n=7)):
        loaded = codec_for(Now).decode(codec_for(Was).encode(was)[0])
        assert loaded == Now(day=was.day, n=was.n, x=0.5)


@pytest.mark.found("B3")
async def test_a_run_of_a_model_whose_field_lost_its_type_is_refused_and_resumes_with_the_type() -> None:
    storage = MemoryFlowPersistence()

    def flow_of(annotation: Any) -> Any:
        class Price(BaseModel):
            total: annotation

        class State(FlowState):
            price: Price | None = None

        class Buy(Flow[State]):
            name = "buy"
            fails = True

            @start()
            async def ask(self) -> None:
                self.state.price = Price(total=decimal.Decimal("1.10"))

            @listen(ask)
            async def pay(self) -> Any:
                if self.fails:
                    raise LookupError
                assert self.state.price is not None
                return str(type(self.state.price.total))

        return Buy

    was, now = flow_of(decimal.Decimal), flow_of(Any)
    with pytest.raises(errors.MethodError):
        await was(persistence=storage).kickoff({"id": "x"})
    with pytest.raises(errors.StateSchemaError):
        await now.resume("x", persistence=storage)
    was.fails = False
    assert await was.resume("x", persistence=storage) == "<class 'decimal.Decimal'>"
