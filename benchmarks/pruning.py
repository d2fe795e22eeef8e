"""How fast `prune` is, and what it leaves to others: `python -m benchmarks.pruning [RUNS] [CONNINFO]`.

Stores RUNS ended runs of three checkpoints each, in SQLite or in the PostgreSQL of CONNINFO, and prunes all but 10 of them while another
run is stored step by step. Prints runs a second, how long a neighbour's commit took, and how much memory grew.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any

import anyio

from asyncflow import SQLiteFlowPersistence
from asyncflow.testing._checkpoints import Chain

AT_ONCE = 500
STEPS = 1


async def main(runs: int, conninfo: str | None) -> None:
    """Store the runs, prune them, and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        storage = _storage(folder, conninfo)
        async with storage:
            for first in range(0, runs, AT_ONCE):
                async with anyio.create_task_group() as group:
                    for n in range(first, min(first + AT_ONCE, runs)):
                        group.start_soon(_stored, storage, f"run {n}")
            before, began, waits = _memory(), time.perf_counter(), list[float]()
            cpu, gone, seconds = time.process_time(), 0, 0.0
            async with anyio.create_task_group() as group:
                group.start_soon(_neighbour, storage, waits)
                gone = await storage.prune(older_than=3600.0, keep_last=10)
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                group.cancel_scope.cancel()
            grown = _memory() - before
    waits.sort()
    print(
        f"{gone} of {runs} runs in {seconds:.2f} s: {gone / seconds:,.0f} a second, {cpu / gone * 1e6:.0f} us of CPU each; "
        f"{len(waits)} commits of a neighbour: median {waits[len(waits) // 2] * 1000:.1f} ms, 99 of 100 below "
        f"{waits[len(waits) * 99 // 100] * 1000:.1f} ms, the longest {waits[-1] * 1000:.1f} ms; memory {grown / 1024:+.1f} MB"
    )


def _storage(folder: str, conninfo: str | None) -> Any:
    if conninfo is None:
        return SQLiteFlowPersistence(os.path.join(folder, "runs.db"))
    from asyncflow.persistence.postgres import PostgresFlowPersistence

    return PostgresFlowPersistence(conninfo, schema=f"pruning_{uuid.uuid4().hex[:8]}")


def _checkpoints(run_id: str) -> Iterator[Any]:
    chain = Chain(run_id)
    yield chain.add()
    for _ in range(STEPS):
        yield chain.add(whole=False)
    yield chain.add(status="finished", kind="finished")


async def _stored(storage: Any, run_id: str) -> None:
    for checkpoint in _checkpoints(run_id):
        await storage.append(checkpoint)


async def _neighbour(storage: Any, waits: list[float]) -> None:
    chain = Chain("neighbour")
    while True:
        began = time.perf_counter()
        await storage.append(chain.add(whole=False) if chain.rows else chain.add())
        waits.append(time.perf_counter() - began)
        await anyio.sleep(0.002)


def _memory() -> int:
    """KB, at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, sys.argv[2] if len(sys.argv) > 2 else None)
