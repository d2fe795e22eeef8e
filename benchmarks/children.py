"""What a child costs: `python -m benchmarks.children [RUNS] [ROUNDS]`.

Runs RUNS children of one parent, all at once, and as many runs of the same flow by kickoffs in a task group, in turn, in one SQLite
file; by bare calls, and under a runner; for a flow of one method and a flow of five. Prints the CPU of the process and the time of
each, and what children cost in multiples of runs: the smallest of ROUNDS rounds.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, run_child, start

from .__main__ import machine


class Number(FlowState):
    n: int = 0


class One(Flow[Number]):
    """One method."""

    name = "benchmarks.One"

    @start()
    async def first(self) -> int:
        return self.state.n


class Five(Flow[Number]):
    """Five methods in a row."""

    name = "benchmarks.Five"

    @start()
    async def first(self) -> int:
        return self.state.n

    @listen(first)
    async def second(self, n: int) -> int:
        return n + 1

    @listen(second)
    async def third(self, n: int) -> int:
        return n + 1

    @listen(third)
    async def fourth(self, n: int) -> int:
        return n + 1

    @listen(fourth)
    async def fifth(self, n: int) -> int:
        return n + 1


class Parent(Flow[Number]):
    """Runs as many children at once as its state says."""

    name = "benchmarks.Parent"
    child: Any = One

    @start()
    async def go(self) -> int:
        async def one(n: int) -> None:
            await run_child(Parent.child, {"n": n}, key=str(n))

        await together(one, self.state.n)
        return self.state.n


async def together(one: Callable[[int], Coroutine[Any, Any, None]], runs: int) -> None:
    """Make as many calls at once."""
    async with anyio.create_task_group() as group:
        for n in range(runs):
            group.start_soon(one, n)


async def measured(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the CPU and the time of some work, in seconds."""
    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    await work()
    return time.process_time() - cpu, time.perf_counter() - began


async def compare(made: Any, runs: int, rounds: int, runner: FlowRunner | None, storage: Any) -> None:
    """Measure runs and children in turn, and print the smallest."""
    Parent.child = made

    async def run(n: int) -> None:
        if runner is None:
            await made(persistence=storage).kickoff({"n": n})
        else:
            await runner.run(made, {"n": n})

    async def children() -> None:
        if runner is None:
            await Parent(persistence=storage).kickoff({"n": runs})
        else:
            await runner.run(Parent, {"n": runs})

    alone, of_parent = list[tuple[float, float]](), list[tuple[float, float]]()
    for _ in range(rounds):
        alone.append(await measured(lambda: together(run, runs)))
        of_parent.append(await measured(children))
    for which, unit in enumerate(("CPU", "time")):
        one, child = (min(figures[which] for figures in each) / runs * 1e6 for each in (alone, of_parent))
        how = "kickoff" if runner is None else "runner"
        print(
            f"{made.__name__:5} {how:8} {unit:5} {one:7,.0f} us a run, {child:7,.0f} us a child: {child / one:.2f} times"
        )


async def main(runs: int, rounds: int) -> None:
    """Measure both flows, both ways."""
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteFlowPersistence(os.path.join(folder, "runs.db")) as storage:
            await storage.load("none")  # checks the file, once
            for made in (One, Five):
                await compare(made, runs, rounds, None, storage)
                async with FlowRunner(storage, recover_every=None) as runner:
                    await compare(made, runs, rounds, runner, storage)


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
