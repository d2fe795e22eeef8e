"""Random graphs under random interleavings, failures and resumes: step by step what the naive model says."""

import copy
import tracemalloc
from collections import Counter, deque
from dataclasses import fields
from typing import Any

import pytest
from driver import Simulation, StoredSimulation, defined
from graphs import choices, graphs, trees
from hypothesis import given
from hypothesis import strategies as st
from pair import Pair
from shapes import Node, holds

from asyncflow import and_, listen, or_, router, start
from asyncflow._definition.definition import FlowDefinition
from asyncflow._definition.triggers import (
    AllOf,
    AnyOf,
    Trigger,
    normalised,
    satisfied,
)
from asyncflow._scheduling.advance import advance
from asyncflow._scheduling.groups import Gathered
from asyncflow._scheduling.messages import Item, MethodReturned, RunMethod, Started, Timing
from asyncflow._scheduling.progress import Progress


@given(graphs(), choices)
def test_every_step_is_what_the_model_says(graph: list[Node], chosen: list[tuple[int, object]]) -> None:
    Pair(graph).play(chosen)


@given(graphs(), choices)
def test_advance_never_changes_progress(graph: list[Node], chosen: list[tuple[int, object]]) -> None:
    class Watched(Simulation):
        def happen(self, happening: Any) -> Any:
            before = copy.deepcopy(self.progress)
            once = advance(self.definition, self.progress, happening)
            assert self.progress == before
            assert advance(self.definition, before, happening) == once
            return super().happen(happening)

    pair = Pair(graph)
    pair.run = Watched(pair.run.definition)
    pair.play(chosen)


@given(graphs(), choices)
def test_folding_what_was_recorded_gives_the_same_progress(graph: list[Node], chosen: list[tuple[int, object]]) -> None:
    run = Pair(graph).play(chosen)
    folded = Progress()
    for transition, result in run.history:
        folded.fold(transition, result)

    assert folded == run.progress
    assert list(folded.pending) == list(run.progress.pending)


@given(graphs(), choices)
def test_results_are_kept_while_something_refers_to_them(graph: list[Node], chosen: list[tuple[int, object]]) -> None:
    class Watched(Simulation):
        def happen(self, happening: Any) -> Any:
            transition = super().happen(happening)
            timing = transition.timing or Timing()
            is_item = timing.item is not None and timing.item[1] >= 0
            brought = transition.completed or timing.signal
            assert transition.keeps_result == (is_item or timing.is_output or brought in self.progress.results)
            assert self.progress.uses == references(self.progress)
            assert self.progress.results.keys() == self.progress.uses.keys()
            for key, result in self.progress.results.items():
                expected = [f"<{key}[{place}]>" for place in range(len(result))]
                assert result == (tuple(expected) if isinstance(result, Gathered) else f"<{key}>")
            assert recounted(self.progress) == self.progress
            return transition

    pair = Pair(graph)
    pair.run = Watched(pair.run.definition)
    pair.play(chosen)


@pytest.mark.clauses("N1", "N7", "W13")
@given(graphs(), choices)
def test_what_is_stored_after_any_step_loads_as_it_was(graph: list[Node], chosen: list[tuple[int, object]]) -> None:
    """And a process that loads it continues as the model says."""

    pair = Pair(graph)
    pair.run = StoredSimulation(pair.run.definition)
    pair.play(chosen)


def references(progress: Progress) -> Counter[str]:
    whole = [invocation for invocation in progress.pending.values() if type(invocation) is not Item]
    arguments = [source for invocation in whole for _, source in invocation.arguments]
    parts = [seen.source for latch in progress.latches.values() for seen in latch.values() if seen.source]
    timers = [timer.source for timer in progress.timers.values() if timer.source]
    return Counter(arguments + parts + timers)


def recounted(progress: Progress) -> Progress:
    again = copy.deepcopy(progress)
    again.alive, again.uses = {"stale": 1}, {"stale": 1}
    again.recount()
    return again


# ---- conditions ------------------------------------------------------------------------------------------------------


@given(trees("abcd"), st.sets(st.sampled_from("abcd")))
def test_a_normalised_condition_asks_the_same(tree: Trigger, came: set[str]) -> None:
    condition = normalised(tree)

    assert satisfied(condition, came) == holds(tree, came)  # type: ignore[arg-type]  # all its leaves are names
    assert normalised(condition) == condition
    assert is_plain(condition)


def is_plain(condition: Trigger) -> bool:
    """No tree of one, none within its own kind."""
    if not isinstance(condition, AnyOf | AllOf):
        return True
    parts = condition.parts
    return len(set(parts)) == len(parts) > 1 and all(type(p) is not type(condition) and is_plain(p) for p in parts)


# ---- a long loop stays flat ------------------------------------------------------------------------------------------

TURNS = 20_000


class Wheel:
    """One turn: two branches that meet by name, an `or_` that one of them comes late to, and a side branch."""

    @start()
    async def begin(self): ...

    @listen(or_(begin, "again"))
    async def x(self, value): ...

    @listen(or_(begin, "again"))
    async def y(self, value): ...

    @listen(or_(x, y))
    async def early(self, value): ...

    @router(and_(x, y))
    async def meet(self, x, y): ...

    @router(x)
    async def chatter(self): ...

    @listen(and_(begin, meet))
    async def starved(self, begin, meet): ...

    @listen(and_("never", meet))
    async def waiting(self, meet, never): ...

    @listen(or_(and_("never", y), and_(x, chatter)))
    async def halves(self): ...


def sizes(definition: FlowDefinition, progress: Progress) -> dict[str, int]:
    """Of each container, what it holds, with the values inside."""
    found = {
        each.name: len(getattr(progress, each.name))
        for each in fields(progress)
        if each.name not in ("deadline", "output", "keeping", "parent", "origin")
    }
    found["latched names"] = sum(map(len, progress.latches.values()))
    found["fired names"] = sum(map(len, progress.fired.values()))
    found["ancestry"] = max((len(invocation.ancestry) for invocation in progress.pending.values()), default=0)
    found["cache"] = len(definition._reached)
    return found


@pytest.mark.parametrize("stagger", [0, 5])
def test_a_loop_of_20_000_turns_stays_flat(stagger: int) -> None:
    """What ends next is the oldest, or, staggered, one of the next five. The last quarter is measured byte for byte."""
    definition, progress = defined(Wheel), Progress()
    waiting: deque[str] = deque()
    early, late = Counter[str](), Counter[str]()
    traced = 0

    def happen(happening: Any) -> None:
        transition, commands = advance(definition, progress, happening)
        progress.fold(transition, "result")
        waiting.extend(command.invocation.key for command in commands if isinstance(command, RunMethod))

    try:
        happen(Started())
        while (turn := progress.counts.get("meet", 0)) < TURNS:
            waiting.rotate(-(turn % (stagger + 1)))
            method, _, number = (key := waiting.popleft()).partition(":")
            happen(MethodReturned(key, {"meet": "again", "chatter": number}.get(method)))
            if 1_000 <= turn < 2_000:
                early |= Counter(sizes(definition, progress))
            elif turn >= TURNS - 1_000:
                late |= Counter(sizes(definition, progress))
            elif turn >= TURNS * 3 // 4 and not tracemalloc.is_tracing():
                tracemalloc.start()
            elif turn >= TURNS * 3 // 4 + 500 and not traced:
                traced = tracemalloc.get_traced_memory()[0]
        grown = tracemalloc.get_traced_memory()[0] - traced
    finally:
        tracemalloc.stop()

    assert early == late
    assert grown < 8_000
