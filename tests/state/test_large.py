"""A large state is lent to a method that runs alone, and not copied; except for the time it takes there is no difference."""

import weakref
from collections.abc import Callable
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from large import treat_as_large
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    field_validator,
)

from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    listen,
    or_,
    router,
    start,
)
from asyncflow._runtime import large_states, state_version
from asyncflow.errors import StateNotStorableError
from asyncflow.testing import cancel_everywhere, crash_everywhere


class Record(BaseModel):
    number: int
    tags: list[str] = Field(default_factory=list)


class Big(FlowState):
    records: list[Record] = Field(default_factory=list)
    by_name: dict[str, Record] = Field(default_factory=dict)
    names: set[str] = Field(default_factory=set)
    turn: int = 0

    @cached_property
    def total(self) -> int:
        return sum(record.number for record in self.records)


def records(count: int = 400) -> list[Record]:
    return [Record(number=n, tags=["a", "b"]) for n in range(count)]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The large values that are copied for drafts and versions."""
    found: list[object] = []

    def counted(value: Any) -> Any:
        if isinstance(value, Big) and value.records:
            found.append(value)
        return copied(value)

    copied = state_version.copied
    for module in (state_version, large_states):
        monkeypatch.setattr(module, "copied", counted)
    return found


Do = Callable[[Any], Any]

STORE = MemoryFlowPersistence()


stored_or_not = pytest.mark.parametrize("store", [STORE, None], ids=["stored", "forgets"])


class Three(Flow[Big]):
    """`filled`, then `first` and `second`, which do what they are given."""

    def __init__(self, first: Do, second: Do = lambda flow: None, **options: Any) -> None:
        super().__init__(**{"persistence": STORE, "initial_state": Big(records=records()), **options})
        self.does = first, second
        self.kept: Any = None

    @start()
    async def filled(self) -> None:
        self.state.records = self.state.records or records()
        self.state.by_name = {"a": Record(number=1)}

    @listen(filled)
    async def first(self) -> Any:
        self.state.turn += 1
        return self.does[0](self)

    @listen(first)
    async def second(self) -> Any:
        self.state.turn += 1
        return self.does[1](self)


def one_more(flow: Any) -> None:
    flow.state.records.append(Record(number=7))


@stored_or_not
async def test_a_large_state_is_not_copied_for_methods_that_run_one_after_the_other(
    store: Any, copies: list[object]
) -> None:
    flow = Three(one_more, one_more, persistence=store)
    await flow.kickoff()

    assert copies == []
    assert (flow.state.turn, len(flow.state.records)) == (2, 402)


class Mood(Enum):
    GOOD = "good"


class Varied(Big):
    mood: Mood = Mood.GOOD
    pair: tuple[int, ...] = ()
    names: frozenset[str] = frozenset()
    anything: Any = None


async def test_values_that_cannot_change_are_no_reason_to_copy(copies: list[object]) -> None:
    class Varying(Flow[Varied]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state.anything = {"a": [1.5, None, True], "b": Mood.GOOD.value}

        @listen(first)
        async def second(self) -> None:
            self.state.turn += 1

    flow = Varying()
    flow.state.records = records()
    await flow.kickoff()

    assert copies == []
    assert flow.state.anything == {"a": [1.5, None, True], "b": "good"}


@stored_or_not
async def test_siblings_have_copies_of_their_own(store: Any, copies: list[object]) -> None:
    class Beside(Three):
        @listen(Three.filled)
        async def beside(self) -> None:
            self.state.by_name["b"] = Record(number=2)

    flow = Beside(one_more, one_more, persistence=store)
    await flow.kickoff()

    assert len(copies) >= 2
    assert (len(flow.state.records), sorted(flow.state.by_name)) == (402, ["a", "b"])


async def test_where_nothing_is_stored_a_state_that_grows_is_found_large_at_once(copies: list[object]) -> None:
    class Growing(Flow[Big]):
        @start()
        async def begin(self) -> None: ...

        @router(or_(begin, "more"), emit=["more", "done"])
        async def turn(self) -> str:
            self.state.records += records(50)
            self.state.turn += 1
            return "more" if self.state.turn < 60 else "done"

    flow = Growing()
    await flow.kickoff()

    assert len(flow.state.records) == 3_000
    assert len(copies) <= 2 * 6  # a draft and a version each, of up to 256 records


class Ticking(Flow[Big]):
    """Becomes large in its first method; then counts the turns that another task has between two methods."""

    holds: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.ticks = 0
        self.seen: list[int] = []

    async def tick(self) -> None:
        while True:
            self.ticks += 1
            await anyio.lowlevel.checkpoint()

    @start()
    async def begin(self) -> None:
        self.state.records = records(3_000)

    @router(or_(begin, "more"), emit=["more", "done"])
    async def turn(self) -> str:
        self.state.turn += 1
        self.seen.append(self.ticks)
        if self.holds is not None:
            self.kept = self.state.records
        return "more" if self.state.turn < 40 else "done"


@pytest.mark.parametrize("holds", [None, "a list"])
async def test_where_nothing_is_stored_other_tasks_have_their_turns_between_two_methods(holds: Any) -> None:
    flow = Ticking()
    flow.holds = holds
    async with anyio.create_task_group() as group:
        group.start_soon(flow.tick)
        await flow.kickoff()
        group.cancel_scope.cancel()

    assert len(flow.seen) == 40
    assert min(b - a for a, b in zip(flow.seen, flow.seen[2:], strict=False)) >= 1  # trio's order of two tasks varies


async def test_where_nothing_is_stored_values_that_json_cannot_keep_are_copied(copies: list[object]) -> None:
    class Keeping(Flow[Varied]):
        initial_state = Varied(records=records(), anything=object())

        @start()
        async def first(self) -> None:
            self.state.turn += 1

        @listen(first)
        async def second(self) -> None:
            self.state.turn += 1

    flow = Keeping()
    await flow.kickoff()

    assert len(copies) == 5  # as it begins, and then a draft and a version for each
    assert (flow.state.turn, type(flow.state.anything)) == (2, object)


class Watching(Flow[Big]):
    @start()
    async def begin(self) -> None: ...


@stored_or_not
async def test_other_tasks_have_their_turns_while_a_run_of_a_large_state_begins(store: Any) -> None:
    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    turns = 0
    flow = Watching(persistence=store, initial_state=Big(records=records(20_000)))
    async with anyio.create_task_group() as group:
        group.start_soon(count)
        await flow.kickoff()
        group.cancel_scope.cancel()

    assert turns >= 15  # while it is encoded, by some 30 KB
    assert flow.state.records == records(20_000)


@stored_or_not
async def test_inputs_that_no_caller_holds_are_not_copied(store: Any, copies: list[object]) -> None:
    await Watching(persistence=store).kickoff({"records": [record.model_dump() for record in records()]})

    assert copies == []


@stored_or_not
async def test_inputs_that_the_caller_holds_are_the_callers(store: Any) -> None:
    def change(flow: Any) -> None:
        flow.state.records[0].number = -1
        flow.state.records.pop()

    mine = records()
    flow = Three(change, persistence=store)
    await flow.kickoff({"records": mine})

    assert mine == records()
    assert flow.state.records[0].number == -1


@stored_or_not
async def test_a_state_that_is_changed_while_a_pass_begins_is_taken_at_one_moment(store: Any) -> None:
    async def shift() -> None:
        while True:
            some = flow.state.records
            some[0].number -= 1
            some[-1].number += 1
            await anyio.lowlevel.checkpoint()

    flow = Watching(persistence=store, initial_state=Big(records=records()))
    async with anyio.create_task_group() as group:
        group.start_soon(shift)
        for _ in range(5):
            await flow.kickoff({"id": flow.run_id})
            assert sum(record.number for record in flow.committed_state().records) == sum(range(400))
        group.cancel_scope.cancel()


# ---- what is still held when a method has ended ------------------------------------------------------------------

HELD: dict[str, Do] = {
    "the state": lambda state: state,
    "a list": lambda state: state.records,
    "a record": lambda state: state.records[77],
    "a list within a record": lambda state: state.records[77].tags,
    "a record in a dict": lambda state: state.by_name["a"],
    "a dict": lambda state: state.by_name,
    "the fields of a record": lambda state: state.records[77].__dict__,
    "a weak reference": lambda state: weakref.ref(state.records[77]),
    "an iterator": lambda state: iter(state.records),
    "a slice": lambda state: state.records[70:80],
    "a bound method": lambda state: state.records.append,
    "a closure": lambda state: lambda: state,
}


def spoil(held: Any) -> None:
    """Change whatever can be reached from there."""
    match held:
        case Big():
            held.turn = 99
            held.records.clear()
        case Record():
            held.number = -1
            held.tags.append("spoiled")
        case list():
            for each in held:
                if isinstance(each, Record):
                    spoil(each)
            held.append("spoiled")
        case dict():
            held.clear()
        case weakref.ref():
            spoil(held())
        case _ if callable(held):
            found = held(Record(number=-1)) if hasattr(held, "__self__") else held()
            if found is not None:
                spoil(found)
        case _:
            for each in held:
                spoil(each)


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("what", HELD)
@stored_or_not
async def test_what_is_held_of_a_draft_cannot_reach_the_state(store: Any, what: str) -> None:
    def hold(flow: Any) -> None:
        flow.kept = HELD[what](flow.state)
        if what == "a weak reference":
            flow.alive = flow.kept()

    def spoil_it(flow: Any) -> None:
        spoil(flow.kept)

    flow = Three(hold, spoil_it, persistence=store)
    await flow.kickoff()

    assert flow.state.turn == 2
    assert flow.state.records == records()
    assert flow.state.by_name == {"a": Record(number=1)}
    if store is not None:
        assert (await Three.load(flow.run_id, persistence=store, first=hold)).state == flow.state


@pytest.mark.clauses("E4")
@stored_or_not
async def test_a_result_that_is_a_part_of_the_state_is_a_value_of_its_own(store: Any) -> None:
    def spoil_what_came(flow: Any) -> None:
        spoil(flow.method_outputs["first"])

    flow = Three(lambda flow: flow.state.records, spoil_what_came, persistence=store)
    await flow.kickoff()

    assert flow.state.records == records()


@pytest.mark.clauses("E4")
async def test_a_set_that_is_held_weakly_cannot_reach_the_state() -> None:
    def hold(flow: Any) -> None:
        flow.state.names = {"a"}
        flow.kept = weakref.ref(flow.state.names)

    def add(flow: Any) -> None:
        held = flow.kept()
        if held is not None:
            held.add("spoiled")

    flow = Three(hold, add)
    await flow.kickoff()

    assert flow.state.names == {"a"}


OTHERS: dict[str, Callable[[], Any]] = {
    "a number beside a list": lambda: {"price": float("1.5"), "items": []},
    "a number beside a dict": lambda: [float("1.5"), {}],
    "nothing beside a list": lambda: [None, []],
    "texts beside lists": lambda: ["".join(("a", "b")), ["c"]],
}


class Loose(FlowState):
    text: str = ""
    other: Any = None


@pytest.mark.parametrize("what", OTHERS)
async def test_a_large_state_may_hold_values_of_all_kinds_next_to_each_other(what: str) -> None:
    class Putting(Flow[Loose]):
        persistence = STORE

        @start()
        async def grown(self) -> None:
            self.state.text = "x" * 5_000

        @listen(grown)
        async def put(self) -> None:
            self.state.other = OTHERS[what]()

    flow = Putting()
    await flow.kickoff()

    assert flow.state.other == OTHERS[what]()


async def test_a_large_state_that_lacks_a_field_is_not_storable() -> None:
    def lose(flow: Any) -> None:
        assert flow.state.total > 0  # a cached property is in its place
        del flow.state.__dict__["by_name"]

    with pytest.raises(MethodError) as raised:
        await Three(one_more, lose).kickoff()

    assert isinstance(raised.value.__cause__, StateNotStorableError)


async def test_a_task_that_outlives_its_method_cannot_reach_the_state() -> None:
    woken = anyio.Event()

    async def later(state: Any) -> None:
        await woken.wait()
        spoil(state)

    class Outliving(Flow[Big]):
        persistence = MemoryFlowPersistence()

        @start()
        async def filled(self) -> None:
            self.state.records = records()

        @listen(filled)
        async def first(self) -> None:
            group.start_soon(later, self.state)

        @listen(first)
        async def second(self) -> None:
            self.state.turn += 1
            woken.set()
            for _ in range(5):
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        flow = Outliving()
        await flow.kickoff()

    assert (flow.state.turn, flow.state.records) == (1, records())


# ---- what does not end well --------------------------------------------------------------------------------------


@pytest.mark.clauses("E4", "X1", "X3")
@stored_or_not
async def test_what_a_method_that_fails_has_changed_is_dropped(store: Any) -> None:
    def fail_once(flow: Any) -> None:
        flow.state.records.clear()
        if flow.kept is None:
            flow.kept = "failed"
            raise ValueError

    flow = Three(one_more, fail_once, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    assert (flow.state.turn, len(flow.state.records)) == (1, 401)
    if store is None:
        return
    assert len((await Three.load(flow.run_id, persistence=STORE, first=one_more)).state.records) == 401

    await flow.kickoff({"id": flow.run_id})
    assert (flow.state.turn, flow.state.records) == (2, [])


@pytest.mark.clauses("C1", "E4")
@stored_or_not
async def test_what_a_method_that_is_cancelled_has_changed_is_dropped(store: Any) -> None:
    class Sleeping(Three):
        @listen(Three.second)
        async def third(self) -> None:
            self.state.records.clear()
            scope.cancel()
            await anyio.sleep_forever()

    flow = Sleeping(one_more, one_more, persistence=store)
    with anyio.CancelScope() as scope:
        await flow.kickoff()

    assert flow.status == "interrupted"
    assert (flow.state.turn, len(flow.state.records)) == (2, 402)


@stored_or_not
async def test_inside_a_method_the_committed_state_is_the_one_before_it(store: Any) -> None:
    seen: list[int] = []

    def look(flow: Any) -> None:
        flow.state.records.clear()
        seen.append(len(flow.committed_state().records))
        spoil(flow.committed_state())
        seen.append(len(flow.committed_state().records))

    flow = Three(one_more, look, persistence=store)
    await flow.kickoff()

    assert seen == [401, 401]
    assert flow.state.records == []


@stored_or_not
async def test_outside_the_committed_state_is_shown_while_a_method_changes_it(store: Any) -> None:
    class Waiting(Three):
        @listen(Three.second)
        async def third(self) -> None:
            self.state.records.clear()
            changed.set()
            await go_on.wait()

    changed, go_on = anyio.Event(), anyio.Event()
    flow = Waiting(one_more, one_more, persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await changed.wait()
        shown = flow.state
        assert len(shown.records) == 402
        spoil(shown)
        assert len(flow.state.records) == 402
        go_on.set()

    assert flow.state.records == []


def test_what_another_thread_is_copying_is_not_lent() -> None:
    lendable = large_states.LendableVersion(1, Big(records=records(3)), lambda: Big(records=records(3)))
    seen = lendable.state  # as `copied` holds it, for as long as that takes

    lendable.draft(True).records.clear()

    assert len(seen.records) == 3
    assert len(lendable.state.records) == 3


async def test_a_cached_property_is_computed_again_in_each_method() -> None:
    found: list[int] = []

    def look_and_change(flow: Any) -> None:
        found.append(flow.state.total)
        flow.state.records.append(Record(number=1_000))

    flow = Three(look_and_change, look_and_change)
    await flow.kickoff()

    assert found == [79_800, 80_800]


async def test_a_model_may_be_completed_after_its_flow_is_declared() -> None:
    class Early(FlowState):
        later: "Later | None" = None

    class Completed(Flow[Early]):
        persistence = None

        @start()
        async def made(self) -> None:
            self.state.later = Later(number=1)

    class Later(BaseModel):
        number: int

    Early.model_rebuild()
    flow = Completed()
    await flow.kickoff()

    assert flow.state.later == Later(number=1)


def checked(number: int) -> int:
    if not Checked.accepts:
        raise ValueError("not now")
    return number


class Checked(Big):
    accepts: ClassVar = True

    @field_validator("turn")
    @classmethod
    def checked(cls, turn: int) -> int:
        return checked(turn)


class CheckedInside(Big):
    more: list[Annotated[int, AfterValidator(checked)]] = Field(default_factory=list)


class CheckedField(Big):
    more: Annotated[int, AfterValidator(checked)] = 0


@pytest.mark.parametrize("model", [Checked, CheckedInside, CheckedField])
async def test_a_validator_is_not_asked_about_the_state_before_a_failure(
    model: type[Big], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Flow[model]):  # type: ignore[valid-type]
        persistence = MemoryFlowPersistence()

        @start()
        async def grown(self) -> None:
            self.state.records = records()
            if model is CheckedInside:
                self.state.more = [1]

        @listen(grown)
        async def turned(self) -> None:
            self.state.turn = 1

        @listen(turned)
        async def fails(self) -> None:
            self.state.turn = 2
            monkeypatch.setattr(Checked, "accepts", False)
            raise KeyError("mine")

    flow = Failing()
    with pytest.raises(MethodError, match="fails raised KeyError"):
        await flow.kickoff()

    assert flow.state.turn == 1


class Listed(Big):
    """A model whose validator makes something else of a field than it is annotated with."""

    given: Annotated[
        str,
        BeforeValidator(lambda value: value if isinstance(value, str) else ",".join(value)),
        AfterValidator(lambda value: value.split(",")),
        PlainSerializer(",".join),
    ] = Field(default="a,b", validate_default=True)


@pytest.mark.clauses("E4")
async def test_a_list_where_an_annotation_says_text_cannot_reach_the_state() -> None:
    class Holding(Flow[Listed]):
        persistence = MemoryFlowPersistence()

        @start()
        async def grown(self) -> None:
            self.state.records = records()

        @listen(grown)
        async def held(self) -> None:
            self.kept: Any = self.state.given

        @listen(held)
        async def spoiled(self) -> None:
            self.kept.append("spoiled")

    flow = Holding()
    await flow.kickoff()

    assert flow.state.given == ["a", "b"]


class Private(Big):
    _note: str = PrivateAttr(default="")


class Extra(Big):
    model_config = ConfigDict(extra="allow")


class Excluded(Big):
    note: str = Field(default="", exclude=True)


@pytest.mark.parametrize(("model", "name"), [(Private, "_note"), (Extra, "note"), (Excluded, "note")])
async def test_what_is_not_in_the_bytes_outlives_a_failure(model: type[Big], name: str) -> None:
    class Noting(Flow[model]):  # type: ignore[valid-type]
        persistence = MemoryFlowPersistence()

        @start()
        async def noted(self) -> None:
            setattr(self.state, name, "noted")

        @listen(noted)
        async def fails(self) -> None:
            self.state.records.clear()
            raise ValueError

    flow = Noting()
    flow.state.records = records()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert getattr(flow.state, name) == "noted"
    assert len(flow.state.records) == 400


# ---- at every moment ---------------------------------------------------------------------------------------------


class Steps(Flow[Big]):
    @start()
    async def filled(self) -> None:
        self.state.records = records(20)

    @listen(filled)
    async def first(self) -> None:
        self.state.records[3].number += 1
        self.state.turn += 1

    @listen(first)
    async def second(self) -> int:
        self.state.records.append(Record(number=5))
        self.state.turn += 1
        return len(self.state.records)


@pytest.mark.clauses("C1", "C2", "C3", "E4")
async def test_cancelled_at_every_await_the_state_is_that_of_whole_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_large(monkeypatch)
    persistence = SQLiteFlowPersistence(Path("runs.db"))
    flows: list[Steps] = []

    async def work() -> None:
        flows.append(Steps(persistence=persistence))
        await flows[-1].kickoff()

    async def whole() -> None:
        flow = flows[-1]
        state = flow.state
        numbers = [record.number for record in state.records]
        assert (len(numbers), state.turn, numbers[3:4]) in ((0, 0, []), (20, 0, [3]), (20, 1, [4]), (21, 2, [4]))
        if flow.status != "new":
            assert await flow.kickoff({"id": flow.run_id} if flow.status == "interrupted" else {}) in (21,)
        assert flow.status in ("new", "finished")

    async with persistence:
        assert await cancel_everywhere(work, whole, moments=(0.0,)) > 30


@pytest.mark.clauses("E1", "E2", "E4")
async def test_crashed_at_every_commit_it_ends_as_if_undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_large(monkeypatch)

    report = await crash_everywhere(Steps)

    assert report.crashes >= 8
