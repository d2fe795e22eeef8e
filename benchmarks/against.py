"""Compare two builds side by side: CPU per step in W1 and W2, with and without storage, and per load in W5.

    python -m benchmarks --against PATH

PATH is a folder that contains another version of the package `asyncflow`, such as an exported commit. Each round is a fresh
process that imports both builds. They take turns, a fraction of a second each: so they meet the same noise, on the same heap and
event loop. A round's figure is the median ratio of neighbouring turns; the result is the median of the rounds.

Two processes, one a build, were tried first: how well a process fits the caches is a matter of luck, and differs by 20 %.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
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
    ("W5", "full", 1),
)
"""Work, way of `peers/asyncflow.py`, and runs at once. W5 loads one of its runs by id."""

Pairs = list[tuple[float, float]]
"""For each turn, the CPU time per step or load of both builds, in microseconds."""


@dataclass
class Comparison:
    """One line: the median CPU time of both builds, in microseconds, and their ratio, round by round."""

    work: str
    way: str
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def add(self, pairs: Pairs) -> None:
        """Add a round."""
        self.ours.append(statistics.median(a for a, _ in pairs))
        self.theirs.append(statistics.median(b for _, b in pairs))
        self.ratios.append(statistics.median(a / b for a, b in pairs))

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def compared(other: Path, rounds: int, seconds: float) -> list[Comparison]:
    """All lines. `seconds`: how long all turns of one build may take in one round, about."""
    lines = [Comparison(work, way) for work, way, _ in CASES]
    for n in range(rounds):
        for line, (work, way, at_once) in zip(lines, CASES, strict=True):
            report(f"round {n + 1} of {rounds}: {work} {way}")
            line.add(a_round(other, work, way, at_once, seconds / TURNS))
    return lines


def table(lines: Sequence[Comparison]) -> str:
    """The lines as a table. A ratio above the aim is bold."""
    rows = [
        "| work | store | us of CPU a step, in W5 a load | the other build's | ratio | round by round |",
        "| - | - | - | - | - | - |",
    ]
    for line in lines:
        ratio = f"{line.ratio:.3f}"
        shown = ratio if line.ratio <= AIM else f"**{ratio}**"
        each = " ".join(f"{ratio:.2f}" for ratio in line.ratios)
        ours, theirs = statistics.median(line.ours), statistics.median(line.theirs)
        rows.append(f"| {line.work} | {line.way} | {ours:.1f} | {theirs:.1f} | {shown} | {each} |")
    return "\n".join(rows)


def a_round(other: Path, work: str, way: str, at_once: int, seconds: float) -> Pairs:
    """A process that runs both builds; a turn takes about so many seconds."""
    command = [sys.executable, "-m", "benchmarks.against", str(other), work, way, str(at_once), str(seconds)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    pairs: Pairs = json.loads(done.stdout)
    return pairs


# ---- in the process of a round -----------------------------------------------------------------------------------


class Build:
    """A version of the package, imported next to another one of the same name."""

    def __init__(self, tree: Path) -> None:
        self._modules: dict[str, ModuleType] = {}
        sys.path.insert(0, str(tree))
        try:
            with self.imported():
                self.peers = importlib.import_module("benchmarks.peers.asyncflow")
                found = Path(importlib.import_module("asyncflow").__file__ or "").resolve()
        finally:
            sys.path.remove(str(tree))
        if not found.is_relative_to(tree.resolve()):
            raise SystemExit(f"asyncflow was imported from {found}, not from {tree}")

    @contextlib.contextmanager
    def imported(self) -> Iterator[None]:
        """While this lasts, the package's name means this version: it reads its own files by that name."""
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            for name in [name for name in sys.modules if _is_of_a_build(name)]:
                self._modules[name] = sys.modules.pop(name)


def _is_of_a_build(name: str) -> bool:
    return name.partition(".")[0] == "asyncflow" or name.startswith("benchmarks.peers.")


class Turns:
    """What one build does in its turns."""

    def __init__(self, build: Build, peer: Any, work: str, at_once: int) -> None:
        self._build = build
        self._peer = peer
        self._at_once = at_once
        self._loads = work == "W5"

    async def _done(self, count: int) -> None:
        if not self._loads:
            await many(self._peer.chain, count, self._at_once)
            return
        for _ in range(count):
            assert await self._peer.load(self._id) == STEPS

    async def warm_up(self) -> None:
        """Fill the caches, and store the run that is loaded."""
        with self._build.imported():
            await many(self._peer.chain, 20 * self._at_once, self._at_once)
            if self._loads:
                self._id = await self._peer.chain()
                await self._done(20)

    async def fitting(self, seconds: float) -> int:
        """How many runs or loads fit into a turn: at least as many as run at once."""
        with self._build.imported():
            began = time.perf_counter()
            await self._done(4 * self._at_once)
            each = (time.perf_counter() - began) / (4 * self._at_once)
        return max(self._at_once, int(seconds / each))

    async def take(self, count: int) -> float:
        """CPU time per step or load, in microseconds."""
        with self._build.imported():
            gc.collect()
            began = time.process_time()
            await self._done(count)
            return (time.process_time() - began) / count / (1 if self._loads else STEPS) * 1e6


async def in_turns(
    ours: Callable[[], Awaitable[float]], theirs: Callable[[], Awaitable[float]], count: int = TURNS
) -> Pairs:
    """The two take turns, and which of them is first alternates."""
    pairs: Pairs = []
    for turn in range(count):
        if turn % 2:
            b, a = await theirs(), await ours()
        else:
            a, b = await ours(), await theirs()
        pairs.append((a, b))
    return pairs


async def measured(other: Path, work: str, way: str, at_once: int, seconds: float, folder: Path) -> Pairs:
    """A round."""
    both: list[Turns] = []
    async with contextlib.AsyncExitStack() as opened:
        for tree in (ROOT, other):
            build = Build(tree)
            with build.imported():
                place = folder / str(len(both))
                place.mkdir()
                peer = await opened.enter_async_context(build.peers.WAYS[way](place))
            both.append(Turns(build, peer, work, at_once))
        for each in both:
            await each.warm_up()
        count = max([await each.fitting(seconds) for each in both])
        gc.collect()
        gc.freeze()
        ours, theirs = both
        return await in_turns(lambda: ours.take(count), lambda: theirs.take(count))


def main(other: str, work: str, way: str, at_once: str, seconds: str) -> None:
    """Print the pairs of a round as JSON."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="against-", dir=FOLDER, ignore_cleanup_errors=True) as folder:
        pairs = anyio.run(measured, Path(other), work, way, int(at_once), float(seconds), Path(folder))
    print(json.dumps(pairs))


if __name__ == "__main__":
    main(*sys.argv[1:])
