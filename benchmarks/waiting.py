"""What waiting runs cost: `python -m benchmarks.waiting [--runs 1000000] [--due 10000] [--postgres]`.

It stores a million parked runs in one database, as real runs that any runner resumes, and prints: their size on the disk in addition
to their state; the CPU of a runner's look while none is due; how long it takes until runs that become due in one second have begun;
and how long a signal of another process takes to wake a parked run.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from asyncflow import Flow, FlowRunner, FlowState, Signal, SQLiteFlowPersistence, after, and_, listen, start
from asyncflow._runtime.timing import virtual_clock

from .__main__ import machine
from .server import postgres

DAY = 86_400.0
STORED_AT_ONCE = 2_000
begun: list[float] = []


class Order(FlowState):
    customer: str = "a customer"
    items: int = 3


class Waits(Flow[Order]):
    """Waits for a day, or for a payment."""

    name = "benchmarks.Waits"
    paid = Signal("paid", int)

    @start()
    async def ask(self) -> str:
        return "please pay"

    @listen(after(ask, DAY))
    async def remind(self, text: str) -> None:
        begun.append(time.perf_counter())

    @listen(and_(ask, paid))
    async def thank(self) -> None:
        begun.append(time.perf_counter())


SENDER = """
import sys, time, anyio
from benchmarks.waiting import Waits, storage_of
async def main():
    async with storage_of(sys.argv[1]) as storage:
        print("ready", flush=True)
        for line in sys.stdin:
            await Waits.signal(line.strip(), Waits.paid, 1, persistence=storage)
            print(time.time(), flush=True)
anyio.run(main)
"""


def storage_of(where: str) -> Any:
    """Return the storage at a path, or at a PostgreSQL server."""
    if where.startswith("/"):
        return SQLiteFlowPersistence(where)
    from asyncflow.persistence.postgres import PostgresFlowPersistence

    return PostgresFlowPersistence(where)


async def park(storage: Any, count: int, wake_at: float) -> list[str]:
    """Store parked runs: copies of the checkpoints of a real one, which began a day before its time, under ids of their own."""
    token = virtual_clock.set(lambda: wake_at - DAY)
    first = await Waits(persistence=storage).kickoff(until="waiting")
    virtual_clock.reset(token)
    rows = await storage.history(first.run_id)
    old = first.run_id.encode()
    made: list[str] = []

    async def one(number: int) -> None:
        run_id = f"{number:08x}-0000-4000-8000-{int(wake_at) % 10**12:012d}"
        previous = b""
        for row in rows:
            state = None if row.state is None else row.state.replace(old, run_id.encode())
            copy = row._replace(run_id=run_id, epoch=1, state=state, previous=previous).sealed()
            await storage.append(copy)
            previous = copy.digest
        await storage.park(run_id, 1, wake_at=wake_at)
        made.append(run_id)

    for begin in range(0, count, STORED_AT_ONCE):
        async with anyio.create_task_group() as group:
            for number in range(begin, min(begin + STORED_AT_ONCE, count)):
                group.start_soon(one, number)
    return made


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def looks(storage: Any, seconds: float) -> tuple[float, float]:
    """Return the CPU in milliseconds of a runner's looks, per look, and the growth of its memory in MB."""
    async with FlowRunner(storage, flows=[Waits]):
        await anyio.sleep(1)
        gc.collect()
        before, began, size = cpu(), time.perf_counter(), _resident()
        await anyio.sleep(seconds)
        took = time.perf_counter() - began
        return (cpu() - before) / (took / storage.poll_seconds) * 1e3, (_resident() - size) / 1e6


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if os.path.exists("/proc/self/statm") else 0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


async def due_at_once(storage: Any, count: int) -> float:
    """Return how many seconds it takes until `count` runs, all due now, have begun their next method."""
    await park(storage, count, time.time() - 1)
    begun.clear()
    async with FlowRunner(storage, flows=[Waits]):
        began = time.perf_counter()
        while len(begun) < count:  # noqa: ASYNC110 - no event reports it
            await anyio.sleep(0.02)
        last = max(begun)
        return last - began


async def latencies(storage: Any, where: str, run_ids: list[str]) -> list[float]:
    """Return the seconds from a signal of another process to the start of the method that waits for it."""
    found: list[float] = []
    sender = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-c", SENDER, where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert sender.stdin is not None
    assert sender.stdout is not None
    try:
        sender.stdout.readline()
        async with FlowRunner(storage, flows=[Waits]):
            await anyio.sleep(0.5)
            for number, run_id in enumerate(run_ids):
                await anyio.sleep(0.013 * (number % 20))
                begun.clear()
                sender.stdin.write(f"{run_id}\n")
                sender.stdin.flush()
                sent = float(await anyio.to_thread.run_sync(sender.stdout.readline))
                while not begun:  # noqa: ASYNC110 - no event reports it
                    await anyio.sleep(0.001)
                found.append(begun[0] - time.perf_counter() + time.time() - sent)
    finally:
        sender.stdin.close()
        sender.wait(10)
    return found


@asynccontextmanager
async def sizes(storage: Any, where: str, count: int) -> AsyncIterator[dict[str, float]]:
    """Yield a dict that has the bytes on the disk of each run afterwards, in addition to its state."""
    found: dict[str, float] = {}
    before = await size(where)
    yield found
    state = len((await storage.load((await storage.runs(limit=1))[0].run_id)).state or b"")
    found["bytes"] = (await size(where) - before) / count - state


async def size(where: str) -> float:
    if where.startswith("/"):
        files = [Path(where + end) for end in ("", "-wal")]
        return float(sum(file.stat().st_size for file in files if file.exists()))
    import psycopg

    async with await psycopg.AsyncConnection.connect(where) as connection:
        found = await (await connection.execute("SELECT pg_database_size(current_database())")).fetchone()
    assert found is not None
    return float(found[0])


async def measure(where: str, options: argparse.Namespace) -> None:
    async with storage_of(where) as storage:
        began = time.perf_counter()
        async with sizes(storage, where, options.runs) as found:
            run_ids = await park(storage, options.runs, time.time() + DAY)
        print(f"{len(run_ids):,} parked runs, stored in {time.perf_counter() - began:.0f} s")
        print(f"on the disk in addition to its state: {found['bytes']:.0f} bytes a run")
        ms, grown = await looks(storage, options.seconds)
        print(f"a look while none is due: {ms:.2f} ms of CPU; memory grew by {grown:.1f} MB in {options.seconds:g} s")
        print(f"{options.due:,} runs due at once: all have begun after {await due_at_once(storage, options.due):.1f} s")
        times = sorted(await latencies(storage, where, run_ids[: options.signals]))
        p99 = times[min(len(times) - 1, math.ceil(len(times) * 0.99) - 1)]
        print(
            f"{len(times)} signals of another process: begun after {median(times) * 1e3:.0f} ms (median), {p99 * 1e3:.0f} ms (p99), "
            f"{times[-1] * 1e3:.0f} ms at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.waiting", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=10_000)
    parser.add_argument("--signals", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    print(machine())
    if options.postgres:
        with postgres() as url:
            anyio.run(measure, url.format(database="postgres"), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(measure, str(Path(folder) / "runs.db"), options)


if __name__ == "__main__":
    main()
