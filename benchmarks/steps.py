"""What a sub-step costs: `python -m benchmarks.steps [--steps 1000] [--rounds 5] [--no-dbos]`.

Calls `await step(f, n)` in one method, as often as a chain has methods, on SQLite, side by side in one process; then the same many
steps of a DBOS workflow on its SQLite, in an environment of its own. Prints microseconds of CPU and of time for each, and the ratios.
Then a method that runs again over its stored steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from asyncflow import Flow, FlowState, Retry, SQLiteFlowPersistence, listen, start, step, this_invocation

from .__main__ import machine
from .environments import NoEnvironment, python_of, variables

Cost = tuple[float, float]
"""Microseconds of CPU and of time, for each step."""

DBOS_STEPS = """
import asyncio, sys, time, uuid
from dbos import DBOS, SetWorkflowID

@DBOS.step()
async def called(n: int) -> int:
    return n

@DBOS.workflow()
async def many(count: int) -> int:
    total = 0
    for n in range(count):
        total += await called(n)
    return total

async def main(count, rounds, url):
    DBOS(config={"name": "steps", "system_database_url": url, "log_level": "ERROR", "enable_otlp": False})
    DBOS.launch()
    for n in range(rounds + 1):
        cpu, began = time.process_time(), time.perf_counter()
        with SetWorkflowID(str(uuid.uuid4())):
            handle = await DBOS.start_workflow_async(many, count)
        assert await handle.get_result() == count * (count - 1) // 2
        if n:
            print((time.process_time() - cpu) / count * 1e6, (time.perf_counter() - began) / count * 1e6, flush=True)
    DBOS.destroy()

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
"""


async def called(n: int) -> int:
    return n


class Calls(Flow[FlowState]):
    """One method with many steps."""

    name = "benchmarks.Calls"
    count = 1000
    is_repeated = False
    began: Cost = (0.0, 0.0)

    @start(retry=Retry(attempts=2, initial=0))
    async def work(self) -> int:
        if this_invocation().attempt == 2:
            Calls.began = time.process_time(), time.perf_counter()
        total = 0
        for n in range(Calls.count):
            total += await step(called, n)
        if Calls.is_repeated and this_invocation().attempt == 1:
            raise ConnectionError
        return total


def chain(count: int) -> type[Flow[Any]]:
    """Return a flow of this many methods, one after the other."""

    def method(n: int) -> Any:
        async def next_one(self: Any, total: int = 0) -> int:
            return total + n

        next_one.__name__ = next_one.__qualname__ = f"m{n}"
        return next_one

    made: dict[str, Any] = {"name": "benchmarks.Chain", "m0": start()(method(0))}
    for n in range(1, count):
        made[f"m{n}"] = listen(made[f"m{n - 1}"])(method(n))
    return types.new_class("Chain", (Flow[FlowState],), exec_body=lambda space: space.update(made))


async def cost(call: Callable[[], Awaitable[object]], count: int) -> Cost:
    cpu, began = time.process_time(), time.perf_counter()
    await call()
    return (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - began) / count * 1e6


async def measure(folder: str, count: int, rounds: int) -> dict[str, list[Cost]]:
    """Return what each round cost: a method of a chain, a step, a stored step in a method that runs again."""
    Calls.count = count
    found: dict[str, list[Cost]] = {"a method of a chain": [], "a sub-step": [], "a stored sub-step, again": []}
    methods = chain(count)
    async with SQLiteFlowPersistence(os.path.join(folder, "runs.db")) as storage:
        for n in range(rounds + 1):
            one = await cost(methods(persistence=storage).kickoff, count)
            Calls.is_repeated = False
            two = await cost(Calls(persistence=storage).kickoff, count)
            Calls.is_repeated = True
            await Calls(persistence=storage).kickoff()
            cpu, began = Calls.began
            three = (time.process_time() - cpu) / count * 1e6, (time.perf_counter() - began) / count * 1e6
            if n:  # the first round warms up
                for rows, each in zip(found.values(), (one, two, three), strict=True):
                    rows.append(each)
    return found


def dbos(folder: str, count: int, rounds: int) -> list[Cost]:
    """Return what each round of DBOS cost. Raises `NoEnvironment`."""
    command = [str(python_of("dbos")), "-c", DBOS_STEPS, str(count), str(rounds), f"sqlite:///{folder}/dbos.sqlite"]
    done = subprocess.run(command, capture_output=True, text=True, env=variables(Path(folder)))
    if done.returncode:
        raise NoEnvironment(done.stderr[-500:])
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(float(cpu), float(wall)) for cpu, wall in rows[-rounds:]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.steps", description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-dbos", action="store_true")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as folder:  # not in memory
        found = anyio.run(measure, folder, options.steps, options.rounds)
        if not options.no_dbos:
            try:
                found["a step of DBOS, SQLite"] = dbos(folder, options.steps, options.rounds)
            except NoEnvironment as error:
                print(f"DBOS: {error}", file=sys.stderr)
    base = found["a sub-step"]
    for name, rows in found.items():
        cpu, wall = (median(each[n] for each in rows) for n in (0, 1))
        ratios = [median(a[n] / b[n] for a, b in zip(rows, base, strict=True)) for n in (0, 1)]
        print(
            f"{name}: {cpu:.0f} us of CPU, {wall:.0f} us; {ratios[0]:.2f} and {ratios[1]:.2f} times those of a sub-step"
        )


if __name__ == "__main__":
    main()
