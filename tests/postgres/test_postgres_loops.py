"""One PostgreSQL storage object on several event loops and in several threads at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest
from loops import LOOPS

import asyncflow
from asyncflow import Flow, FlowRunner, after, listen, persist, sleep, start
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.testing import simulated

THREADS = 4
TOGETHER = 30.0
"""Seconds that threads wait for one another."""


@pytest.mark.found("B4")
def test_one_postgres_storage_serves_run_in_many_threads_at_once(persistence: PostgresFlowPersistence) -> None:
    @persist(persistence)
    class Child(Flow[dict[str, Any]]):
        @start()
        async def work(self) -> int:
            return int(self.state["x"])

    @persist(persistence)
    class Parent(Flow[dict[str, Any]]):
        barrier = threading.Barrier(THREADS)

        @start()
        def ask(self) -> int:
            self.barrier.wait(TOGETHER)
            return int(asyncflow.run(Child(), {"x": self.state["x"]}))

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda x: asyncflow.run(Parent(), {"x": x}), range(2 * THREADS)))

    assert results == list(range(2 * THREADS))


@pytest.mark.found("B4")
def test_one_postgres_storage_is_entered_on_every_kind_of_loop_at_once(persistence: PostgresFlowPersistence) -> None:
    barrier = threading.Barrier(len(LOOPS))

    class Echo(Flow[dict[str, Any]]):
        @start()
        async def work(self) -> int:
            return int(self.state["x"])

    async def used() -> int:
        async with persistence:
            await anyio.to_thread.run_sync(barrier.wait, TOGETHER)
            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(Echo(persistence=persistence).kickoff, {"x": n})
            await anyio.to_thread.run_sync(barrier.wait, TOGETHER)
            return len(await persistence.runs())

    def on(name: str) -> int:
        loop, options = LOOPS[name]
        return anyio.run(used, backend=loop, backend_options=options)

    with ThreadPoolExecutor(len(LOOPS)) as pool:
        assert list(pool.map(on, LOOPS)) == [5 * len(LOOPS)] * len(LOOPS)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_days_of_virtual_time_pass_at_once_on_postgres_too(persistence: PostgresFlowPersistence, loop: Any) -> None:
    class Waits(Flow[dict[str, Any]]):
        @start()
        async def nap(self) -> None:
            await sleep(86_400)

        @listen(after(nap, 86_400))
        async def end(self) -> str:
            return "the end"

    async def main() -> float:
        began = anyio.current_time()
        async with FlowRunner(persistence) as runner:
            assert await runner.run(Waits) == "the end"
        return anyio.current_time() - began

    assert simulated(main, seed=1, loop=loop) == pytest.approx(2 * 86_400, abs=60)
