"""R05, R06: the disk fails at any call, or is full. A typed error or success, nothing lost, and well again when the disk is."""

import random
import shutil
import signal
import sqlite3
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal, TypeVar

import anyio
import pytest
from figures import FACTOR, SEED, tell
from vfs import (
    CODES,
    Acknowledged,
    Chain,
    Choice,
    Disk,
    FanOut,
    Fault,
    Image,
    Large,
    Loop,
    Recording,
    Tally,
    Telling,
    connecting_with,
    disk_at,
    ended,
    put,
    the_vfs,
)

from asyncflow import Flow, SQLiteFlowPersistence, listen, or_, router, start
from asyncflow.errors import AsyncflowError

FLOWS: tuple[type[Flow[Tally]], ...] = (FanOut, Chain, Loop, Choice, Large)
SWEPT = FLOWS if FACTOR >= 10 else FLOWS[:1]
SECONDS = 60
"""A trial that takes longer hangs."""

RUN = "the run"
T = TypeVar("T")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, where there is one: trials are many, and their own syncs prove nothing."""
    in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=in_memory) as folder:
        yield Path(folder)


@contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    """Fail after so long, again and again, also where nothing can be cancelled."""

    def fail(*_: object) -> None:
        raise TimeoutError(f"it hangs: {seconds} seconds are over")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(slots=True)
class Figures:
    trials: int = 0
    hits: int = 0
    """Calls that failed, over all trials."""
    missed: int = 0
    """Trials in which none did."""
    images: int = 0
    acknowledged: int = 0
    """Acknowledged checkpoints that were looked for, over all images."""
    denied: int = 0
    """Checkpoints that were said not to be saved, and that were looked for."""
    went_on: int = 0
    """Trials in which something was acknowledged after the fault."""
    ends: Counter[str] = field(default_factory=Counter)
    """What the kickoffs ended with."""

    def add(self, recording: Recording, end: str) -> None:
        self.trials += 1
        self.hits += recording.hits
        self.missed += not recording.hits
        after = recording.events[recording.hit_at :] if recording.hits else []
        self.went_on += any(isinstance(event, Acknowledged) for event in after)
        self.ends[end] += 1


def run(work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Run it on a loop of its own, and look that it leaves no thread behind."""
    result = anyio.run(work, *args, backend_options={"use_uvloop": True})
    left = [thread for thread in threading.enumerate() if thread.name.endswith("(_connection_worker_thread)")]
    for thread in left:
        thread.join(0.1)  # one that has reported its last result to the loop may need a moment to end
    assert not any(thread.is_alive() for thread in left), "a connection was left open"
    return result


async def tried(flow: Flow[Tally], inputs: dict[str, Any]) -> str:
    """Run a flow on a disk that may fail: 'success', or the name of the typed error. Any other is let through."""
    try:
        await flow.kickoff(inputs)
    except AsyncflowError as error:
        return type(error).__name__
    return "success"


def undisturbed(flow: type[Flow[Tally]], folder: Path) -> tuple[Counter[str], dict[str, Any]]:
    """How often a run of the flow calls the disk, and what it ends with."""
    with the_vfs().recorded(folder) as recording:
        persistence = Telling(folder / "runs.db", recording)
        assert run(tried, flow(persistence=persistence), {"id": RUN}) == "success"
        calls = Counter(recording.calls)
        ends = run(ended, flow, RUN, persistence)
    return calls, ends


@dataclass(frozen=True, slots=True)
class Sweep:
    """A flow, the result of an undisturbed run, and whether its id is known before: then it is looked up first."""

    flow: type[Flow[Tally]]
    ends: dict[str, Any]
    brings_id: bool = True


def trial(sweep: Sweep, fault: Fault, folder: Path, figures: Figures) -> None:
    """One fault; then the disk is well, and the run is resumed: here, after a crash, and after power cuts."""
    chance = random.Random(f"{SEED} {fault}")
    live = folder / "live"
    with the_vfs().recorded(live, fault) as recording:
        persistence = Telling(live / "runs.db", recording)
        flow = sweep.flow(persistence=persistence)
        end = run(tried, flow, {"id": RUN} if sweep.brings_id else {})
        figures.add(recording, end)
        last = len(recording.events)
        recording.fault = None
        healed = run(ended, sweep.flow, flow.run_id, persistence)
    assert healed == sweep.ends
    assert sound(live / "runs.db")
    at_random = disk_at(recording, chance.randint(recording.hit_at, last))
    decided = disk_at(recording, next(recording.decisions(recording.hit_at), last))

    async def after_crashes() -> None:
        for name, disk, image in (
            ("power cut", at_random, at_random.after_power_cut(chance)),
            ("crash once decided", decided, decided.after_crash()),
            ("power cut once decided", decided, decided.after_power_cut()),
        ):
            path = put(image, folder / name)
            await holds(path, disk, flow.run_id, figures)
            assert await ended(sweep.flow, flow.run_id, SQLiteFlowPersistence(path)) == sweep.ends
            assert sound(path)

    run(after_crashes)


async def holds(path: Path, disk: Disk, run_id: str, figures: Figures) -> None:
    """Open what is left: what was acknowledged is there, and what was said not to be saved is not."""
    known = {c.digest: c.seq for c in await SQLiteFlowPersistence(path).history(run_id)}
    lost = sorted(seq for (_, seq), digest in disk.acknowledged.items() if digest not in known)
    assert not lost, f"{path}: acknowledged and lost: {lost}"
    there = sorted(known[digest] for digest in disk.denied & known.keys())
    assert not there, f"{path}: said not to be saved, and there: {there}"
    figures.images += 1
    figures.acknowledged += len(disk.acknowledged)
    figures.denied += len(disk.denied)


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def tried_all(sweep: Sweep, faults: Sequence[Fault], memory: Path) -> Figures:
    """Try each of the faults. What goes wrong fails with what replays it."""
    figures = Figures()
    for n, fault in enumerate(faults):
        folder = memory / f"trial {n}"
        try:
            with no_hang(SECONDS):
                trial(sweep, fault, folder, figures)
        except Exception as error:
            raise AssertionError(f"{fault}, {sweep}, seed {SEED}: {error!r}") from error
        shutil.rmtree(folder)
    print(figures)
    tell("R05", trials=figures.trials, faults=figures.hits, acknowledged=figures.acknowledged)
    return figures


@pytest.mark.clauses("D1", "D3", "X3")
@pytest.mark.parametrize("times", [1, inf], ids=["once", "for ever"])
@pytest.mark.parametrize("kind", CODES)
@pytest.mark.parametrize("flow", SWEPT)
def test_whichever_call_fails_the_error_is_typed_and_nothing_is_lost(
    flow: type[Flow[Tally]], kind: str, times: float, memory: Path
) -> None:
    calls, ends = undisturbed(flow, memory / "undisturbed")
    faults = [Fault(kind, n, times) for n in range(1, calls[Fault(kind, 1).call] + 1)]
    figures = tried_all(Sweep(flow, ends), faults, memory)

    assert figures.trials == len(faults) >= 2
    assert figures.missed == 0
    assert figures.hits >= figures.trials
    assert figures.ends.keys() <= {"success", "StorageWriteError", "StorageError"}, (
        "a disk that fails is not a damaged file"
    )
    assert figures.images == 3 * figures.trials
    assert figures.acknowledged >= figures.trials


@pytest.mark.clauses("D1", "D3", "S1")
@pytest.mark.parametrize("brings_id", [False, True], ids=["new", "looked up"])
@pytest.mark.parametrize("flow", SWEPT)
def test_a_row_that_is_found_after_a_failed_fsync_counts_only_once_no_power_cut_takes_it(
    flow: type[Flow[Tally]], brings_id: bool, memory: Path
) -> None:
    """A failed fsync may permanently lose what was written before it, though it can be read.

    The row of a failed commit is found where the closing of the connection fails, too: so up to three calls in a row do.
    """
    calls, ends = undisturbed(flow, memory / "undisturbed")
    faults = [Fault("sync", n, times, "-wal") for n in range(1, calls["sync"] - 3) for times in (1, 2, 3)]
    figures = tried_all(Sweep(flow, ends, brings_id), faults, memory)

    assert figures.missed <= 6, figures
    assert figures.went_on >= (0 if brings_id else 3), figures
    assert figures.denied >= 3, figures


class Growing(Flow[Tally]):
    """A large state, another one in each of many turns."""

    @start()
    async def begin(self) -> None: ...

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.steps += 1
        self.state.text = str(self.state.steps) * 9_000
        return self.state.steps

    @router(turn)
    async def more(self, n: int) -> Literal["again"] | None:
        return "again" if n < 6 else None


@pytest.mark.clauses("D1", "D3")
def test_on_the_way_back_from_a_failed_fsync_no_power_cut_leaves_a_malformed_database(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that lacks what readers see in it must not be folded in, not even by closing; here it is folded in all the time."""
    connecting_with(monkeypatch, "PRAGMA wal_autocheckpoint = 3")
    calls, _ = undisturbed(Growing, memory / "undisturbed")
    step = 1 if FACTOR >= 10 else 6
    images = hits = acknowledged = 0
    for fault in [Fault("sync", n, times, "-wal") for n in range(9, calls["sync"], step) for times in (3, 4)]:
        live = memory / str(fault)
        with no_hang(SECONDS), the_vfs().recorded(live, fault) as recording:
            persistence = Telling(live / "runs.db", recording)
            flow = Growing(persistence=persistence)
            run(tried, flow, {})
            recording.fault = None
            run(ended, Growing, flow.run_id, persistence)
        hits += recording.hits
        for moment, disk, image in cut_after(recording, random.Random(f"{SEED} {fault}")):
            path = put(image, memory / "image")
            lost = set(disk.acknowledged.values()) - digests(path)
            assert not lost, f"seed {SEED}, {fault}, after event {moment}: {len(lost)} acknowledged and lost"
            images, acknowledged = images + 1, acknowledged + len(disk.acknowledged)
            shutil.rmtree(path.parent)
    tell("R05", trials=images, faults=hits, acknowledged=acknowledged)

    assert images >= 2_000
    assert hits >= 20


def cut_after(recording: Recording, chance: random.Random) -> Iterator[tuple[int, Disk, Image]]:
    """A power cut after everything that happened from the failure on, which leaves nothing unsynced, or anything."""
    disk = Disk()
    for moment, event in enumerate(recording.events, 1):
        disk.do(event)
        if recording.hits and moment >= recording.hit_at:
            yield moment, disk, disk.after_power_cut()
            yield moment, disk, disk.after_power_cut(chance)


def digests(path: Path) -> set[bytes]:
    """Of the checkpoints in a database, which is whole."""
    assert sound(path), path
    with closing(sqlite3.connect(path)) as connection:
        return {digest for (digest,) in connection.execute("SELECT digest FROM checkpoints")}


@pytest.mark.clauses("D1", "X3")
@pytest.mark.parametrize("flow", [FanOut, Loop, Large])
def test_a_full_disk_is_a_write_error_and_the_run_ends_once_there_is_space(
    flow: type[Flow[Tally]], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ends = undisturbed(flow, memory / "undisturbed")
    told: Counter[str] = Counter()
    for pages in range(10, 1000):
        (memory / str(pages)).mkdir()
        persistence = SQLiteFlowPersistence(memory / str(pages) / "runs.db")
        with no_hang(SECONDS), monkeypatch.context() as patch:
            connecting_with(patch, "PRAGMA page_size = 512", f"PRAGMA max_page_count = {pages}")
            end = run(tried, flow(persistence=persistence), {"id": RUN})
        with no_hang(SECONDS):
            assert run(ended, flow, RUN, persistence) == ends
        assert sound(persistence.path)
        told[end] += 1
        if end == "success":
            break
    print(told)
    tell("R06", trials=told.total(), faults=told["StorageWriteError"] + told["StorageError"])

    assert told["success"] == 1
    assert told["StorageWriteError"] >= 3
    assert set(told) == {"StorageWriteError", "success", "StorageError"}  # the last: not even the tables had room
