"""Meters of the own process: time, CPU, bytes written, syncs, memory, and how long its event loop was blocked."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

TICK = 0.001
"""Seconds that the ticker sleeps; the time that it oversleeps is how long the event loop was blocked."""

SYNCS = "BENCHMARKS_SYNCS"
"""The environment variable that names the file in which strace writes a line for each sync."""


def written() -> int:
    """Return the bytes that this process has passed to write calls; 0 where the system does not report them."""
    try:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["wchar"])


def synced() -> int | None:
    """Return the completed calls of fsync and fdatasync; None if they are not counted."""
    named = os.environ.get(SYNCS)
    return None if named is None else sum("unfinished" not in line for line in Path(named).read_text().splitlines())


def resident() -> int:
    """Bytes of memory in use."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return peak()


def peak() -> int:
    """Bytes of memory in use at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Meter:
    """Spent since it was made: seconds, seconds of CPU in all threads, bytes written, syncs."""

    def __init__(self) -> None:
        self._synced, self._written = synced(), written()
        self._cpu, self._began = time.process_time(), time.perf_counter()

    def read(self) -> Meter:
        """Stop it."""
        self.seconds, self.cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        self.bytes, syncs = written() - self._written, synced()
        self.syncs = None if syncs is None or self._synced is None else syncs - self._synced
        return self


@asynccontextmanager
async def ticking() -> AsyncIterator[list[float]]:
    """Seconds by which each tick came late, in order of size at the end. One that never came counts, too."""
    late: list[float] = []
    since = time.perf_counter()

    def note() -> None:
        nonlocal since
        now = time.perf_counter()
        late.append(max(0.0, now - since - TICK))
        since = now

    async def tick() -> None:
        while True:
            await anyio.sleep(TICK)
            note()

    async with anyio.create_task_group() as group:
        group.start_soon(tick)
        yield late
        note()
        group.cancel_scope.cancel()
    late.sort()


def stalls(late: list[float]) -> dict[str, float]:
    late = late or [0.0]
    return {"stall_p99_ms": late[int(len(late) * 0.99)] * 1e3, "stall_max_ms": late[-1] * 1e3}
