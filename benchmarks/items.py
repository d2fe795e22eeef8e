"""What the items of a list cost: `python -m benchmarks.items [--rounds 5] [--items 1000] [--large 10000 50000 100000]`.

It compares `each` over a list with as many declared listeners and a join behind them, and with `Send` of LangGraph, at equal
durability; and measures lists that are much longer: time, bytes, memory, and how long the event loop is held.

Each measurement is a process of its own. In it, `each` and the declared listeners take turns; the processes take turns, too.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from .__main__ import machine
from .environments import FOLDER, ROOT, python_of, variables
from .measure import stay_here
from .meters import Meter, resident, size_of, stalls, ticking
from .running import report

LIMIT = 100
TURNS = 5
"""Runs of each kind in one process; one in LangGraph's, which takes much longer."""
WARM = 1_000
"""Items of the run before a measurement of many."""
PLACES = (("asyncflow", "full"), ("asyncflow", "process"), ("langgraph", "sqlite"))
"""Modules of `peers`, and their ways."""

Figures = dict[str, float]


# ---- in the process of a measurement -----------------------------------------------------------------------------


def kinds_of(peer: Any, count: int) -> dict[str, Callable[[], Awaitable[int]]]:
    """Return what is compared, by the title of its line."""
    kinds: dict[str, Callable[[], Awaitable[int]]] = {}
    if hasattr(peer, "store"):
        kinds["declared listeners"] = lambda: peer.fan_out(count)
    kinds[f"limit {LIMIT}"] = lambda: peer.items(count, LIMIT)
    kinds["no limit"] = lambda: peer.items(count, None)
    return kinds


async def compared(peer: Any, count: int, turns: int) -> dict[str, Figures]:
    """Let all kinds take turns. Return the median seconds and seconds of CPU of each."""
    kinds = kinds_of(peer, count)
    spent: dict[str, list[Meter]] = {title: [] for title in kinds}
    for turn in range(turns + 1):  # the first is the warm-up
        for title, run in kinds.items():
            gc.collect()
            meter = Meter()
            assert await run() == count
            if turn:
                spent[title].append(meter.read())
    return {
        title: {"seconds": median(each.seconds for each in all_), "cpu": median(each.cpu for each in all_)}
        for title, all_ in spent.items()
    }


async def long_list(peer: Any, count: int, _: int) -> Figures:
    """Work on one long list, and again with a ticker, which costs time itself."""
    await peer.items(WARM, LIMIT)
    gc.collect()
    memory, stored, meter = resident(), size_of(peer.folder), Meter()
    assert await peer.items(count, LIMIT) == count
    spent, grown = meter.read(), size_of(peer.folder) - stored
    most = highest() - memory
    async with ticking() as late:
        await peer.items(count, LIMIT)
    return {"seconds": spent.seconds, "cpu": spent.cpu, "bytes": grown, "memory": most, **stalls(late)}


def highest() -> int:
    """Bytes of memory in use at most, so far. (What `getrusage` says is not less than what the parent process had.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


async def measure(module: str, way: str, what: str, count: int, turns: int, folder: Path) -> None:
    """Write the figures into the folder, and exit at once."""
    stored = folder / "stored"
    stored.mkdir()
    async with importlib.import_module(f"benchmarks.peers.{module}").WAYS[way](stored) as peer:
        figures = await {"compared": compared, "long": long_list}[what](peer, count, turns)
        (folder / "figures.json").write_text(json.dumps(figures))
        os._exit(0)


# ---- in the process that compares --------------------------------------------------------------------------------


def measured(module: str, way: str, what: str, count: int, turns: int = TURNS) -> Any:
    """Return the figures of a process of its own."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="items-", dir=FOLDER, ignore_cleanup_errors=True) as folder:
        arguments = (module, way, what, str(count), str(turns), folder)
        command = [str(python_of(module)), "-m", "benchmarks.items", "--measure", *arguments]
        subprocess.run(command, cwd=ROOT, env=variables(Path(folder)), check=True)
        return json.loads(Path(folder, "figures.json").read_text())


def compare(items: int, rounds: int) -> None:
    """Print a table: milliseconds, those of CPU, and times the declared listeners of equal durability, median and spread."""
    found: dict[tuple[str, str, str], list[Figures]] = {}
    for n in range(rounds):
        for module, way in PLACES:
            report(f"round {n + 1} of {rounds}: {module} {way}")
            turns = TURNS if module == "asyncflow" else 1
            for title, figures in measured(module, way, "compared", items, turns).items():
                found.setdefault((module, way, title), []).append(figures)
    print(f"\n{items:,} items, SQLite, {rounds} rounds\n")
    print(f"| | ms | ms of CPU | CPU: times declared listeners | time, CPU: times `each` with limit {LIMIT}, full |")
    print("| - | - | - | - | - |")
    ours = found["asyncflow", "full", f"limit {LIMIT}"]
    for (module, way, title), figures in found.items():
        declared = found["asyncflow", "full" if way == "sqlite" else way, "declared listeners"]
        times = [f"{median(each[of] for each in figures) * 1e3:,.0f}" for of in ("seconds", "cpu")]
        versus = ", ".join(ratio(figures, ours, of) for of in ("seconds", "cpu"))
        cells = (f"{module} {way}, {title}", *times, ratio(figures, declared, "cpu"), versus)
        print(f"| {' | '.join(cells)} |")


def ratio(figures: list[Figures], others: list[Figures], of: str) -> str:
    """Return the median of each round's ratio, and the lowest and highest."""
    ratios = sorted(mine[of] / theirs[of] for mine, theirs in zip(figures, others, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def grow(sizes: list[int]) -> None:
    """Print a table of long lists."""
    print("\n| items | seconds | us of CPU an item | bytes an item | MB of memory more | loop held, ms: p99, longest |")
    print("| - | - | - | - | - | - |")
    for size in sizes:
        report(f"{size:,} items")
        f: Figures = measured("asyncflow", "process", "long", size)
        each = f"{f['cpu'] / size * 1e6:.0f} | {f['bytes'] / size:.0f}"
        held = f"{f['stall_p99_ms']:.1f}, {f['stall_max_ms']:.0f}"
        print(f"| {size:,} | {f['seconds']:.1f} | {each} | {f['memory'] / 1e6:.0f} | {held} |")


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        module, way, what, count, turns, folder = sys.argv[2:]
        sys.addaudithook(stay_here)
        anyio.run(measure, module, way, what, int(count), int(turns), Path(folder))
    parser = argparse.ArgumentParser(prog="benchmarks.items", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=1_000)
    parser.add_argument("--large", type=int, nargs="*", default=[10_000, 50_000, 100_000])
    options = parser.parse_args()
    print(machine(), time.strftime("%Y-%m-%d"))
    if options.rounds:
        compare(options.items, options.rounds)
    if options.large:
        grow(options.large)


if __name__ == "__main__":
    main()
