"""Timers of a running pass: when they fire, what their delays may be, and what ends the wait for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    after,
    and_,
    errors,
    events,
    listen,
    or_,
    persist,
    router,
    start,
    this_invocation,
)
from asyncflow._runtime.observe import events_from
from asyncflow.testing import crash_everywhere

DAY = 86_400.0


class Reminder(Flow[dict]):
    @start()
    async def ask(self) -> str:
        self.state["asked"] = True
        return "well?"

    @listen(after(ask, timedelta(days=2)))
    async def remind(self, question: str) -> str:
        return f"again: {question}"


@pytest.mark.clauses("W1", "W2")
async def test_days_pass_at_once_in_virtual_time_and_every_crash_ends_alike() -> None:
    report = await crash_everywhere(Reminder)

    assert report.commits == 6 * 3  # started, ask, parked, woken, timer, finished


async def test_without_persistence_a_timer_fires_too() -> None:
    class Soon(Flow[dict]):
        @start()
        async def ask(self) -> int:
            return 1

        @listen(after(ask, 0.01))
        async def then(self, n: int) -> int:
            return n + 1

    assert await Soon().kickoff() == 2


@pytest.mark.parametrize(
    "delay",
    [
        0,
        0.01,
        timedelta(milliseconds=10),
        lambda state: 0.01,
        lambda state: state["in"],
        lambda state: timedelta(milliseconds=10),
        lambda state: datetime.now(UTC) + timedelta(milliseconds=10),
        lambda state: datetime(2000, 1, 1, tzinfo=UTC),
        lambda state: -5,
    ],
)
async def test_a_delay_may_be_a_duration_or_follow_from_the_state(delay: Any) -> None:
    class Timed(Flow[dict]):
        @start()
        async def ask(self) -> None:
            self.state["in"] = 0.01

        @listen(after(ask, delay))
        async def then(self) -> str:
            return "fired"

    with anyio.fail_after(60):
        assert await Timed(persistence=MemoryFlowPersistence()).kickoff() == "fired"


async def test_a_delays_function_sees_the_merged_state_and_cannot_change_it() -> None:
    class Work(FlowState):
        seconds: float = 60.0
        seen: list[float] = []  # noqa: RUF012 - pydantic copies it

    def delay(state: Work) -> float:
        state.seen.append(state.seconds)
        return state.seconds

    class Timed(Flow[Work]):
        @start()
        async def ask(self) -> None:
            self.state.seconds = 0.01

        @listen(after(ask, delay))
        async def then(self) -> list[float]:
            return self.state.seen

    assert await Timed(persistence=MemoryFlowPersistence()).kickoff() == []


@pytest.mark.parametrize(
    ("given", "type_name"), [("1", "str"), (None, "NoneType"), (datetime(2030, 1, 1), "datetime"), (10**400, "int")]
)
async def test_a_delays_function_that_returns_no_time_fails_its_method(given: Any, type_name: str) -> None:
    class Wrong(Flow[dict]):
        @start()
        async def ask(self) -> None:
            self.state["asked"] = True

        @listen(after(ask, lambda state: given))
        async def then(self) -> None: ...

    flow = Wrong(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    error = caught.value.failures[0].exception
    assert isinstance(error, errors.FlowDefinitionError)
    assert f"the delay of after(ask) in the condition of then returned a {type_name};" in str(error)
    assert "asked" not in flow.state


async def test_a_delays_function_that_raises_fails_its_method_and_a_retry_runs_that_again() -> None:
    asked: list[int] = []

    class Wrong(Flow[dict]):
        @start(retry=Retry(attempts=2, initial=0))
        async def ask(self) -> None:
            asked.append(this_invocation().attempt)

        @listen(after(ask, lambda state: state["missing"]))
        async def then(self) -> None: ...

    with pytest.raises(MethodError) as caught:
        await Wrong().kickoff()

    assert isinstance(caught.value.failures[0].exception, KeyError)
    assert asked == [1, 2]


async def test_an_answer_ends_the_wait_at_once() -> None:
    class Answered(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @start()
        async def answer(self) -> None:
            await anyio.sleep(0.05)

        @listen(or_(answer, after(ask, timedelta(days=2))))
        async def decide(self) -> str:
            return "decided"

    with anyio.fail_after(60):
        assert await Answered(persistence=MemoryFlowPersistence()).kickoff() == "decided"


@pytest.mark.parametrize("is_stored", [True, False], ids=["stored", "unstored"])
async def test_a_run_that_fails_does_not_wait_for_a_timer_that_was_dropped(is_stored: bool) -> None:
    class Deciding(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @listen(ask)
        async def answer(self) -> None:
            await anyio.sleep(0.01)

        @listen(or_(answer, after(ask, timedelta(days=2))))
        async def decide(self) -> None:
            raise LookupError("no answer fits")

    flow = Deciding(persistence=MemoryFlowPersistence()) if is_stored else Deciding()
    with anyio.fail_after(30), pytest.raises(MethodError):
        await flow.kickoff()


async def test_an_earlier_timer_that_starts_later_fires_first() -> None:
    class Two(Flow[dict]):
        @start()
        async def slow(self) -> None: ...

        @start()
        async def quick(self) -> None:
            await anyio.sleep(0.05)

        @listen(after(slow, 0.4))
        async def last(self) -> None:
            self.state["order"] = [*self.state.get("order", []), "last"]

        @listen(after(quick, 0.01))
        async def first(self) -> None:
            self.state["order"] = [*self.state.get("order", []), "first"]

    flow = Two(persistence=MemoryFlowPersistence())
    await flow.kickoff()

    assert flow.state["order"] == ["first", "last"]


async def test_methods_run_while_a_timer_waits() -> None:
    class Busy(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @router(or_(ask, "again"))
        async def work(self) -> str:
            await anyio.sleep(0.002)
            self.state["turns"] = self.state.get("turns", 0) + 1
            return "again" if self.state["turns"] < 20 else "done"

        @listen(after(ask, 0.005))
        async def aside(self) -> int:
            return self.state.get("turns", 0)

    flow = Busy(persistence=MemoryFlowPersistence())
    await flow.kickoff()

    assert flow.method_outputs["aside"] < 20
    assert flow.state["turns"] == 20


@pytest.mark.clauses("W4")
async def test_a_failure_holds_what_waits_and_a_resume_lets_it_fire() -> None:
    storage = MemoryFlowPersistence()

    class Failing(Flow[dict]):
        name = "Failing"
        fails = True

        @start()
        async def ask(self) -> None: ...

        @listen(ask)
        async def bad(self) -> None:
            await anyio.sleep(0.05)  # the timer is waited for by then
            if Failing.fails:
                raise ValueError("no")

        @listen(after(ask, 1.5))
        async def remind(self) -> str:
            return "reminded"

    flow = Failing(persistence=storage)
    with anyio.fail_after(60), pytest.raises(MethodError):
        await flow.kickoff()
    failed = await Failing.load(flow.run_id, persistence=storage)
    assert (failed.status, failed.pending) == ("failed", ("bad:1",))

    Failing.fails = False
    with anyio.fail_after(60):
        assert await Failing.resume(flow.run_id, persistence=storage) == "reminded"


async def test_a_run_timeout_ends_a_wait() -> None:
    flow = Reminder(persistence=MemoryFlowPersistence(), run_timeout=0.05)
    with anyio.fail_after(60), pytest.raises(errors.RunTimeoutError):
        await flow.kickoff()

    assert flow.status == "failed"


async def test_a_cancel_ends_a_wait_permanently() -> None:
    flow = Reminder(persistence=MemoryFlowPersistence())
    async with anyio.create_task_group() as group:

        async def run() -> None:
            with pytest.raises(errors.RunCancelledError):
                await flow.kickoff()

        group.start_soon(run)
        await anyio.sleep(0.05)
        await flow.cancel()

    assert flow.status == "cancelled"


async def test_a_runner_that_shuts_down_leaves_a_waiting_run_to_be_resumed() -> None:
    storage = MemoryFlowPersistence()
    with anyio.fail_after(60):
        async with FlowRunner(storage, flows=[Reminder], grace=0.1) as runner:
            handle = await runner.start(Reminder)
            while (await handle.snapshot()).seq < 1:  # noqa: ASYNC110 - there is no event for that
                await anyio.sleep(0.01)

    assert (await Reminder.load(handle.run_id, persistence=storage)).status in ("waiting", "interrupted")


async def test_the_event_of_a_timer_names_its_listener_and_what_it_started() -> None:
    storage = MemoryFlowPersistence()

    class Soon(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @listen(after(ask, 0.01))
        async def then(self) -> None: ...

        @listen(and_("never", after(ask, 0.02)))
        async def half(self) -> None: ...

        @router(ask)
        async def route(self): ...

    flow = Soon(persistence=storage)
    await flow.kickoff()
    fired = [
        event
        for row in await storage.history(flow.run_id)
        for event in events_from(row)
        if type(event) is events.TimerFired
    ]

    assert [(event.timer, event.listener, event.enabled) for event in fired][:1] == [
        ("after(ask)", "then", ("then:1",))
    ]
    assert [entry.kind for entry in await flow.history()].count("timer") >= 1


async def test_method_level_checkpoints_store_no_timer_of_their_own_but_the_timer_fires() -> None:
    storage = MemoryFlowPersistence()

    class Partly(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @listen(after(ask, 0.01))
        @persist(storage)
        async def then(self) -> str:
            return "fired"

    flow = Partly()
    assert await flow.kickoff() == "fired"
    assert [entry.kind for entry in await flow.history()] == ["started", "finished"]


async def test_a_label_equal_to_a_timers_name_is_refused() -> None:
    class Sly(Flow[dict]):
        @start()
        async def ask(self) -> None: ...

        @router(ask)
        async def route(self):
            return "after(ask)"

        @listen(after(ask, 60))
        async def then(self) -> None: ...

    with pytest.raises(MethodError) as caught:
        await Sly().kickoff()

    assert isinstance(caught.value.failures[0].exception, errors.UnknownLabelError)
