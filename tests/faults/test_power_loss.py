"""R03: the power fails at any moment, and takes whatever was not synced. What was acknowledged is there."""

import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import pytest
from answers import Answers
from figures import FACTOR, SEED, tell
from vfs import (
    Acknowledged,
    Chain,
    Disk,
    FanOut,
    Image,
    Large,
    Loop,
    Recording,
    Synced,
    Telling,
    answered,
    connecting_with,
    ended,
    put,
    the_vfs,
)

from asyncflow import Flow, SQLiteFlowPersistence
from asyncflow.errors import AsyncflowError

RUNS: dict[str, type[Flow[Any]]] = {
    "chain": Chain,
    "fan-out": FanOut,
    "loop": Loop,
    "signals": Answers,
    **{f"together {n}": flow for n, flow in enumerate((Chain, FanOut, Loop, Large))},
}
SIDE_BY_SIDE = 4
"""Images that are looked at together: each waits for its threads much of the time."""

RESUMED = 20
"""One image in so many is not only loaded, but its runs are resumed."""


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: images are many, and their own syncs prove nothing."""
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        yield Path(folder)


@dataclass(slots=True)
class Run:
    """What was recorded, and the result of an undisturbed run."""

    recording: Recording
    digests: list[bytes]
    """Of all checkpoints of all runs, in the order of their commits."""
    ends: dict[str, dict[str, Any]]


def recorded(
    folder: Path,
    durability: Literal["full", "process"],
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[str], str] = str,
) -> Run:
    """Run flows one by one and side by side, through several openings, on a database that often folds its log in.

    `told`: what SQLite gets instead of a statement.
    """

    async def drive() -> dict[str, dict[str, Any]]:
        await Chain(persistence=persistence).kickoff({"id": "chain"})
        async with persistence:
            await FanOut(persistence=persistence).kickoff({"id": "fan-out"})
            await Loop(persistence=persistence).kickoff({"id": "loop"})
            await answered("signals", persistence)
        async with persistence, anyio.create_task_group() as group:
            for run_id in RUNS:
                if run_id.startswith("together"):
                    group.start_soon(RUNS[run_id](persistence=persistence).kickoff, {"id": run_id})
        return {run_id: await end_of(run_id, persistence) for run_id in RUNS}

    with monkeypatch.context() as patch, the_vfs().recorded(folder) as recording:
        connecting_with(patch, "PRAGMA wal_autocheckpoint = 20", told=told)
        persistence = Telling(folder / "runs.db", recording, durability=durability)
        ends = anyio.run(drive)
    assert len(recording.acknowledged) >= 35, "the flows have fewer checkpoints than they should: nothing was tested"
    return Run(recording, stored(folder / "runs.db"), ends)


async def end_of(run_id: str, persistence: SQLiteFlowPersistence) -> dict[str, Any]:
    flow = RUNS[run_id]
    return await (answered(run_id, persistence) if flow is Answers else ended(flow, run_id, persistence))


def sent(path: Path) -> list[bytes]:
    """The digests of the contents of all signals."""
    with closing(sqlite3.connect(path)) as connection:
        return [content for (content,) in connection.execute("SELECT content FROM signals")]


def stored(path: Path, *, resumes: bool = True) -> list[bytes]:
    """The digests of all checkpoints, in the order of their commits. Raises where the database is not whole."""
    kinds = "" if resumes else "WHERE kind <> 'resumed' "
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [digest for (digest,) in connection.execute(f"SELECT digest FROM checkpoints {kinds}ORDER BY id")]


@dataclass(slots=True)
class Figures:
    images: int = 0
    different: set[int] = field(default_factory=set)
    acknowledged: int = 0
    """Acknowledged checkpoints that were looked for, over all images."""
    lost: int = 0
    """Of these, how many were not there."""
    losing: int = 0
    """Images that lack one."""
    resumed: int = 0
    """Runs that were resumed."""

    def add(self, case: "Case", lost: int) -> None:
        self.images += 1
        self.different.add(hash(tuple(case.image.items())))
        self.acknowledged += len(case.acknowledged)
        self.lost += lost
        self.losing += lost > 0

    def __str__(self) -> str:
        return (
            f"{self.images} images, {len(self.different)} different; {self.acknowledged} acknowledged checkpoints looked "
            f"for, {self.lost} lost, in {self.losing} images; {self.resumed} runs resumed"
        )


class Case(NamedTuple):
    """What one power cut leaves, and what it must not have taken."""

    n: int
    image: Image
    acknowledged: frozenset[bytes]


def cut(run: Run, images: int, memory: Path) -> Figures:
    """Cut the power so many times, evenly over all that happened, and look at what is left.

    Lost acknowledgements are counted. Whatever else is wrong in any image fails, with what replays it.
    """
    figures = Figures()
    waiting = cases(run.recording, images)

    async def look_at_some() -> None:
        for case in waiting:
            folder = memory / f"image {case.n}"
            try:
                await look_at(run, case, put(case.image, folder), figures)
            except (AsyncflowError, sqlite3.Error, AssertionError) as error:
                raise AssertionError(
                    f"image {case.n} of {images}, seed {SEED}, {kept(case.image)}: {error!r}"
                ) from error
            shutil.rmtree(folder)

    async def look_at_all() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(SIDE_BY_SIDE):
                group.start_soon(look_at_some)

    anyio.run(look_at_all, backend_options={"use_uvloop": True})
    print(figures)
    return figures


def cases(recording: Recording, images: int) -> Iterator[Case]:
    """Power cuts just after changes that are spread over the recording, each different from those before as far as it goes."""
    events, disk, done = recording.events, Disk(), 0
    changes = [n for n, event in enumerate(events, 1) if not isinstance(event, Synced | Acknowledged)]
    known: set[int] = set()
    for n in range(images):
        moment = changes[n * len(changes) // images]
        for event in events[done:moment]:
            disk.do(event)
        done = moment
        chance = random.Random(f"{SEED} {n}")
        for _ in range(8):
            image = disk.after_power_cut(chance)
            mark = hash(tuple(image.items()))
            if mark not in known:
                break
        known.add(mark)
        yield Case(n, image, frozenset(disk.acknowledged.values()))


async def look_at(run: Run, case: Case, path: Path, figures: Figures) -> None:
    """Open what is left: nothing is corrupt, the order is kept, resumed runs end as ever; and count what is lost."""
    persistence = SQLiteFlowPersistence(path)
    async with persistence:
        loaded = [await persistence.load(run_id) for run_id in RUNS]
        if case.n % 5 == 0:
            assert await persistence.verify() == []
    digests, signals = stored(path), sent(path)

    assert digests == run.digests[: len(digests)], "what is stored is not the beginning of what was committed"
    assert {checkpoint.digest for checkpoint in loaded if checkpoint is not None} <= set(digests)
    if case.n % RESUMED == 0:
        async with persistence:
            for run_id in RUNS:
                assert await end_of(run_id, persistence) == run.ends[run_id]
                figures.resumed += 1
        assert len(stored(path, resumes=False)) == len(run.digests)
    figures.add(case, lost=len(case.acknowledged.difference(digests, signals)))


def kept(image: Image) -> Path:
    """Keep an image that failed."""
    return put(image, Path(tempfile.mkdtemp(prefix="asyncflow-power-")) / "image").parent


@pytest.mark.clauses("D1", "D3", "D4", "X3")
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = int(2000 * FACTOR)
    figures = cut(recorded(tmp_path / "run", "full", monkeypatch), images, memory)
    tell("R03", trials=images, faults=figures.images, acknowledged=figures.acknowledged, lost=figures.lost)

    assert figures.lost == 0, f"seed {SEED}: {figures}"
    assert figures.images == images
    assert len(figures.different) >= min(images, 2000) * 0.7, figures
    assert figures.acknowledged >= images * 10, figures
    assert figures.resumed >= images // RESUMED, figures


@pytest.mark.clauses("D3", "D4")
def test_with_process_durability_a_power_cut_takes_the_newest_and_keeps_the_order(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = int(300 * FACTOR)
    figures = cut(recorded(tmp_path / "run", "process", monkeypatch), images, memory)

    assert figures.images == images
    assert figures.losing >= images * 0.1, f"this would be 'full': {figures}"


@pytest.mark.clauses("D3")
def test_normal_under_the_name_of_full_would_be_caught(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def weaker(sql: str) -> str:
        told.append(sql)
        return sql.replace("synchronous = FULL", "synchronous = NORMAL")

    images = 200
    figures = cut(recorded(tmp_path / "run", "full", monkeypatch, weaker), images, memory)

    assert "PRAGMA synchronous = FULL" in told
    assert figures.losing >= images * 0.1, figures
