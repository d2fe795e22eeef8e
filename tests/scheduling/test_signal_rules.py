"""Signals: when one is taken, whom it reaches, in which cycle, what keeps a pass open; what a class may declare."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from driver import Simulation, defined
from scripts import TURNS, turning

from asyncflow import Signal, after, and_, listen, or_, router, start
from asyncflow._scheduling.messages import Finish
from asyncflow._scheduling.signals import expected, is_waiting
from asyncflow._scheduling.upgrades import obstacles

APPROVED = Signal("approved", bool)
REJECTED = Signal("rejected", str)


def begun(flow: type, script: Any = lambda _: None) -> Simulation:
    return Simulation(defined(flow), script).start()


def waits(run: Simulation) -> bool:
    return is_waiting(run.definition, run.progress)


class Asking:
    @start()
    async def draft(self): ...

    @listen(and_(draft, APPROVED))
    async def publish(self, draft, approved): ...


@pytest.mark.clauses("W6")
def test_a_signal_that_comes_early_stays_in_the_inbox_until_a_listener_can_fire_with_it() -> None:
    run = begun(Asking).send("approved")
    assert (run.inbox, run.progress.latches) == (["approved"], {})

    run.end("draft:1")
    assert run.takeable == 0
    run.take()

    assert run.calls["publish:1"] == {"draft": "<draft:1>", "approved": "<approved:1>"}
    assert run.inbox == []


@pytest.mark.clauses("W6")
def test_a_second_signal_does_not_replace_or_approve_anything_it_was_not_sent_for() -> None:
    """Latched early, the second one would approve the next draft, which its sender has not seen."""
    run = begun(Asking)
    run.end("draft:1")
    run.send("approved", "approved")

    assert (run.keys, run.inbox) == (["draft:1", "publish:1"], ["approved"])
    assert run.takeable is None


@pytest.mark.clauses("W6")
def test_signals_that_a_join_needs_together_are_taken_when_all_have_come_the_oldest_first() -> None:
    class Both:
        @start()
        async def draft(self): ...

        @listen(and_(draft, APPROVED, REJECTED))
        async def confused(self, draft, approved, rejected): ...

    run = begun(Both)
    run.end("draft:1")
    run.send("rejected")
    assert run.inbox == ["rejected"]

    run.send("approved")
    assert run.calls["confused:1"] == {"draft": "<draft:1>", "approved": "<approved:1>", "rejected": "<rejected:1>"}
    assert [t.timing.signal for t, _ in run.history if t.timing is not None and t.timing.signal] == [
        "rejected:1",
        "approved:1",
    ]


@pytest.mark.clauses("W6")
def test_the_oldest_signal_is_taken_where_either_would_do() -> None:
    class Either:
        @start()
        async def draft(self): ...

        @listen(and_(draft, or_(APPROVED, REJECTED)))
        async def decide(self): ...

    run = begun(Either)
    run.inbox += ["rejected", "approved"]
    run.end("draft:1")

    assert run.takeable == 0


@pytest.mark.clauses("W6")
def test_one_signal_reaches_all_listeners_that_can_use_it() -> None:
    class Two:
        @start()
        async def draft(self): ...

        @listen(and_(draft, APPROVED))
        async def publish(self): ...

        @listen(and_(draft, APPROVED, REJECTED))
        async def both(self): ...

        @router(draft)
        async def route(self): ...

        @listen(and_("never", APPROVED))
        async def holds_nothing(self): ...

    run = begun(Two)
    run.end("draft:1")
    run.send("approved")

    assert run.keys[1:] == ["route:1", "publish:1"]
    assert {name: list(latch) for name, latch in run.progress.latches.items()} == {"both": ["draft", "approved"]}


class Loop:
    """Ask until it is approved."""

    @start()
    async def draft(self): ...

    @listen(or_(draft, "revise"))
    async def ask(self): ...

    @router(and_(ask, APPROVED), emit=["revise", "done"])
    async def decide(self): ...

    @listen("done")
    async def publish(self): ...


class LoopOr(Loop):
    @router(or_(APPROVED, after(Loop.ask, timedelta(days=2))), emit=["revise", "done"])
    async def decide(self): ...


class LoopBoth(Loop):
    @router(or_(and_(Loop.ask, APPROVED), after(Loop.ask, timedelta(days=2))), emit=["revise", "done"])
    async def decide(self): ...


class LoopWithASlowBranch(Loop):
    @listen(Loop.ask)
    async def remind(self): ...


@pytest.mark.clauses("W7")
@pytest.mark.parametrize("loop", [Loop, LoopOr, LoopBoth, LoopWithASlowBranch])
@pytest.mark.parametrize("answered", ["by the signal", "by the timer"])
def test_a_loop_of_asking_decides_once_in_every_turn_and_leaves_nothing_open(loop: type, answered: str) -> None:
    """With the run's own cycle instead of the question's, the loop stops after the first answer: an `or_` fires once a cycle."""
    by_timer = answered == "by the timer"
    if by_timer and loop in (Loop, LoopWithASlowBranch):
        return
    run = begun(loop, turning(decide=("revise", "done")))
    run.end("draft:1")
    slow: list[str] = []
    for turn in range(1, TURNS + 1):
        slow += [key for key in run.running if key.startswith("remind")]
        run.end(f"ask:{turn}")
        if by_timer:
            (timer,) = run.waiting
            run.fire(timer)
        else:
            run.send("approved")
        assert run.waiting == []
        run.end(f"decide:{turn}")
    run.end("publish:1")
    for key in list(run.running):
        run.end(key)

    assert (run.count("ask"), run.count("decide"), run.count("publish")) == (TURNS, TURNS, 1)
    assert (run.is_idle, waits(run)) == (True, False)


@pytest.mark.clauses("W7")
def test_a_signal_belongs_to_the_cycle_of_what_its_listener_holds_else_to_one_of_its_own() -> None:
    run = begun(Loop, turning(decide=("revise", "done")))
    run.end("draft:1")
    run.end("ask:1")
    run.send("approved")
    run.end("decide:1")
    run.end("ask:2")
    run.send("approved")
    first, second = (invocation for invocation in run.launched if invocation.method == "decide")

    assert first.cycle != second.cycle == run.launched[-2].cycle
    alone = begun(Lone)
    alone.send("approved", "approved")
    assert [(i.cycle, i.ancestry) for i in alone.launched[1:]] == [
        ("approved:1", frozenset({"note"})),
        ("approved:2", frozenset({"note"})),
    ]


class Lone:
    @start()
    async def begin(self): ...

    @listen(APPROVED, keep_open=True)
    async def note(self, approved): ...


class Passing(Lone):
    @listen(APPROVED, keep_open=False)
    async def note(self, approved): ...


@pytest.mark.clauses("W8")
def test_keep_open_holds_the_pass_until_the_method_has_run_once() -> None:
    run = begun(Lone)
    run.end("begin:1")
    assert (run.is_idle, waits(run)) == (True, True)

    run.send("approved")
    run.end("note:1")
    assert waits(run) is False
    run.settle()
    assert run.outcome == Finish("note:1")


@pytest.mark.clauses("W8")
def test_without_keep_open_the_method_runs_only_while_the_pass_lives() -> None:
    run = begun(Passing)
    run.send("approved")
    assert run.keys[1:] == ["note:1"]
    run.end("note:1")
    run.end("begin:1")

    assert (run.is_idle, waits(run)) == (True, False)


@pytest.mark.clauses("W8")
def test_a_join_that_signals_and_timers_cannot_complete_holds_nothing_open() -> None:
    class Never:
        @start()
        async def begin(self): ...

        @router(begin)
        async def route(self): ...

        @listen(and_(begin, APPROVED, "never"))
        async def meet(self): ...

    run = begun(Never)
    run.end("begin:1")
    run.end("route:1")

    assert (run.is_idle, waits(run)) == (True, False)
    run.settle()
    assert run.outcome == Finish("route:1")


@pytest.mark.clauses("W8")
def test_a_half_full_join_keeps_its_cycle_alive_while_it_waits_for_a_signal() -> None:
    class Late:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def once(self): ...

        @router(and_(begin, APPROVED), emit=["again"])
        async def decide(self): ...

    run = begun(Late, lambda invocation: "again" if invocation.method == "decide" else None)
    run.end("begin:1")
    run.end("once:1")
    assert run.progress.fired == {"": {"begin", "once"}}
    run.send("approved")
    run.end("decide:1")

    assert (run.count("once"), run.skipped) == (1, ["once"])


@pytest.mark.clauses("W9")
def test_once_a_method_has_failed_no_signal_is_taken_and_a_resume_takes_it() -> None:
    from driver import BOOM

    class Two(Asking):
        @start()
        async def bad(self): ...

    run = begun(Two, lambda invocation: BOOM if invocation.method == "bad" else None)
    run.end("bad:1")
    run.end("draft:1")
    run.send("approved")
    assert run.inbox == ["approved"]

    run.resume()
    assert run.takeable == 0


def test_the_signals_that_a_run_waits_for_are_known() -> None:
    run = begun(Asking)
    assert expected(run.definition, run.progress) == frozenset()
    run.end("draft:1")

    assert expected(run.definition, run.progress) == {"approved"}


def test_a_join_that_waits_for_a_signal_is_no_obstacle_to_a_resume() -> None:
    run = begun(Asking)
    run.end("draft:1")

    assert list(obstacles(run.definition, run.progress)) == []
