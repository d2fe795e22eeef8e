"""Which changes of a class a stored pass survives, and which it is refused for."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
from driver import Simulation, defined
from graphs import choices, graphs
from hypothesis import given
from pair import Pair
from shapes import Node

from asyncflow import and_, listen, or_, router, start
from asyncflow._scheduling.upgrades import obstacles

# ---- an unchanged class --------------------------------------------------------------------------------------------


@pytest.mark.found("B8")
@given(graphs(), choices)
def test_an_unchanged_class_is_never_refused(graph: list[Node], chosen: Sequence[tuple[int, object]]) -> None:
    """Wherever the run is interrupted: after each of its steps."""

    class Watched(Simulation):
        def happen(self, happening: Any) -> Any:
            transition = super().happen(happening)
            assert obstacles(self.definition, self.progress) == []
            return transition

    pair = Pair(graph)
    pair.run = Watched(pair.run.definition)
    pair.play(chosen)


# ---- changed classes -----------------------------------------------------------------------------------------------


def two_starts() -> type:
    class Old:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(and_(a, b))
        async def j(self): ...

    return Old


def a_third_start() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @start()
        async def c(self): ...

        @listen(and_(a, b, c))
        async def j(self): ...

    return New


def a_listener_of_what_completed() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(a)
        async def c(self): ...

        @listen(and_(a, b, c))
        async def j(self): ...

    return New


def a_listener_far_behind_what_completed() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(a)
        async def between(self): ...

        @router(between)
        async def c(self) -> Literal["go"]: ...

        @listen(and_(or_(and_(a, b), "never"), "go"))
        async def j(self): ...

        @router(b)
        async def late(self) -> Literal["never"]: ...

    return New


def a_listener_of_what_is_to_come() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(b)
        async def c(self): ...

        @listen(and_(a, b, c))
        async def j(self): ...

    return New


def a_start_of_its_own() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @start()
        async def c(self): ...

        @listen(c)
        async def d(self): ...

        @listen(and_(c, d))
        async def k(self): ...

        @listen(and_(a, b))
        async def j(self): ...

    return New


def a_renamed_start() -> type:
    class New:
        @start()
        async def first(self): ...

        @start()
        async def b(self): ...

        @listen(and_(first, b))
        async def j(self): ...

    return New


def one_branch_less() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(a)
        async def j(self): ...

    return New


def only_what_is_to_come() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(b)
        async def j(self): ...

    return New


def an_or_in_place_of_the_join() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(or_(a, b))
        async def j(self): ...

    return New


def results_by_name() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(and_(a, b))
        async def j(self, a, b): ...

    return New


def a_third_start_beside_the_join() -> type:
    class New:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @start()
        async def c(self): ...

        @listen(and_(a, b))
        async def j(self): ...

    return New


def a_label_and_a_start() -> type:
    class Old:
        @start()
        @router()
        async def r(self) -> Literal["a"]: ...

        @start()
        async def b(self): ...

        @listen(and_("a", b))
        async def j(self): ...

    return Old


def a_method_in_place_of_the_label() -> type:
    class New:
        @start()
        async def r(self): ...

        @listen(r)
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(and_(a, b))
        async def j(self): ...

    return New


def a_renamed_label() -> type:
    class New:
        @start()
        @router()
        async def r(self) -> Literal["all right"]: ...

        @start()
        async def b(self): ...

        @listen(and_("all right", b))
        async def j(self): ...

    return New


def a_label_more() -> type:
    class New:
        @start()
        @router()
        async def r(self) -> Literal["a", "more"]: ...

        @start()
        async def b(self): ...

        @listen(or_("more", b))
        async def other(self): ...

        @listen(and_("a", b))
        async def j(self): ...

    return New


def a_chain() -> type:
    class Old:
        @start()
        async def a(self): ...

        @listen(a)
        async def j(self): ...

    return Old


def a_chain_with_a_value() -> type:
    class New:
        @start()
        async def a(self): ...

        @listen(a)
        async def j(self, value): ...

    return New


def a_chain_with_a_default() -> type:
    class New:
        @start()
        async def a(self): ...

        @listen(a)
        async def j(self, *, more=1): ...

    return New


def a_cycle() -> type:
    class Old:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def a(self): ...

        @listen(or_(begin, "again"))
        async def b(self): ...

        @router(and_(a, b))
        async def j(self) -> Literal["again", "enough"]: ...

    return Old


def a_cycle_with_a_third_branch() -> type:
    class New:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def a(self): ...

        @listen(or_(begin, "again"))
        async def b(self): ...

        @listen(or_(begin, "again"))
        async def c(self): ...

        @router(and_(a, b, c))
        async def j(self) -> Literal["again", "enough"]: ...

    return New


HALF = ("a",)
"""`a` has ended, and `b` is pending."""

TURN = ("begin", "a", "b")
"""`j` is pending, which decides whether there is another turn."""

REFUSED = [
    (two_starts, a_third_start, HALF, "j waits for c, which this run never starts"),
    (two_starts, a_third_start, (), "j waits for c, which this run never starts"),
    (two_starts, a_listener_of_what_completed, HALF, "j waits for c, which this run never starts"),
    (two_starts, a_listener_far_behind_what_completed, HALF, "j waits for go, which this run never starts"),
    (two_starts, a_renamed_start, HALF, "j waits for first, which this run never starts"),
    (two_starts, one_branch_less, HALF, "j waited for more than it does now"),
    (two_starts, an_or_in_place_of_the_join, HALF, "j waited for more than it does now"),
    (two_starts, results_by_name, HALF, "j takes the result of a, which was not kept"),
    (only_what_is_to_come, two_starts, HALF, "j waits for a, which completed before the join waited for it"),
    (a_third_start, a_third_start_beside_the_join, ("a", "b"), "j waited for more than it does now"),
    (a_label_and_a_start, a_renamed_label, ("r",), "j waits for all right, which this run never starts"),
    (a_chain, a_chain_with_a_value, ("a",), "j waits to run with the arguments"),
    (a_chain_with_a_value, a_chain, ("a",), "j waits to run with the arguments"),
    (a_cycle, a_cycle_with_a_third_branch, ("begin", "a"), "j waits for c, which this run never starts"),
    (a_cycle, a_cycle_with_a_third_branch, (*TURN, "j", "a"), "j waits for c, which this run never starts"),
]

ACCEPTED = [
    (two_starts, a_listener_of_what_is_to_come, HALF),
    (two_starts, a_listener_of_what_completed, ()),
    (two_starts, a_start_of_its_own, HALF),
    (two_starts, only_what_is_to_come, HALF),
    (two_starts, results_by_name, ()),
    (a_third_start, a_third_start_beside_the_join, HALF),
    (a_label_and_a_start, a_renamed_label, ()),
    (a_label_and_a_start, a_label_more, ("r",)),
    (a_chain, a_chain_with_a_default, ("a",)),
    (a_chain, a_chain_with_a_value, ()),
]


def stopped(make: Callable[[], type], ended: Sequence[str]) -> Simulation:
    """A pass in which these methods have ended, one after the other."""

    def first_label(invocation: Any) -> str | None:
        return min(run.definition.methods[invocation.method].labels or (), default=None)

    run = Simulation(defined(make()), first_label).start()
    for method in ended:
        run.end(next(key for key in run.running if key.split(":")[0] == method))
    return run


def named(case: tuple[Any, ...]) -> str:
    return f"{case[0].__name__}, {case[1].__name__}, {len(case[2])}"


@pytest.mark.found("B8")
@pytest.mark.parametrize(("old", "new", "ended", "told"), REFUSED, ids=map(named, REFUSED))
def test_a_join_that_would_silently_not_run_is_named(old: Any, new: Any, ended: Sequence[str], told: str) -> None:
    run = stopped(old, ended)
    problems = obstacles(defined(new()), run.progress)

    assert len(problems) == 1
    assert problems[0].startswith(told)
    assert "back until such runs have ended" in problems[0]
    assert obstacles(run.definition, run.progress) == []


@pytest.mark.found("B8")
@pytest.mark.parametrize(("old", "new", "ended"), ACCEPTED, ids=map(named, ACCEPTED))
def test_a_change_that_keeps_no_join_waiting_is_accepted(old: Any, new: Any, ended: Sequence[str]) -> None:
    run = stopped(old, ended)
    run.definition = defined(new())

    assert obstacles(run.definition, run.progress) == []
    run.resume().go()
    assert run.progress.counts["j"] == 1


@pytest.mark.found("B8")
def test_a_label_that_came_is_not_taken_for_a_method_of_its_name() -> None:
    run = stopped(a_label_and_a_start, ("r",))
    problems = obstacles(defined(a_method_in_place_of_the_label()), run.progress)

    assert problems == ["j has received the label a, which is a method now; rename the method"]


@pytest.mark.found("B8")
def test_a_cycle_that_gained_a_branch_continues_from_a_turn_s_end() -> None:
    run = stopped(a_cycle, TURN)
    run.definition = defined(a_cycle_with_a_third_branch())

    assert obstacles(run.definition, run.progress) == []
    labels = iter(["again", "enough"])
    run.script = lambda invocation: next(labels) if invocation.method == "j" else None
    run.resume().go()
    assert (run.count("c"), run.count("j")) == (1, 3)
