"""Timers: who they reach, in which cycle, when they start again, when they are dropped; what a class may declare."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from driver import BOOM, Simulation, defined
from scripts import TURNS

from asyncflow import after, and_, listen, or_, router, start
from asyncflow._scheduling.messages import Finish
from asyncflow._scheduling.upgrades import obstacles
from asyncflow.errors import FlowDefinitionError


def begun(flow: type, label: Callable[[Any], Any] = lambda _: None) -> Simulation:
    return Simulation(defined(flow), label).start()


@pytest.mark.clauses("W2")
def test_a_timer_fires_its_listener_once_with_the_result_of_its_trigger() -> None:
    class Reminder:
        @start()
        async def ask(self): ...

        @listen(after(ask, timedelta(days=2)))
        async def remind(self, question): ...

    run = begun(Reminder)
    run.end("ask:1")

    assert (run.waiting, list(run.running), run.outcome) == ([("remind", "after(ask)", "")], [], None)
    run.fire(("remind", "after(ask)", ""))

    assert run.calls["remind:1"] == {"": "<ask:1>"}
    assert run.waiting == []
    run.end("remind:1")
    assert run.outcome == Finish("remind:1")
    assert run.progress.results == {}


@pytest.mark.clauses("W3")
def test_a_pass_that_ends_with_a_timer_has_the_output_of_its_last_method() -> None:
    class Half:
        @start()
        async def ask(self): ...

        @listen(and_("never", after(ask, 60)))
        async def both(self): ...

        @router(ask)
        async def route(self): ...

    run = begun(Half)
    run.end("ask:1")
    run.end("route:1")
    assert run.progress.output == ("route:1", "<route:1>")
    run.fire(("both", "after(ask)", ""))

    assert run.outcome == Finish("route:1")


@pytest.mark.clauses("W2")
def test_what_fires_the_listener_drops_its_timer() -> None:
    """An answer after an hour leaves nothing that keeps the pass open for two days."""

    class Answered:
        @start()
        async def ask(self): ...

        @start()
        async def hour(self): ...

        @listen(or_(hour, after(ask, timedelta(days=2))))
        async def decide(self): ...

    run = begun(Answered)
    run.end("ask:1")
    run.end("hour:1")

    assert run.waiting == []
    run.end("decide:1")
    assert run.outcome == Finish("decide:1")


@pytest.mark.clauses("W2")
def test_a_timer_does_not_start_once_its_or_has_fired_in_the_cycle() -> None:
    class Late:
        @start()
        async def first(self): ...

        @start()
        async def ask(self): ...

        @listen(or_(first, after(ask, 60)))
        async def decide(self): ...

    run = begun(Late)
    run.end("first:1")
    run.end("ask:1")

    assert run.waiting == []


@pytest.mark.clauses("W2")
def test_a_trigger_that_comes_again_in_its_cycle_restarts_the_timer() -> None:
    class Twice:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @router(a)
        async def left(self): ...

        @router(b)
        async def right(self): ...

        @listen(after("tick", 60))
        async def quiet(self): ...

    run = begun(Twice, lambda invocation: "tick" if invocation.method in ("left", "right") else None)
    for key in ("a:1", "left:1"):
        run.end(key)
    (first,) = run.progress.timers.values()
    for key in ("b:1", "right:1"):
        run.end(key)
    (second,) = run.progress.timers.values()

    assert first.key == second.key
    assert second.due > first.due


@pytest.mark.clauses("W3")
def test_a_timer_reaches_only_the_listener_that_waits_for_it() -> None:
    class Two:
        @start()
        async def ask(self): ...

        @listen(after(ask, 60))
        async def soon(self): ...

        @listen(after(ask, 120))
        async def later(self): ...

    run = begun(Two)
    run.end("ask:1")
    run.fire(("soon", "after(ask)", ""))

    assert run.keys == ["ask:1", "soon:1"]
    assert run.waiting == [("later", "after(ask)", "")]


def asked(condition: Callable[[Any, Any], Any]) -> type:
    """Draft, ask, and decide: when the answer comes, or it takes too long, until the draft is accepted."""

    class Asked:
        @start("revise")
        async def draft(self): ...

        @listen(draft)
        async def ask(self): ...

        @router(ask)
        async def person(self): ...

        @router(condition(draft, ask))
        async def decide(self): ...

        @listen("accepted")
        async def publish(self): ...

    return Asked


CONDITIONS = {
    "or": lambda draft, ask: or_("answer", after(ask, 60)),
    "joined": lambda draft, ask: or_(and_(draft, "answer"), after(ask, 60)),
    "both joined": lambda draft, ask: or_(and_(draft, "answer"), and_(draft, after(ask, 60))),
    "and": lambda draft, ask: and_(draft, or_("answer", after(ask, 60))),
}


@pytest.mark.clauses("W2", "W3")
@pytest.mark.parametrize("form", CONDITIONS)
@pytest.mark.parametrize("answers", ["in time", "never"])
def test_a_loop_of_asking_and_revising_decides_once_in_every_turn(form: str, answers: str) -> None:
    """The person answers at once, or the timer does; either way nothing is left of a turn when the next one begins."""
    is_answered = answers == "in time"

    def script(invocation: Any) -> str | None:
        if invocation.method == "person":
            return "answer" if is_answered else None
        if invocation.method == "decide":
            return "revise" if invocation.occurrence < TURNS else "accepted"
        return None

    run = begun(asked(CONDITIONS[form]), script)
    for _ in range(100):
        if run.outcome is not None:
            break
        if run.running:
            run.end(next(iter(run.running)))
        else:
            (timer,) = run.waiting
            run.fire(timer)

    assert run.outcome == Finish("publish:1")
    assert (run.count("draft"), run.count("decide"), run.count("publish")) == (TURNS, TURNS, 1)
    assert run.progress.timers == {}
    assert run.progress.alive == {}
    assert run.skipped == []


@pytest.mark.clauses("W3")
def test_a_timer_that_closes_a_loop_opens_a_cycle_when_it_starts() -> None:
    class Poll:
        @start(after("poll", 60))
        async def never(self): ...

        @start()
        async def begin(self): ...

        @router(or_(begin, after("again", 60)))
        async def look(self): ...

    run = begun(Poll, lambda invocation: "again" if invocation.method == "look" else None)
    run.end("begin:1")
    for turn in range(1, 4):
        run.end(f"look:{turn}")
        assert run.waiting == [("look", "after(again)", f"look:{turn}")]
        run.fire(run.waiting[0])
        assert run.launched[-1].cycle == f"look:{turn}"

    assert run.progress.alive == {"look:3": 1}


def test_a_join_gets_the_result_of_a_timers_trigger_by_the_triggers_name() -> None:
    class Named:
        @start()
        async def draft(self): ...

        @start()
        async def ask(self): ...

        @listen(and_(draft, after(ask, 60)))
        async def close(self, draft, ask): ...

    run = begun(Named)
    run.end("ask:1")
    run.end("draft:1")
    run.fire(("close", "after(ask)", ""))

    assert run.calls["close:1"] == {"draft": "<draft:1>", "ask": "<ask:1>"}


@pytest.mark.clauses("W4")
def test_a_timer_that_starts_while_the_pass_fails_is_started_by_the_resume() -> None:
    class Failing:
        @start()
        async def bad(self): ...

        @start()
        async def ask(self): ...

        @listen(after(ask, 60))
        async def remind(self): ...

    run = begun(Failing, lambda invocation: BOOM if invocation.method == "bad" and not run.outcome else None)
    run.end("bad:1")
    run.end("ask:1")

    assert run.timers == {}
    run.resume()
    assert list(run.timers) == [("remind", "after(ask)", "")]


@pytest.mark.clauses("W1")
def test_a_resume_starts_timers_in_the_order_of_their_times() -> None:
    class Many:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(after(a, 60))
        async def of_a(self): ...

        @listen(after(b, 60))
        async def of_b(self): ...

    run = begun(Many)
    run.end("b:1")
    run.end("a:1")
    run.progress.timers = dict(reversed(run.progress.timers.items()))
    run.resume()

    assert [listener for listener, *_ in run.timers] == ["of_b", "of_a"]


# ---- what a class may declare --------------------------------------------------------------------------------------


def problems(cls: Callable[[], type]) -> tuple[str, ...]:
    with pytest.raises(FlowDefinitionError) as caught:
        defined(cls())
    return caught.value.problems


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 10**400, "1", None, True, timedelta(seconds=-1)])
def test_a_delay_that_cannot_be_is_refused(delay: Any) -> None:
    def make() -> type:
        class Wrong:
            @start()
            async def a(self): ...

            @listen(after(a, delay))
            async def b(self): ...

        return Wrong

    (problem,) = problems(make)
    assert problem.startswith("b has an invalid condition: the delay of after(a) must be a number of seconds from 0")
    assert repr(delay) in problem


def test_two_timers_of_one_trigger_in_one_listener_are_refused() -> None:
    def make() -> type:
        class Wrong:
            @start()
            async def a(self): ...

            @listen(or_(after(a, 1), after(a, 2)))
            async def b(self): ...

        return Wrong

    assert problems(make) == (
        "b has an invalid condition: it has two timers for a; a listener can have one for each of its triggers",
    )


@pytest.mark.parametrize("trigger", [or_("x", "y"), after("x", 1), 3])
def test_a_timer_after_what_is_no_method_or_label_is_refused(trigger: Any) -> None:
    def make() -> type:
        class Wrong:
            @start()
            async def a(self): ...

            @listen(after(trigger, 1))
            async def b(self): ...

        return Wrong

    assert any("b has an invalid condition" in problem for problem in problems(make))


def test_a_timer_after_an_unknown_name_is_refused_and_the_near_name_is_shown() -> None:
    def make() -> type:
        class Wrong:
            @start()
            async def ask(self): ...

            @listen(after("aks", 1))
            async def b(self): ...

        return Wrong

    (problem,) = problems(make)
    assert "listens to 'aks'" in problem
    assert "Did you mean 'ask'?" in problem


def test_a_function_that_is_no_method_of_a_flow_starts_no_timer() -> None:
    async def other() -> None: ...

    def make() -> type:
        class Wrong:
            @start()
            async def a(self): ...

            @listen(after(other, 1))
            async def b(self): ...

        return Wrong

    (problem,) = problems(make)
    assert "'other' is not a flow method" in problem


# ---- a class that has changed --------------------------------------------------------------------------------------


def test_a_timer_that_its_listener_no_longer_has_is_an_obstacle() -> None:
    class Old:
        @start()
        async def ask(self): ...

        @listen(after(ask, 60))
        async def remind(self): ...

    class New:
        @start()
        async def ask(self): ...

        @listen(ask)
        async def remind(self): ...

    run = begun(Old)
    run.end("ask:1")

    assert obstacles(run.definition, run.progress) == []
    assert [text.split(",")[0] for text in obstacles(defined(New), run.progress)] == [
        "remind waits for the timer after(ask)"
    ]


def test_a_delay_may_change_while_a_run_waits() -> None:
    def made(delay: float) -> type:
        class Reminder:
            @start()
            async def ask(self): ...

            @listen(after(ask, delay))
            async def remind(self): ...

        return Reminder

    run = begun(made(60))
    run.end("ask:1")

    assert obstacles(defined(made(5)), run.progress) == []


@pytest.mark.clauses("W3")
def test_a_timer_that_closes_a_loop_leaves_the_cycle_of_the_other_timers() -> None:
    """Both wait for the label: one asks again, which closes the loop; the other one decides in the turn's own cycle."""

    class Asking:
        @start()
        async def begin(self): ...

        @router(or_(begin, after("asked", 300)))
        async def ask(self): ...

        @listen("asked")
        async def post(self): ...

        @listen(or_(post, after("asked", 200)))
        async def decide(self): ...

    run = begun(Asking, lambda invocation: "asked" if invocation.method == "ask" else None)
    run.end("begin:1")
    run.end("ask:1")

    assert run.waiting == [("ask", "after(asked)", "ask:1"), ("decide", "after(asked)", "")]
    run.end("post:1")
    assert run.waiting == [("ask", "after(asked)", "ask:1")]  # the answer dropped the other one


def test_a_listener_that_now_takes_the_result_of_its_timers_trigger_is_an_obstacle() -> None:
    class Old:
        @start()
        async def ask(self): ...

        @listen(after(ask, 60))
        async def remind(self): ...

    class New:
        @start()
        async def ask(self): ...

        @listen(after(ask, 60))
        async def remind(self, question): ...

    run = begun(Old)
    run.end("ask:1")

    (obstacle,) = obstacles(defined(New), run.progress)
    assert obstacle.startswith("remind takes the result of ask, which was not kept")


def test_a_named_output_of_an_earlier_class_is_not_that_of_another_method() -> None:
    def made(**outputs: bool) -> type:
        class Two:
            @start(output=outputs.get("a", False))
            async def a(self): ...

            @start()
            async def slow(self): ...

            @listen("never", output=outputs.get("b", False))
            async def b(self): ...

            @router(slow)
            async def route(self): ...

        return Two

    run = begun(made(a=True))
    run.end("a:1")
    run.definition = defined(made(b=True))
    run.end("slow:1")
    run.end("route:1")

    assert run.outcome == Finish("")
