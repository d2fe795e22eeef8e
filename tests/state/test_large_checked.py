"""A large state with validators or private attributes is copied, and encoded in pieces, while other tasks have their turns."""

from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, listen, start
from asyncflow._runtime import large_states, state_version
from asyncflow.errors import StateNotStorableError

COUNT = 4_000
STORE = MemoryFlowPersistence()


class Record(BaseModel):
    number: int
    tags: list[str] = Field(default_factory=list)
    asked: ClassVar[list[int]] = []

    @field_validator("number")
    @classmethod
    def counted(cls, number: int) -> int:
        cls.asked.append(number)
        return number


class OfChecked(FlowState):
    """Records that have a validator."""

    records: list[Record] = Field(default_factory=list)
    turn: int = 0


class CheckedWhole(OfChecked):
    """And a validator of its own."""

    @field_validator("turn")
    @classmethod
    def counted(cls, turn: int) -> int:
        return turn


class PrivateWhole(OfChecked):
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)


each_model = pytest.mark.parametrize("model", [OfChecked, CheckedWhole, PrivateWhole])


def records(count: int = COUNT) -> list[Record]:
    return [Record(number=n, tags=["a", "b"]) for n in range(count)]


class Ticks:
    """Counts the turns of another task."""

    count = 0

    async def go_on(self) -> None:
        while True:
            self.count += 1
            await anyio.lowlevel.checkpoint()


def flow_of(model: Any, store: Any, does: Any = lambda flow: None, then: Any = lambda flow: None) -> Any:
    """`filled`, then `first` and `second`, which do what they are given."""

    class Steps(Flow[model]):
        @start()
        async def filled(self) -> None:
            self.state.records = records()

        @listen(filled)
        async def first(self) -> None:
            self.state.turn += 1
            Record.asked.clear()
            does(self)

        @listen(first)
        async def second(self) -> None:
            self.ended = ticks.count
            then(self)
            self.state.turn += 1

    ticks = Ticks()
    flow: Any = Steps(persistence=store)
    flow.ticks = ticks
    return flow


@each_model
async def test_it_is_copied_once_a_method_and_encoded_in_pieces(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def began(flow: Any) -> None:
        flow.began = flow.ticks.count

    def counted(value: Any) -> Any:
        copies.append(value)
        return copied(value)

    copies: list[Any] = []
    copied = state_version.copied
    for module in (state_version, large_states):
        monkeypatch.setattr(module, "copied", counted)
    flow = flow_of(model, STORE, began)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.ticks.go_on)
        await flow.kickoff()
        group.cancel_scope.cancel()

    assert flow.ended - flow.began >= 5
    assert len([each for each in copies if isinstance(each, OfChecked) and each.records]) <= 3  # of these, two drafts
    assert flow.state == (await type(flow).load(flow.run_id, persistence=STORE)).state


@each_model
async def test_where_nothing_is_stored_no_validator_is_asked_at_the_end_of_a_method(model: Any) -> None:
    flow = flow_of(model, None)

    await flow.kickoff()

    assert Record.asked == []


@pytest.mark.clauses("V1", "E4")
@each_model
async def test_what_would_be_read_as_something_else_is_not_storable(model: Any) -> None:
    def spoil(flow: Any) -> None:
        flow.state.records[COUNT - 1].number = True

    flow = flow_of(model, STORE, spoil)
    with pytest.raises(MethodError) as raised:
        await flow.kickoff()

    assert isinstance(raised.value.__cause__, StateNotStorableError)
    assert (flow.state.turn, flow.state.records) == (0, records())


@pytest.mark.clauses("E4")
@each_model
async def test_it_is_of_the_moment_when_its_method_ended(model: Any) -> None:
    def hold(flow: Any) -> None:
        async def shift() -> None:
            while True:
                kept[0].number -= 1
                kept[-1].number += 1
                await anyio.lowlevel.checkpoint()

        kept = flow.state.records
        group.start_soon(shift)

    flow = flow_of(model, STORE, hold)
    async with anyio.create_task_group() as group:
        await flow.kickoff()
        group.cancel_scope.cancel()

    assert (flow.state.turn, flow.state.records) == (2, records())


HELD: dict[str, Any] = {
    "what is private": lambda state: state._seen,
    "a record": lambda state: state.records[7].__dict__,
    "within a record": lambda state: state.records[7].tags,
    "the fields": lambda state: state.__dict__,
}


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("what", HELD)
async def test_what_is_held_cannot_reach_it(what: str) -> None:
    def hold(flow: Any) -> None:
        flow.state._seen["first"] = 1
        flow.kept = HELD[what](flow.state)

    def spoil(flow: Any) -> None:
        flow.kept.clear()

    flow = flow_of(PrivateWhole, STORE, hold, spoil)
    await flow.kickoff()

    assert (flow.state._seen, flow.state.records) == ({"first": 1}, records())


async def test_private_attributes_are_passed_on_from_method_to_method() -> None:
    def note(flow: Any) -> None:
        flow.state._seen["first"] = 1

    flow = flow_of(PrivateWhole, STORE, note)
    await flow.kickoff()

    assert flow.state._seen == {"first": 1}
    assert (await type(flow).load(flow.run_id, persistence=STORE)).state._seen == {}


class OpenWhole(FlowState):
    model_config = ConfigDict(extra="allow")
    rows: list[str] = Field(default_factory=list)
    turn: int = 0


async def test_what_is_kept_of_a_state_besides_its_fields_changes_no_version() -> None:
    class Keeps(Flow[OpenWhole]):
        persistence = MemoryFlowPersistence()

        @start()
        async def fill(self) -> None:
            self.state.rows = ["x" * 20] * 400

        @listen(fill)
        async def keep(self) -> None:
            self.kept, self.names = self.state.model_extra, self.state.model_fields_set
            self.state.turn = 1

        @listen(keep)
        async def change(self) -> None:
            assert self.kept is not None
            self.kept["leak"] = 1
            self.names.clear()
            raise LookupError

    flow = Keeps()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, LookupError)
    assert flow.state.model_extra == {}
    assert {"rows", "turn"} <= flow.state.model_fields_set
    assert (await Keeps.load(flow.run_id)).state.model_extra == {}


async def test_names_of_fields_that_are_shared_by_records_change_no_version() -> None:
    class Seen(BaseModel):
        n: int = 0
        text: str = ""
        _seen: bool = False

    class Whole(FlowState):
        rows: list[Seen] = Field(default_factory=list)

    class Keeps(Flow[Whole]):
        persistence = MemoryFlowPersistence()

        @start()
        async def fill(self) -> None:
            self.state.rows = [Seen(n=n, text="x" * 20) for n in range(400)]

        @listen(fill)
        async def share(self) -> None:
            self.names = self.state.model_fields_set
            shared = {"n"}
            self.state.rows = [Seen.model_construct(_fields_set=shared, n=n) for n in range(400)]
            self.kept = self.state.rows.pop()

        @listen(share)
        async def change(self) -> set[str]:
            self.kept.text = "y"
            self.names.clear()
            return self.state.rows[0].model_fields_set | self.state.model_fields_set

    assert await Keeps().kickoff() == {"n", "id", "rows"}
