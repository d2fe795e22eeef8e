"""State is a transaction: drafts are isolated, commits are merged, conflicts are told, committed versions never change."""

import contextvars
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from large import treat_as_large
from pydantic import BaseModel, ConfigDict, Field, model_validator

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, merge, start


@pytest.fixture(params=["small", "large"], autouse=True)
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every promise holds for large states, too, which are not copied where they can be lent."""
    if request.param == "large":
        treat_as_large(monkeypatch)


class Address(BaseModel):
    street: str = ""
    town: str = ""


class Wide(FlowState):
    number: int = 0
    other: int = 0
    text: str = ""
    flag: bool = False
    items: list[int] = Field(default_factory=list)
    tags: set[str] = Field(default_factory=set)
    table: dict[str, Any] = Field(default_factory=dict)
    address: Address = Field(default_factory=Address)
    maybe: int | None = None


Edit = Callable[[Any], Any]


S = TypeVar("S")


class Racing(Flow[S], Generic[S]):
    """Two starts that begin with the same state: `early` commits its edit, and then `late` does."""

    def __init__(self, early: Edit, late: Edit, **options: Any) -> None:
        super().__init__(**options)
        self.edits = early, late
        self.committed = anyio.Event()

    @start()
    async def early(self) -> None:
        self.edits[0](self.state)

    @start()
    async def late(self) -> None:
        self.edits[1](self.state)
        await self.committed.wait()

    @listen(early)
    async def after_early(self) -> None:
        self.committed.set()


class Race(Racing[Wide]): ...


class DictRace(Racing[dict]):
    merges = {  # noqa: RUF012 - what users write
        "total": merge.add,
        "log": merge.append,
        "winner": merge.last,
        "top": lambda base, ours, theirs: max(ours, theirs),
    }


def put(**fields: Any) -> Edit:
    def edit(state: Any) -> None:
        for name, value in fields.items():
            setattr(state, name, value)

    return edit


def at(path: str, value: Any) -> Edit:
    """Assign to `a.b` or `a[b]` in the state."""

    def edit(state: Any) -> None:
        exec(f"state.{path} = value", {"state": state, "value": value})

    return edit


def do(code: str) -> Edit:
    return lambda state: exec(code, {"s": state})


async def conflict_of(flow: Flow[Any]) -> errors.StateConflictError:
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    cause = caught.value.__cause__
    assert isinstance(cause, errors.StateConflictError)
    return cause


# ---- isolation -----------------------------------------------------------------------------------------------------


@pytest.mark.clauses("E4")
async def test_a_draft_is_seen_by_nobody_before_it_is_committed() -> None:
    written, looked = anyio.Event(), anyio.Event()

    class Two(Flow[Wide]):
        @start()
        async def writer(self) -> None:
            self.state.number = 1
            written.set()
            await looked.wait()

        @start()
        async def reader(self) -> tuple[int, int]:
            await written.wait()
            seen = self.state.number, self.committed_state().number
            looked.set()
            return seen

    flow = Two()
    with anyio.fail_after(120):
        await flow.kickoff()

    assert flow.method_outputs["reader"] == (0, 0)
    assert flow.state.number == 1


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("looks_first", [True, False])
async def test_a_method_sees_the_state_of_its_launch_and_committed_state_the_newest(looks_first: bool) -> None:
    committed = anyio.Event()

    class Two(Flow[Wide]):
        @start()
        async def writer(self) -> None:
            self.state.number = 1

        @start()
        async def reader(self) -> tuple[int, int]:
            if looks_first:
                assert self.state.number == 0
            await committed.wait()
            return self.state.number, self.committed_state().number

        @listen(writer)
        async def after(self) -> None:
            committed.set()

    flow = Two()
    with anyio.fail_after(120):
        await flow.kickoff()

    assert flow.method_outputs["reader"] == (0, 1)


async def test_a_listener_sees_what_its_trigger_committed() -> None:
    class Chain(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> list[int]:
            return self.state.items

    assert await Chain().kickoff() == [1]


async def test_what_committed_state_gives_is_a_copy() -> None:
    class One(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.committed_state().items.append(1)
            self.state.number = 1

    flow = One()
    await flow.kickoff()

    assert flow.state.items == []


async def test_child_tasks_and_threads_of_a_method_share_its_draft() -> None:
    class Shared(Flow[Wide]):
        @start()
        async def first(self) -> int:
            async with anyio.create_task_group() as group:
                group.start_soon(self.add)
                group.start_soon(self.add)
            await anyio.to_thread.run_sync(self.add_plainly)
            return self.state.number

        async def add(self) -> None:
            self.state.number += 1

        def add_plainly(self) -> None:
            self.state.number += 10

    flow = Shared()

    assert await flow.kickoff() == 12
    assert flow.state.number == 12


@pytest.mark.clauses("X1")
async def test_the_draft_of_a_failed_method_vanishes() -> None:
    class Failing(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> None:
            self.state.items.append(2)
            raise ValueError

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.state.items == [1]


@pytest.mark.clauses("C1")
async def test_the_draft_of_a_cancelled_method_vanishes() -> None:
    class Cancelled(Flow[Wide]):
        @start()
        async def first(self) -> None:
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> None:
            self.state.items.append(2)
            scope.cancel()
            await anyio.sleep_forever()

    flow = Cancelled()
    with anyio.CancelScope() as scope:
        await flow.kickoff()

    assert flow.state.items == [1]


async def test_a_stray_reference_to_a_draft_cannot_change_a_committed_version() -> None:
    strays: list[Any] = []

    class Stray(Flow[Wide]):
        @start()
        async def first(self) -> None:
            strays.extend((self.state, self.state.items, self.state.address))
            self.state.items.append(1)

        @listen(first)
        async def second(self) -> tuple[list[int], str, int]:
            state, items, address = strays
            items.append(99)
            address.town = "Nowhere"
            state.number = 99
            return self.state.items, self.state.address.town, self.committed_state().number

    flow = Stray()
    output = await flow.kickoff()

    assert output == ([1], "", 0)
    assert (flow.state.items, flow.state.address.town, flow.state.number) == ([1], "", 0)


@pytest.mark.clauses("V1")
async def test_a_payload_is_never_an_alias_of_the_state() -> None:
    class Alias(Flow[Wide]):
        @start()
        async def first(self) -> list[int]:
            self.state.items = [1]
            return self.state.items

        @listen(first)
        async def second(self, items: list[int]) -> None:
            items.append(2)

    flow = Alias()
    await flow.kickoff()
    flow.method_outputs["first"].append(3)

    assert flow.state.items == [1]


async def test_a_task_that_outlives_its_method_is_refused_the_state() -> None:
    ended, told = anyio.Event(), anyio.Event()
    caught: list[Exception] = []

    async with anyio.create_task_group() as outer:

        class Leaky(Flow[Wide]):
            @start()
            async def first(self) -> None:
                self.state.number = 1
                outer.start_soon(self.linger)

            async def linger(self) -> None:
                await ended.wait()
                for use in (lambda: self.state.number, lambda: setattr(self, "state", Wide())):
                    try:
                        use()
                    except errors.DraftClosedError as error:
                        caught.append(error)
                told.set()

            @listen(first)
            async def second(self) -> None:
                ended.set()
                await told.wait()

        flow = Leaky()
        with anyio.fail_after(120):
            await flow.kickoff()

    assert len(caught) == 2
    assert flow.state.number == 1


async def test_a_thread_that_outlives_its_method_is_refused_the_state() -> None:
    ended, threads, caught = threading.Event(), [], []

    class Leaky(Flow[Wide]):
        @start()
        async def first(self) -> None:
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=lambda: context.run(self.linger)))
            threads[0].start()

        def linger(self) -> None:
            ended.wait(5)
            try:
                self.state.number = 99
            except errors.DraftClosedError as error:
                caught.append(error)

    flow = Leaky()
    await flow.kickoff()
    ended.set()
    await anyio.to_thread.run_sync(threads[0].join)

    assert [error.method for error in caught] == ["first"]
    assert flow.state.number == 0


# ---- merges --------------------------------------------------------------------------------------------------------

FULL = {"items": [1, 2], "tags": {"a", "b"}, "table": {"x": 1, "y": {"z": 1}}, "text": "old", "number": 5}

MERGES = {
    "disjoint fields": (put(number=1), put(other=2), {"number": 1, "other": 2}),
    "one side only": (put(number=1), put(), {"number": 1}),
    "only the late one": (put(), put(number=1), {"number": 1}),
    "appended lists, in commit order": (
        do("s.items.append(10)"),
        do("s.items += [20, 21]"),
        {"items": [1, 2, 10, 20, 21]},
    ),
    "a list changed by one": (do("s.items.pop()"), put(other=1), {"items": [1], "other": 1}),
    "sets: added and removed": (
        do("s.tags.add('c'); s.tags.discard('a')"),
        do("s.tags.add('d')"),
        {"tags": {"b", "c", "d"}},
    ),
    "sets: both removed": (do("s.tags.discard('a')"), do("s.tags.discard('b')"), {"tags": set()}),
    "dict keys": (do("s.table['p'] = 1"), do("s.table['q'] = 2"), {"table": {"x": 1, "y": {"z": 1}, "p": 1, "q": 2}}),
    "nested dict keys": (
        do("s.table['y']['a'] = 1"),
        do("s.table['y']['b'] = 2"),
        {"table": {"x": 1, "y": {"z": 1, "a": 1, "b": 2}}},
    ),
    "a key deleted by one": (do("del s.table['x']"), do("s.table['q'] = 2"), {"table": {"y": {"z": 1}, "q": 2}}),
    "a key deleted by both": (do("del s.table['x']"), do("del s.table['x']"), {"table": {"y": {"z": 1}}}),
    "lists in dicts": (
        do("s.table['log'] = ['e']"),
        do("s.table['log'] = ['l']"),
        {"table": {"x": 1, "y": {"z": 1}, "log": ["e", "l"]}},
    ),
    "fields of nested models": (
        at("address.street", "High Street"),
        at("address.town", "Ely"),
        {"address": Address(street="High Street", town="Ely")},
    ),
    "the same text": (put(text="new"), put(text="new"), {"text": "new"}),
    "the same bool": (put(flag=True), put(flag=True), {"flag": True}),
    "the same None": (put(text="new"), put(maybe=None), {"text": "new", "maybe": None}),
}


@pytest.mark.parametrize(("early", "late", "expected"), MERGES.values(), ids=MERGES)
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_changes_that_can_both_stand_are_merged(early: Edit, late: Edit, expected: Any, stored: bool) -> None:
    persistence = MemoryFlowPersistence() if stored else None
    flow = Race(early, late, initial_state=Wide.model_validate(FULL), persistence=persistence)
    await flow.kickoff()

    untouched = Wide.model_validate({**FULL, "id": flow.run_id}).model_dump()
    assert flow.state.model_dump() == untouched | Wide.model_construct(**expected).model_dump(include=set(expected))


CONFLICTS = {
    "two counters": (do("s.number += 1"), do("s.number += 1"), "number"),
    "the same number": (put(number=7), put(number=7), "number"),
    "two texts": (put(text="a"), put(text="b"), "text"),
    "a list changed and appended to": (do("s.items[0] = 9"), do("s.items.append(3)"), "items"),
    "a list appended to and shortened": (do("s.items.append(3)"), do("s.items.pop()"), "items"),
    "a key deleted and changed": (do("del s.table['x']"), do("s.table['x'] = 2"), "table.x"),
    "a key changed and deleted": (do("s.table['x'] = 2"), do("del s.table['x']"), "table.x"),
    "a nested field": (at("address.town", "Ely"), at("address.town", "Wells"), "address.town"),
    "a nested key": (do("s.table['y']['z'] = 2"), do("s.table['y']['z'] = 3"), "table.y.z"),
    "two new keys": (do("s.table['new'] = 'a'"), do("s.table['new'] = 'b'"), "table.new"),
    "None and a number": (put(maybe=1), put(maybe=2), "maybe"),
    "two types": (do("s.table['x'] = [1]"), do("s.table['x'] = {'a': 1}"), "table.x"),
}


@pytest.mark.clauses("E4")
@pytest.mark.parametrize(("early", "late", "path"), CONFLICTS.values(), ids=CONFLICTS)
async def test_changes_that_cannot_both_stand_fail_the_later_method(early: Edit, late: Edit, path: str) -> None:
    flow = Race(early, late, initial_state=Wide.model_validate(FULL))
    conflict = await conflict_of(flow)

    assert (conflict.path, conflict.method, conflict.other) == (path, "late", "early")
    assert all(word in str(conflict) for word in (path, "late", "early"))


async def test_a_conflict_keeps_what_the_earlier_method_committed() -> None:
    flow = Race(put(number=1, text="early"), put(number=2, other=2))
    await conflict_of(flow)

    assert (flow.state.number, flow.state.text, flow.state.other) == (1, "early", 0)


@pytest.mark.clauses("X3")
async def test_resuming_runs_the_conflicting_method_again_on_the_new_base() -> None:
    persistence = MemoryFlowPersistence()
    ran: list[str] = []
    committed = anyio.Event()

    class Twice(Flow[Wide]):
        @start()
        async def early(self) -> None:
            ran.append("early")
            self.state.number += 1

        @start()
        async def late(self) -> None:
            ran.append("late")
            self.state.number += 1
            await committed.wait()

        @listen(early)
        async def after_early(self) -> None:
            committed.set()

    flow = Twice(persistence=persistence)
    await conflict_of(flow)
    del ran[:]
    await Twice.resume(flow.run_id, persistence=persistence)
    resumed = await Twice.load(flow.run_id, persistence=persistence)

    assert ran == ["late"]
    assert resumed.state.number == 2


async def test_dict_states_are_merged_by_key() -> None:
    def early(state: dict[str, Any]) -> None:
        state["a"] = 1
        del state["gone"]

    def late(state: dict[str, Any]) -> None:
        state["b"] = 2

    flow = DictRace(early, late, initial_state={"gone": 1, "kept": 1})
    await flow.kickoff()

    assert flow.state == {"id": flow.run_id, "kept": 1, "a": 1, "b": 2}


async def test_a_conflict_in_a_dict_state_names_the_key() -> None:
    def write(value: str) -> Edit:
        return lambda state: state.update(title=value)

    conflict = await conflict_of(DictRace(write("a"), write("b")))

    assert conflict.path == "title"


# ---- declared merges -----------------------------------------------------------------------------------------------


def highest(base: int, ours: int, theirs: int) -> int:
    return max(ours, theirs)


class Declared(FlowState):
    total: Annotated[int, merge.add] = 10
    ratio: Annotated[float, merge.add] = 1.5
    winner: Annotated[str, merge.last] = ""
    log: Annotated[list[str], merge.append] = Field(default_factory=lambda: ["begin"])
    top: Annotated[int, highest] = 0
    top_again: Annotated[int, lambda base, ours, theirs: max(ours, theirs)] = 0


class DeclaredRace(Racing[Declared]): ...


@pytest.mark.parametrize(
    ("early", "late", "name", "expected"),
    [
        (do("s.total += 1"), do("s.total += 2"), "total", 13),
        (do("s.total += 1"), do("s.total += 1"), "total", 12),
        (do("s.ratio += 1"), do("s.ratio += 0.5"), "ratio", 3.0),
        (put(winner="early"), put(winner="late"), "winner", "late"),
        (do("s.log.append('e')"), do("s.log.append('l')"), "log", ["begin", "e", "l"]),
        (do("s.log.clear()"), do("s.log.append('l')"), "log", ["l"]),
        (put(top=9), put(top=4), "top", 9),
        (put(top_again=4), put(top_again=9), "top_again", 9),
    ],
)
async def test_a_field_can_say_how_it_is_merged(early: Edit, late: Edit, name: str, expected: Any) -> None:
    flow = DeclaredRace(early, late)
    await flow.kickoff()

    assert getattr(flow.state, name) == expected


class Totals(BaseModel):
    sum: Annotated[int, merge.add] = 0


class Nested(FlowState):
    totals: Totals = Field(default_factory=Totals)


async def test_a_field_of_a_nested_model_can_say_how_it_is_merged() -> None:
    class NestedRace(Racing[Nested]): ...

    flow = NestedRace(do("s.totals.sum += 1"), do("s.totals.sum += 2"))
    await flow.kickoff()

    assert flow.state.totals.sum == 3


async def test_a_declared_append_is_still_a_conflict_when_more_was_done() -> None:
    conflict = await conflict_of(DeclaredRace(do("s.log.append('e')"), do("s.log[0] = 'changed'")))

    assert conflict.path == "log"


@pytest.mark.parametrize(
    ("key", "early", "late", "expected"),
    [
        ("total", 11, 12, 13),
        ("log", ["begin", "e"], ["begin", "l"], ["begin", "e", "l"]),
        ("winner", "early", "late", "late"),
        ("top", 9, 4, 9),
    ],
)
async def test_a_flow_with_dict_state_can_say_how_its_keys_are_merged(
    key: str, early: Any, late: Any, expected: Any
) -> None:
    initial = {"total": 10, "log": ["begin"], "winner": "", "top": 0}
    flow = DictRace(lambda s: s.update({key: early}), lambda s: s.update({key: late}), initial_state=initial)
    await flow.kickoff()

    assert flow.state == {**initial, "id": flow.run_id, key: expected}


async def test_a_declared_merge_of_a_key_that_both_created() -> None:
    flow = DictRace(lambda s: s.update(total=1, log=["e"]), lambda s: s.update(total=2, log=["l"]))
    await flow.kickoff()

    assert (flow.state["total"], flow.state["log"]) == (3, ["e", "l"])


async def test_a_declared_merge_that_raises_fails_the_later_method() -> None:
    def careless(base: int, ours: int, theirs: int) -> int:
        raise ZeroDivisionError

    class Careless(FlowState):
        number: Annotated[int, careless] = 0

    class CarelessRace(Racing[Careless]): ...

    flow = CarelessRace(put(number=1), put(number=2))
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert caught.value.method == "late"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert flow.state.number == 1


class Span(FlowState):
    low: int = 0
    high: int = 10

    @model_validator(mode="after")
    def ordered(self) -> "Span":
        if self.low > self.high:
            raise ValueError("low above high")
        return self


class SpanRace(Racing[Span]): ...


async def test_a_merge_that_breaks_the_models_validator_is_a_conflict() -> None:
    flow = SpanRace(put(low=8), put(high=5))
    conflict = await conflict_of(flow)

    assert (conflict.method, conflict.other) == ("late", "early")
    assert (flow.state.low, flow.state.high) == (8, 10)


class Assigned(BaseModel):
    model_config = ConfigDict(validate_assignment=True)
    id: str = "unset"
    low: int = 0
    high: int = 10
    both: int = Field(default=0, le=100)

    @model_validator(mode="after")
    def ordered(self) -> "Assigned":
        if self.low > self.high:
            raise ValueError("low above high")
        return self


async def test_the_merged_state_is_built_without_assignment_hooks() -> None:
    class AssignedRace(Racing[Assigned]): ...

    def up(state: Assigned) -> None:
        state.high = 30

    def low(state: Assigned) -> None:
        state.both = 1

    flow = AssignedRace(up, low)
    await flow.kickoff()

    assert (flow.state.high, flow.state.both) == (30, 1)


async def test_extra_fields_are_merged_like_keys() -> None:
    class Open(FlowState):
        model_config = ConfigDict(extra="allow")

    class OpenRace(Racing[Open]): ...

    flow = OpenRace(put(a=1), put(b=2))
    await flow.kickoff()

    assert (flow.state.a, flow.state.b) == (1, 2)


async def test_three_methods_merge_one_after_the_other() -> None:
    class Three(Flow[Declared]):
        @start()
        async def a(self) -> None:
            await self.add()

        @start()
        async def b(self) -> None:
            await self.add()

        @start()
        def c(self) -> None:
            self.state.total += 1
            self.state.log.append("x")

        async def add(self) -> None:
            self.state.total += 1
            await anyio.lowlevel.checkpoint()
            self.state.log.append("x")

    flow = Three()
    await flow.kickoff()

    assert flow.state.total == 13
    assert flow.state.log == ["begin", "x", "x", "x"]


# ---- replacing the state, its id, its kinds ------------------------------------------------------------------------


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int = 0


async def test_a_frozen_state_is_written_by_replacing_it() -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = self.state.model_copy(update={"count": 1})

        @listen(first)
        def second(self) -> None:
            self.state = self.state.model_copy(update={"count": self.state.count + 1})

    flow = Replacing()
    await flow.kickoff()

    assert flow.state.count == 2
    assert flow.state.id == flow.run_id


async def test_a_replacement_without_an_id_keeps_the_runs() -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = Frozen(count=5)

    class DictReplacing(Flow[dict]):
        @start()
        async def first(self) -> None:
            self.state = {"count": 5}

    model, dictionary = Replacing(), DictReplacing()
    await model.kickoff()
    await dictionary.kickoff()

    assert (model.state.count, model.state.id) == (5, model.run_id)
    assert dictionary.state == {"count": 5, "id": dictionary.run_id}


async def test_a_replacement_is_merged_like_any_draft() -> None:
    class Replacing(Flow[Wide]):
        def __init__(self) -> None:
            super().__init__()
            self.committed = anyio.Event()

        @start()
        async def early(self) -> None:
            self.state.number = 1

        @start()
        async def late(self) -> None:
            self.state = self.state.model_copy(update={"other": 2})
            await self.committed.wait()

        @listen(early)
        async def after(self) -> None:
            self.committed.set()

    flow = Replacing()
    await flow.kickoff()

    assert (flow.state.number, flow.state.other) == (1, 2)


async def test_the_replaced_object_cannot_change_the_state_later() -> None:
    mine = {"items": [1]}

    class Replacing(Flow[dict]):
        @start()
        async def first(self) -> None:
            self.state = mine

    flow = Replacing()
    await flow.kickoff()
    mine["items"].append(2)

    assert flow.state["items"] == [1]
    assert mine == {"items": [1, 2]}


@pytest.mark.parametrize("value", [{"count": 1}, Address(), None, 3])
async def test_a_replacement_of_another_type_is_refused(value: Any) -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = value

    with pytest.raises(MethodError) as caught:
        await Replacing().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateError)


async def test_the_state_of_an_idle_flow_may_be_replaced() -> None:
    class Show(Flow[Frozen]):
        @start()
        async def first(self) -> int:
            return self.state.count

    flow = Show()
    flow.state = Frozen(count=8)

    assert await flow.kickoff() == 8


async def test_the_state_of_a_running_flow_is_not_set_from_outside() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            inside.set()
            await go_on.wait()

    flow = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await inside.wait()
        with pytest.raises(errors.StateError):
            flow.state = Frozen(count=1)
        go_on.set()

    assert flow.state.count == 0


def change_model_id(flow: Any) -> None:
    flow.state.id = "another"


def change_dict_id(flow: Any) -> None:
    flow.state["id"] = "another"


def delete_dict_id(flow: Any) -> None:
    del flow.state["id"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [(FlowState, change_model_id), (dict, change_dict_id), (dict, delete_dict_id)],
    ids=["model", "dict", "deleted"],
)
async def test_a_method_that_changes_the_id_fails(kind: Any, change: Callable[[Any], None]) -> None:
    class Changing(Flow[kind]):
        @start()
        async def first(self) -> None:
            change(self)

    flow = Changing()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, errors.StateError)
    assert caught.value.__cause__.method == "first"
    assert (flow.state.id if kind is FlowState else flow.state["id"]) == flow.run_id


class WithUuid(BaseModel):
    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    count: int = 0


class WithStr(BaseModel):
    id: str = ""
    count: int = 0


class Without(BaseModel):
    count: int = 0


@pytest.mark.parametrize(("model", "kind"), [(WithUuid, uuid.UUID), (WithStr, str), (Without, str)])
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_the_id_is_of_the_type_that_the_model_declares(model: Any, kind: type, stored: bool) -> None:
    class Count(Flow[model]):
        persistence = MemoryFlowPersistence() if stored else None

        @start()
        async def first(self) -> None:
            self.state.count += 1

    mine = uuid.UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF")
    flow = Count()
    await flow.kickoff({"id": mine})

    assert flow.run_id == str(mine)
    assert flow.state.id == (mine if kind is uuid.UUID else str(mine))
    assert type(flow.state.id) is kind
    assert flow.state.count == 1


async def test_a_run_id_that_is_no_uuid_does_not_fit_a_uuid_model() -> None:
    class Count(Flow[WithUuid]):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.InvalidRunIdError):
        await Count().kickoff({"id": "order-7"})


class Lock:
    """What cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.uses = 0


class Client(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    client: Lock = Field(default_factory=Lock)
    count: int = 0


async def test_what_cannot_be_copied_is_shared_in_an_unstored_state() -> None:
    class Using(Flow[Client]):
        @start()
        async def first(self) -> None:
            self.state.client.uses += 1
            self.state.count += 1

        @listen(first)
        def second(self) -> None:
            self.state.client.uses += 1
            self.state.count += 1

    mine = Lock()
    flow = Using(initial_state=Client(client=mine))
    await flow.kickoff()

    assert flow.state.client is mine
    assert (mine.uses, flow.state.count) == (2, 2)


@pytest.mark.clauses("V1")
async def test_what_cannot_be_copied_is_refused_in_a_stored_state() -> None:
    class Using(Flow[Client]):
        @start()
        async def first(self) -> None:
            raise AssertionError("nothing may start")

    with pytest.raises(errors.StateNotStorableError) as caught:
        await Using(persistence=MemoryFlowPersistence()).kickoff()

    assert (caught.value.path, caught.value.type_name) == ("client", "Lock")


@dataclass
class Point:
    x: int = 0
    marks: list[str] = field(default_factory=list)


async def test_dataclasses_in_the_state_are_copied_for_each_draft() -> None:
    class Mapped(FlowState):
        point: Point = Field(default_factory=Point)

    strays: list[Point] = []

    class Draw(Flow[Mapped]):
        @start()
        async def first(self) -> None:
            strays.append(self.state.point)
            self.state.point.marks.append("a")

        @listen(first)
        async def second(self) -> None:
            strays[0].marks.append("stray")
            self.state.point.marks.append("b")

    flow = Draw()
    await flow.kickoff()

    assert flow.state.point == Point(0, ["a", "b"])


# ---- keys of a dict state --------------------------------------------------------------------------------------------


@pytest.mark.found("B5")
@pytest.mark.clauses("V1")
@pytest.mark.parametrize("key", [5, b"x", (1, 2), None, 1.5, True], ids=repr)
@pytest.mark.parametrize("annotation", [dict, dict[str, Any], dict[str, int]], ids=str)
async def test_a_key_of_the_state_that_is_no_string_is_refused_before_anything_is_stored(
    annotation: Any, key: Any
) -> None:
    storage = MemoryFlowPersistence()

    class Keys(Flow[annotation]):
        fails = True

        @start()
        async def first(self) -> None:
            self.state["count"] = 1

        @listen(first)
        async def second(self) -> str:
            if self.fails:
                self.state[key] = 5
            return "done"

    with pytest.raises(MethodError) as failed:
        await Keys(persistence=storage).kickoff({"id": "x"})
    refused = failed.value.failures[0].exception
    assert isinstance(refused, errors.StateNotStorableError)
    assert f"one is of type {type(key).__name__}" in str(refused)
    assert "use strings as keys of the state" in str(refused)

    Keys.fails = False
    assert await Keys.resume("x", persistence=storage) == "done"
    assert (await Keys.load("x", persistence=storage)).state == {"id": "x", "count": 1}
