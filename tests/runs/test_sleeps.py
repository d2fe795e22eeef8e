"""`sleep` in a method: stored once, continued by whatever runs the method again, and cut short by whatever ends the pass."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from moments import interrupted_once, later, stored

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    errors,
    listen,
    router,
    sleep,
    start,
    this_invocation,
)
from asyncflow._runtime import memos
from asyncflow.persistence.checkpoint import decode_progress
from asyncflow.testing import crash_everywhere

WAIT = 0.4


class Sleeper(Flow[dict]):
    """Sleeps in its only method."""

    name = "Sleeper"
    delay: Any = WAIT

    @start()
    async def nap(self) -> int:
        self.state["begun"] = True
        await sleep(Sleeper.delay)
        return this_invocation().attempt


async def interrupted(storage: Any, delay: Any = WAIT) -> str:
    Sleeper.delay = delay
    flow = Sleeper(persistence=storage)
    await interrupted_once(flow.kickoff, stored(storage, flow.run_id, 1))
    assert (flow.status, flow.pending) == ("interrupted", ("nap:1",))
    return flow.run_id


@pytest.mark.clauses("W5")
async def test_a_resume_sleeps_for_the_rest_of_the_time(store: Any) -> None:
    run_id = await interrupted(store, 3600)
    (end,) = decode_progress((await store.load(run_id)).progress).attempts["nap:1"].memos.values()
    with later(3600 - WAIT), anyio.fail_after(60):
        assert await Sleeper.resume(run_id, persistence=store) == 1

    assert time.time() + 3600 - WAIT >= float(end)


@pytest.mark.clauses("W5")
async def test_a_sleep_whose_time_passed_meanwhile_ends_at_once(store: Any) -> None:
    run_id = await interrupted(store, 3600)
    with later(3601), anyio.fail_after(60):
        assert await Sleeper.resume(run_id, persistence=store) == 1


async def test_a_sleep_is_one_checkpoint_and_commits_nothing_of_the_state(log: Any) -> None:
    run_id = await interrupted(log)
    loaded = await Sleeper.load(run_id, persistence=log)
    entries = await loaded.history()

    assert [(entry.kind, entry.method) for entry in entries] == [("started", ""), ("step", "nap:1")]
    assert "begun" not in loaded.state


@pytest.mark.clauses("W5")
async def test_days_of_sleep_pass_at_once_in_virtual_time_and_every_crash_ends_alike() -> None:
    class Long(Flow[dict]):
        @start(retry=Retry(attempts=3, initial=60))
        async def nap(self) -> int:
            await sleep(timedelta(days=2))
            await sleep(60)
            await sleep(5, key="named")
            if this_invocation().attempt < 3:
                raise ValueError("again")
            return this_invocation().attempt

    report = await crash_everywhere(Long)

    # the start, three sleeps, two failed attempts, after each of which the run is parked and woken, the end
    assert report.commits == 3 * (1 + 3 + 2 + 4 + 1)


@pytest.mark.parametrize("delay", [0, 0.01, timedelta(milliseconds=10), -1, datetime(2000, 1, 1, tzinfo=UTC)])
async def test_a_sleep_takes_a_duration_or_a_time(delay: Any) -> None:
    Sleeper.delay = delay
    with anyio.fail_after(60):
        assert await Sleeper().kickoff() == 1


@pytest.mark.parametrize("delay", ["1", None, True, float("nan"), 10**400, datetime(2030, 1, 1)])
async def test_a_sleep_takes_nothing_else(delay: Any) -> None:
    Sleeper.delay = delay
    with pytest.raises(MethodError) as caught:
        await Sleeper().kickoff()

    assert isinstance(caught.value.__cause__, ValueError)
    assert "sleep() takes seconds, a timedelta, or a datetime with a time zone" in str(caught.value.__cause__)


async def test_outside_of_a_method_there_is_nothing_to_sleep_in() -> None:
    with pytest.raises(LookupError, match=r"elsewhere, use anyio\.sleep\(\)"):
        await sleep(0.01)


async def test_two_sleeps_at_once_need_keys(store: Any) -> None:
    class Both(Flow[dict]):
        @start()
        async def naps(self) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(sleep, 0.05)
                group.start_soon(sleep, 0.05)

    class Keyed(Flow[dict]):
        @start()
        async def naps(self) -> str:
            async def nap(key: str) -> None:
                await sleep(0.02, key=key)

            async with anyio.create_task_group() as group:
                group.start_soon(nap, "a")
                group.start_soon(nap, "b")
            await sleep(0.01)
            return "slept"

    with pytest.raises(MethodError) as caught:
        await Both(persistence=store).kickoff()
    (group,) = [failure.exception for failure in caught.value.failures]
    assert isinstance(group, ExceptionGroup)
    assert isinstance(group.exceptions[0], errors.StepKeyError)
    assert await Keyed(persistence=store).kickoff() == "slept"


async def test_an_invocation_stores_a_limited_number_of_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memos, "MEMOS", 3)

    class Many(Flow[dict]):
        @start()
        async def naps(self) -> None:
            for _ in range(4):
                await sleep(0)

    with pytest.raises(MethodError) as caught:
        await Many().kickoff()

    assert isinstance(caught.value.__cause__, errors.LimitExceededError)


async def test_another_invocation_of_the_method_has_sleeps_of_its_own(store: Any) -> None:
    class Turning(Flow[dict]):
        @start("again")
        async def nap(self) -> None:
            await sleep(0.05)
            self.state["naps"] = self.state.get("naps", 0) + 1

        @router(nap)
        async def decide(self) -> str:
            return "again" if self.state["naps"] < 3 else "done"

    began = time.time()
    flow = Turning(persistence=store)
    await flow.kickoff()

    assert flow.state["naps"] == 3
    assert time.time() - began >= 0.15


class Failing(Flow[dict]):
    """One method sleeps while another one fails, and a third one is slower."""

    name = "Failing"
    fails = True

    @start()
    async def begin(self) -> None: ...

    @listen(begin)
    async def naps(self) -> str:
        await sleep(3600)
        return "slept"

    @listen(begin)
    async def bad(self) -> None:
        await anyio.sleep(0.05)
        if Failing.fails:
            raise ValueError("no")

    @listen(begin)
    async def slow(self) -> None:
        await anyio.sleep(0.2)


@pytest.mark.clauses("W5")
async def test_a_failure_cancels_what_sleeps_once_the_others_have_ended_and_a_resume_continues_it(store: Any) -> None:
    Failing.fails = True
    flow = Failing(persistence=store)
    began = time.time()
    with pytest.raises(MethodError):
        await flow.kickoff()
    failed = await Failing.load(flow.run_id, persistence=store)
    assert 0.2 <= time.time() - began < 3600
    assert (failed.status, sorted(failed.pending)) == ("failed", ["bad:1", "naps:1"])

    Failing.fails = False
    with later(3601), anyio.fail_after(60):
        await Failing.resume(flow.run_id, persistence=store)
    assert (await Failing.load(flow.run_id, persistence=store)).status == "finished"


@pytest.mark.clauses("W5")
@pytest.mark.parametrize("resumed", [False, True])
async def test_a_method_that_begins_to_sleep_while_the_pass_fails_is_held_and_the_run_is_stored_as_failed(
    store: Any, resumed: bool
) -> None:
    """Resumed: the end of the sleep is stored already."""
    fails = [not resumed]

    class Late(Flow[dict]):
        name = "Late"

        @start()
        async def naps(self) -> str:
            await anyio.sleep(0.1)
            await sleep(3600)
            return "slept"

        @start()
        async def bad(self) -> None:
            if not fails[0]:
                await anyio.sleep(3600)
            raise ValueError("no")

    flow = Late(persistence=store)
    if resumed:
        await interrupted_once(flow.kickoff, stored(store, flow.run_id, 1))
        fails[0] = True
    with anyio.fail_after(60), pytest.raises(MethodError):
        await (Late.resume(flow.run_id, persistence=store) if resumed else flow.kickoff())
    loaded = await Late.load(flow.run_id, persistence=store)

    assert (loaded.status, sorted(loaded.pending)) == ("failed", ["bad:1", "naps:1"])
    assert [failure.method for failure in loaded.method_error.failures] == ["bad"]


async def test_one_of_two_sleeps_that_has_ended_leaves_the_method_waiting(store: Any) -> None:
    class Both(Flow[dict]):
        @start()
        async def naps(self) -> None:
            async def nap(seconds: float) -> None:
                await sleep(seconds, key=str(seconds))

            async with anyio.create_task_group() as group:
                group.start_soon(nap, 0.05)
                group.start_soon(nap, 60)

        @start()
        async def bad(self) -> None:
            await anyio.sleep(0.2)
            raise ValueError("no")

    flow = Both(persistence=store)
    with anyio.fail_after(60), pytest.raises(MethodError):
        await flow.kickoff()

    assert (await Both.load(flow.run_id, persistence=store)).status == "failed"


async def test_a_runner_that_shuts_down_cancels_what_sleeps() -> None:
    storage = MemoryFlowPersistence()
    Sleeper.delay = 60
    with anyio.fail_after(60):
        async with FlowRunner(storage, flows=[Sleeper], grace=0.05, patience=30) as runner:
            handle = await runner.start(Sleeper)
            while (await handle.snapshot()).seq < 1:  # noqa: ASYNC110 - there is no event for that
                await anyio.sleep(0.01)

    assert (await Sleeper.load(handle.run_id, persistence=storage)).status == "interrupted"


async def test_a_method_sees_the_cancellation_of_its_sleep() -> None:
    storage, seen = MemoryFlowPersistence(), []

    class Careful(Flow[dict]):
        @start()
        async def naps(self) -> None:
            try:
                await sleep(60)
            except Exception as error:
                seen.append(error)
            finally:
                seen.append("left")

        @start()
        async def bad(self) -> None:
            await anyio.sleep(0.02)
            raise ValueError("no")

    with anyio.fail_after(60), pytest.raises(MethodError):
        await Careful(persistence=storage).kickoff()

    assert seen == ["left"]


async def test_a_sleep_on_another_thread_is_refused() -> None:
    found: list[BaseException] = []

    class Threaded(Flow[dict]):
        @start()
        def naps(self) -> None:
            try:
                anyio.run(sleep, 0.01)
            except errors.StateError as error:
                found.append(error)

    await Threaded().kickoff()

    assert "sleep() was called in code that naps does not await" in str(found[0])
