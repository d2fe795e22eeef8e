"""Cycles: each row of the cycles table, and what closes a loop, in 300 random interleavings."""

from collections.abc import Callable

import pytest
from driver import INTERLEAVINGS, Simulation, at_random, defined, interleavings
from scripts import TURNS, answering, turning

from asyncflow import and_, listen, or_, router, start

# ---- the cycles table ----------------------------------------------------------------------------------------------


def test_two_parallel_starts_into_one_or_fire_it_once() -> None:
    class Two:
        @start()
        async def a(self): ...

        @start()
        async def b(self): ...

        @listen(or_(a, b))
        async def either(self): ...

    for run in interleavings(Two):
        assert run.count("either") == 1
        assert run.skipped == ["either"]


def test_a_label_answered_with_a_label_fires_the_or_of_both_once() -> None:
    class Relay:
        @start()
        async def begin(self): ...

        @router(begin)
        async def first(self): ...

        @router("A")
        async def second(self): ...

        @listen(or_("A", "B"))
        async def either(self): ...

    for run in interleavings(Relay, answering(first="A", second="B")):
        assert run.keys[2:] == ["second:1", "either:1"]
        assert run.skipped == ["either"]


def test_a_loop_through_the_or_listener_fires_it_in_every_turn() -> None:
    class Loop:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def work(self): ...

        @router(work)
        async def check(self): ...

    for run in interleavings(Loop, turning(check=("again", "done"))):
        assert run.count("work") == TURNS
        assert run.skipped == []


def test_a_loop_past_the_or_listener_fires_it_in_every_turn() -> None:
    class SideBranch:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def work(self): ...

        @router(work)
        async def check(self): ...

        @listen(or_(work, "never"))
        async def log(self): ...

        @listen(or_(begin, "again"))
        async def note(self): ...

    for run in interleavings(SideBranch, turning(check=("again", "done"))):
        assert [run.count(method) for method in ("work", "log", "note")] == [TURNS] * 3
        assert run.skipped == []


@pytest.mark.parametrize("join_ends_the_turn", [True, False])
def test_a_diamond_inside_a_loop_fires_its_or_in_every_turn(join_ends_the_turn: bool) -> None:
    class Diamond:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def entry(self): ...

        @listen(entry)
        async def x(self): ...

        @listen(entry)
        async def y(self): ...

        @listen(or_(x, y))
        async def join(self): ...

        @router(join if join_ends_the_turn else x)
        async def check(self): ...

    for run in interleavings(Diamond, turning(check=("again", "done"))):
        assert run.count("join") == TURNS
        assert run.skipped == ["join"] * TURNS


@pytest.mark.parametrize(("meeting", "late"), [(and_, 0), (or_, TURNS)])
def test_branches_of_the_loops_label_meet_once_in_every_turn(meeting: Callable[..., object], late: int) -> None:
    class Branches:
        @start()
        async def s(self): ...

        @listen(or_(s, "again"))
        async def x(self): ...

        @listen(or_(s, "again"))
        async def y(self): ...

        @router(meeting(x, y))
        async def meet(self): ...

    for run in interleavings(Branches, turning(meet=("again", "done"))):
        assert [run.count(method) for method in ("x", "y", "meet")] == [TURNS] * 3
        assert run.skipped == ["meet"] * late


def test_an_or_of_ands_forgets_its_other_branch_when_it_fires() -> None:
    class Halves:
        @start()
        async def a(self): ...

        @start()
        async def x(self): ...

        @start()
        async def c(self): ...

        @listen(or_(and_(a, x), and_(c, "y_came")))
        async def join(self): ...

        @router(join)
        async def y(self): ...

    for run in interleavings(Halves, answering(y="y_came")):
        assert run.count("join") == 1
        assert run.count("y") == 1


def test_two_independent_loops_fire_their_or_for_every_tick_but_one_of_the_first_two() -> None:
    class Loops:
        @start()
        async def begin(self): ...

        @router(or_(begin, "a_again"))
        async def a(self): ...

        @router("a_tick")
        async def a_more(self): ...

        @router(or_(begin, "b_again"))
        async def b(self): ...

        @router("b_tick")
        async def b_more(self): ...

        @listen(or_("a_tick", "b_tick"))
        async def out(self): ...

    turns = turning(a_more=("a_again", "a_done"), b_more=("b_again", "b_done"))
    ticks = answering(a="a_tick", b="b_tick")
    for run in interleavings(Loops, lambda invocation: ticks(invocation) or turns(invocation)):
        assert run.count("a") + run.count("b") == 2 * TURNS
        assert run.count("out") == 2 * TURNS - 1
        assert run.skipped == ["out"]


# ---- cycles: what closes a loop, and who belongs to which ------------------------------------------------------------


def test_an_event_that_closes_a_loop_opens_one_cycle_for_all_it_reaches() -> None:
    class Fan:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def work(self): ...

        @listen("again")
        async def aside(self): ...

        @router(work)
        async def check(self): ...

    for run in interleavings(Fan, turning(check=("again", "done"))):
        cycles = {invocation.key: (invocation.cycle, invocation.ancestry) for invocation in run.launched}
        assert cycles["check:1"] == ("", {"begin", "work", "check"})
        assert cycles["work:2"] == ("check:1", {"work"})
        assert cycles["aside:1"] == ("check:1", {"aside"})
        assert cycles["check:2"] == ("check:1", {"work", "check"})
        assert cycles["work:3"] == ("check:2", {"work"})


def test_a_join_takes_the_completing_events_cycle_and_the_ancestry_of_its_parts_in_it() -> None:
    class Mixed:
        @start()
        async def begin(self): ...

        @listen(begin)
        async def slow(self): ...

        @router(or_(begin, "again"))
        async def spin(self): ...

        @listen(and_(slow, "done"))
        async def across(self): ...

        @listen(and_(begin, slow))
        async def within(self): ...

    endings = set()
    for run in interleavings(Mixed, lambda invocation: "again" if invocation.occurrence == 1 else "done"):
        across, within = (next(i for i in run.launched if i.method == method) for method in ("across", "within"))
        slow_was_last = run.ended.index("slow:1") > run.ended.index("spin:2")
        assert within[2:4] == ("", {"begin", "slow", "within"})
        assert across[2:4] == (("", {"begin", "slow", "across"}) if slow_was_last else ("spin:1", {"spin", "across"}))
        endings.add(slow_was_last)
    assert endings == {True, False}


def test_a_join_descends_from_all_its_parts() -> None:
    class Branches:
        @start()
        async def left(self): ...

        @start()
        async def right(self): ...

        @router(and_(left, right))
        async def join(self): ...

        @listen(or_(left, "again"))
        async def back(self): ...

    for run in interleavings(Branches, answering(join="again")):
        join = next(invocation for invocation in run.launched if invocation.method == "join")
        assert join.ancestry == {"left", "right", "join"}


def test_a_cycle_is_forgotten_when_nothing_of_it_is_in_flight() -> None:
    class Loop:
        @start()
        async def begin(self): ...

        @listen(or_(begin, "again"))
        async def x(self): ...

        @listen(or_(begin, "again"))
        async def y(self): ...

        @router(x)
        async def check(self): ...

    for seed in range(INTERLEAVINGS):
        run = Simulation(defined(Loop), turning(check=("again", "done")), at_random(seed)).start()
        while run.outcome is None:
            in_flight = {invocation.cycle for invocation in run.running.values()}
            assert run.progress.fired.keys() == run.progress.alive.keys() == in_flight
            run.end(run.choose(list(run.running)))
        assert not run.progress.fired
        assert not run.progress.alive
