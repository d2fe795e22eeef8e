"""Random graphs under random interleavings, failures and resumes: step by step what the naive model says."""

import copy
import tracemalloc
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
from driver import AGAIN, BOOM, Simulation, defined
from hypothesis import given
from hypothesis import strategies as st
from model import Launch, Model, Node, Step, holds

from asyncflow import Signal, after, and_, listen, or_, router, start
from asyncflow._definition.definition import FlowDefinition, MethodDefinition, Receives
from asyncflow._definition.triggers import (
    AllOf,
    AnyOf,
    TimerDefinition,
    Trigger,
    names_in,
    normalised,
    required_names,
    satisfied,
    timers_in,
    trigger_of,
)
from asyncflow._scheduling.advance import advance
from asyncflow._scheduling.messages import Command, Continue, Fail, Finish, MethodReturned, RunMethod, Started
from asyncflow._scheduling.progress import Progress
from asyncflow._scheduling.signals import is_waiting

LABELS = ("A", "B", "C")
SIGNALS = ("s", "t")
CRASH = object()
WAIT = object()
"""A method begins to wait, while the pass is ending."""
ASKS = ("finish", "continue")
STOP = "stop"
"""Who asks for the end of the pass: a method that ends, or somebody outside."""

# ---- graphs and choices ----------------------------------------------------------------------------------------------


def trees(leaves: Sequence[str], depth: int = 3) -> st.SearchStrategy[Any]:
    """Conditions nested up to `depth`."""
    leaf = st.sampled_from(leaves)
    if depth == 0:
        return leaf
    parts = st.lists(trees(leaves, depth - 1), min_size=1, max_size=3)
    return leaf | st.builds(lambda kind, of: kind(*of), st.sampled_from((or_, and_)), parts)


@st.composite
def nodes(draw: st.DrawFn, names: Sequence[str], position: int, sent: Sequence[str]) -> Node:
    name = names[position]
    is_start = position == 0 or draw(st.integers(0, 3)) == 0
    is_router = draw(st.booleans())
    if is_start and draw(st.integers(0, 2)):
        return Node(name, None, True, is_router)
    triggers = [other for other in names if other != name] + list(LABELS)
    tree = draw(trees([*triggers, *(after(trigger, 1) for trigger in triggers), *sent, *sent]))
    condition = normalised(tree)
    signals = frozenset(names_in(condition)) & frozenset(sent)
    timers = tuple(dict.fromkeys((timer.name, timer.source) for timer in timers_in(tree)))
    takes = draw(st.sampled_from(("nothing", "last", "named")))
    if takes == "named":
        surely = sorted(set(map(trigger_of, required_names(condition)))) if isinstance(condition, AllOf) else []
        by_name = tuple(draw(st.lists(st.sampled_from(surely), min_size=1, unique=True))) if surely else "last"
        takes = "nothing" if is_start else by_name
    is_kept_open = bool(signals) and not timers and satisfied(condition, signals) and draw(st.booleans())
    return Node(
        name, condition, is_start, is_router, "nothing" if is_start else takes, timers, False, signals, is_kept_open
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    names = [f"m{number}" for number in range(draw(st.integers(2, 6)))]
    output = draw(st.sampled_from([None, None, *names]))
    sent = SIGNALS if draw(st.booleans()) else ()
    made = [draw(nodes(names, position, sent)) for position in range(len(names))]
    return [replace(node, is_output=node.name == output) for node in made]


choices = st.lists(
    st.tuples(
        st.integers(0, 11),
        st.sampled_from((*LABELS, *LABELS, None, None, None, AGAIN, BOOM, CRASH, *SIGNALS, *ASKS, STOP, WAIT)),
    ),
    min_size=25,
    max_size=50,
)
"""Which of the running invocations ends next, and how, or which paused one starts; the process may die, or a signal come, instead."""


def definition_of(graph: Sequence[Node]) -> FlowDefinition:
    return FlowDefinition("Random", {node.name: _method(node) for node in graph}, _signals(graph))


def _signals(graph: Sequence[Node]) -> dict[str, Signal[Any]]:
    return {name: Signal(name) for node in graph for name in node.signals}


def _method(node: Node) -> MethodDefinition:
    by_name = () if isinstance(node.takes, str) else node.takes
    return MethodDefinition.make(
        name=node.name,
        function=print,
        condition=node.condition,
        is_start=node.is_start,
        is_router=node.is_router,
        receives=Receives.NAMED if by_name else Receives[node.takes.upper()],  # type: ignore[union-attr]
        parameters=by_name,
        is_output=node.is_output,
        timers=tuple(TimerDefinition(timer, source, 1) for timer, source in node.timers),
        signals=node.signals,
        keep_open=node.keep_open,
    )


# ---- package and model, side by side ---------------------------------------------------------------------------------


class Pair:
    """The same choices, given to the scheduler and to the model."""

    def __init__(self, graph: Sequence[Node]) -> None:
        self.routers = {node.name for node in graph if node.is_router}
        self.run = Simulation(definition_of(graph))
        self.model = Model(graph, signals=frozenset(_signals(graph)))

    def play(self, chosen: Sequence[tuple[int, object]]) -> Simulation:
        run, model = self.run, self.model
        self._compare(model.start(), lambda: run.start())
        for which, how in chosen:
            open_now = [*run.running, *run.paused, *(() if run.progress.failed else run.waiting)]
            key: Any = open_now[which % len(open_now)] if open_now else ""
            if isinstance(run.outcome, Fail) or (how is CRASH and (open_now or run.is_idle)):
                self._compare(model.resumed(), lambda: run.resume())
            elif how in SIGNALS:
                run.inbox.append(how)  # type: ignore[arg-type]  # a name
                self._take()
            elif run.is_idle and how != STOP and not model.waits():
                assert not is_waiting(run.definition, run.progress)
                self._compare(model.ends(), run.settle)
            elif key in run.paused and not run.progress.failed:
                self._compare(model.woken(key), lambda key=key: run.wake(key))
            elif isinstance(key, tuple):
                self._compare(model.fires(key), lambda key=key: run.fire(key))
            elif how == STOP and (open_now or run.is_idle):
                self._compare(model.stops(), run.stop)
            elif key in run.running and how is WAIT and run.progress.ending:
                self._compare(model.dropped(key), lambda key=key: run.wait(key))
            elif key in run.running:
                self._end(key, how)
        return run

    def _take(self) -> None:
        """Take all that can be taken, one after the other."""
        run, model = self.run, self.model
        while run.outcome is None and not run.progress.failed:
            assert is_waiting(run.definition, run.progress) == model.waits()
            place = model.next_signal(run.inbox)
            assert run.takeable == place
            if place is None:
                return
            self._compare(model.takes(run.inbox[place]), run.take)

    def _end(self, key: str, how: object) -> None:
        asks: Any = how if how in ASKS else ""
        is_label = how in LABELS and key.split(":")[0] in self.routers
        label: Any = how if is_label else None
        self.run.script = lambda _: how if how in (BOOM, AGAIN) else label
        if how is AGAIN:
            step = self.model.raises_and_waits(key)
        else:
            step = self.model.raises(key) if how is BOOM else self.model.returned(key, label, asks)
        self._compare(step, lambda: self.run.end(key, asks))

    def _compare(self, expected: Step, act: Any) -> None:
        run = self.run
        launched, skipped = len(run.launched), len(run.skipped)
        act()
        assert [Launch(*invocation) for invocation in run.launched[launched:]] == expected.launched
        assert run.skipped[skipped:] == expected.skipped
        assert told(run.outcome, run.is_idle) == expected.outcome
        pending = [launch for launch in self.model.enabled if launch.key not in self.model.completed]
        assert [Launch(*invocation) for invocation in run.progress.pending.values()] == pending
        assert sorted(run.running) == sorted(self.model.running())
        assert run.waiting == [armed.key for armed in self.model.armed]
        assert sorted(run.progress.paused) == sorted(self.model.waiting)
        failed = {key: attempts.failed for key, attempts in run.progress.attempts.items()}
        assert failed == {key: n for key, n in self.model.attempts.items() if key not in self.model.completed}


def told(command: Command | None, is_idle: bool) -> tuple[str, ...]:
    if is_idle:
        return ("settle",)
    match command:
        case Finish(key):
            return ("finish", key)
        case Fail():
            return ("fail",)
        case Continue():
            return ("continue",)
    return ()


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
            is_output = transition.timing is not None and transition.timing.is_output
            brought = transition.completed or (transition.timing.signal if transition.timing is not None else "")
            assert transition.keeps_result == (is_output or brought in self.progress.results)
            assert self.progress.uses == references(self.progress)
            assert self.progress.results == {key: f"<{key}>" for key in self.progress.uses}
            assert recounted(self.progress) == self.progress
            return transition

    pair = Pair(graph)
    pair.run = Watched(pair.run.definition)
    pair.play(chosen)


def references(progress: Progress) -> Counter[str]:
    arguments = [source for invocation in progress.pending.values() for _, source in invocation.arguments]
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
        if each.name not in ("deadline", "output", "keeping", "parent")
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
