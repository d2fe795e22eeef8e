"""The end of a pass before its time: `finish` and `continue_as` in methods."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from flows import STORES
from moments import until
from pydantic import Field

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MethodError,
    Retry,
    Signal,
    after,
    and_,
    continue_as,
    errors,
    events,
    finish,
    listen,
    or_,
    persist,
    router,
    sleep,
    start,
    this_invocation,
    wait_for,
)
from asyncflow.testing import Fail, FaultyPersistence, LoseReply, crash_everywhere


class Turns(FlowState):
    turn: int = 0
    last: int = 3
    said: list[str] = Field(default_factory=list)


class Loop(Flow[Turns]):
    """Takes one turn a pass."""

    name = "Loop"

    @start()
    async def begin(self) -> int:
        self.state.turn += 1
        return self.state.turn

    @listen(begin)
    async def judge(self, turn: int) -> str:
        info = this_invocation()
        assert (info.pass_number, info.occurrence) == (turn, 1)
        if turn < self.state.last:
            continue_as({"said": [*self.state.said, f"turn {turn}"]})
        return f"{turn} turns"

    @listen(judge)
    async def end(self, judge: str) -> str:
        return f"{judge}: {', '.join(self.state.said)}"


@pytest.fixture(params=["none", *STORES])
def anywhere(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


@pytest.fixture(params=["none", *(name for name in STORES if name != "two verbs")])
def with_signals(request: pytest.FixtureRequest) -> Any:
    """Anywhere but in a backend that stores no signals: it refuses them, as another test shows."""
    return None if request.param == "none" else STORES[request.param]()


# ---- W12 ---------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("W12")
async def test_a_call_lasts_until_a_pass_ends_without_continue_as(anywhere: Any) -> None:
    flow = Loop(persistence=anywhere)

    assert await flow.kickoff({"last": 4}) == "4 turns: turn 1, turn 2, turn 3"
    assert (flow.status, flow.state.turn) == ("finished", 4)
    assert dict(flow.method_outputs)["begin"] == 4


@pytest.mark.clauses("W12", "D1", "E1")
async def test_the_end_of_a_pass_and_the_start_of_the_next_are_one_commit(log: Any) -> None:
    flow = Loop(persistence=log)
    await flow.kickoff()
    rows = await log.history(flow.run_id)
    seen = [(row.kind, row.pass_number, row.method) for row in rows]
    first = rows[2]

    assert seen == [
        ("started", 1, ""),
        ("method", 1, "begin:1"),
        ("started", 2, "judge:1"),
        ("method", 2, "begin:1"),
        ("started", 3, "judge:1"),
        ("method", 3, "begin:1"),
        ("method", 3, "judge:1"),
        ("finished", 3, "end:1"),
    ]
    assert first.is_complete
    assert first.inputs == rows[0].inputs


async def test_the_events_of_the_two_come_one_after_the_other(log: Any) -> None:
    async with FlowRunner(log) as runner:
        handle = await runner.start(Loop, {"last": 2})
        await handle.result()
        seen = [event async for event in handle.events()]
    names = [type(event).__name__ for event in seen]

    assert names[:4] == ["RunStarted", "MethodFinished", "MethodFinished", "RunStarted"]
    assert isinstance(seen[3], events.RunStarted)
    assert seen[3].pass_number == 2
    assert names[-2:] == ["MethodFinished", "RunFinished"]


@pytest.mark.clauses("W12", "E2", "E3")
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"debug": False}), id="asyncio")], indirect=True)
async def test_a_crash_at_any_commit_leaves_one_pass_or_the_next() -> None:
    report = await crash_everywhere(Loop, {"last": 3})

    assert report.crashes > 10


@pytest.mark.clauses("W12", "D1")
@pytest.mark.parametrize("fault", [Fail(at=3), LoseReply(at=3)], ids=["fails", "loses its reply"])
async def test_a_commit_that_fails_starts_no_second_pass(log: Any, fault: Any) -> None:
    flow = Loop(persistence=FaultyPersistence(log, fault))
    with pytest.raises(errors.StorageError):
        await flow.kickoff()

    newest = await log.load(flow.run_id)
    assert newest.pass_number == (2 if isinstance(fault, LoseReply) else 1)
    assert await Loop.resume(flow.run_id, persistence=log) == "3 turns: turn 1, turn 2"


async def test_calls_are_counted_in_each_pass(store: Any) -> None:
    class Few(Loop):
        max_method_calls = 1

    assert await Few(persistence=store).kickoff({"last": 5}) == "5 turns: turn 1, turn 2, turn 3, turn 4"


async def test_a_time_limit_begins_again_with_each_pass(log: Any) -> None:
    flow = Loop(persistence=log, run_timeout=3_600.0)
    await flow.kickoff({"last": 2})
    deadlines = [(await log.load(flow.run_id, seq)).progress for seq in (0, 2)]

    assert deadlines[0] != deadlines[1]
    assert all(b"deadline" in progress for progress in deadlines)


async def test_a_start_that_is_repeated_attaches_to_a_later_pass(log: Any) -> None:
    async with FlowRunner(log) as runner:
        first = await runner.start(Loop, {"last": 3}, run_id="one")
        await first.result()
        again = await runner.start(Loop, {"last": 3}, run_id="one")

        assert await again.result() == "3 turns: turn 1, turn 2"
        with pytest.raises(errors.RunInputsError):
            await runner.start(Loop, {"last": 4}, run_id="one")


@pytest.mark.clauses("W12")
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"debug": False}), id="asyncio")], indirect=True)
async def test_memory_does_not_grow_with_the_passes() -> None:
    sizes: list[int] = []

    class Long(Flow[Turns]):
        @start()
        async def turn(self) -> None:
            self.state.turn += 1
            if self.state.turn in (8_000, 9_000, 10_000):
                gc.collect()
                if not tracemalloc.is_tracing():
                    tracemalloc.start()
                sizes.append(tracemalloc.get_traced_memory()[0])
            if self.state.turn < 10_000:
                continue_as()

    try:
        await Long().kickoff()
    finally:
        tracemalloc.stop()

    assert len(sizes) == 3
    assert sizes[-1] - sizes[1] < 20_000


async def test_inputs_that_do_not_fit_raise_at_the_call(store: Any) -> None:
    raised: list[Exception] = []

    class Wrong(Flow[Turns]):
        @start()
        async def begin(self) -> str:
            for inputs in ({"turn": "many"}, {"unknown": 1}, {"id": "another"}, 5):
                try:
                    continue_as(inputs)
                except errors.RunInputsError as error:
                    raised.append(error)
            return "done"

    assert await Wrong(persistence=store).kickoff() == "done"
    assert len(raised) >= 3
    assert all(
        "continue_as()" in str(error) and "Nothing was run" not in str(error) for error in raised
    )  # something was
    assert all(error.method == "begin" for error in raised)


async def test_an_attempt_that_raises_has_asked_for_nothing(store: Any) -> None:
    tries: list[int] = []

    class Again(Flow[Turns]):
        @start(retry=Retry(2, initial=0))
        async def begin(self) -> str:
            tries.append(1)
            if len(tries) == 1:
                finish()
                raise ValueError("again")
            return "begun"

        @listen(begin)
        async def end(self) -> str:
            return "ended"

    assert await Again(persistence=store).kickoff() == "ended"


async def test_outside_of_a_method_there_is_nothing_to_end() -> None:
    with pytest.raises(LookupError, match="only inside a method"):
        finish()
    with pytest.raises(LookupError, match="only inside a method"):
        continue_as()


async def test_code_that_outlives_its_method_ends_nothing(store: Any) -> None:
    raised: list[Exception] = []

    class Late(Flow[dict]):
        @start()
        async def begin(self) -> Callable[[], None]:
            from contextvars import copy_context

            context = copy_context()
            late.append(lambda: context.run(finish))
            return None  # type: ignore[return-value]

        @listen(begin)
        async def end(self) -> str:
            try:
                late[0]()
            except errors.StateError as error:
                raised.append(error)
            return "end"

    late: list[Callable[[], None]] = []
    assert await Late(persistence=store).kickoff() == "end"
    assert len(raised) == 1


async def test_a_plain_method_asks_from_its_thread(anywhere: Any) -> None:
    class Plain(Flow[Turns]):
        @start()
        def turn(self) -> int:
            self.state.turn += 1
            if self.state.turn < 3:
                continue_as()
            else:
                finish()
            return self.state.turn

        @listen(turn)
        def never(self) -> None:
            raise AssertionError("the pass has ended")

    assert await Plain(persistence=anywhere).kickoff() == 3


class Chat(Flow[dict]):
    """Answers one message a pass."""

    name = "Chat"
    message = Signal("message", str)

    @start()
    async def greet(self) -> None: ...

    @listen(and_(greet, message))
    async def answer(self, message: str) -> str:
        self.state["said"] = [*self.state.get("said", ()), message]
        if message != "bye":
            continue_as()
        return " ".join(self.state["said"])


@pytest.mark.clauses("W12")
async def test_signals_that_nothing_took_stay_for_the_next_pass(with_signals: Any) -> None:
    flow = Chat(persistence=with_signals)
    result: list[Any] = []

    async def run() -> None:
        result.append(await flow.kickoff())

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await until(lambda: _is_running(flow))
        for message in ("a", "b", "c", "d", "bye"):
            await Chat.signal(flow.run_id, Chat.message, message, persistence=with_signals)

    assert result == ["a b c d bye"]


async def _is_running(flow: Any) -> bool:
    return flow.status in ("running", "waiting")


async def test_siblings_finish_before_the_next_pass_begins(store: Any) -> None:
    order: list[str] = []

    class Wide(Flow[Turns]):
        @start()
        async def ask(self) -> None:
            order.append("ask")
            if self.state.turn == 0:
                continue_as({"turn": 1})

        @start()
        async def slow(self) -> None:
            await anyio.sleep(0.05)
            order.append("slow")
            self.state.said = [*self.state.said, "slow"]

    flow = Wide(persistence=store)
    await flow.kickoff()

    assert order == ["ask", "slow", "ask", "slow"]
    assert (flow.state.turn, flow.state.said) == (1, ["slow", "slow"])


@pytest.mark.clauses("W12", "X2", "X3")
async def test_a_sibling_that_fails_fails_the_run_and_a_resume_continues_it(store: Any) -> None:
    fails = [True]

    class Wide(Flow[Turns]):
        name = "Wide"

        @start()
        async def ask(self) -> None:
            if self.state.turn < 1:
                continue_as({"turn": self.state.turn + 1})

        @start()
        async def slow(self) -> None:
            await anyio.sleep(0.05)
            if fails:
                fails.pop()
                raise ValueError("no")

        @listen(and_(ask, slow))
        async def end(self) -> str:
            return f"pass {this_invocation().pass_number}"

    flow = Wide(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert await Wide.resume(flow.run_id, persistence=store) == "pass 2"


async def test_methods_without_a_checkpoint_continue_too(log: Any) -> None:
    class Partly(Flow[Turns]):
        @persist
        @start()
        async def begin(self) -> None:
            self.state.turn += 1

        @listen(begin)
        async def judge(self) -> int:
            self.state.said = [*self.state.said, "judged"]
            if self.state.turn < 3:
                continue_as()
            return self.state.turn

    flow = Partly(persistence=log)
    assert await flow.kickoff() == 3
    loaded = await log.load(flow.run_id, 2)
    assert b"judged" in loaded.state


# ---- W13: finish in a method ---------------------------------------------------------------------------------------


@pytest.mark.clauses("W13")
async def test_finish_drops_timers_signals_sleeps_and_pauses(with_signals: Any) -> None:
    class Busy(Flow[dict]):
        asked = Signal("asked", str)

        @start()
        async def begin(self) -> None: ...

        @listen(begin)
        async def stop(self) -> str:
            await anyio.sleep(0.05)
            finish()
            return "stopped"

        @listen(begin)
        async def sleeper(self) -> None:
            await sleep(timedelta(days=1))

        @listen(begin)
        async def waiter(self) -> None:
            await wait_for(self.asked)

        @listen(begin, retry=Retry(2, initial=86_400, maximum=86_400))
        async def trier(self) -> None:
            raise ConnectionError

        @listen(or_(after(begin, 86_400), stop))
        async def never(self) -> None:
            raise AssertionError("the pass has ended")

        @listen(and_(begin, asked))
        async def nor_this(self) -> None:
            raise AssertionError("the pass has ended")

    flow = Busy(persistence=with_signals)
    with anyio.fail_after(60):
        assert await flow.kickoff() == "stopped"
    assert (flow.status, flow.pending) == ("finished", ())


@pytest.mark.clauses("W13")
async def test_what_runs_finishes_and_the_one_that_asked_has_the_output(anywhere: Any) -> None:
    ended: list[str] = []

    class Wide(Flow[dict]):
        @start()
        async def ask(self) -> str:
            finish()
            return "asked"

        @start()
        async def slow(self) -> str:
            await anyio.sleep(0.05)
            self.state["slow"] = True
            ended.append("slow")
            return "slow"

        @listen(slow)
        async def never(self) -> None:
            raise AssertionError("the pass has ended")

    flow = Wide(persistence=anywhere)
    assert await flow.kickoff() == "asked"
    assert (ended, flow.state["slow"], flow.result) == (["slow"], True, "asked")


@pytest.mark.clauses("W13")
async def test_a_body_that_begins_to_wait_while_the_pass_ends_is_dropped(anywhere: Any) -> None:
    cancelled: list[str] = []

    class Wide(Flow[dict]):
        @start()
        async def ask(self) -> str:
            finish()
            return "asked"

        @start()
        async def later(self) -> str:
            await anyio.sleep(0.05)
            try:
                await sleep(86_400)
            except anyio.get_cancelled_exc_class():
                cancelled.append("later")
                raise
            return "later"

    flow = Wide(persistence=anywhere)
    with anyio.fail_after(60):
        assert await flow.kickoff() == "asked"
    assert cancelled == ["later"]
    assert flow.status == "finished"


async def test_a_body_that_gives_up_its_wait_by_itself_is_dropped_all_the_same(anywhere: Any) -> None:
    class Wide(Flow[dict]):
        @start()
        async def ask(self) -> str:
            async def is_paused() -> bool:
                return bool(self._instance._engine.journal.progress.paused)

            await until(is_paused)
            finish()
            return "asked"

        @start()
        async def impatient(self) -> str:
            async def is_ending() -> bool:
                return bool(self._instance._engine.journal.progress.ending)

            async with anyio.create_task_group() as group:
                group.start_soon(sleep, 86_400)
                await until(is_ending)
                group.cancel_scope.cancel()
            raise ValueError("this is too late")

        @start()
        async def slow(self) -> None:
            async def is_ending() -> bool:
                return bool(self._instance._engine.journal.progress.ending)

            await until(is_ending)
            await anyio.sleep(0.3)

    flow = Wide(persistence=anywhere)
    with anyio.fail_after(60):
        assert await flow.kickoff() == "asked"


async def test_an_attempt_that_raises_while_the_pass_ends_is_not_repeated(anywhere: Any) -> None:
    class Wide(Flow[dict]):
        @start()
        async def ask(self) -> str:
            finish()
            return "asked"

        @start(retry=Retry(5, initial=86_400, maximum=86_400))
        async def flaky(self) -> None:
            await anyio.sleep(0.05)
            raise ConnectionError

    with anyio.fail_after(60):
        assert await Wide(persistence=anywhere).kickoff() == "asked"


async def test_a_named_output_stays_the_output(anywhere: Any) -> None:
    class Named(Flow[dict]):
        @start(output=True)
        async def begin(self) -> str:
            return "begun"

        @listen(begin)
        async def ask(self) -> str:
            finish()
            return "asked"

    flow = Named(persistence=anywhere)
    assert await flow.kickoff() == "begun"


async def test_a_router_that_asks_emits_nothing(anywhere: Any) -> None:
    class Routed(Flow[dict]):
        @router("again", emit=["again"])
        async def turn(self) -> str:
            raise AssertionError("the pass has ended")

        @start()
        async def begin(self) -> None: ...

        @router(begin, emit=["again"])
        async def judge(self) -> str:
            finish()
            return "again"

    assert await Routed(persistence=anywhere).kickoff() == "again"


@pytest.mark.clauses("W13", "E3")
@pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"debug": False}), id="asyncio")], indirect=True)
async def test_a_crash_at_any_commit_ends_as_without_one() -> None:
    class Wide(Flow[Turns]):
        name = "Ending"

        @start()
        async def begin(self) -> None: ...

        @listen(begin)
        async def ask(self) -> str:
            finish()
            return "asked"

        @listen(begin)
        async def slow(self) -> None:
            await anyio.sleep(5)
            self.state.turn += 1

        @listen(slow)
        async def never(self) -> None:
            raise AssertionError("the pass has ended")

    report = await crash_everywhere(Wide)

    assert report.crashes > 5
