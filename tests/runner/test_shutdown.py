"""A runner that ends drains its runs, stops them at a checkpoint, or cancels them; each can be resumed."""

from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from owned import Steps, gate, gates, ran, until

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, Retry, errors, start, this_invocation
from asyncflow.testing import simulated


async def test_it_waits_for_its_runs_when_it_ends(storage: Any) -> None:
    gate("g")

    async def open_later() -> None:
        await anyio.sleep(0.02)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage) as runner:
            handle = await runner.start(Steps, {"gate": "g"})
            group.start_soon(open_later)

    assert await handle.result() == 2


async def test_after_its_grace_runs_stop_at_their_next_checkpoint(storage: Any) -> None:
    gate("g")

    async def open_later() -> None:
        await anyio.sleep(0.05)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=0.001) as runner:
            handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
            await until(lambda: ran)
            group.start_soon(open_later)

    with pytest.raises(errors.RunInterruptedError):
        await handle.result()
    assert ran == ["x first"]
    assert (await Steps.load("x", persistence=storage)).pending == ("second:1",)
    assert await Steps.resume("x", persistence=storage) == 2
    assert ran == ["x first", "x second"]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize(("pause", "closed_after", "status"), [(3.0, 3.0, "finished"), (5.0, 0.0, "interrupted")])
def test_it_waits_only_for_a_pause_that_ends_within_its_grace(
    loop: Any, pause: float, closed_after: float, status: str
) -> None:
    class Retried(Flow[dict]):
        @start(retry=Retry(attempts=2, initial=pause, jitter=0))
        async def work(self) -> None:
            if this_invocation().attempt == 1:
                raise ConnectionError

    async def main() -> None:
        storage = MemoryFlowPersistence()
        async with FlowRunner(storage, grace=4) as runner:
            await runner.start(Retried)
            await anyio.sleep(0.1)
            began = anyio.current_time()
        assert anyio.current_time() - began == pytest.approx(closed_after, abs=0.2)
        assert [run.status for run in await storage.runs()] == [status]

    simulated(main, seed=1, loop=loop)


async def test_a_runner_that_ends_reads_none_of_the_runs_that_it_stops() -> None:
    # no caller asks their instances for a status; thousands of reads would keep the runner from leaving
    class Read(MemoryFlowPersistence):
        loads = 0

        async def load(self, run_id: str, seq: int | None = None) -> Any:
            self.loads += 1
            return await super().load(run_id, seq)

    storage = Read()
    gate("g")
    async with FlowRunner(storage, grace=0.001, patience=0.001) as runner:
        handles = [await runner.start(Steps, {"gate": "g"}) for _ in range(20)]
        await until(lambda: len(ran) == 20)
        before = storage.loads

    assert storage.loads == before
    assert {await handle.status() for handle in handles} == {"interrupted"}


async def test_a_run_that_is_being_stored_when_it_ends_starts_no_method() -> None:
    class Slow(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            await gates["store"].wait()
            await super().append(checkpoint)

    async def store_when_it_ends() -> None:
        await until(lambda: not runner.is_open)
        await anyio.wait_all_tasks_blocked()
        gates["store"].set()

    storage = Slow()
    gate("store")
    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=0) as runner:
            group.start_soon(partial(runner.start, Steps, run_id="x"))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(store_when_it_ends)

    assert ran == []
    assert await Steps.resume("x", persistence=storage) == 2


async def test_a_run_that_reaches_no_checkpoint_is_cancelled_and_can_be_resumed(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, grace=0, patience=0.01, max_running=1) as runner:
        handles = [await runner.start(Steps, {"gate": "g"}, run_id=name) for name in "xy"]
        await until(lambda: ran)

    gates["g"].set()
    for handle in handles:
        with pytest.raises(errors.RunInterruptedError):
            await handle.result()
        assert await Steps.resume(handle.run_id, persistence=storage) == 2


@pytest.mark.found("T15")
def test_leaving_its_block_takes_less_than_the_ten_seconds_that_docker_waits() -> None:
    class Endless(Flow):
        @start()
        async def wait(self) -> None:
            await anyio.sleep_forever()

    async def leave() -> float:
        async with FlowRunner(MemoryFlowPersistence(), recover_every=None) as runner:
            handle = await runner.start(Endless)
            began = trio.current_time()
        with pytest.raises(errors.RunInterruptedError):
            await handle.result()
        return trio.current_time() - began

    assert 8 < trio.run(leave, clock=trio.testing.MockClock(autojump_threshold=0)) < 10


async def test_an_error_in_its_block_passes_through_and_its_runs_can_be_resumed(storage: Any) -> None:
    gate("g")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is about the block
        async with FlowRunner(storage) as runner:
            await runner.start(Steps, {"gate": "g"}, run_id="x")
            raise ZeroDivisionError

    gates["g"].set()
    assert await Steps.resume("x", persistence=storage) == 2


async def test_a_start_that_its_runner_s_end_cuts_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No caller gets a run that may not even be stored."""
    monkeypatch.setattr("asyncflow.runner.owned.LEAVING", 0.1)

    class Stuck(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            gates["reached"].set()
            await anyio.sleep_forever()

    refused: list[str] = []

    async def ask() -> None:
        with pytest.raises(errors.RunInterruptedError):
            await runner.start(Steps)
        refused.append("refused")

    gate("reached")
    async with anyio.create_task_group() as group:
        async with FlowRunner(Stuck(), grace=0, patience=0) as runner:
            group.start_soon(ask)
            await gates["reached"].wait()

    assert refused == ["refused"]


async def test_outside_its_block_it_starts_nothing(storage: Any) -> None:
    runner = FlowRunner(storage)
    with pytest.raises(errors.RunnerClosedError):
        await runner.start(Steps)
    async with runner:
        assert await runner.run(Steps) == 2
        with pytest.raises(errors.RunnerClosedError):
            await runner.__aenter__()
    with pytest.raises(errors.RunnerClosedError):
        await runner.start(Steps)
    async with runner:
        assert await runner.run(Steps) == 2
