"""Bits that flip in a database that was not read for a while: an error that says so, or what was stored. Never anything else.

SQLite alone returns changed data for two of three such flips. Every answer here is compared with that of the undamaged database.
"""

import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import anyio
import anyio.lowlevel
import pytest
from answers import ASIDE, TAKEN, Answers, answer, three_signals
from figures import FACTOR, SEED, tell
from vfs import Chain, FanOut, Large, Tally

from asyncflow import Flow, SQLiteFlowPersistence, errors, listen, or_, router, start
from asyncflow.errors import AsyncflowError, CheckpointCorruptError, MethodError, RunFencedError, RunNotFoundError
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database.run_head import Head

SIDE_BY_SIDE = 4
"""Damaged files that are looked at together: each waits for its threads much of the time."""

HANGS = 120
"""Seconds after which one that is looked at hangs; a thirtieth of one is usual."""

DAMAGED = (
    errors.CheckpointCorruptError,
    errors.StorageCorruptError,
    errors.StorageNotADatabaseError,
    errors.ForeignDatabaseError,
    errors.StorageVersionError,
    errors.StorageReadOnlyError,
    errors.StorageWriteError,
)
"""What may be said of damage; and `StorageError` itself, where SQLite says what it lacks."""


# ---- the database --------------------------------------------------------------------------------------------------


class Long(Flow[Tally]):
    """A loop of so many turns that its checkpoints are several complete ones and many deltas."""

    name = "Long"

    @start()
    async def begin(self) -> None:
        self.state.text = "x" * 100

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.steps += 1
        return self.state.steps

    @router(turn)
    async def more(self, n: int) -> str | None:
        return "again" if n % 27 else None


class ChainFails(Chain):
    name = "Chain"

    async def third(self, value: str) -> str:
        raise ValueError(value)


class FanOutFails(FanOut):
    name = "FanOut"

    async def join(self) -> int:
        raise ValueError


class FanOutStops(FanOut):
    """Cancelled while one branch is under way; what the others brought is stored, and waits in the join."""

    name = "FanOut"
    scope: ClassVar[anyio.CancelScope]
    storage: ClassVar[SQLiteFlowPersistence]

    async def to_say(self) -> None:
        while len(await self.storage.history(self.run_id)) < 4:
            await anyio.lowlevel.checkpoint()
        self.scope.cancel()
        await anyio.sleep_forever()


class LongFails(Long):
    name = "Long"

    async def more(self, n: int) -> str | None:
        if n == 25:
            raise ValueError
        return await super().more(n)


class LargeFails(Large):
    name = "Large"

    async def third(self) -> int:
        raise ValueError


RUNS: dict[str, tuple[type[Flow[Any]], type[Flow[Any]]]] = {
    "finished": (Chain, Chain),
    "finished, and joined": (FanOut, FanOut),
    "failed": (Chain, ChainFails),
    "failed at a join": (FanOut, FanOutFails),
    "interrupted at a join": (FanOut, FanOutStops),
    "long, and failed": (Long, LongFails),
    "large, and failed": (Large, LargeFails),
    "waits for signals": (Answers, Answers),
}
"""The flow that each run belongs to, and the one that brings it as far as it is."""


async def make(persistence: SQLiteFlowPersistence) -> None:
    """Bring every run as far as it is, one after the other."""
    FanOutStops.storage = persistence
    for run_id, (_, flow) in RUNS.items():
        if flow is Answers:
            await three_signals(persistence, run_id)
            continue
        with anyio.CancelScope() as FanOutStops.scope, suppress(MethodError):
            await flow(persistence=persistence).kickoff({"id": run_id})


# ---- its answers ---------------------------------------------------------------------------------------------------

Told = dict[tuple[str, str], Any]
"""What was answered to each question about a run, or the error."""


class Standing(NamedTuple):
    """A run as a flow shows it."""

    status: str
    state: dict[str, Any]
    pending: tuple[str, ...]
    outputs: dict[str, Any]


async def events_from(path: Path, way: str) -> Told:
    """Ask for every run and its history; resume each, by `resume` or by `kickoff`; and ask for it again."""
    told: Told = {}
    persistence = SQLiteFlowPersistence(path)

    async def ask(run_id: str, question: str, asked: Any) -> None:
        try:
            told[run_id, question] = await asked
        except AsyncflowError as error:
            told[run_id, question] = error

    async def ask_everything() -> None:
        async with persistence:
            for run_id, (flow, _) in RUNS.items():
                await ask(run_id, "load", standing(flow, run_id, persistence))
                await ask(run_id, "history", history(run_id, persistence))
                if flow is Answers:
                    await ask(run_id, "inbox", persistence.inbox(run_id))
                    await ask(run_id, "send again", persistence.send(run_id, answer(1, TAKEN)))
                    await ask(run_id, "send", persistence.send(run_id, answer(0, "the end")))
            await ask("unknown", "load", standing(Chain, "unknown", persistence))
            for run_id, (flow, _) in RUNS.items():
                await ask(run_id, way, gone_on(flow, run_id, persistence, way))
            for run_id, (flow, _) in RUNS.items():
                await ask(run_id, "load again", standing(flow, run_id, persistence))

    await ask("all", "open", ask_everything())
    return told


async def standing(
    flow: type[Flow[Any]], run_id: str, persistence: SQLiteFlowPersistence, seq: int | None = None
) -> Standing:
    found = await flow.load(run_id, seq=seq, persistence=persistence)
    state = dict(found.state) if flow is Answers else found.state.model_dump()
    # No digest covers when a waiting run is due: without that, it is interrupted, and continues all the same.
    status = "interrupted" if found.status == "waiting" else found.status
    return Standing(status, state, found.pending, found.method_outputs)


async def history(run_id: str, persistence: SQLiteFlowPersistence) -> list[Checkpoint]:
    """All checkpoints, without the epoch, which is under no digest: it says who stored them."""
    return [checkpoint._replace(epoch=0) for checkpoint in await persistence.history(run_id)]


async def gone_on(flow: type[Flow[Any]], run_id: str, persistence: SQLiteFlowPersistence, way: str) -> Any:
    if way == "resume":
        return await flow.resume(run_id, persistence=persistence)
    return await flow(persistence=persistence).kickoff({"id": run_id})


WAYS = ("resume", "kickoff")


@dataclass
class Whole:
    """The undamaged database, and its answers."""

    data: bytes
    killed: tuple[bytes, bytes]
    """What a killed process leaves, a file and its log, with everything in the log."""
    told: dict[str, Told] = field(default_factory=dict)
    """By the way of resuming."""
    standings: dict[tuple[str, str], list[Standing]] = field(default_factory=dict)
    """The status of a run from one checkpoint to the next when it is resumed, by way and run."""

    @property
    def checkpoints(self) -> dict[str, list[Checkpoint]]:
        return {run_id: self.told["resume"][run_id, "history"] for run_id in RUNS}


async def whole(folder: Path) -> Whole:
    path = folder / "made" / "runs.db"
    path.parent.mkdir()
    async with SQLiteFlowPersistence(path) as persistence:
        await make(persistence)
        killed = path.read_bytes(), path.with_name("runs.db-wal").read_bytes()
    found = Whole(path.read_bytes(), killed)
    for way in WAYS:
        copy = put(found.data, folder / way)
        found.told[way] = await events_from(copy, way)
        async with SQLiteFlowPersistence(copy) as persistence:
            for run_id, (flow, _) in RUNS.items():
                seqs = range(len(await persistence.history(run_id)))
                found.standings[way, run_id] = [await standing(flow, run_id, persistence, seq) for seq in seqs]
    return found


def put(data: bytes, folder: Path) -> Path:
    folder.mkdir()
    path = folder / "runs.db"
    path.write_bytes(data)
    return path


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory, where there is one: the files are many, and syncs prove nothing here."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


@pytest.fixture
def memory() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


@pytest.fixture(scope="module")
def undamaged() -> Whole:
    with in_memory() as folder:
        found = anyio.run(whole, folder, backend_options={"use_uvloop": True})
    for told in found.told.values():
        wrong = {asked: answer for asked, answer in told.items() if isinstance(answer, Exception)}
        assert list(wrong) == [("unknown", "load")], wrong
    statuses = Counter(told["load"].status for told in by_run(found.told["resume"]).values() if "load" in told)
    assert statuses == {"finished": 2, "failed": 4, "interrupted": 2}
    assert len(found.checkpoints["long, and failed"]) > 40
    return found


def by_run(told: Told) -> dict[str, dict[str, Any]]:
    return {run_id: {asked: told[run_id, asked] for run, asked in told if run == run_id} for run_id in RUNS}


# ---- the judge -----------------------------------------------------------------------------------------------------


def wrongs(told: Told, way: str, undamaged: Whole) -> list[str]:
    """What is neither as it was stored, nor an error that says what is the matter."""
    return [
        f"{run_id}: {asked}: {str(answer)[:300]!r} ({type(answer).__name__})"
        for (run_id, asked), answer in told.items()
        if not (
            is_told_of_damage(answer, run_id, asked)
            if isinstance(answer, Exception)
            else answer == undamaged.told[way].get((run_id, asked)) or is_a_halt(told, run_id, asked, way, undamaged)
        )
    ]


def is_told_of_damage(error: Exception, run_id: str, asked: str) -> bool:
    if run_id == "unknown":
        return isinstance(error, (*DAMAGED, RunNotFoundError)) or type(error) is errors.StorageError
    fenced = asked in WAYS and isinstance(error, RunFencedError)  # where a trigger of the schema compares wrongly
    return isinstance(error, DAMAGED) or type(error) is errors.StorageError or fenced


def is_a_halt(told: Told, run_id: str, asked: str, way: str, undamaged: Whole) -> bool:
    """Whether a run that could not be resumed has the status and state that it had at one of its checkpoints."""
    stopped = asked == "load again" and isinstance(told.get((run_id, way)), Exception)
    now = told[run_id, asked]
    if isinstance(now, Standing) and now.status == "running":  # its owner could not give it back, and lives
        now = now._replace(status="interrupted")
    return stopped and now in undamaged.standings[way, run_id]


@dataclass
class Figures:
    """What became of the files."""

    looked_at: int = 0
    harmless: int = 0
    """Every answer was as it was stored."""
    alone: int = 0
    """One run was reported as corrupt, and all others were as ever."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Of errors, each counted once a file."""

    def add(self, told: Told) -> None:
        damaged = [
            answer for (run_id, _), answer in told.items() if isinstance(answer, Exception) and run_id != "unknown"
        ]
        self.looked_at += 1
        self.harmless += not damaged
        self.alone += len(hurt(told) - {"all"}) == 1
        self.kinds.update({type(error).__name__ for error in damaged})

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.most_common())
        return f"{self.looked_at} files, {self.harmless} told as stored; {kinds}; one run alone {self.alone}; wrong 0"


def hurt(told: Told) -> set[str]:
    """The runs of which a part is reported as damaged."""
    return {run_id for (run_id, _), answer in told.items() if isinstance(answer, Exception)} - {"unknown"}


class Case(NamedTuple):
    """A damaged file, and what the damage is."""

    name: str
    data: bytes
    run_id: str | None = None
    """The only run that is hurt, where one knows."""


def looked_at(cases: Iterable[Case], memory: Path, undamaged: Whole) -> Figures:
    """Look at every file, and fail at the first with a wrong answer, with the arguments that replay it."""
    figures = Figures()
    waiting = enumerate(cases)

    async def look_at_some() -> None:
        for n, case in waiting:
            way = WAYS[n % 2]
            replay = f"{case.name}, {way}, seed {SEED}"
            path = put(case.data, memory / f"case {n}")
            try:
                with anyio.fail_after(HANGS):
                    told = await events_from(path, way)
            except Exception as error:  # of no type that is ours: whatever it is, it is wrong
                raise AssertionError(f"{replay}: {error!r}") from error
            assert wrongs(told, way, undamaged) == [], replay
            if case.run_id is not None:
                assert hurt(told) == {case.run_id}, replay
                assert isinstance(told[case.run_id, "history"], CheckpointCorruptError), replay
            figures.add(told)
            shutil.rmtree(path.parent)

    async def look_at_all() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(SIDE_BY_SIDE):
                group.start_soon(look_at_some)

    anyio.run(look_at_all, backend_options={"use_uvloop": True})
    print(figures)
    tell("R19", trials=figures.looked_at, faults=figures.looked_at - figures.harmless)
    return figures


# ---- R19: single bits ----------------------------------------------------------------------------------------------


def flipped(data: bytes, bit: int) -> bytes:
    image = bytearray(data)
    image[bit // 8] ^= 1 << bit % 8
    return bytes(image)


def places(undamaged: Whole) -> list[tuple[range, str]]:
    """Where the bytes of checkpoints lie that are whole in one page, with their digests, and whose they are."""
    found: list[tuple[range, str]] = []
    for run_id, checkpoints in undamaged.checkpoints.items():
        for c in checkpoints:
            parts = (c.state, c.progress, c.changes, c.result, c.inputs, c.outcome, c.previous, c.digest)
            held = b"".join(part for part in parts if part is not None)
            at = undamaged.data.find(held)
            if at >= 0:
                found.append((range(at, at + len(held)), run_id))
    return found


def flips(count: int, within: list[int], name: str, undamaged: Whole) -> Iterator[Case]:
    """So many different bits of these bytes, flipped one at a time."""
    chance = random.Random(f"{SEED} {name}")
    owners = {at: run_id for place, run_id in places(undamaged) for at in place}
    for bit in chance.sample(range(len(within) * 8), min(count, len(within) * 8)):
        at = within[bit // 8]
        yield Case(f"bit {bit % 8} of byte {at}", flipped(undamaged.data, at * 8 + bit % 8), owners.get(at))


PARTS = 4
"""Of the flips anywhere: tests of their own, which may run side by side."""


@pytest.mark.clauses("D4", "V1", "V4")
@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_bit_is_reported_or_changes_nothing(part: int, memory: Path, undamaged: Whole) -> None:
    count = int(1100 * FACTOR) // PARTS
    within = list(range(part, len(undamaged.data), PARTS))
    figures = looked_at(flips(count, within, f"anywhere {part}", undamaged), memory, undamaged)

    assert figures.looked_at == count
    assert figures.looked_at - figures.harmless >= count * 0.3, figures
    assert figures.alone >= count * 0.05, figures


def used(page: int, data: bytes) -> list[int]:
    """The bytes of a leaf page of SQLite's that are in use: its head, and its cells."""
    size = int.from_bytes(data[16:18], "big")
    start = (page - 1) * size
    head = start + (100 if page == 1 else 0)
    cells, content = (int.from_bytes(data[head + n : head + n + 2], "big") for n in (3, 5))
    return [*range(start, head + 8 + 2 * cells), *range(start + content, start + size)]


STRUCTURES = {
    "the head of the file": 150,
    "the schema": 300,
    "the runs": 150,
    "the index of their ids": 200,
    "the signals": 200,
}
STRUCTURES |= {"the index of the signals": 100, "the index of the inboxes": 100}
"""Where few bits bear much, and how many of them are flipped."""


@pytest.mark.clauses("D4", "V1", "V4")
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_flipped_bit_in_the_structure_of_the_file_is_reported_or_changes_nothing(
    structure: str, memory: Path, undamaged: Whole
) -> None:
    count = int(STRUCTURES[structure] * FACTOR)
    path = put(undamaged.data, memory / structure)
    with closing(sqlite3.connect(path)) as connection:
        pages = dict(connection.execute("SELECT name, rootpage FROM sqlite_schema"))
    within = {
        "the head of the file": list(range(100)),
        "the schema": [at for at in used(1, undamaged.data) if at >= 100],
        "the runs": used(pages["runs"], undamaged.data),
        "the index of their ids": used(pages["sqlite_autoindex_runs_1"], undamaged.data),
        "the signals": used(pages["signals"], undamaged.data),
        "the index of the signals": used(pages["sqlite_autoindex_signals_1"], undamaged.data),
        "the index of the inboxes": used(pages["untaken"], undamaged.data),
    }[structure]
    figures = looked_at(flips(count, within, structure, undamaged), memory, undamaged)

    assert figures.looked_at == min(count, len(within) * 8)
    assert figures.looked_at - figures.harmless >= figures.looked_at * 0.3, figures


# ---- rows that are not where they were -----------------------------------------------------------------------------

RUN = "(SELECT id FROM runs WHERE run_id = ?)"
COLUMNS = (
    "pass_number, kind, status, at, method, base, format, version, epoch, "
    "state, progress, changes, result, inputs, outcome, previous, digest"
)


def without(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    connection.execute(f"DELETE FROM checkpoints WHERE run = {RUN} AND seq = ?", (run_id, seq))


def begun_late(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    """Without all up to this one: where the next is a complete one, what is left is a chain, too."""
    connection.execute(f"DELETE FROM checkpoints WHERE run = {RUN} AND seq <= ?", (run_id, seq))


def swapped(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    """With the one before it; the first with the second."""
    other = seq - 1 if seq else 1
    for old, new in ((seq, -1), (other, seq), (-1, other)):
        connection.execute(f"UPDATE checkpoints SET seq = ? WHERE run = {RUN} AND seq = ?", (new, run_id, old))


def replaced(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    """By another run's."""
    other = next(other for other in RUNS if other != run_id)
    newest = connection.execute(f"SELECT max(seq) FROM checkpoints WHERE run = {RUN}", (other,)).fetchone()[0]
    connection.execute(
        f"UPDATE checkpoints SET ({COLUMNS}) = (SELECT {COLUMNS} FROM checkpoints WHERE run = {RUN} AND seq = ?) "
        f"WHERE run = {RUN} AND seq = ?",
        (other, min(seq, newest), run_id, seq),
    )


def twice(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    """A second time, behind the newest one."""
    connection.execute(
        f"INSERT INTO checkpoints (run, seq, {COLUMNS}) SELECT run, (SELECT head + 1 FROM runs WHERE run_id = ?), "
        f"{COLUMNS} FROM checkpoints WHERE run = {RUN} AND seq = ?",
        (run_id, run_id, seq),
    )


def headed(connection: sqlite3.Connection, run_id: str, seq: int) -> None:
    """By the head as it was when this checkpoint was the newest, with the digest that it had: a write that was lost."""
    found = connection.execute(
        f"SELECT status, pass_number, base, format, version, digest FROM checkpoints WHERE run = {RUN} AND seq = ?",
        (run_id, seq),
    ).fetchone()
    sql = "SELECT flow, identity, epoch FROM runs WHERE run_id = ?"
    flow, identity, epoch = connection.execute(sql, (run_id,)).fetchone()
    status, number, base, form, version, digest = found
    head = Head(run_id, flow, identity, status, number, seq, digest, base, form, version, None, epoch)
    connection.execute(
        "UPDATE runs SET status = ?, pass_number = ?, head = ?, head_digest = ?, base = ?, owner = ?, entry_digest = ? WHERE run_id = ?",
        (status, number, seq, digest, base, None, head.digest(), run_id),
    )


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("misplace", [without, begun_late, swapped, replaced, twice, headed], ids=lambda f: f.__name__)
def test_a_row_that_is_not_where_it_was_is_reported_for_its_run_alone(
    misplace: Any, memory: Path, undamaged: Whole
) -> None:
    def misplaced() -> Iterator[Case]:
        for run_id, checkpoints in undamaged.checkpoints.items():
            for c in checkpoints[:-1] if misplace is headed else checkpoints:
                path = memory / "misplaced.db"
                path.write_bytes(undamaged.data)
                with closing(sqlite3.connect(path)) as connection, connection:
                    misplace(connection, run_id, c.seq)
                    connection.commit()
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                yield Case(f"{run_id}: {c.seq} {misplace.__name__}", path.read_bytes())

    figures = looked_at(misplaced(), memory, undamaged)

    assert figures.looked_at >= 60, figures
    assert figures.alone == figures.looked_at, figures


# ---- the log of a killed process -----------------------------------------------------------------------------------


async def left_of_the_log(path: Path, undamaged: Whole) -> int:
    """How many checkpoints are left: the first ones, in the order of their commits. Each run reaches its end all the same."""
    way = "resume"
    async with SQLiteFlowPersistence(path) as persistence:
        found = {run_id: await history(run_id, persistence) for run_id in RUNS}
        left = [c for checkpoints in found.values() for c in checkpoints]
        for run_id, (flow, _) in RUNS.items():
            if found[run_id]:
                there = await standing(flow, run_id, persistence)
                assert there == undamaged.standings[way, run_id][len(found[run_id]) - 1], run_id
            if flow is Answers:
                await send_what_may_be_lost(run_id, bool(found[run_id]), persistence)
            ended = await gone_on(flow, run_id, persistence, way if found[run_id] or flow is Answers else "kickoff")
            assert ended == undamaged.told[way][run_id, way], run_id
            assert await standing(flow, run_id, persistence) == undamaged.told[way][run_id, "load again"], run_id
    whole = [c for checkpoints in undamaged.checkpoints.values() for c in checkpoints]
    assert left == whole[: len(left)], "what is left is not the beginning of what was committed"
    return len(left)


async def send_what_may_be_lost(run_id: str, is_stored: bool, persistence: SQLiteFlowPersistence) -> None:
    if not is_stored:
        await three_signals(persistence, run_id)
    for stored in await persistence.inbox(run_id):
        if stored.signal.key == ASIDE:  # the log ends between its arrival and the commit that set it aside
            await persistence.set_aside(stored, "why")
    for signal in (answer(1, TAKEN), answer(0, "the end")):
        await persistence.send(run_id, signal)


@pytest.mark.clauses("D3", "D4", "V4")
def test_a_flipped_bit_in_the_log_of_a_killed_process_costs_the_newest_checkpoints_alone(
    memory: Path, undamaged: Whole
) -> None:
    data, log = undamaged.killed
    count = int(100 * FACTOR)
    bits = random.Random(f"{SEED} log").sample(range(len(log) * 8), count)
    total = sum(map(len, undamaged.checkpoints.values()))

    async def look_at(bit: int) -> int:
        path = put(data, memory / f"log {bit}")
        path.with_name("runs.db-wal").write_bytes(flipped(log, bit))
        with anyio.fail_after(HANGS):
            left = await left_of_the_log(path, undamaged)
        shutil.rmtree(path.parent)
        return left

    async def look_at_all() -> list[int]:
        left = []
        for bit in bits:
            try:
                left.append(await look_at(bit))
            except Exception as error:
                raise AssertionError(f"bit {bit} of the log, seed {SEED}: {error!r}") from error
        return left

    left = anyio.run(look_at_all, backend_options={"use_uvloop": True})
    print(f"{count} flips in a log of {total} checkpoints: {sum(left) / count:.0f} left on average, wrong 0")
    tell("R19", trials=count, faults=sum(n < total for n in left))

    assert sum(n < total for n in left) >= count * 0.9
    assert len(set(left)) >= 20
