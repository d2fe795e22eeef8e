"""Compare two builds side by side: CPU per step in W1 and W2, with and without storage.

    python -m benchmarks --against PATH

PATH is a folder that contains another version of the package `asyncflow`, such as an exported commit. Each round starts a
fresh process for each build. The two processes take turns, a fraction of a second each, so that both meet the same noise. A
round's figure is the median ratio of neighbouring turns; the result is the median of the rounds.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from .environments import FOLDER, ROOT
from .peers import STEPS
from .running import report
from .works import many

AIM = 1.02
"""CPU a step, at most, as a multiple of the other build's."""
TURNS = 20
"""Turns of each build in a round."""
CASES: tuple[tuple[str, str, int], ...] = (
    ("W1", "none", 1),
    ("W1", "full", 1),
    ("W2", "none", 100),
    ("W2", "full", 100),
)
"""Work, way of `peers/asyncflow.py`, and runs at once."""


@dataclass
class Comparison:
    """One line: the median CPU a step of both builds, in microseconds, and their ratio, round by round."""

    work: str
    way: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def compared(other: Path, rounds: int, seconds: float) -> list[Comparison]:
    """All lines. `seconds`: how long all turns of one build may take in one round, about."""
    lines = [Comparison(work, way) for work, way, _ in CASES]
    for n in range(rounds):
        for line, (work, way, at_once) in zip(lines, CASES, strict=True):
            report(f"round {n + 1} of {rounds}: {work} {way}")
            with (
                tempfile.TemporaryDirectory(prefix="against-", dir=_made(FOLDER), ignore_cleanup_errors=True) as folder,
                _worker(ROOT, way, at_once, seconds / TURNS, Path(folder) / "ours") as ours,
                _worker(other, way, at_once, seconds / TURNS, Path(folder) / "theirs") as theirs,
            ):
                note(line, ours, theirs, n)
    return lines


def note(line: Comparison, ours: Callable[[], float], theirs: Callable[[], float], number: int) -> None:
    """One round: the two take turns, and which of them is first alternates."""
    pairs: list[tuple[float, float]] = []
    for turn in range(TURNS):
        if (turn + number) % 2:
            b, a = theirs(), ours()
        else:
            a, b = ours(), theirs()
        pairs.append((a, b))
    line.ours.append(statistics.median(a for a, _ in pairs))
    line.theirs.append(statistics.median(b for _, b in pairs))
    line.ratios.append(statistics.median(a / b for a, b in pairs))


def table(lines: Sequence[Comparison]) -> str:
    """The lines as a table. A ratio above the aim is bold."""
    rows = [
        "| work | store | us of CPU a step | the other build's | ratio | round by round |",
        "| - | - | - | - | - | - |",
    ]
    for line in lines:
        ratio = f"{line.ratio:.3f}"
        shown = ratio if line.ratio <= AIM else f"**{ratio}**"
        each = " ".join(f"{ratio:.2f}" for ratio in line.ratios)
        ours, theirs = statistics.median(line.ours), statistics.median(line.theirs)
        rows.append(f"| {line.work} | {line.way} | {ours:.1f} | {theirs:.1f} | {shown} | {each} |")
    return "\n".join(rows)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _worker(tree: Path, way: str, at_once: int, seconds: float, folder: Path) -> Iterator[Callable[[], float]]:
    """A process that runs one build, and a function that lets it take a turn, and gives its CPU a step."""
    asked = (str(tree), way, str(at_once), str(seconds), str(_made(folder)))
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.against", *asked],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""},
    )
    asking, answers = process.stdin, process.stdout
    assert asking is not None, "a pipe"
    assert answers is not None, "a pipe"

    def turn() -> float:
        asking.write("\n")
        asking.flush()
        return float(json.loads(answers.readline()))

    try:
        turn()  # warm-up: caches are filled
        yield turn
    finally:
        with contextlib.suppress(BrokenPipeError):
            asking.close()
        process.wait()
        answers.close()


def main(tree: str, way: str, at_once: str, seconds: str, folder: str) -> None:
    """In the process of one build: import it, and take turns."""
    sys.path.insert(0, tree)
    peers = importlib.import_module("benchmarks.peers.asyncflow")
    found = Path(importlib.import_module("asyncflow").__file__ or "").resolve()
    if not found.is_relative_to(Path(tree).resolve()):
        raise SystemExit(f"asyncflow was imported from {found}, not from {tree}")
    anyio.run(work, peers.WAYS[way], int(at_once), float(seconds), Path(folder))


async def work(make: Any, at_once: int, seconds: float, folder: Path) -> None:
    """A turn for each line of stdin."""
    async with make(folder) as peer:
        await many(peer.chain, 20 * at_once, at_once)
        runs = await _fitting(peer, at_once, seconds)
        gc.collect()
        gc.freeze()
        while await anyio.to_thread.run_sync(sys.stdin.readline):
            gc.collect()
            began = time.process_time()
            await many(peer.chain, runs, at_once)
            print(json.dumps((time.process_time() - began) / runs / STEPS * 1e6), flush=True)


async def _fitting(peer: Any, at_once: int, seconds: float) -> int:
    """How many runs fit into a turn: at least as many as run at once."""
    began = time.perf_counter()
    await many(peer.chain, 4 * at_once, at_once)
    each = (time.perf_counter() - began) / (4 * at_once)
    return max(at_once, int(seconds / each))


if __name__ == "__main__":
    main(*sys.argv[1:])
