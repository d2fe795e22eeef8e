"""What two methods that run at the same time do to one state: every part of it is merged, or the later method fails."""

import collections
import dataclasses
import functools
import random
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import anyio
import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    errors,
    listen,
    merge,
    persist,
    start,
)

Edit = Callable[[Any], Any]


def do(code: str) -> Edit:
    return lambda state: exec(code, {"s": state, "replace": dataclasses.replace})


def nothing(state: Any) -> None:
    """Look, and change nothing."""


async def raced(model: Any, early: Edit, late: Edit, **options: Any) -> Any:
    """A flow of two starts over one state, after `early` committed its edit and then `late` did."""
    committed = anyio.Event()

    class Race(Flow[model]):
        @start()
        async def early(self) -> None:
            early(self.state)

        @start()
        async def late(self) -> None:
            late(self.state)
            await committed.wait()

        @listen(early)
        async def after_early(self) -> None:
            committed.set()

    flow = Race(**options)
    await flow.kickoff()
    return flow


async def conflict_of(model: Any, early: Edit, late: Edit, **options: Any) -> errors.StateConflictError:
    with pytest.raises(MethodError) as caught:
        await raced(model, early, late, **options)
    cause = caught.value.__cause__
    assert isinstance(cause, errors.StateConflictError)
    return cause


@pytest.mark.clauses("E4")
async def test_a_declared_merge_may_change_its_arguments() -> None:
    def union(base: list[str], ours: list[str], theirs: list[str]) -> list[str]:
        theirs.extend(x for x in ours if x not in theirs)
        return theirs

    class State(FlowState):
        names: Annotated[list[str], union] = Field(default_factory=list)
        most: Annotated[int, max] = 0

    class Both(Flow[State]):
        @start()
        async def a(self) -> None:
            self.state.names.append("a")
            self.state.most = 3

        @start()
        async def b(self) -> None:
            await anyio.sleep(0.02)
            self.state.names.append("b")
            self.state.most = 2

    flow = Both()
    await flow.kickoff()

    assert (flow.state.names, flow.state.most) == (["a", "b"], 3)


async def test_an_object_without_an_equality_is_no_conflict_while_no_method_changes_it() -> None:
    class Config:
        def __init__(self) -> None:
            self.depth = 1

    class Two(Flow[dict]):
        initial_state = {"config": Config(), "a": 0, "b": 0}  # noqa: RUF012 - what users write

        @start()
        async def a(self) -> None:
            self.state["a"] = self.state["config"].depth

        @start()
        async def b(self) -> None:
            self.state["b"] = self.state["config"].depth

    flow = Two()
    await flow.kickoff()

    assert (flow.state["a"], flow.state["b"]) == (1, 1)


def test_two_new_lists_in_the_place_of_nothing_are_a_conflict() -> None:
    with pytest.raises(merge.Conflict):
        merge.three_way({"x": None}, {"x": ["yes"]}, {"x": ["no"]}, {})


# ---- what is not stored --------------------------------------------------------------------------------------------


class Part(BaseModel):
    size: int = 0
    seen: set[str] = Field(default_factory=set, exclude=True)
    _notes: dict[str, int] = PrivateAttr(default_factory=dict)

    def note(self, name: str) -> None:
        self._notes[name] = 1


class Hidden(FlowState):
    number: int = 0
    cache: dict[str, int] = Field(default_factory=dict, exclude=True)
    tries: int = Field(default=0, exclude=True)
    log: Annotated[list[str], merge.append] = Field(default_factory=list, exclude=True)
    part: Part = Field(default_factory=Part)
    parts: dict[str, Part] = Field(default_factory=dict)
    row: list[Part] = Field(default_factory=list)
    _marks: dict[str, int] = PrivateAttr(default_factory=dict)
    _last: str = PrivateAttr(default="")
    _count: Annotated[int, merge.add] = PrivateAttr(default=0)


HIDDEN = {
    "keys of an excluded dict": (do("s.cache['a'] = 1"), do("s.cache['b'] = 1"), "s.cache == {'a': 1, 'b': 1}"),
    "an excluded field that the early one alone sets": (do("s.tries = 2"), nothing, "s.tries == 2"),
    "an excluded field that the late one alone sets": (nothing, do("s.tries = 2"), "s.tries == 2"),
    "an excluded field that says how": (do("s.log += ['a']"), do("s.log += ['b']"), "s.log == ['a', 'b']"),
    "keys of a private dict": (do("s._marks['a'] = 1"), do("s._marks['b'] = 1"), "s._marks == {'a': 1, 'b': 1}"),
    "a private attribute of the late one alone": (nothing, do("s._last = 'late'"), "s._last == 'late'"),
    "a private attribute of the early one alone": (do("s._last = 'early'"), nothing, "s._last == 'early'"),
    "a private attribute that says how": (do("s._count += 1"), do("s._count += 2"), "s._count == 3"),
    "a private attribute beside a field": (do("s._last = 'a'"), do("s.number = 1"), "(s._last, s.number) == ('a', 1)"),
    "a nested model": (
        do("s.part.note('a'); s.part.seen.add('a')"),
        do("s.part.note('b'); s.part.seen.add('b')"),
        "(s.part._notes, s.part.seen) == ({'a': 1, 'b': 1}, {'a', 'b'})",
    ),
    "a nested model, touched there alone by the late one": (
        do("s.part.size = 3"),
        do("s.part.note('b')"),
        "(s.part.size, s.part._notes) == (3, {'b': 1})",
    ),
    "a model in a dict": (
        do("s.parts['x'].note('a')"),
        do("s.parts['x'].note('b')"),
        "s.parts['x']._notes == {'a': 1, 'b': 1}",
    ),
    "models of a list": (
        do("s.row[0].note('a')"),
        do("s.row[1].note('b')"),
        "[p._notes for p in s.row] == [{'a': 1}, {'b': 1}]",
    ),
}


@pytest.mark.found("B2")
@pytest.mark.clauses("E4")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize(("early", "late", "expected"), HIDDEN.values(), ids=HIDDEN)
async def test_private_attributes_and_excluded_fields_are_merged(
    early: Edit, late: Edit, expected: str, stored: bool
) -> None:
    initial = Hidden(parts={"x": Part()}, row=[Part(), Part()])
    persistence = MemoryFlowPersistence() if stored else None

    flow = await raced(Hidden, early, late, initial_state=initial, persistence=persistence)

    assert eval(expected, {"s": flow.state})


HIDDEN_CONFLICTS = {
    "an excluded field": (do("s.tries = 1"), do("s.tries = 2"), "tries"),
    "a private attribute": (do("s._last = 'a'"), do("s._last = 'b'"), "_last"),
    "a key of a private dict": (do("s._marks['a'] = 1"), do("s._marks['a'] = 2"), "_marks.a"),
    "of a nested model": (do("s.part._notes['a'] = 1"), do("s.part._notes['a'] = 2"), "part._notes.a"),
    "of a model in a dict": (do("s.parts['x']._notes['a'] = 1"), do("del s.parts['x']"), "parts.x"),
    "of a model in a list": (do("s.row[0].note('a')"), do("s.row[0].note('b')"), "row"),
}


@pytest.mark.found("B2")
@pytest.mark.parametrize(("early", "late", "path"), HIDDEN_CONFLICTS.values(), ids=HIDDEN_CONFLICTS)
async def test_a_conflict_in_a_part_that_is_not_stored_is_one_all_the_same(early: Edit, late: Edit, path: str) -> None:
    initial = Hidden(parts={"x": Part()}, row=[Part(), Part()])

    assert (await conflict_of(Hidden, early, late, initial_state=initial)).path == path


class Knot:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.me = self
        self.uses = 0


class Slotted:
    __slots__ = ("uses",)

    def __init__(self) -> None:
        self.uses = 0


class Tools(FlowState):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    number: int = 0
    other: int = 0
    knot: Knot = Field(default_factory=Knot, exclude=True)
    slotted: Slotted = Field(default_factory=Slotted, exclude=True)
    chance: random.Random = Field(default_factory=lambda: random.Random(1), exclude=True)
    made: Any = Field(default=max, exclude=True)


TOOLS = {
    "nobody": (nothing, nothing, "s.knot.uses == s.slotted.uses == 0"),
    "an object that refers to itself": (nothing, do("s.knot.uses = 1"), "s.knot.uses == 1 and s.knot.me is s.knot"),
    "an object of slots": (nothing, do("s.slotted.uses = 1"), "s.slotted.uses == 1"),
    "a generator of random numbers": (nothing, do("s.chance.seed(7)"), "s.chance.random() == Random(7).random()"),
    "a function": (nothing, do("s.made = min"), "s.made is min"),
    "a partial function": (do("import functools; s.made = functools.partial(max, 1)"), nothing, "s.made(0) == 1"),
}


@pytest.mark.found("B2")
@pytest.mark.parametrize(("early", "late", "expected"), TOOLS.values(), ids=TOOLS)
async def test_objects_that_one_method_uses_are_no_conflict(early: Edit, late: Edit, expected: str) -> None:
    def with_fields(edit: Edit, name: str) -> Edit:
        return lambda state: (setattr(state, name, 1), edit(state))

    flow = await raced(Tools, with_fields(early, "number"), with_fields(late, "other"))

    assert (flow.state.number, flow.state.other) == (1, 1)
    assert eval(expected, {"s": flow.state, "Random": random.Random})


# ---- the same instance resumes -------------------------------------------------------------------------------------


class Mended(Flow[Hidden]):
    """`second` fails until it is repaired."""

    is_mended = False

    @start()
    async def first(self) -> None:
        self.state.cache["a"] = 1
        self.state._marks["a"] = 1
        self.state.part.note("a")

    @listen(first)
    async def second(self) -> None:
        if not self.is_mended:
            raise ValueError("not yet")
        self.state.cache["b"] = 1
        self.state._marks["b"] = 1


def hidden_of(state: Hidden) -> Any:
    return state.cache, state._marks, state.part._notes


@pytest.mark.found("B2")
async def test_the_state_an_instance_shows_after_a_failure_is_the_one_it_resumes_with() -> None:
    flow = Mended(persistence=SQLiteFlowPersistence("runs.db"))
    with pytest.raises(MethodError):
        await flow.kickoff()
    shown = hidden_of(flow.state)
    flow.is_mended = True
    await flow.kickoff()

    assert shown == ({"a": 1}, {"a": 1}, {"a": 1})
    assert hidden_of(flow.state) == ({"a": 1, "b": 1}, {"a": 1, "b": 1}, {"a": 1})


@pytest.mark.found("B2")
async def test_with_method_checkpoints_an_instance_shows_what_it_resumes_with() -> None:
    class Some(Flow[Hidden]):
        is_mended = False

        @persist
        @start()
        async def first(self) -> None:
            self.state.cache["a"] = 1
            self.state.number += 1

        @listen(first)
        async def second(self) -> None:
            self.state.cache["b"] = 1
            self.state.number += 1

        @listen(second)
        async def third(self) -> None:
            if not self.is_mended:
                raise ValueError("not yet")

    flow = Some(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff()
    shown = flow.state.number, dict(flow.state.cache), flow.pending
    flow.is_mended = True
    await flow.kickoff()

    assert shown == (1, {"a": 1}, ("second:1",))
    assert (flow.state.number, flow.state.cache) == (2, {"a": 1, "b": 1})


@pytest.mark.found("B2")
async def test_an_edit_of_the_stored_state_keeps_what_an_instance_shows_besides() -> None:
    flow = Mended(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff()
    await flow.update_state(number=5)

    assert flow.state.number == 5
    assert hidden_of(flow.state) == ({"a": 1}, {"a": 1}, {"a": 1})


@pytest.mark.found("B2")
async def test_a_cancelled_run_keeps_what_its_instance_shows() -> None:
    class Waits(Flow[Hidden]):
        @start()
        async def first(self) -> None:
            self.state.cache["a"] = 1

        @listen(first)
        async def second(self) -> None:
            if not waiting.is_set():
                waiting.set()
                await anyio.sleep_forever()

    waiting = anyio.Event()
    flow = Waits(persistence=MemoryFlowPersistence())
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await waiting.wait()
        group.cancel_scope.cancel()
    shown = dict(flow.state.cache)
    await flow.kickoff()

    assert (shown, flow.state.cache) == ({"a": 1}, {"a": 1})


@pytest.mark.found("B2")
async def test_a_loaded_state_has_defaults_where_nothing_is_stored() -> None:
    persistence = MemoryFlowPersistence()
    flow = Mended(persistence=persistence)
    with pytest.raises(MethodError):
        await flow.kickoff()

    loaded = await Mended.load(flow.run_id, persistence=persistence)

    assert hidden_of(loaded.state) == ({}, {}, {})


@pytest.mark.found("B2")
async def test_changes_by_the_caller_to_a_state_that_is_resumed_reach_no_method() -> None:
    class Looks(Flow[Hidden]):
        @start()
        async def first(self) -> None:
            self.state.cache["a"] = 1

        @listen(first)
        async def second(self) -> int:
            if not self.method_outputs:
                shown.cache["stray"] = 1
                return len(self.state.cache)
            raise ValueError

    flow = Looks(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff()
    shown = flow.state

    assert await flow.kickoff() == 1


# ---- kinds of containers -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Place:
    street: str = ""
    town: str = ""
    marks: list[str] = dataclasses.field(default_factory=list)
    visits: Annotated[int, merge.add] = 0

    @functools.cached_property
    def text(self) -> str:
        return f"{self.street}, {self.town}"


@dataclasses.dataclass(frozen=True, slots=True)
class Fixed:
    x: int = 0
    y: int = 0


class Pair(NamedTuple):
    x: int = 0
    y: int = 0


class Kinds(FlowState):
    ordered: OrderedDict[str, int] = Field(default_factory=lambda: OrderedDict(a=1, b=2))
    counts: defaultdict[str, int] = Field(default_factory=lambda: defaultdict(int, {"a": 1}))
    lists: defaultdict[str, list[int]] = Field(default_factory=lambda: defaultdict(list))
    counter: Counter[str] = Field(default_factory=Counter)
    place: Place = Field(default_factory=Place)
    places: dict[str, Place] = Field(default_factory=lambda: {"home": Place()})
    fixed: Fixed = Field(default_factory=Fixed)
    pair: Pair = Pair()
    queue: deque[int] = Field(default_factory=lambda: deque([1, 2, 3]))
    latest: deque[int] = Field(default_factory=lambda: deque([1, 2, 3], maxlen=3), exclude=True)
    log: Annotated[deque[int], merge.append] = Field(default_factory=lambda: deque([1, 2]))
    names: frozenset[str] = frozenset("ab")
    trail: tuple[int, ...] = (1,)
    items: list[int] = Field(default_factory=lambda: [1, 2, 3])
    parts: list[Part] = Field(default_factory=lambda: [Part(), Part(), Part(size=7)])


KINDS = {
    "ordered dict": (do("s.ordered['c'] = 3"), do("s.ordered['d'] = 4"), "ordered", OrderedDict(a=1, b=2, c=3, d=4)),
    "an order": (do("s.ordered.move_to_end('a')"), do("s.ordered['d'] = 4"), "ordered", OrderedDict(b=2, a=1, d=4)),
    "the late one's order": (
        do("s.ordered['d'] = 4"),
        do("s.ordered.move_to_end('a')"),
        "ordered",
        OrderedDict(b=2, a=1, d=4),
    ),
    "defaultdict of numbers": (do("s.counts['b'] += 1"), do("s.counts['c'] += 1"), "counts", {"a": 1, "b": 1, "c": 1}),
    "defaultdict of lists": (
        do("s.lists['a'].append(1)"),
        do("s.lists['b'].append(2); s.lists['a'].append(3)"),
        "lists",
        {"a": [1, 3], "b": [2]},
    ),
    "counter": (do("s.counter['a'] += 1"), do("s.counter['b'] += 1"), "counter", Counter("ab")),
    "fields of a dataclass": (do("s.place.street = 'High'"), do("s.place.town = 'Ely'"), "place", Place("High", "Ely")),
    "a list in a dataclass": (
        do("s.place.marks.append('a')"),
        do("s.place.marks.append('b'); s.place.town = 'Ely'"),
        "place",
        Place(town="Ely", marks=["a", "b"]),
    ),
    "a field that says how": (do("s.place.visits += 1"), do("s.place.visits += 2"), "place", Place(visits=3)),
    "a dataclass in a dict": (
        do("s.places['home'].street = 'High'"),
        do("s.places['home'].town = 'Ely'"),
        "places",
        {"home": Place("High", "Ely")},
    ),
    "a frozen dataclass": (
        do("s.fixed = replace(s.fixed, x=1)"),
        do("s.fixed = replace(s.fixed, y=2)"),
        "fixed",
        Fixed(1, 2),
    ),
    "a named tuple": (do("s.pair = s.pair._replace(x=1)"), do("s.pair = s.pair._replace(y=2)"), "pair", Pair(1, 2)),
    "deque appended to": (do("s.queue.append(4)"), do("s.queue.append(5)"), "queue", deque([1, 2, 3, 4, 5])),
    "deque, taken and appended": (do("s.queue.popleft()"), do("s.queue.append(5)"), "queue", deque([2, 3, 5])),
    "deque, both ends": (do("s.queue.appendleft(0)"), do("s.queue.append(4)"), "queue", deque([0, 1, 2, 3, 4])),
    "a full deque": (do("s.latest.append(4)"), do("s.latest.append(5)"), "latest", deque([3, 4, 5], 3)),
    "a deque that says how": (do("s.log.popleft()"), do("s.log.append(3)"), "log", deque([2, 3])),
    "frozenset": (do("s.names |= {'c'}"), do("s.names -= {'a'}"), "names", frozenset("bc")),
    "tuple appended to": (do("s.trail += (2,)"), do("s.trail += (3,)"), "trail", (1, 2, 3)),
    "places of a list": (do("s.items[0] = 9"), do("s.items[2] = 8"), "items", [9, 2, 8]),
    "models of a list": (
        do("s.parts[0].size = 1"),
        do("s.parts[1].size = 2"),
        "parts",
        [Part(size=1), Part(size=2), Part(size=7)],
    ),
}


@pytest.mark.found("B6")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize(("early", "late", "name", "expected"), KINDS.values(), ids=KINDS)
async def test_containers_of_every_kind_are_merged(
    early: Edit, late: Edit, name: str, expected: Any, stored: bool
) -> None:
    flow = await raced(Kinds, early, late, persistence=MemoryFlowPersistence() if stored else None)
    value, before = getattr(flow.state, name), getattr(Kinds(), name)

    assert value == expected
    assert type(value) is type(before)
    assert getattr(value, "default_factory", None) is getattr(before, "default_factory", None)
    assert getattr(value, "maxlen", None) == getattr(before, "maxlen", None)


@pytest.mark.found("B6")
async def test_containers_of_every_kind_are_merged_in_a_dict_state() -> None:
    initial = {"counts": defaultdict(list), "place": Place(), "queue": deque([1])}
    early = do("s['counts']['a'].append(1); s['place'].town = 'Ely'; s['queue'].append(2)")
    late = do("s['counts']['b'].append(1); s['place'].street = 'High'; s['queue'].append(3)")

    flow = await raced(dict, early, late, initial_state=initial)

    assert flow.state["counts"] == {"a": [1], "b": [1]}
    assert type(flow.state["counts"]) is collections.defaultdict
    assert flow.state["place"] == Place("High", "Ely")
    assert flow.state["queue"] == deque([1, 2, 3])


KIND_CONFLICTS = {
    "two orders": (
        do("s.ordered['x'] = 1; s.ordered.move_to_end('a')"),
        do("s.ordered.move_to_end('b', False)"),
        "ordered",
    ),
    "a count": (do("s.counter['a'] += 1"), do("s.counter['a'] += 1"), "counter.a"),
    "a field of a dataclass": (do("s.place.town = 'Ely'"), do("s.place.town = 'Bath'"), "place.town"),
    "a deque that both took from": (do("s.queue.popleft()"), do("s.queue.popleft(); s.queue.append(4)"), "queue"),
    "a deque in a new order": (do("s.queue.reverse()"), do("s.queue.append(4)"), "queue"),
    "a list in a new order": (do("s.parts.reverse()"), do("s.parts[1].size = 1"), "parts"),
    "one place of a list": (do("s.items[0] = 9"), do("s.items[0] = 8"), "items"),
    "a model at one place of a list": (do("s.parts[0].size = 1"), do("s.parts[0].note('a')"), "parts"),
}


@pytest.mark.found("B6")
@pytest.mark.parametrize(("early", "late", "path"), KIND_CONFLICTS.values(), ids=KIND_CONFLICTS)
async def test_incompatible_changes_of_containers_are_a_conflict(early: Edit, late: Edit, path: str) -> None:
    assert (await conflict_of(Kinds, early, late)).path == path


@pytest.mark.found("B6")
async def test_a_merged_dataclass_computes_its_cached_properties_again() -> None:
    def early(state: Kinds) -> None:
        state.place.street = "High"
        assert state.place.text == "High, "

    flow = await raced(Kinds, early, do("s.place.town = 'Ely'"))

    assert flow.state.place.text == "High, Ely"


FULL_DEQUES: dict[str, tuple[list[int], Edit, Edit]] = {
    "one item, twice": ([2, 0, 2], do("s.queue[0] = 5"), do("s.queue[0] = 8")),
    "an item and a pop": ([2, 0, 2], do("s.queue[0] = 6"), do("s.queue.pop()")),
    "an item and a popleft": ([3, 0, 3], do("s.queue[0] = 5"), do("s.queue.popleft()")),
    "an item and a clear": ([2, 0, 2], do("s.queue[0] = 6"), do("s.queue.clear()")),
}


@pytest.mark.found("B6")
@pytest.mark.parametrize(("start_with", "early", "late"), FULL_DEQUES.values(), ids=FULL_DEQUES)
async def test_an_item_replaced_in_a_full_deque_is_not_taken_for_a_push(
    start_with: list[int], early: Edit, late: Edit
) -> None:
    class Begins(FlowState):
        queue: deque[int] = Field(default_factory=lambda: deque(start_with, maxlen=3))

    for first, second in ((early, late), (late, early)):
        assert (await conflict_of(Begins, first, second)).path.partition(".")[0] == "queue"


@pytest.mark.found("B6")
async def test_what_two_methods_append_to_a_full_deque_of_equal_items_is_kept() -> None:
    class Begins(FlowState):
        queue: deque[int] = Field(default_factory=lambda: deque([0, 0, 0], maxlen=3))

    flow = await raced(Begins, do("s.queue.append(1)"), do("s.queue.append(2)"))
    assert list(flow.state.queue) == [0, 1, 2]


class Customer:
    """Equal by its key, as records of a database are."""

    def __init__(self, key: int, mail: str) -> None:
        self.key = key
        self.mail = mail

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Customer) and self.key == other.key

    def __hash__(self) -> int:
        return self.key


class Customers(FlowState):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    customer: Customer = Field(default_factory=lambda: Customer(1, "old"), exclude=True)
    many: list[Customer] = Field(default_factory=lambda: [Customer(1, "old")], exclude=True)
    named: UserDict[str, Any] = Field(default_factory=lambda: UserDict({"a": 1}), exclude=True)
    n: int = 0
    _private: Customer = PrivateAttr(default_factory=lambda: Customer(1, "old"))


EQUAL_BY_KEY = {
    "a field": ("s.customer.mail = 'new'", "s.customer.mail"),
    "in a list": ("s.many[0].mail = 'new'", "s.many[0].mail"),
    "a private attribute": ("s._private.mail = 'new'", "s._private.mail"),
    "a type of an equal value": ("s.named['a'] = True", "'new' if s.named['a'] is True else 'old'"),
}


@pytest.mark.found("B2")
@pytest.mark.parametrize(("change", "shown"), EQUAL_BY_KEY.values(), ids=EQUAL_BY_KEY)
async def test_a_change_of_a_value_that_is_equal_by_its_own_rule_is_merged(change: str, shown: str) -> None:
    for first, second in ((do(change), do("s.n = 1")), (do("s.n = 1"), do(change))):
        flow = await raced(Customers, first, second)
        assert (eval(shown, {"s": flow.state}), flow.state.n) == ("new", 1)
