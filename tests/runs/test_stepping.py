"""`until=` a method, or a number of methods: a run that stops there, is stored, and continues with the next call."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowState,
    Signal,
    Stopped,
    Waiting,
    continue_as,
    listen,
    persist,
    router,
    run_child,
    sleep,
    start,
)
from asyncflow.errors import CapabilityMissingError, MethodError


class Walk(Flow):
    """Two methods that run at the same time, and one after both."""

    @start()
    async def first(self) -> str:
        self.note("first")
        return "one"

    @listen(first)
    async def left(self) -> None:
        await anyio.sleep(0.01)
        self.note("left")

    @listen(first)
    async def right(self) -> None:
        await anyio.sleep(0.05)
        self.note("right")

    @listen("left")
    async def after(self) -> str:
        self.note("after")
        return "end"

    def note(self, name: str) -> None:
        self.state[name] = True


def done(flow: Flow[Any, Any]) -> list[str]:
    return sorted(set(flow.state) - {"id"})


async def test_a_run_stops_after_a_method_and_continues(log: Any) -> None:
    flow = Walk(persistence=log)

    stopped = await flow.kickoff(until="first")

    assert stopped == Stopped(run_id=flow.run_id, after="first:1", pending=("left:1", "right:1"))
    assert flow.status == "interrupted"
    assert done(flow) == ["first"]
    assert (await log.load(flow.run_id)).status == "running"
    assert await flow.kickoff() is None
    assert done(flow) == ["after", "first", "left", "right"]
    assert [entry.kind for entry in await flow.history()][:3] == ["started", "method", "resumed"]


async def test_methods_that_run_finish_and_nothing_else_starts(log: Any) -> None:
    flow = Walk(persistence=log)

    stopped = await flow.kickoff(until="left")

    assert isinstance(stopped, Stopped)
    assert (stopped.after, stopped.pending) == ("left:1", ("after:1",))
    assert done(flow) == ["first", "left", "right"]
    assert await Walk.resume(flow.run_id, persistence=log) == "end"


async def test_a_run_is_made_one_method_at_a_time(log: Any) -> None:
    class Line(Flow):
        @start()
        async def one(self) -> int:
            return 1

        @listen(one)
        async def two(self, value: int) -> int:
            return value + 1

        @listen(two)
        async def three(self, value: int) -> int:
            return value + 1

    flow = Line(persistence=log)
    after = [await flow.kickoff(until=1)]
    after.append(await Line.resume(flow.run_id, until=1, persistence=log))

    assert [each.after for each in after if isinstance(each, Stopped)] == ["one:1", "two:1"]
    assert await Line.resume(flow.run_id, until=1, persistence=log) == 3  # it has finished with that
    assert await Line.resume(flow.run_id, until="two", persistence=log) == 3
    assert await Line(persistence=log).kickoff(until=3) == 3
    assert await Line(persistence=log).kickoff(until=99) == 3


async def test_a_loop_stops_in_each_turn(log: Any) -> None:
    class Turns(FlowState):
        turns: int = 0

    class Loop(Flow[Turns]):
        @start("again")
        async def body(self) -> None:
            self.state.turns += 1

        @router(body)
        async def check(self) -> str:
            return "again" if self.state.turns < 3 else "done"

    flow = Loop(persistence=log)
    seen = []
    while isinstance(stopped := await flow.kickoff(until="body"), Stopped):
        seen.append((stopped.after, stopped.pending, flow.state.turns))
        assert len(seen) < 9

    assert seen == [(f"body:{n}", (f"check:{n}",), n) for n in (1, 2, 3)]
    assert flow.status == "finished"


async def test_what_waits_ends_with_the_call_and_is_stored(log: Any) -> None:
    class Mixed(Flow):
        asked = Signal("asked", str)

        @start()
        async def quick(self) -> None:
            await anyio.sleep(0.01)

        @start()
        async def nap(self) -> None:
            await sleep(5)

        @listen(asked, keep_open=True)
        async def answer(self) -> None: ...

        @listen(asyncflow.after(quick, 5))
        async def remind(self) -> None: ...

    flow = Mixed(persistence=log)

    with anyio.fail_after(3):
        stopped = await flow.kickoff(until="quick")

    assert isinstance(stopped, Stopped)
    assert stopped.pending == ("nap:1",)
    assert flow.status == "interrupted"


async def test_a_run_that_is_parked_first_returns_what_it_waits_for(log: Any) -> None:
    class Asking(Flow):
        asked = Signal("asked", str)

        @start()
        async def ask(self) -> None: ...

        @listen(asked, keep_open=True)
        async def answer(self) -> str:
            return "answered"

    flow = Asking(persistence=log)

    waiting = await flow.kickoff(until="answer")
    await Asking.signal(flow.run_id, "asked", "now", persistence=log)

    assert isinstance(waiting, Waiting)
    assert waiting.waits_for == ("asked",)
    assert await Asking.resume(flow.run_id, until="answer", persistence=log) == "answered"


async def test_a_run_is_made_one_method_at_a_time_over_a_wait(log: Any) -> None:
    class Asking(Flow):
        asked = Signal("asked", str)

        @start()
        async def ask(self) -> None: ...

        @listen(asked, keep_open=True)
        async def answer(self, said: str) -> str:
            return said

        @listen(answer)
        async def publish(self, said: str) -> str:
            return f"published {said}"

    flow = Asking(persistence=log)

    waiting = await flow.kickoff(until=2)
    again = await Asking.resume(flow.run_id, until=1, persistence=log)
    await Asking.signal(flow.run_id, "asked", "yes", persistence=log)
    stopped = await Asking.resume(flow.run_id, until=1, persistence=log)

    assert isinstance(waiting, Waiting)
    assert again == waiting
    assert stopped == Stopped(run_id=flow.run_id, after="answer:1", pending=("publish:1",))
    assert await Asking.resume(flow.run_id, until=1, persistence=log) == "published yes"


async def test_a_failure_is_raised_even_if_the_call_stops(log: Any) -> None:
    class Failing(Flow):
        @start()
        async def fine(self) -> None:
            await anyio.sleep(0.01)

        @start()
        async def bad(self) -> None:
            await anyio.sleep(0.05)
            raise ValueError("no")

        @listen(fine)
        async def later(self) -> None:
            await anyio.sleep(0.01)

    flow = Failing(persistence=log)

    with pytest.raises(MethodError, match="ValueError"):
        await flow.kickoff(until="fine")
    assert set(flow.pending) == {"bad:1", "later:1"}
    with pytest.raises(MethodError, match="ValueError"):
        await flow.kickoff(until="later")
    assert flow.status in ("failed", "interrupted")


async def test_the_next_pass_is_stepped_through_too(log: Any) -> None:
    class Passes(Flow):
        @start()
        async def count(self) -> None:
            self.state["n"] = self.state.get("n", 0) + 1
            if self.state["n"] < 3:
                continue_as()

    flow = Passes(persistence=log)

    first = await flow.kickoff(until=1)
    passes = [flow._instance._pass_number]
    second = await flow.kickoff(until=1)
    passes.append(flow._instance._pass_number)

    assert isinstance(first, Stopped)
    assert isinstance(second, Stopped)
    assert (first.pending, second.pending, passes) == (("count:1",), ("count:1",), [2, 3])
    assert await flow.kickoff(until=2) is None
    assert flow.status == "finished"


async def test_a_child_of_a_stopped_run_is_attached_to_again(log: Any) -> None:
    class Inner(Flow):
        @start()
        async def work(self) -> None:
            await anyio.sleep(0.05)

        @listen(work)
        async def more(self) -> str:
            return "inner"

    class Outer(Flow):
        @start()
        async def quick(self) -> None:
            await anyio.sleep(0.01)

        @start()
        async def call(self) -> str:
            return await run_child(Inner)

    flow = Outer(persistence=log)

    stopped = await flow.kickoff(until="quick")

    assert isinstance(stopped, Stopped)
    assert stopped.pending == ("call:1",)
    assert await flow.kickoff() == "inner"


async def test_items_count_as_one_method(log: Any) -> None:
    class Batch(Flow):
        @start()
        async def fetch(self) -> list[int]:
            return [1, 2, 3]

        @listen(asyncflow.each(fetch), limit=1)
        async def work(self, item: int) -> int:
            return item * 2

        @listen(work)
        async def total(self, found: list[int]) -> int:
            return sum(found)

    flow = Batch(persistence=log)

    stopped = await flow.kickoff(until=2)

    assert isinstance(stopped, Stopped)
    assert (stopped.after, stopped.pending) == ("work:1", ("total:1",))
    assert await flow.kickoff(until=1) == 12


@pytest.mark.parametrize("until", ["other", 0, -1, True, None, 1.5, ""])
async def test_what_is_no_method_and_no_number_is_refused(log: Any, until: Any) -> None:
    flow = Walk(persistence=log)

    with pytest.raises(ValueError, match="the methods of Walk are first, left, right, after"):
        await flow.kickoff(until=until)
    assert flow.status == "new"
    assert await log.load(flow.run_id) is None


async def test_a_flow_that_is_not_stored_after_each_method_is_refused(log: Any) -> None:
    class Partly(Flow):
        @persist(log)
        @start()
        async def one(self) -> None: ...

        @listen(one)
        async def two(self) -> None: ...

    with pytest.raises(CapabilityMissingError, match="they are not stored"):
        await Walk().kickoff(until="first")
    with pytest.raises(CapabilityMissingError, match="only some of its methods"):
        await Partly().kickoff(until="one")


async def test_a_backend_with_two_verbs_is_enough(store: Any) -> None:
    flow = Walk(persistence=store)

    assert isinstance(await flow.kickoff(until="first"), Stopped)
    assert await flow.kickoff() is None


async def test_the_method_that_a_signal_starts_is_not_begun_after_the_last_one(log: Any) -> None:
    class Asking(Flow):
        asked = Signal("asked", str)

        @start()
        async def ask(self) -> str:
            await type(self).signal(self.run_id, "asked", "now", persistence=log)
            return "asked"

        @listen(asked, keep_open=True)
        async def answer(self) -> str:
            return "answered"

    flow = Asking(persistence=log)

    stopped = await flow.kickoff(until="ask")

    assert stopped == Stopped(run_id=flow.run_id, after="ask:1", pending=("answer:1",))
    assert await flow.kickoff() == "answered"
