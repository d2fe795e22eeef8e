"""The workloads, the same for every library. Each takes as many runs as fit into its seconds, says how many, and answers with rates."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .meters import Meter, peak, resident, size_of, stalls, ticking, written
from .peers import STEPS, Chains, Cycles, FansOut, Resting, Stores, Turns, record

Figures = dict[str, float]
Measure = Callable[[Any, int, float, TaskGroup], Awaitable[Figures]]
"""Of a peer, a size, the seconds that it may take, about, and a task group that is ended with the process: the figures."""

RECORDS = 9_000
"""About a megabyte as JSON."""
PAUSE = 0.01
"""Seconds that each step of W6 sleeps."""
ENDLESS = 1e6


async def many(run: Callable[[], Awaitable[object]], runs: int, at_once: int) -> None:
    """That many runs, at most so many at once; 0 for all of them."""
    if at_once == 1:
        for _ in range(runs):
            await run()
        return
    limiter = anyio.CapacityLimiter(at_once or runs)

    async def limited() -> None:
        async with limiter:
            await run()

    async with anyio.create_task_group() as group:
        for _ in range(runs):
            group.start_soon(limited)


async def warmed(run: Callable[[], Awaitable[object]], most: int, at_once: int, seconds: float) -> int:
    """Run a few, and then twice as many, until they take a tenth of the time; say how many can be expected to fit into it.

    But not fewer than are to run at once (100, if all are), unless those would take ten times as long.
    """
    await many(run, 3, 1)
    few, took, each = 1, 0.0, seconds
    while took < seconds / 10 and few < most:
        few = min(2 * few, most)
        began = time.perf_counter()
        await many(run, few, at_once)
        took = time.perf_counter() - began
        each = min(each, took / few)  # the machine may have been busy with something else
    gc.collect()
    gc.freeze()  # what a server does once it is loaded: the garbage collector skips the loaded modules
    fewest = min(at_once or 100, int(10 * seconds / each))
    return max(2, min(most, max(fewest, int(seconds / each))))


async def chains(peer: Chains, size: int, seconds: float, _: TaskGroup, at_once: int) -> Figures:
    """W1, W2: runs of the chain. Stalls are measured in a second round, because the ticker itself costs time."""
    runs = await warmed(peer.chain, size, at_once, seconds)
    meter = Meter()
    await many(peer.chain, runs, at_once)
    spent = meter.read()
    async with ticking() as late:
        if at_once != 1:
            await many(peer.chain, runs, at_once)
    steps = runs * STEPS
    return {
        "runs": runs,
        "us_a_step": spent.seconds / steps * 1e6,
        "steps_a_second": steps / spent.seconds,
        "cpu_us_a_step": spent.cpu / steps * 1e6,
        "bytes_a_step": spent.bytes / steps,
        **({} if spent.syncs is None else {"syncs_a_step": spent.syncs / steps}),
        "peak_mb": peak() / 1e6,
        **stalls(late),
    }


async def fan_out(peer: FansOut, width: int, seconds: float, _: TaskGroup) -> Figures:
    """W3: a method, so many listeners of it, and a join. Bytes are those of all runs, as some run has the database's upkeep."""
    times: list[float] = []
    wrote = 0
    await peer.fan_out(width)
    began = time.perf_counter()
    while len(times) < 20 and (not times or time.perf_counter() - began < seconds):
        meter = Meter()
        assert await peer.fan_out(width) == width
        spent = meter.read()
        times.append(spent.seconds)
        wrote += spent.bytes
    return {"runs": len(times), "ms": statistics.median(times) * 1e3, "written_kb": wrote / len(times) / 1e3}


async def large_state(peer: Cycles, steps: int, seconds: float, _: TaskGroup, appends: bool) -> Figures:
    """W4: a state of 1 MB, of which each step changes one record, or appends one."""

    def turns(sample: Callable[[], Any]) -> Turns:
        place = (lambda n: RECORDS + n) if appends else (lambda n: RECORDS // 2 + n)
        return Turns(steps, every=1, sample=sample, seconds=seconds, place=place)

    def records() -> list[Any]:
        return [record(n) for n in range(RECORDS)]

    await peer.cycle([record(0)], Turns(2, every=1, sample=int, seconds=seconds, place=None))
    gc.collect()
    gc.freeze()
    timed = turns(lambda: (time.perf_counter(), written()))
    assert await peer.cycle(records(), timed) == RECORDS + appends * timed.taken
    (began, before), (ended, after) = timed.samples[0], timed.samples[-1]
    again, watched = records(), turns(int)
    async with ticking() as late:
        await peer.cycle(again, watched)
    between = len(timed.samples) - 1  # the first sample is taken within the first step
    return {
        "steps": timed.taken,
        "ms_a_step": (ended - began) / between * 1e3,
        "written_kb": (after - before) / between / 1e3,
        **stalls(late),
    }


async def loads(peer: Stores, size: int, seconds: float, _: TaskGroup) -> Figures:
    """W5: loading by id, from a store of a few runs and from a full one."""

    async def fill(runs: int) -> None:
        async def run() -> None:
            ids.append(await peer.chain())

        await many(run, runs, 100)

    async def load() -> float:
        times = []
        for run_id in random.Random(0).choices(ids, k=300):
            began = time.perf_counter()
            assert await peer.load(run_id) == STEPS
            times.append(time.perf_counter() - began)
        return statistics.median(times) * 1e3

    ids: list[str] = []
    runs = await warmed(peer.chain, size, 100, seconds)
    await fill(20)
    empty = await load()
    began, bytes_before = time.perf_counter(), size_of(peer.folder)
    while len(ids) < 40 or (len(ids) < runs and time.perf_counter() - began < seconds):
        await fill(min(100, max(20, runs - len(ids))))
    stored = size_of(peer.folder) - bytes_before
    full = await load()
    return {
        "runs": len(ids),
        "ms": full,
        "empty_ms": empty,
        "times_empty": full / empty,
        "mb_a_100000": stored / (len(ids) - 20) / STEPS * 1e5 / 1e6,
    }


async def sleepers(peer: Chains, size: int, seconds: float, _: TaskGroup) -> Figures:
    """W6: runs at once whose steps sleep."""

    async def run() -> None:
        await peer.chain(PAUSE)

    runs = await warmed(run, size, 0, seconds)
    meter = Meter()
    await many(run, runs, 0)
    spent = meter.read()
    return {"runs": runs, "seconds": spent.seconds, "us_a_step": spent.seconds / runs / STEPS * 1e6}


async def long_cycle(peer: Cycles, size: int, seconds: float, _: TaskGroup) -> Figures:
    """W7: one run of many turns: what a step costs at the beginning, and at the end."""
    every = max(1, min(1_000, size // 100))
    await peer.cycle([], Turns(2, every=1, sample=int, seconds=seconds, place=None))
    turns = Turns(size, every=every, sample=lambda: (time.perf_counter(), resident()), seconds=seconds, place=None)
    await peer.cycle([], turns)
    times = [(right[0] - left[0]) / every * 1e6 for left, right in zip(turns.samples, turns.samples[1:], strict=False)]
    few = max(1, len(times) // 10)
    half = len(turns.samples) // 2
    grown = turns.samples[-1][1] - turns.samples[half][1]
    first, last = statistics.median(times[:few]), statistics.median(times[-few:])
    return {
        "steps": turns.taken,
        "first_us": first,
        "last_us": last,
        "last_to_first": last / first,
        "bytes_a_step": grown / max(1, (len(turns.samples) - 1 - half) * every),
    }


async def live(peer: Chains, size: int, seconds: float, background: TaskGroup) -> Figures:
    """W8: runs that live and sleep. They are started in a task group of the caller, and left alive."""
    await many(peer.chain, 20, 0)
    gc.collect()
    before, until, asked = resident(), time.perf_counter() + seconds, 0
    while asked < size and time.perf_counter() < until:
        for _ in range(min(100, size - asked)):
            background.start_soon(peer.chain, ENDLESS)
            asked += 1
        while Resting.now < asked and time.perf_counter() < until:  # noqa: ASYNC110  (or until the time is up)
            await anyio.sleep(0.001)
    runs = Resting.now
    gc.collect()
    return {"runs": runs, "kb_a_run": (resident() - before) / runs / 1e3}


@dataclass(frozen=True)
class Column:
    """`figure`, under a `title`, as `form` writes it."""

    figure: str
    title: str
    form: str = "{:,.0f}"


@dataclass(frozen=True)
class Work:
    """One table: the workload, its size, which figures are shown, and which of them (`key`: less is better) are compared."""

    title: str
    does: str
    """The method of a peer that it needs."""
    measure: Measure
    size: int
    columns: tuple[Column, ...]
    key: str
    lasting_size: int = 0
    """Its size where there is a store, if it is another one."""
    short: int = 0
    """Its size in the named subset, of which it is no part if 0."""
    needs_store: bool = False
    rounds: int = 0
    """At most so many rounds; 0: as many as asked for."""
    patience: float = 1.0
    """How many times the usual seconds it may take."""


RUNS = Column("runs", "runs")
US = Column("us_a_step", "us a step")
BYTES = Column("bytes_a_step", "bytes a step")
KB = Column("written_kb", "KB written", "{:,.1f}")
STALLS = (Column("stall_p99_ms", "stall p99, ms", "{:,.1f}"), Column("stall_max_ms", "stall max, ms"))
RATES = (
    RUNS,
    Column("steps_a_second", "steps a second"),
    Column("cpu_us_a_step", "us of CPU a step"),
    *STALLS,
    BYTES,
    Column("peak_mb", "peak MB"),
)

WORKS: dict[str, Work] = {
    "W1": Work(
        "chain of 10 methods, one run at a time",
        "chain",
        partial(chains, at_once=1),
        1_000,
        (
            RUNS,
            US,
            Column("cpu_us_a_step", "us of CPU a step"),
            BYTES,
            Column("syncs_a_step", "syncs a step", "{:,.1f}"),
        ),
        "us_a_step",
        short=200,
    ),
    "W2": Work(
        "1,000 runs of the chain, 100 at a time",
        "chain",
        partial(chains, at_once=100),
        1_000,
        RATES,
        "us_a_step",
        short=1_000,
    ),
    "W2-all": Work(
        "1,000 runs of the chain, all at once", "chain", partial(chains, at_once=0), 1_000, RATES, "us_a_step"
    ),
    "W3": Work(
        "100 listeners, then a join",
        "fan_out",
        fan_out,
        100,
        (RUNS, Column("ms", "ms", "{:,.1f}"), KB),
        "ms",
        short=100,
    ),
    "W3-wide": Work(
        "1,000 listeners, then a join", "fan_out", fan_out, 1_000, (RUNS, Column("ms", "ms", "{:,.1f}"), KB), "ms"
    ),
    "W4": Work(
        "1 MB of state, one record appended a step, 20 steps",
        "cycle",
        partial(large_state, appends=True),
        20,
        (Column("steps", "steps"), Column("ms_a_step", "ms a step", "{:,.1f}"), KB, *STALLS),
        "ms_a_step",
        short=20,
        patience=3,
    ),
    "W4-middle": Work(
        "1 MB of state, one record in the middle changed a step, 20 steps",
        "cycle",
        partial(large_state, appends=False),
        20,
        (Column("steps", "steps"), Column("ms_a_step", "ms a step", "{:,.1f}"), KB, *STALLS),
        "ms_a_step",
        patience=3,
    ),
    "W4-long": Work(
        "1 MB of state, one record appended a step, 400 steps",
        "cycle",
        partial(large_state, appends=True),
        400,
        (Column("steps", "steps"), Column("ms_a_step", "ms a step", "{:,.1f}"), KB, *STALLS),
        "ms_a_step",
        rounds=1,
        patience=10,
    ),
    "W5": Work(
        "loading by id, with 10,000 runs of the chain stored",
        "load",
        loads,
        10_000,
        (
            Column("runs", "runs stored"),
            Column("ms", "ms a load", "{:,.2f}"),
            Column("empty_ms", "with 20 runs stored", "{:,.2f}"),
            Column("times_empty", "times as long", "{:,.2f}"),
            Column("mb_a_100000", "MB for 100,000 steps"),
        ),
        "ms",
        needs_store=True,
        rounds=3,
        patience=4,
    ),
    "W6": Work(
        "5,000 runs at once, 10 methods that sleep 10 ms",
        "chain",
        sleepers,
        5_000,
        (RUNS, Column("seconds", "seconds", "{:,.2f}"), US),
        "us_a_step",
        rounds=3,
        patience=4,
    ),
    "W7": Work(
        "one run of 1,000,000 turns; 10,000 with a store",
        "cycle",
        long_cycle,
        1_000_000,
        (
            Column("steps", "turns"),
            Column("first_us", "us a turn, first tenth"),
            Column("last_us", "us a turn, last tenth"),
            Column("last_to_first", "last to first", "{:,.2f}"),
            Column("bytes_a_step", "bytes kept a turn, second half", "{:,.1f}"),
        ),
        "last_us",
        lasting_size=10_000,
        rounds=1,
        patience=10,
    ),
    "W8": Work(
        "10,000 live runs that sleep",
        "chain",
        live,
        10_000,
        (RUNS, Column("kb_a_run", "KB a run", "{:,.1f}")),
        "kb_a_run",
        rounds=1,
        patience=4,
    ),
}
