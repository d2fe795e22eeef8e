"""Two methods at once: compatible changes are merged, others fail the later method."""

from typing import Any

import anyio
import pytest
from racing import Address, DictRace, Edit, Racing, Wide, conflict_of, do, put

from asyncflow import Flow, MemoryFlowPersistence, listen, start

pytestmark = pytest.mark.usefixtures("size")


class Race(Racing[Wide]): ...


def at(path: str, value: Any) -> Edit:
    """Assign to `a.b` or `a[b]` in the state."""

    def edit(state: Any) -> None:
        exec(f"state.{path} = value", {"state": state, "value": value})

    return edit


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
async def test_compatible_changes_are_merged(early: Edit, late: Edit, expected: Any, stored: bool) -> None:
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
async def test_incompatible_changes_fail_the_later_method(early: Edit, late: Edit, path: str) -> None:
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
