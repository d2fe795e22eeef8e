"""When a listener fires, and what it receives: each rule in 300 random interleavings."""

from collections.abc import Callable

import pytest
from driver import BOOM, INTERLEAVINGS, Script, Simulation, at_random, defined, in_order, interleavings, simulate
from scripts import TURNS, answering, turning

from asyncflow import and_, listen, or_, router, start
from asyncflow._scheduling.advance import advance
from asyncflow._scheduling.messages import Fail, Finish, Invocation, MethodReturned, RunMethod, Started
from asyncflow._scheduling.progress import Progress

# ---- when a listener fires -------------------------------------------------------------------------------------------


def test_a_single_trigger_fires_its_listener_every_time_in_one_cycle_too() -> None:
    class Twice:
        @start()
        @router()
        async def a(self): ...

        @start()
        @router()
        async def b(self): ...

        @listen("go")
        async def each(self): ...

    for run in interleavings(Twice, answering(a="go", b="go")):
        assert run.count("each") == 2
        assert [invocation.cycle for invocation in run.launched] == [""] * 4


class Letters:
    """Four starts that say p or q: `both` joins them."""

    @start()
    @router()
    async def p1(self): ...

    @start()
    @router()
    async def p2(self): ...

    @start()
    @router()
    async def q1(self): ...

    @start()
    @router()
    async def q2(self): ...

    @listen(and_("p", "q"))
    async def both(self): ...


letters = answering(p1="p", p2="p", q1="q", q2="q")


@pytest.mark.parametrize(
    ("order", "fires"), [("p1 p2 q1 q2", 1), ("p1 q1 p2 q2", 2), ("q1 p1 p2 q2", 2), ("q1 q2 p1 p2", 1)]
)
def test_an_and_fires_when_all_came_since_it_last_fired(order: str, fires: int) -> None:
    run = simulate(Letters, letters, in_order(*order.split(), *["both"] * fires))

    assert run.count("both") == fires


def test_what_came_twice_latches_once() -> None:
    for run in interleavings(Letters, letters):
        order = [key[0] for key in run.ended if key[0] in "pq"]
        assert run.count("both") == (1 if order[0] == order[1] else 2)
        assert run.skipped == []


class Nested:
    """An `or_` inside an `and_`, twice completed by c."""

    @start()
    async def a(self): ...

    @start()
    async def b(self): ...

    @start()
    @router()
    async def c1(self): ...

    @start()
    @router()
    async def c2(self): ...

    @listen(and_(or_(a, b), "c"))
    async def join(self): ...


@pytest.mark.parametrize(
    ("order", "fires"),
    [("a b c1 c2", 1), ("a c1 b c2", 2), ("c1 a b c2", 2), ("c1 c2 a b", 1), ("a c1 c2 b", 2)],
)
def test_an_or_inside_an_and_only_latches_and_is_forgotten_with_it(order: str, fires: int) -> None:
    run = simulate(Nested, answering(c1="c", c2="c"), in_order(*order.split(), *["join"] * fires))

    assert run.count("join") == fires
    assert run.skipped == []


class Late:
    """`half` comes in the run's own cycle, `other_half` in a later one."""

    @start()
    async def first(self): ...

    @start()
    async def half(self): ...

    @router(or_(first, "again"))
    async def spin(self): ...

    @listen(or_(first, and_(half, "other_half")))
    async def join(self): ...


@pytest.mark.parametrize(
    ("order", "fires", "skipped"),
    [("first half spin spin", 1, ["join"]), ("half first spin spin", 1, []), ("first spin half spin", 1, ["join"])],
)
def test_an_event_that_an_or_passed_over_is_not_latched(order: str, fires: int, skipped: list[str]) -> None:
    labels = {"spin:1": "again", "spin:2": "other_half"}
    run = simulate(Late, lambda invocation: labels.get(invocation.key), in_order(*order.split(), "join"))

    assert run.count("join") == fires
    assert run.skipped == skipped
    assert set(run.progress.latches["join"]) == {"other_half"}


def test_an_or_of_one_is_a_single_trigger() -> None:
    class One:
        @start()
        @router()
        async def a(self): ...

        @start()
        @router()
        async def b(self): ...

        @listen(or_("go", or_("go")))
        async def each(self): ...

    for run in interleavings(One, answering(a="go", b="go")):
        assert run.count("each") == 2


def test_a_router_and_its_label_are_one_event() -> None:
    class Same:
        @start()
        @router()
        async def a(self): ...

        @listen(or_(a, "go"))
        async def either(self): ...

        @listen(and_(a, "go"))
        async def both(self): ...

    run = simulate(Same, answering(a="go"))

    assert (run.count("either"), run.count("both")) == (1, 1)
    assert run.skipped == []


def test_a_chain_of_routers_goes_where_the_labels_say() -> None:
    class Chain:
        @start()
        async def begin(self): ...

        @router(begin)
        async def first(self): ...

        @router("left")
        async def second(self): ...

        @router("right")
        async def other(self): ...

        @listen("up")
        async def upstairs(self): ...

        @listen("down")
        async def downstairs(self): ...

    for run in interleavings(Chain, answering(first="left", second="down", other="up")):
        assert run.keys == ["begin:1", "first:1", "second:1", "downstairs:1"]


@pytest.mark.parametrize(("meeting", "late"), [(and_, 0), (or_, 1)])
def test_a_diamond_meets_once(meeting: Callable[..., object], late: int) -> None:
    class Diamond:
        @start()
        async def top(self): ...

        @listen(top)
        async def left(self): ...

        @listen(top)
        async def right(self): ...

        @listen(meeting(left, right))
        async def bottom(self): ...

    for run in interleavings(Diamond):
        assert run.count("bottom") == 1
        assert len(run.skipped) == late


def test_none_is_no_label() -> None:
    class Silent:
        @start()
        @router()
        async def a(self): ...

        @listen("None")
        async def never(self): ...

        @listen(a)
        async def always(self): ...

    run = simulate(Silent)

    assert run.keys == ["a:1", "always:1"]


def test_a_label_that_no_listener_waits_for_ends_the_run() -> None:
    class Done:
        @start()
        @router()
        async def a(self): ...

        @listen("go")
        async def b(self): ...

    run = simulate(Done, answering(a="elsewhere"))

    assert run.keys == ["a:1"]
    assert run.outcome == Finish("a:1")


# ---- starts, launch order, the output --------------------------------------------------------------------------------


def test_a_conditional_start_runs_when_its_condition_does() -> None:
    class Conditional:
        @start()
        async def a(self): ...

        @start(a)
        async def b(self): ...

        @start(and_(a, b))
        async def c(self): ...

    for run in interleavings(Conditional):
        assert run.keys == ["a:1", "b:1", "c:1"]


def test_all_starts_run_where_none_is_unconditional() -> None:
    class Conditional:
        @start("again")
        @router()
        async def a(self): ...

        @start("never")
        async def b(self): ...

    for run in interleavings(Conditional, turning(a=("again", "done"))):
        assert run.keys[:2] == ["a:1", "b:1"]
        assert run.count("a") == TURNS
        assert run.count("b") == 1


class Order:
    """Definition order and kind of method are at odds."""

    @start()
    async def s_plain(self): ...

    @start()
    @router()
    async def s_router(self): ...

    @start(s_plain)
    async def later(self): ...

    @listen(s_plain)
    async def listener_1(self): ...

    @router(s_plain)
    async def router_1(self): ...

    @listen(or_(s_plain, "x"))
    async def listener_2(self): ...

    @router(and_(s_plain))
    async def router_2(self): ...


def test_launches_are_routers_first_then_listeners_each_in_order_of_definition() -> None:
    run = Simulation(defined(Order)).start()

    assert run.keys == ["s_router:1", "s_plain:1"]
    run.end("s_plain:1")
    assert run.keys[2:] == ["router_1:1", "router_2:1", "later:1", "listener_1:1", "listener_2:1"]


def test_a_router_delays_no_other_method() -> None:
    run = Simulation(defined(Order)).start()
    run.end("s_plain:1")
    run.end("later:1")

    assert {"router_1:1", "listener_1:1"} <= run.running.keys()
    assert run.outcome is None


def test_the_output_is_that_of_the_method_that_completed_last() -> None:
    for run in interleavings(Order):
        assert run.outcome == Finish(run.ended[-1])
        assert len(run.ended) == len(run.launched) == 7


# ---- payloads --------------------------------------------------------------------------------------------------------


class Payloads:
    @start()
    async def a(self): ...

    @start()
    @router()
    async def b(self): ...

    @listen(a)
    async def nothing(self): ...

    @listen(a)
    async def last_of_one(self, value): ...

    @listen("label")
    async def last_of_label(self, value=None): ...

    @listen(or_(a, b))
    async def last_of_or(self, value): ...

    @listen(and_(a, b))
    async def last_of_and(self, value): ...

    @listen(and_(a, b))
    async def any_of_and(self, *values): ...

    @listen(and_(a, b, "label"))
    async def named(self, label, a): ...

    @listen(and_(or_(a, "never"), b))
    async def not_all_named(self, a): ...

    @listen(and_(a, b))
    async def no_names(self): ...


def test_a_method_receives_its_triggers_result_by_its_signature() -> None:
    for run in interleavings(Payloads, answering(b="label")):
        order = [key for key in run.ended if key in ("a:1", "b:1")]
        first, last = ({"": f"<{key}>"} for key in order)
        assert run.calls == {
            "a:1": {},
            "b:1": {},
            "nothing:1": {},
            "last_of_one:1": {"": "<a:1>"},
            "last_of_label:1": {"": "<b:1>"},
            "last_of_or:1": first,
            "last_of_and:1": last,
            "any_of_and:1": last,
            "named:1": {"label": "<b:1>", "a": "<a:1>"},
            "not_all_named:1": last,
            "no_names:1": {},
        }


def test_a_named_part_that_came_twice_is_received_as_it_came_last() -> None:
    class Named:
        @start()
        @router()
        async def p1(self): ...

        @start()
        @router()
        async def p2(self): ...

        @start()
        async def q(self): ...

        @listen(and_("p", q))
        async def both(self, q, p): ...

    for run in interleavings(Named, answering(p1="p", p2="p")):
        before = run.ended[: run.ended.index("q:1")]
        newest = next((key for key in reversed(before) if key != "q:1"), run.ended[1])
        assert run.calls["both:1"] == {"p": f"<{newest}>", "q": "<q:1>"}


def test_results_are_kept_only_while_a_method_waits_for_them() -> None:
    for run in interleavings(Payloads, answering(b="label")):
        assert run.progress.results == {}
        assert run.progress.uses == {}


# ---- failure and resuming [X2, X3] -----------------------------------------------------------------------------------


class Workshop:
    @start()
    async def bad(self): ...

    @start()
    async def good(self): ...

    @start()
    async def slow(self): ...

    @listen(bad)
    async def after_bad(self): ...

    @listen(good)
    async def after_good(self, value): ...

    @listen(and_(after_bad, after_good))
    async def end(self): ...


def failing_once(*methods: str) -> Script:
    left = set(methods)

    def script(invocation: Invocation) -> object:
        if invocation.method not in left:
            return None
        left.discard(invocation.method)
        return BOOM

    return script


def test_siblings_finish_after_a_failure_and_nothing_new_starts() -> None:
    for seed in range(INTERLEAVINGS):
        run = simulate(Workshop, failing_once("bad"), at_random(seed))
        assert run.outcome == Fail()
        assert "good:1" in run.ended
        before = run.ended[: run.ended.index("bad:1")]
        assert "slow:1" in run.ended
        assert run.keys == ["bad:1", "good:1", "slow:1", *(["after_good:1"] if "good:1" in before else [])]


def test_a_resumed_run_starts_only_what_failed_or_never_started() -> None:
    for seed in range(INTERLEAVINGS):
        run = simulate(Workshop, failing_once("bad"), at_random(seed))
        done, first = set(run.ended) - {"bad:1"}, len(run.launched)
        again = run.resume().keys[first:]
        assert set(again) == {"bad:1", "after_good:1"} - done
        run.go()
        assert isinstance(run.outcome, Finish)
        assert sorted(set(run.keys)) == ["after_bad:1", "after_good:1", "bad:1", "end:1", "good:1", "slow:1"]
        assert run.calls["after_good:1"] == {"": "<good:1>"}


def test_several_failures_are_one_end_and_all_run_again() -> None:
    for seed in range(INTERLEAVINGS):
        run = simulate(Workshop, failing_once("bad", "good"), at_random(seed))
        assert run.outcome == Fail()
        assert run.progress.failed == {"bad:1", "good:1"}
        assert list(run.resume().running) == ["bad:1", "good:1"]
        assert isinstance(run.go().outcome, Finish)


def test_an_interrupted_run_starts_again_what_was_in_flight() -> None:
    run = Simulation(defined(Workshop)).start()
    run.end("good:1")
    run.resume()

    assert list(run.running) == ["bad:1", "slow:1", "after_good:1"]
    assert run.calls["after_good:1"] == {"": "<good:1>"}


# ---- what advance itself promises ------------------------------------------------------------------------------------


def test_a_key_that_is_not_pending_is_refused() -> None:
    definition, progress = defined(Workshop), Progress()
    transition, _ = advance(definition, progress, Started())
    progress.fold(transition)

    with pytest.raises(KeyError):
        advance(definition, progress, MethodReturned("after_good:1"))


def test_advance_decides_the_same_every_time() -> None:
    definition, progress = defined(Workshop), Progress()

    once = advance(definition, progress, Started())

    assert once == advance(definition, progress, Started())
    assert once[1] == tuple(RunMethod(invocation) for invocation in once[0].enabled)


def test_300_seeds_are_many_orders() -> None:
    orders = {tuple(run.ended) for run in interleavings(Payloads, answering(b="label"))}

    assert len(orders) > 250
