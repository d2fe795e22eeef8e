"""Where a step of W2 spends its time, function by function: `python -m benchmarks.profile [--way full] [--instructions]`.

A timer of the CPU that the process uses notes which function the event loop's thread is in. What the connection's thread does
meanwhile shows as waiting in the selector. With `--instructions`, valgrind counts them instead, library by library: a figure
that repeats to a percent on the busiest machine, for changes to the hot path.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from .environments import FOLDER, ROOT
from .peers import STEPS
from .peers.asyncflow import WAYS
from .works import many

AT_ONCE = 100
EVERY = 0.001
"""Seconds of CPU between two looks."""

GROUPS = (
    ("asyncflow/_scheduling", "decide: what a completion enables, and what changes"),
    ("asyncflow/_definition", "decide: what a completion enables, and what changes"),
    ("asyncflow/_codec/patches", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/_codec", "encode: states and results, and whether they load back equal"),
    ("asyncflow/_values", "copy: a draft for each method, a version for each commit"),
    ("asyncflow/_runtime/chain", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/_runtime/recorder", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/persistence/checkpoint", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/persistence/_database/run_head", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/persistence/sqlite", "record: the checkpoint, its delta and its digests"),
    ("asyncflow/persistence", "commit: the queue, and waking those who wait"),
    ("asyncflow/", "drive: the engine, and what a run's beginning and end cost"),
    ("<string>", "make named tuples and dataclasses, anywhere"),
    ("selectors.py", "wait: the connection's thread, and the disk"),
    ("asyncio/", "the event loop"),
    ("anyio/", "anyio"),
    ("benchmarks/", "the flow's own methods"),
)


async def _measured(way: str, runs: int, every: float) -> tuple[int, float, float, Counter[tuple[str, str]]]:
    """Steps, seconds of CPU of all threads, those of this one, and how often each function was met, of so many runs."""
    seen: Counter[tuple[str, str]] = Counter()

    def look(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            seen[frame.f_code.co_filename, frame.f_code.co_qualname] += 1

    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="profile-", dir=FOLDER) as folder:
        peer: Any = WAYS[way](Path(folder))
        async with peer:
            await many(peer.chain, AT_ONCE, AT_ONCE)
            gc.collect()
            gc.freeze()
            signal.signal(signal.SIGPROF, look)
            cpu, mine = time.process_time(), time.thread_time()
            signal.setitimer(signal.ITIMER_PROF, every, every)
            await many(peer.chain, runs, AT_ONCE)
            signal.setitimer(signal.ITIMER_PROF, 0)
            return runs * STEPS, time.process_time() - cpu, time.thread_time() - mine, seen


def _place(file: str) -> str:
    """Return the name of a file within its project."""
    return re.sub(r"^.*(?=(asyncflow|benchmarks|asyncio|anyio|pydantic|sniffio)/)|^.*/", "", file)


def _group(file: str) -> str:
    return next((group for begins, group in GROUPS if _place(file).startswith(begins)), "the rest")


def by_function(way: str, runs: int, most: int) -> str:
    """Return two tables: what a step costs by activity, and by function."""
    assert threading.current_thread() is threading.main_thread(), "signals are looked at there"
    steps, cpu, mine, seen = asyncio.run(_measured(way, runs, EVERY if most else 0))
    each = cpu / steps * 1e6 / max(1, sum(seen.values()))
    groups: Counter[str] = Counter()
    for (file, _), n in seen.items():
        groups[_group(file)] += n
    lines = [
        f"{cpu / steps * 1e6:.1f} us of CPU a step, {mine / steps * 1e6:.1f} of them in the event loop's thread.",
        "",
    ]
    lines += ["| us a step | |", "| --- | --- |"]
    lines += [f"| {n * each:.1f} | {group} |" for group, n in groups.most_common()]
    lines += ["", "| us a step | function | |", "| --- | --- | --- |"]
    lines += [f"| {n * each:.2f} | `{name}` | {_place(file)} |" for (file, name), n in seen.most_common(most)]
    return "\n".join(lines)


def by_library(way: str) -> str:
    """A table of instructions, from what 300 runs take more than 100."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    with tempfile.TemporaryDirectory() as folder:
        few, many_ = (_counted(way, runs, Path(folder)) for runs in (100, 300))
    many_.subtract(few)
    steps = 200 * STEPS
    lines = [
        f"{sum(many_.values()) / steps:,.0f} instructions a step.",
        "",
        "| instructions a step | in |",
        "| --- | --- |",
    ]
    lines += [f"| {n / steps:,.0f} | {library} |" for library, n in many_.most_common(8)]
    return "\n".join(lines)


def _counted(way: str, runs: int, folder: Path) -> Counter[str]:
    out = folder / f"{runs}"
    python = [sys.executable, "-m", "benchmarks.profile", "--way", way, "--runs", str(runs), "--most", "0"]
    valgrind = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    subprocess.run([*valgrind, *python], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    output = subprocess.run(
        ["callgrind_annotate", "--threshold=100", out], check=True, capture_output=True, text=True
    ).stdout
    found: Counter[str] = Counter()
    for count, library in re.findall(r"^\s*([\d,]+) \([^)]*\)\s+\S+:.*?(?:\[(.*)\])?$", output, re.MULTILINE):
        found[Path(library).name or "elsewhere"] += int(count.replace(",", ""))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=sorted(WAYS), default="full", help="which store")
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--most", type=int, default=30, help="functions in the table; 0: no table")
    parser.add_argument("--instructions", action="store_true", help="count them, under valgrind; some minutes")
    options = parser.parse_args()
    print(by_library(options.way) if options.instructions else by_function(options.way, options.runs, options.most))


if __name__ == "__main__":
    main()
