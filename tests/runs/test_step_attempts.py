"""Attempts of a step: retried, limited in time, stored, and ended by whatever ends the run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from moments import interrupted_once, later, stored, until

from asyncflow import (
    Flow,
    FlowRunner,
    MethodError,
    Retry,
    RetryAfter,
    Signal,
    SQLiteFlowPersistence,
    errors,
    sleep,
    start,
    step,
    step_sync,
    this_invocation,
    wait_for,
)
from asyncflow.testing import Fail, FaultyPersistence, crash_everywhere

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


async def flaky(succeeds_at: int) -> int:
    calls.append(len(calls) + 1)
    if len(calls) < succeeds_at:
        raise ConnectionError(f"attempt {len(calls)}")
    return len(calls)


def flow_of(body: Callable[[], Any], **options: Any) -> type[Flow[dict]]:
    class Once(Flow[dict]):
        name = "Once"

        @start(**options)
        async def work(self) -> Any:
            return await body()

    return Once


async def cause(flow: Flow[Any]) -> BaseException | None:
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    return caught.value.__cause__


@pytest.mark.clauses("M9")
async def test_failed_attempts_are_stored_and_the_method_is_not_run_again(log: Any) -> None:
    bodies: list[int] = []

    async def body() -> Any:
        bodies.append(1)
        return await step(flaky, 3, retry=Retry(attempts=3, initial=0.01))

    flow = flow_of(body)(persistence=log)
    assert await flow.kickoff() == 3
    assert len(bodies) == 1
    assert [entry.kind for entry in await flow.history()] == ["started", "step", "step", "step", "finished"]


@pytest.mark.clauses("M9")
async def test_a_crash_in_the_pause_resumes_with_the_rest_of_it_and_the_right_attempt(store: Any) -> None:
    async def body() -> Any:
        return await step(flaky, 3, retry=Retry(attempts=3, initial=3600, maximum=3600, jitter=0))

    cls = flow_of(body)
    flow = cls(persistence=store)
    await interrupted_once(flow.kickoff, stored(store, flow.run_id, 1))
    assert calls == [1]
    with anyio.move_on_after(0.05):
        await cls.resume(flow.run_id, persistence=store)
    assert calls == [1]
    with later(3601):
        await interrupted_once(lambda: cls.resume(flow.run_id, persistence=store), lambda: _is(lambda: len(calls) == 2))
    with later(7300), anyio.fail_after(60):
        assert await cls.resume(flow.run_id, persistence=store) == 3


async def _is(holds: Callable[[], bool]) -> bool:
    return holds()


@pytest.mark.clauses("M9")
async def test_out_of_attempts_the_body_gets_the_last_error_and_a_further_attempt_begins_again(store: Any) -> None:
    seen: list[str] = []

    async def body() -> Any:
        try:
            return await step(flaky, 5, retry=Retry(attempts=2, initial=0))
        except ConnectionError as error:
            seen.append(str(error))
            raise

    assert await flow_of(body, retry=Retry(attempts=3, initial=0))(persistence=store).kickoff() == 5
    assert seen == ["attempt 2", "attempt 4"]


@pytest.mark.clauses("M9")
async def test_days_of_pauses_pass_in_virtual_time_and_every_crash_ends_alike() -> None:
    class Trying(Flow[dict]):
        def __init__(self, outside: list[int]) -> None:
            super().__init__()
            self.outside = outside

        async def call(self) -> int:
            self.outside.append(1)
            if len(self.outside) < 3:
                raise RetryAfter(86_400)
            return 1

        def call_plainly(self) -> int:
            self.outside.append(2)
            if self.outside.count(2) < 3:
                raise ValueError("again")
            return 2

        @start()
        async def work(self) -> int:
            return await step(self.call, retry=Retry(attempts=9, initial=60))

        @start()
        def plain(self) -> int:
            return step_sync(self.call_plainly, retry=Retry(attempts=9, initial=60))

    await crash_everywhere(Trying, outside=list, compare=lambda end: (end.status, end.state))


@pytest.mark.clauses("M9")
async def test_a_run_whose_step_pauses_releases_its_slot() -> None:
    ran = anyio.Event()

    class Pauses(Flow[dict]):
        @start()
        async def work(self) -> Any:
            return await step(flaky, 2, retry=Retry(attempts=2, initial=3600))

    class Quick(Flow[dict]):
        @start()
        async def work(self) -> None:
            ran.set()

    async with FlowRunner(SQLiteFlowPersistence("runs.db"), flows=[Pauses, Quick], max_running=1) as runner:
        await runner.start(Pauses)
        await until(lambda: _is(lambda: len(calls) == 1))
        await runner.start(Quick)
        with anyio.fail_after(30):
            await ran.wait()


@pytest.mark.clauses("M10")
async def test_an_async_function_is_cancelled_after_its_timeout(store: Any) -> None:
    async def slow() -> str:
        calls.append(1)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return "done"

    async def body() -> Any:
        with pytest.raises(
            errors.MethodTimeoutError, match=r"the step .*slow of work took longer than its timeout of 0.02 s"
        ):
            await step(slow, timeout=0.02)
        calls.clear()
        return await step(slow, key="k", timeout=0.02, retry=Retry(attempts=2, initial=0))

    assert await flow_of(body)(persistence=store).kickoff() == "done"


@pytest.mark.clauses("M10")
async def test_the_next_attempt_of_a_plain_function_begins_when_its_thread_has_ended() -> None:
    class Slow(Flow[dict]):
        def slow(self) -> str:
            calls.append("begins")
            if len(calls) == 1:
                time.sleep(0.3)
                with pytest.raises(errors.DraftClosedError):
                    self.state["late"] = True
                calls.append("ended")
            return "done"

        @start()
        async def work(self) -> str:
            return await step(self.slow, timeout=0.05, retry=Retry(attempts=2, initial=0))

    flow = Slow()
    assert await flow.kickoff() == "done"
    assert calls == ["begins", "ended", "begins"]
    assert flow.state == {"id": flow.run_id} or "late" not in flow.state


@pytest.mark.clauses("M7")
async def test_step_sync_is_refused_once_the_draft_is_closed() -> None:
    refused: list[str] = []

    class Late(Flow[dict]):
        @start(timeout=0.05, retry=Retry(attempts=2, initial=0))
        def work(self) -> str:
            if this_invocation().attempt == 1:
                time.sleep(0.2)
                try:
                    step_sync(calls.append, 1)
                except errors.StateError as error:
                    refused.append(str(error))
            return "done"

    assert await Late().kickoff() == "done"
    assert len(refused) == 1
    assert calls == []


# ---- whatever ends the run -------------------------------------------------------------------------------------------


@pytest.mark.clauses("M8")
@pytest.mark.parametrize("is_plain", [False, True])
async def test_an_error_of_the_storage_reaches_the_method_as_a_cancellation(is_plain: bool) -> None:
    swallowed: list[Exception] = []

    class Stubborn(Flow[dict]):
        @start()
        async def work(self) -> None:
            try:
                await step(flaky, 1)
            except Exception as error:
                swallowed.append(error)

    class Plainly(Flow[dict]):
        @start()
        def work(self) -> None:
            try:
                step_sync(time.time)
            except Exception as error:
                swallowed.append(error)

    storage = FaultyPersistence(
        SQLiteFlowPersistence("runs.db"), Fail(at=2, error=lambda: errors.StorageWriteError("full"))
    )
    with pytest.raises(errors.StorageWriteError), anyio.fail_after(30):
        await (Plainly if is_plain else Stubborn)(persistence=storage).kickoff()
    assert swallowed == []


@pytest.mark.clauses("M8")
async def test_once_a_method_has_failed_a_step_may_end_and_is_stored_but_not_tried_again(log: Any) -> None:
    failed = anyio.Event()

    async def ends() -> str:
        await failed.wait()
        await anyio.sleep(0.05)
        return "ended"

    async def tried() -> None:
        calls.append("tried")
        await failed.wait()
        raise ConnectionError

    class Both(Flow[dict]):
        name = "Both"

        @start()
        async def fails(self) -> str:
            if not failed.is_set():
                await anyio.sleep(0.05)
                failed.set()
                raise ValueError("told to")
            return "well"

        @start()
        async def works(self) -> str:
            found = await step(ends)
            calls.append(found)
            return found

        @start()
        async def tries(self) -> None:
            await step(tried, retry=Retry(attempts=2, initial=0.01))

    flow = Both(persistence=log)
    with pytest.raises(MethodError), anyio.fail_after(30):
        await flow.kickoff()
    assert flow.status == "failed"
    assert calls == ["tried", "ended"]
    with pytest.raises(MethodError):
        await Both.resume(flow.run_id, persistence=log)
    assert calls == ["tried", "ended", "tried"]


@pytest.mark.clauses("M8")
async def test_a_runner_that_winds_down_stops_a_method_between_its_steps() -> None:
    class Long(Flow[dict]):
        @start()
        async def work(self) -> None:
            for number in range(1000):
                await step(noted, number)

    async def noted(number: int) -> None:
        calls.append(number)
        await anyio.sleep(0.05)

    with anyio.fail_after(20):
        async with SQLiteFlowPersistence("runs.db") as storage:
            async with FlowRunner(storage, flows=[Long]) as runner:
                handle = await runner.start(Long)
                await until(lambda: _is(lambda: len(calls) == 3))
            newest = await storage.load(handle.run_id)
    assert len(calls) < 100
    assert newest.status == "running"


# ---- waits within a step ---------------------------------------------------------------------------------------------


@pytest.mark.clauses("M6", "W5", "W10")
async def test_waits_in_a_step_have_names_below_it_and_shift_no_others(log: Any) -> None:
    class Waits(Flow[dict]):
        name = "Waits"
        asked = Signal("asked", int)

        async def inner(self) -> int:
            calls.append("inner")
            await sleep(0.01)
            return await wait_for(Waits.asked)

        @start(retry=Retry(attempts=2, initial=0))
        async def work(self) -> list[int]:
            found = await step(self.inner)
            await sleep(0.01)
            other = await wait_for(Waits.asked)
            if this_invocation().attempt == 1:
                raise ValueError("again")
            return [found, other]

    flow = Waits(persistence=log)
    async with anyio.create_task_group() as group:

        async def answer() -> None:
            await until(lambda: _has(log, flow.run_id))
            await Waits.signal(flow.run_id, Waits.asked, 1, persistence=log)
            await Waits.signal(flow.run_id, Waits.asked, 2, persistence=log)

        group.start_soon(answer)
        with anyio.fail_after(30):
            assert await flow.kickoff() == [1, 2]
    assert calls == ["inner"]


async def _has(log: Any, run_id: str) -> bool:
    return await log.load(run_id) is not None


@pytest.mark.clauses("M8", "M9")
async def test_a_step_that_runs_next_to_one_that_pauses_is_not_cut_by_a_failure(log: Any) -> None:
    class Side(Flow[dict]):
        name = "Side"

        @start()
        async def fails(self) -> None:
            await until(lambda: _is(lambda: "pauses" in calls and "works" in calls))
            raise ValueError("told to")

        @start()
        async def both(self) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(pauses)
                group.start_soon(step, works)

    async def pauses() -> None:
        await step(raises, retry=Retry(attempts=2, initial=3600))

    async def raises() -> None:
        calls.append("pauses")
        raise ConnectionError

    async def works() -> str:
        calls.append("works")
        await anyio.sleep(0.2)
        calls.append("worked")
        return "worked"

    flow = Side(persistence=log)
    with pytest.raises(MethodError), anyio.fail_after(30):
        await flow.kickoff()
    assert calls[-1] == "worked"
    newest = await log.load(flow.run_id)
    assert newest.status == "failed"
    assert b"worked" in newest.progress


# ---- killed ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, sys, anyio
from asyncflow import Flow, SQLiteFlowPersistence, errors, start, step, step_sync, listen

def noted(what: str) -> str:
    with open("effects.log", "a") as log:
        log.write(what + "\\n")
    if what == sys.argv[1]:
        os.kill(os.getpid(), 9)
    return what

async def noted_async(what: str) -> str:
    return noted(what)

class Killed(Flow[dict]):
    name = "Killed"

    @start()
    async def work(self) -> list[str]:
        return [await step(noted_async, "a"), await step(noted, "b"), await step(noted_async, "c")]

    @listen(work)
    def plain(self, found: list[str]) -> list[str]:
        return [*found, step_sync(noted, "d"), step_sync(noted, "e")]

RUN = "00000000-0000-4000-8000-000000000001"
async def main():
    print(await Killed(persistence=SQLiteFlowPersistence("runs.db")).kickoff({"id": RUN}))
anyio.run(main)
"""


@pytest.mark.clauses("M1", "D1", "E2")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_killed_process_repeats_only_the_call_that_it_was_in(tmp_path: Path) -> None:
    for kill in [*"abcde", "none"]:
        ended = subprocess.run([sys.executable, "-c", KILLED, kill], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == (0 if kill == "none" else -9), ended.stderr
    assert (tmp_path / "effects.log").read_text().split() == [*"aabbccddee"]
    assert ended.stdout.strip() == str([*"abcde"])
