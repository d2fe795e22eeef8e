"""Cancelling a run by its runner, whichever process owns it."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from owned import STORES, Steps, Work, gate, gates, ran, until

from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, errors, events, start
from asyncflow.runner import RunHandle


async def test_a_run_is_cancelled_permanently(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1) as runner:
        running, waiting = [await runner.start(Steps, {"gate": "g"}, run_id=name) for name in "xy"]
        await until(lambda: ran)
        for handle in (waiting, running):
            await handle.cancel()
            with pytest.raises(errors.RunCancelledError):
                await handle.result()
            assert await handle.status() == "cancelled"
            with pytest.raises(errors.RunCancelledError):
                await runner.run(Steps, run_id=handle.run_id)

        assert await runner.run(Steps) == 2
    assert [line for line in ran if line[0] in "xy"] == ["x first"]


@pytest.mark.clauses("C4")
async def test_a_cancel_elsewhere_ends_what_is_under_way_here() -> None:
    gate("never")
    stores = [STORES["sqlite"]() for _ in range(2)]
    async with FlowRunner(stores[0], recover_every=0.01) as runner, FlowRunner(stores[1], recover_every=None) as other:
        driven = await runner.start(Steps, {"gate": "never"}, run_id="x")
        seen = [type(event).__name__ async for event in taken_until_cancelled(driven, other)]

        with pytest.raises(errors.RunCancelledError):
            await driven.result()
        await until(lambda: not runner.running)
    assert ran == ["x first"]
    assert seen[-1] == "RunCancelled"


async def taken_until_cancelled(handle: RunHandle, other: FlowRunner) -> AsyncIterator[events.Event]:
    """The events of a run that is cancelled when the first has come, to the last."""
    with anyio.fail_after(120):
        async for event in handle.events():
            yield event
            await other.cancel(handle.run_id)


async def test_a_run_that_is_running_here_is_not_taken_for_lost(storage: Any) -> None:
    class Many(Flow[Work]):
        @start()
        async def only(self) -> int:
            await anyio.sleep(0.002)
            return 1

    async with FlowRunner(storage, recover_every=0.001) as runner:
        handles = [await runner.start(Many) for _ in range(100)]
        assert [await handle.result() for handle in handles] == [1] * 100


async def test_a_full_runner_still_reports_runs_that_have_ended(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1, max_queued=0, overload="raise", recover_every=None) as runner:
        assert await runner.run(Steps, {"n": 1}, run_id="finished") == 3
        with pytest.raises(errors.MethodError):
            await runner.run(Steps, {"fails": True}, run_id="failed")
        await until(lambda: not runner.running)
        await runner.start(Steps, {"gate": "g"}, run_id="x")

        assert runner.is_full
        assert await runner.run(Steps, {"n": 1}, run_id="finished") == 3
        with pytest.raises(errors.MethodError):
            await runner.run(Steps, run_id="failed")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="finished")
        with pytest.raises(errors.RunnerOverloadedError):
            await runner.start(Steps, run_id="new")
        assert (await runner.start(Steps, {"gate": "g"}, run_id="x")).run_id == "x"
        gates["g"].set()


@pytest.mark.clauses("C4")
async def test_a_run_is_cancelled_no_matter_which_runner_drives_it() -> None:
    gate("g")
    here = SQLiteFlowPersistence("runs.db", durability="process")
    async with FlowRunner(here) as runner, FlowRunner(SQLiteFlowPersistence("runs.db")) as other:
        driven = await runner.start(Steps, {"gate": "g"}, run_id="x")
        await other.cancel("x")
        gates["g"].set()

        with pytest.raises(errors.RunCancelledError):
            await driven.result()
        assert await (await other.get("x")).status() == "cancelled"
    assert ran == ["x first"]


@pytest.mark.clauses("L1")
async def test_the_result_of_a_run_that_another_owner_has_taken_over_is_that_owners() -> None:
    gate("g")
    here, there = (SQLiteFlowPersistence("runs.db", durability="process") for _ in range(2))
    async with FlowRunner(here, recover_every=None) as runner, there:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        await until(lambda: ran)
        await there.release("x", await there.acquire("x", force=True))
        gates["g"].set()
        await until(lambda: not runner.running)
        async with FlowRunner(there, flows=[Steps], recover_every=0.01):
            with anyio.fail_after(120):
                assert await handle.result() == 2

    assert ran == ["x first", "x first", "x second"]


async def test_what_has_ended_or_is_unknown_cannot_be_cancelled(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        await handle.cancel()

        assert await handle.status() == "finished"
        with pytest.raises(errors.RunNotFoundError):
            await runner.cancel("unknown")


async def test_a_run_that_is_cancelled_as_it_begins_is_cancelled_or_finishes(storage: Any) -> None:
    """A run whose result a caller has received stays finished."""

    class At(Flow):
        @start()
        async def once(self) -> int:
            return 1

    async def cancel() -> None:
        while await storage.load("x") is None:
            await anyio.lowlevel.checkpoint()
        await runner.cancel("x")

    async with FlowRunner(storage) as runner:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            handle = await runner.start(At, run_id="x")
            try:
                came_to = {1: "finished"}[await handle.result()]
            except errors.RunCancelledError:
                came_to = "cancelled"

        assert await handle.status() == came_to
