"""One measurement, in a process of its own: `python -m benchmarks.measure WAY LOOP RUNS AT_ONCE` prints a JSON object."""

from __future__ import annotations

import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from .work import STEPS, WAYS, Run

TICK = 0.001
"""Seconds that the ticker sleeps; what it oversleeps is how long the event loop was held."""

LOOPS: dict[str, dict[str, Any]] = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Seconds by which each tick came late."""
    late: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(TICK)
            late.append(time.perf_counter() - before - TICK)

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        yield late
        group.cancel_scope.cancel()


async def many(run: Run, runs: int, at_once: int) -> None:
    """That many runs, at most so many at once; 0 for all of them."""
    if at_once == 1:
        for _ in range(runs):
            await run()
        return
    limiter = anyio.CapacityLimiter(at_once) if at_once else None

    async def limited() -> None:
        if limiter is None:
            await run()
            return
        async with limiter:
            await run()

    async with anyio.create_task_group() as group:
        for _ in range(runs):
            group.start_soon(limited)


async def measured(way: str, runs: int, at_once: int, folder: Path) -> dict[str, float]:
    """Seconds, seconds of CPU and what was written; and then, in as many runs again, how long the loop was held."""
    held_open, run = WAYS[way].made(folder)
    async with held_open:
        await many(run, min(runs, 100), at_once)  # warm up
        gc.collect()
        gc.freeze()  # what a server does once it is loaded: modules are not looked through again and again
        written, cpu, began = _written(), time.process_time(), time.perf_counter()
        await many(run, runs, at_once)
        seconds, cpu, written = time.perf_counter() - began, time.process_time() - cpu, _written() - written
        async with ticking() as late:
            if at_once != 1:
                await many(run, runs, at_once)
    late = sorted(late) or [0.0]
    steps = runs * STEPS
    return {
        "us_a_step": seconds / steps * 1e6,
        "steps_a_second": steps / seconds,
        "cpu_us_a_step": cpu / steps * 1e6,
        "stall_p99_ms": late[int(len(late) * 0.99)] * 1e3,
        "stall_max_ms": late[-1] * 1e3,
        "bytes_a_step": written / steps,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20),
    }


def _written() -> int:
    """Bytes that this process has handed to write calls; 0 where the system does not say."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["wchar"])


def main(way: str, loop: str, runs: str, at_once: str) -> None:
    with tempfile.TemporaryDirectory(prefix="asyncflow-bench-") as folder:
        figures = anyio.run(measured, way, int(runs), int(at_once), Path(folder), **LOOPS[loop])
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
