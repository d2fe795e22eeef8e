"""`SQLiteFlowPersistence`: the file and its settings, group commit, owners, damage, and what the rows look like."""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from here import Here
from loops import on_asyncio

import asyncflow
from asyncflow import Flow, FlowState, SQLiteFlowPersistence, errors, listen, or_, router, start
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database.jobs import Append
from asyncflow.persistence._database.run_head import Head
from asyncflow.persistence.sqlite import appends, rows
from asyncflow.persistence.sqlite.database import MIGRATIONS

PATH = Path("runs.db")
PACKAGE = Path(asyncflow.persistence.sqlite.__file__).parent


@pytest.mark.parametrize(
    "module", sorted(p for p in PACKAGE.iterdir() if p.suffix in (".py", ".sql")), ids=lambda module: module.name
)
def test_no_statement_numbers_its_parameters(module: Path) -> None:
    """Python 3.12.0 to 3.12.3 take `?1` for a named parameter and warn of it, which a strict program makes an error."""
    assert not re.findall(r"\?[0-9]", module.read_text())


class Work(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it
    size: int = 0


class Steps(Flow[Work]):
    name = "Steps"
    persistence = Here(PATH)

    @start()
    async def first(self) -> str:
        self.state.done.append("first")
        return "one"

    @listen(first)
    async def second(self, value: str) -> str:
        self.state.done.append("second")
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.state.done.append("third")
        return value + " three"


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """Read or change the file, as another program would."""
    with contextlib.closing(sqlite3.connect(PATH)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def rows_of(run_id: str, columns: str = "seq, kind, method, status") -> list[tuple[Any, ...]]:
    return sql(
        f"SELECT {columns} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) ORDER BY seq", run_id
    )


class Seen:
    """What SQLite was told, by every connection of this process."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.settings: list[dict[str, Any]] = []

    def commits(self) -> int:
        """Transactions: those that were ended, and the statements that are one each; their triggers are told as themselves again."""
        ended = sum(statement.upper().startswith(("COMMIT", "END")) for statement in self.statements)
        return ended + len({statement for statement in self.statements if statement.startswith("WITH here")})


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    found = Seen()
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            self.set_trace_callback(None)
            with contextlib.suppress(sqlite3.Error):
                names = (
                    "synchronous",
                    "journal_mode",
                    "foreign_keys",
                    "trusted_schema",
                    "cell_size_check",
                    "busy_timeout",
                )
                found.settings.append({name: self.execute(f"PRAGMA {name}").fetchone()[0] for name in names})
            super().close()

    def watched(*args: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*args, **{"factory": Watched, **options})
        connection.set_trace_callback(found.statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", watched)
    return found


# ---- the file ------------------------------------------------------------------------------------------------------


async def test_the_file_is_for_its_owner_alone() -> None:
    before = os.umask(0)
    try:
        async with Steps.persistence:
            await Steps().kickoff()
            modes = {name: stat.S_IMODE(os.stat(name).st_mode) for name in os.listdir()}
    finally:
        os.umask(before)

    assert modes.pop("runs.db.owners") == 0o700
    assert set(modes) == {"runs.db", "runs.db-wal", "runs.db-shm"}
    assert set(modes.values()) == {0o600}


@pytest.mark.clauses("D3")
@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
async def test_durability_is_wal_with_full_or_normal(durability: Any, synchronous: int, seen: Seen) -> None:
    await Steps(persistence=SQLiteFlowPersistence(PATH, durability=durability)).kickoff()
    writers = [settings for settings in seen.settings if settings["foreign_keys"]]

    assert [settings["synchronous"] for settings in writers] == [synchronous]
    assert {settings["journal_mode"] for settings in seen.settings} == {"wal"}
    assert {(settings["trusted_schema"], settings["cell_size_check"]) for settings in writers} == {(0, 1)}
    assert {settings["busy_timeout"] for settings in seen.settings} == {5000}


@pytest.mark.clauses("D3")
async def test_the_durability_of_the_default_storage_is_the_flows(seen: Seen) -> None:
    @asyncflow.persist
    class Relaxed(Flow[Work]):
        durability = "process"

        @start()
        async def first(self) -> None: ...

    await Relaxed().kickoff()
    await Relaxed(durability="full").kickoff()

    assert [settings["synchronous"] for settings in seen.settings if settings["foreign_keys"]] == [1, 2]


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ValueError, match="durability"):
        SQLiteFlowPersistence(PATH, durability="maybe")


async def test_an_empty_file_becomes_a_database() -> None:
    await anyio.Path(PATH).touch()
    flow = Steps()
    await flow.kickoff()

    assert flow.status == "finished"


def remove_database() -> None:
    for name in (PATH, f"{PATH}-wal", f"{PATH}-shm"):
        os.unlink(name)


def put_another_there() -> None:
    os.rename(PATH, "kept.db")
    Path(PATH).write_bytes(Path("kept.db").read_bytes())


@pytest.mark.clauses("D1")
@pytest.mark.parametrize("lose", [remove_database, put_another_there])
async def test_a_file_that_goes_away_while_it_is_in_use_takes_nothing_more(lose: Callable[[], None]) -> None:
    ran: list[str] = []

    class Loses(Steps):
        async def second(self, value: str) -> str:
            lose()
            return value

        async def third(self, value: str) -> str:
            ran.append("third")
            return value

    storage = SQLiteFlowPersistence(PATH)
    async with storage:
        flow = Loses(persistence=storage)
        with pytest.raises(errors.StorageNotFoundError, match="moved, deleted or replaced while it was in use"):
            await flow.kickoff()
        for look in (storage.load(flow.run_id), storage.history(flow.run_id), storage.runs(), storage.verify()):
            with pytest.raises(errors.StorageNotFoundError):
                await look
        with pytest.raises(errors.StorageNotFoundError):
            await Steps(persistence=storage).kickoff()
    assert ran == []


async def test_a_file_that_is_put_back_goes_on() -> None:
    storage = SQLiteFlowPersistence(PATH)
    async with storage:
        await Steps(persistence=storage).kickoff({"id": "x"})
        os.rename(PATH, "elsewhere.db")
        with pytest.raises(errors.StorageNotFoundError):
            await storage.load("x")
        os.rename("elsewhere.db", PATH)

        assert await Steps.resume("x", persistence=storage) is not None
        assert await Steps(persistence=storage).kickoff() is not None


async def test_owners_are_known_to_all_whichever_way_the_file_is_named() -> None:
    await anyio.Path("real.db").touch()
    os.symlink("real.db", "link.db")
    async with SQLiteFlowPersistence("link.db"), SQLiteFlowPersistence("real.db"):
        assert len(os.listdir("real.db.owners")) == 2
        assert "link.db.owners" not in os.listdir()


@pytest.mark.clauses("L2")
async def test_a_run_that_could_not_be_given_back_is_given_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.persistence.sqlite.database.BUSY_SECONDS", 0.05)
    storage = SQLiteFlowPersistence(PATH, lease=0.6)
    async with storage:
        with pytest.raises(errors.MethodError):
            await Fails(persistence=storage).kickoff({"id": "x"})
        epoch = await storage.acquire("x")
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(errors.StorageBusyError):
                await storage.release("x", epoch)
            other.execute("ROLLBACK")

        with anyio.fail_after(120):
            while (await storage.runs())[0].is_driven:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)
        assert await storage.acquire("x") == epoch + 1
        await anyio.sleep(0.5)
        assert (await storage.runs())[0].is_driven, "it is tried no more"

        storage._shared.held.unreleased.add("x", epoch + 2)  # type: ignore[union-attr]  # it is open
        assert await storage.acquire("x") == epoch + 2
        await anyio.sleep(0.5)
        assert (await storage.runs())[0].is_driven, "whoever takes it up keeps it"


class Fails(Steps):
    async def first(self) -> str:
        raise LookupError


async def test_the_database_says_whose_it_is() -> None:
    await Steps().kickoff()

    assert sql("PRAGMA application_id") == [(0x61666C77,)]
    assert sql("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert sql("PRAGMA integrity_check") == [("ok",)]


async def test_after_the_last_use_everything_is_in_one_file() -> None:
    flow = Steps()
    await flow.kickoff()

    assert os.listdir() == ["runs.db"]
    assert (await Steps.load(flow.run_id)).state.done == ["first", "second", "third"]


# ---- what cannot be a storage --------------------------------------------------------------------------------------


def a_folder() -> None:
    PATH.mkdir()


def garbage() -> None:
    PATH.write_bytes(b"not a database, but long enough to be looked at " * 100)


def a_short_text() -> None:
    PATH.write_text("hello")


def another_programs() -> None:
    sql("CREATE TABLE bookmarks (url TEXT)")
    sql("INSERT INTO bookmarks VALUES ('https://example.org')")


def another_programs_in_wal() -> None:
    sql("PRAGMA journal_mode = WAL")
    another_programs()


def another_application() -> None:
    sql("PRAGMA application_id = 1234")


def another_version() -> None:
    sql("PRAGMA user_version = 7")


def a_newer_version() -> None:
    asyncflow.run(Steps())
    sql("PRAGMA user_version = 99")


TROUBLES: dict[str, tuple[Callable[[], None], type[errors.StorageError]]] = {
    "a folder": (a_folder, errors.StorageNotFoundError),
    "garbage": (garbage, errors.StorageNotADatabaseError),
    "a short text": (a_short_text, errors.StorageNotADatabaseError),
    "another program's": (another_programs, errors.ForeignDatabaseError),
    "another program's in WAL": (another_programs_in_wal, errors.ForeignDatabaseError),
    "another application id": (another_application, errors.ForeignDatabaseError),
    "another user version": (another_version, errors.ForeignDatabaseError),
    "a newer version": (a_newer_version, errors.StorageVersionError),
}


def picture() -> dict[str, str]:
    """The names and the contents of everything here."""
    found = sorted(Path().rglob("*"))
    return {
        str(path): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest() + oct(path.stat().st_mode)
        for path in found
    }


@pytest.mark.parametrize(("make", "error"), TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("call", ["kickoff", "resume", "load"])
async def test_what_is_no_storage_of_ours_is_refused_and_left_as_it_was(
    make: Callable[[], None], error: type[errors.StorageError], call: str
) -> None:
    ran: list[str] = []

    class Never(Steps):
        async def first(self) -> str:
            ran.append("first")
            return ""

    await anyio.to_thread.run_sync(make)
    before = picture()
    with pytest.raises(error) as caught:
        await {
            "kickoff": lambda: Never().kickoff(),
            "resume": lambda: Never.resume("x"),
            "load": lambda: Never.load("x"),
        }[call]()

    assert type(caught.value) is error
    assert "runs.db" in str(caught.value)
    assert ran == []
    assert picture() == before


async def test_a_parent_that_is_a_file_is_no_folder() -> None:
    await anyio.Path("file").write_text("a file")
    before = picture()
    with pytest.raises(errors.StorageNotFoundError):
        await Steps(persistence=SQLiteFlowPersistence("file/runs.db")).kickoff()

    assert picture() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("what", ["the file", "the folder"])
async def test_what_cannot_be_written_is_read_only(what: str) -> None:
    await Steps().kickoff()
    os.chmod("runs.db" if what == "the file" else ".", 0o400 if what == "the file" else 0o500)
    try:
        with pytest.raises(errors.StorageReadOnlyError):
            await Steps().kickoff()
    finally:
        os.chmod(".", 0o700)


async def test_a_database_locked_by_another_program_is_waited_for_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncflow.persistence.sqlite.database.BUSY_SECONDS", 0.3)
    await Steps().kickoff()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            with pytest.raises(errors.StorageBusyError) as caught:
                await Steps().kickoff()
            group.cancel_scope.cancel()
        other.execute("ROLLBACK")
    flow = Steps()
    await flow.kickoff()

    assert turns > 100
    assert "0.3" in str(caught.value)
    assert flow.status == "finished"


# ---- the rows ------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("D4", "E1")
async def test_a_completed_invocation_has_exactly_one_checkpoint() -> None:
    flow = Steps()
    await flow.kickoff()

    assert rows_of(flow.run_id) == [
        (0, "started", "", "running"),
        (1, "method", "first:1", "running"),
        (2, "method", "second:1", "running"),
        (3, "finished", "third:1", "finished"),
    ]


@pytest.mark.clauses("D4", "L2")
async def test_the_head_of_a_run_names_its_newest_checkpoint() -> None:
    flow = Steps()
    await flow.kickoff()
    (newest,) = sql("SELECT seq, digest FROM checkpoints ORDER BY seq DESC LIMIT 1")
    (head,) = sql("SELECT head, head_digest, status, owner, epoch, flow FROM runs")

    assert head == (*newest, "finished", None, 1, "Steps")


@pytest.mark.clauses("D4")
async def test_each_checkpoint_follows_its_predecessor() -> None:
    flow = Steps()
    await flow.kickoff()
    await flow.kickoff()
    stored = rows_of(flow.run_id, "seq, previous, digest")

    assert [row[0] for row in stored] == list(range(8))
    assert [row[1] for row in stored] == [b"", *[row[2] for row in stored[:-1]]]


class Long(Flow[Work]):
    """Four hundred steps, with a state of which little changes in each."""

    persistence = Here(PATH)

    @start()
    async def begin(self) -> None:
        self.state.done = ["x" * 50]

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.size += 1
        return self.state.size

    @router(turn)
    async def more(self, n: int) -> Literal["again"] | None:
        return "again" if n < 200 else None


async def test_most_rows_are_deltas_and_now_and_then_one_is_complete() -> None:
    flow = Long()
    await flow.kickoff()
    stored = rows_of(flow.run_id, "seq, base, progress IS NOT NULL, state IS NOT NULL")
    complete = [row[0] for row in stored if row[2]]

    assert len(stored) == 402
    assert complete[0] == 0
    assert 2 <= len(complete) <= 40
    assert all(row[3] for row in stored if row[2])
    assert all(base == max(c for c in complete if c <= seq) for seq, base, *_ in stored)


@pytest.mark.clauses("E1")
async def test_a_method_that_does_not_change_the_state_stores_none() -> None:
    flow = Long()
    await flow.kickoff()
    routers = [row for row in rows_of(flow.run_id, "method, progress, state") if row[0].startswith("more")]

    assert len(routers) == 200
    assert all(state is None for _, progress, state in routers if progress is None)


@pytest.mark.clauses("D4", "V4")
async def test_every_seq_folds_to_the_state_and_the_progress_of_its_moment() -> None:
    flow = Long()
    await flow.kickoff()
    async with Long.persistence:
        for seq in range(0, 402, 23):
            then = await Long.load(flow.run_id, seq=seq)
            turns, routed = divmod(max(seq - 1, 0), 2)
            assert then.state.size == turns + routed
            last = ("begin", "more", "turn")[0 if seq == 0 else 2 - routed if seq > 1 else 2]
            assert len(then.pending) == 1, last
            expected = "begin:1" if seq == 0 else f"more:{turns + 1}" if routed else f"turn:{turns + 1}"
            assert then.pending == (expected,)


async def test_a_fan_out_of_300_and_its_join_write_little() -> None:
    n = 300
    body: dict[str, Any] = {"persistence": SQLiteFlowPersistence(PATH), "initial_state": Work}

    async def begin(self: Any) -> None: ...

    body["begin"] = start()(begin)
    branches = []
    for i in range(n):

        async def branch(self: Any) -> None:
            self.state.size = 0

        branch.__name__ = f"branch_{i}"
        body[branch.__name__] = listen(begin)(branch)
        branches.append(branch.__name__)

    async def join(self: Any) -> str:
        return "joined"

    body["join"] = listen(asyncflow.and_(*branches))(join)
    flow = type("Wide", (Flow,), body)()
    output = await flow.kickoff()
    columns = ("state", "progress", "changes", "result", "inputs", "outcome", "previous", "digest", "method")
    ((written,),) = sql(f"SELECT sum({' + '.join(f'coalesce(length({c}), 0)' for c in columns)}) FROM checkpoints")

    assert output == "joined"
    assert written < 400_000
    assert os.stat(PATH).st_size < 600_000


async def test_a_large_state_that_hardly_changes_is_not_written_for_every_step_that_leaves_it_alone() -> None:
    class Large(Flow[Work]):
        persistence = SQLiteFlowPersistence(PATH)

        @start()
        async def fill(self) -> None:
            self.state.done = ["x" * 1000] * 300

        @listen(or_(fill, "again"))
        async def turn(self) -> None: ...

        @router(turn)
        async def more(self) -> Literal["again"] | None:
            turns.append(1)
            return "again" if len(turns) < 20 else None

    turns: list[int] = []
    flow = Large()
    await flow.kickoff()
    ((written,),) = sql("SELECT sum(coalesce(length(state), 0)) FROM checkpoints")

    assert written < 700_000


# ---- group commit --------------------------------------------------------------------------------------------------


async def test_many_runs_at_once_need_far_fewer_transactions_than_checkpoints(seen: Seen) -> None:
    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(Steps().kickoff)
    ((checkpoints,),) = sql("SELECT count(*) FROM checkpoints")

    assert checkpoints == 800
    assert seen.commits() < 80


@pytest.mark.clauses("E1")
async def test_a_lone_run_pays_one_transaction_for_each_checkpoint(seen: Seen) -> None:
    async with Steps.persistence:
        await Steps().kickoff()
        before = seen.commits()
        await Steps().kickoff()
        after = seen.commits()

    assert after - before == 4


def made(run_id: str, after: Checkpoint | None = None, **fields: Any) -> Checkpoint:
    """A checkpoint by hand."""
    first = {"seq": 0, "kind": "started", "previous": b""}
    following = {} if after is None else {"seq": after.seq + 1, "kind": "method", "previous": after.digest}
    whole = {"flow": "Hand", "number": 1, "status": "running", "at": 1.0, "state": b"{}", "progress": b"{}"}
    fields = {"run_id": run_id, **whole, **first, **following, **fields}
    return Checkpoint(**{"base": fields["seq"], **fields}).sealed()


@pytest.mark.clauses("C2", "D1")
async def test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch() -> None:
    # an error in a batch reaches its own waiters only
    backend = SQLiteFlowPersistence(PATH)
    stale: list[str] = []

    async def save(checkpoint: Checkpoint) -> None:
        try:
            await backend.save(checkpoint)
        except errors.StaleCheckpoint as error:
            stale.append(str(error.run_id))

    async with backend:
        heads = {}
        for name in ("a", "b", "c"):
            heads[name] = made(name)
            await backend.save(heads[name])
        batch = [
            made("d"),
            made("a", heads["a"]),
            made("b", heads["b"], previous=b"another one"),
            made("c", heads["c"]),
            made("a"),
            made("e"),
        ]
        async with anyio.create_task_group() as group:
            for checkpoint in batch:
                group.start_soon(save, checkpoint)
        seqs = {name: (await backend.load(name)).seq for name in "abcde"}

    assert sorted(stale) == ["a", "b"]
    assert seqs == {"a": 1, "b": 0, "c": 1, "d": 0, "e": 0}


@pytest.mark.clauses("D4", "L1")
@pytest.mark.parametrize(
    "fields",
    [{"seq": 0}, {"seq": 2}, {"previous": b"another"}, {"epoch": 2}, {"epoch": 0}],
    ids=["seq again", "seq gap", "previous", "epoch above", "epoch below"],
)
@pytest.mark.parametrize("status", ["running", "failed", "finished"])
async def test_a_checkpoint_that_does_not_follow_is_stale_and_nothing_is_written(
    status: str, fields: dict[str, Any]
) -> None:
    backend = SQLiteFlowPersistence(PATH)
    async with backend:
        head = made("a")
        await backend.save(head)
        with pytest.raises(errors.StaleCheckpoint):
            await backend.save(made("a", head, status=status, **fields))
        loaded = await backend.load("a")

    assert loaded == head


@pytest.mark.clauses("D4", "L1")
@pytest.mark.parametrize("left", ["running", "failed"])
@pytest.mark.parametrize("tries", [(), ("running", "failed", "finished")], ids=["unnoticed", "refused"])
async def test_an_owner_that_lost_a_run_and_has_it_again_stores_what_follows(tries: tuple[str, ...], left: str) -> None:
    """What a writer knows of a run's status may be out of date: then it is fenced, or stores after what is stored now."""
    mine, other = SQLiteFlowPersistence(PATH), SQLiteFlowPersistence(PATH)
    async with mine, other:
        newest = made("a")
        for _ in range(3):
            await mine.save(newest)
            newest = made("a", newest)
        epoch = await other.acquire("a", force=True)
        newest = newest._replace(epoch=epoch, status=left).sealed()  # type: ignore[arg-type]  # one of them
        await other.append(newest)

        for status in tries:
            with pytest.raises(errors.StaleCheckpoint):
                await mine.append(made("a", newest, status=status, epoch=epoch - 1))
        epoch = await mine.acquire("a", force=True)
        for status in ("running", "running", "failed", "failed", "running", "running", "finished"):
            newest = made("a", newest, status=status, epoch=epoch)
            await mine.append(newest)
            assert await other.load("a") == newest
            ((shown, owner),) = sql("SELECT status, owner IS NOT NULL FROM runs")
            assert (shown, bool(owner)) == (status, status != "finished")

        assert await mine.verify() == []


@pytest.mark.clauses("D4")
@pytest.mark.parametrize("many", [1, 7])
async def test_checkpoints_of_a_run_in_one_transaction_are_stored_in_their_order(many: int) -> None:
    """Also where its status changes among them, so that different statements store them."""
    statuses = ["running"] * 3 + ["failed", "failed"]
    async with SQLiteFlowPersistence(PATH) as storage:
        rows: dict[str, list[Checkpoint]] = {}
        for name in "abcdefg"[:many]:
            rows[name] = [made(name)]
            for status in statuses:
                rows[name].append(made(name, rows[name][-1], status=status))
        opened = storage._shared.held
        assert opened is not None, "entered"
        for rows_of_all in zip(*rows.values(), strict=True):
            for row in rows_of_all:
                opened.commits.put(
                    Append(row)
                )  # the first is committed alone, the others wait for that, and come into one
        await storage.save(made("the last"))

        assert await storage.verify() == []
        for name, chain in rows.items():
            assert await storage.history(name) == chain


@pytest.mark.clauses("L4")
async def test_a_second_creator_of_an_id_is_stale_and_changes_nothing() -> None:
    first, second = SQLiteFlowPersistence(PATH), SQLiteFlowPersistence(PATH)
    async with first, second:
        await first.save(head := made("a"))
        with pytest.raises(errors.StaleCheckpoint):
            await second.save(made("a", at=99.0))
        loaded = await first.load("a")

    assert loaded == head
    assert len(sql("SELECT * FROM runs")) == 1


@pytest.mark.clauses("C2", "C3")
async def test_a_save_that_is_cancelled_while_queued_is_withdrawn_and_during_its_commit_waited_for() -> None:
    backend = SQLiteFlowPersistence(PATH)
    ended: list[str] = []
    scopes = {name: anyio.CancelScope() for name in ("under way", "queued")}

    async def save(name: str) -> None:
        with scopes[name]:
            await backend.save(made(name))
        ended.append(f"{name} {scopes[name].cancelled_caught}")

    async with backend:
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                group.start_soon(save, "under way")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(save, "queued")
                await anyio.wait_all_tasks_blocked()
                scopes["under way"].cancel()
                scopes["queued"].cancel()
                await anyio.wait_all_tasks_blocked()
                before = list(ended)
                other.execute("ROLLBACK")
        stored = {name: await backend.load(name) is not None for name in scopes}
        await backend.save(made("later"))

    assert before == ["queued True"]
    assert ended == ["queued True", "under way True"]
    assert stored == {"under way": True, "queued": False}


@pytest.mark.clauses("C2")
@on_asyncio
async def test_a_save_that_is_cancelled_again_and_again_during_its_commit_outlasts_it() -> None:
    backend = SQLiteFlowPersistence(PATH)
    async with backend:
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(backend.save(made("a")))
            ended: list[bool] = []
            for _ in range(4):
                await anyio.wait_all_tasks_blocked()
                task.cancel()
                await anyio.wait_all_tasks_blocked()
                ended.append(task.done())
            other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await task
        stored = await backend.load("a")

    assert ended == [False] * 4
    assert stored is not None


# ---- owners --------------------------------------------------------------------------------------------------------


def taken_over_by_another_process() -> None:
    """What the database holds once another owner has acquired its only run."""
    ((*fields, _),) = sql(rows.SELECT_HEAD.partition(" WHERE")[0])
    head = Head(*fields)
    new = head._replace(owner="another", epoch=head.epoch + 1)
    sql(rows.OWN_RUN, new.owner, new.epoch, new.digest(), head.run_id)


@pytest.mark.clauses("L1")
async def test_an_owner_that_was_overtaken_is_fenced_and_starts_nothing() -> None:
    ran: list[str] = []

    class Overtaken(Steps):
        async def second(self, value: str) -> str:
            ran.append("second")
            taken_over_by_another_process()
            return value

        async def third(self, value: str) -> str:
            ran.append("third")
            return value

    flow = Overtaken()
    with pytest.raises(errors.RunFencedError) as caught:
        await flow.kickoff()

    assert (caught.value.run_id, caught.value.seq) == (flow.run_id, 2)
    assert ran == ["second"]
    assert [row[0] for row in rows_of(flow.run_id)] == [0, 1]
    assert sql("SELECT owner, epoch FROM runs") == [("another", 2)]


@pytest.mark.clauses("L1")
async def test_every_taking_over_raises_the_epoch() -> None:
    class Failing(Steps):
        async def third(self, value: str) -> str:
            raise ValueError

    flow = Failing()
    epochs = []
    for _ in range(3):
        with pytest.raises(errors.MethodError):
            await flow.kickoff()
        epochs += sql("SELECT epoch, owner FROM runs")

    assert epochs == [(1, None), (2, None), (3, None)]


@pytest.mark.clauses("X2", "L2")
async def test_a_failed_run_is_nobodys_even_if_a_sibling_ended_after_the_failure() -> None:
    # on_error="cancel": what was under way when the failure was stored must not say that the run goes on
    raised = anyio.Event()

    class Three(Flow[Work]):
        persistence = SQLiteFlowPersistence(PATH)
        on_error = "cancel"

        @start()
        async def shaky(self) -> None:
            raised.set()
            raise ValueError

        @start()
        async def quick(self) -> None:
            await raised.wait()

        @start()
        async def patient(self) -> None:
            await anyio.sleep_forever()

    async with Three.persistence:
        flow = Three()
        with anyio.fail_after(120), pytest.raises(errors.MethodError):
            await flow.kickoff()
        head = sql("SELECT status, owner FROM runs")

    assert flow.status == "failed"
    assert head == [("failed", None)]


@pytest.mark.clauses("C4", "L2")
async def test_an_interrupted_run_is_nobodys() -> None:
    inside = anyio.Event()

    class Slow(Steps):
        async def second(self, value: str) -> str:
            inside.set()
            await anyio.sleep_forever()
            return value

    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            group.start_soon(Slow().kickoff)
            await inside.wait()
            group.cancel_scope.cancel()
        head = sql("SELECT status, owner FROM runs")

    assert head == [("running", None)]


HOLDER = """
import sys, anyio
from asyncflow import *

class Steps(Flow[dict]):
    name = "Steps"
    persistence = SQLiteFlowPersistence("runs.db")

    @start()
    async def first(self):
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(Steps().kickoff, {"id": "held"})
"""


class Held(Flow[dict]):
    name = "Steps"
    persistence = Here(PATH)

    @start()
    async def first(self) -> str:
        return "freed"


@pytest.mark.clauses("L3")
async def test_a_lease_that_has_run_out_spoils_no_commit_where_nobody_took_over() -> None:
    class Late(Steps):
        persistence = SQLiteFlowPersistence(PATH, lease=3600)  # not to be renewed meanwhile

        @listen(Steps.first)
        async def second(self, value: str) -> str:
            sql("UPDATE owners SET expires = 0")
            return value + " late"

    async with Late.persistence:
        flow = Late()
        assert await flow.kickoff() == "one late three"
        expired = sql("SELECT expires FROM owners")

    assert expired == [(0.0,)]
    assert rows_of(flow.run_id, "kind, epoch") == [("started", 1), ("method", 1), ("method", 1), ("finished", 1)]


@contextlib.asynccontextmanager
async def holder() -> AsyncIterator[anyio.abc.Process]:
    """A process that drives the run `held`, and is killed at the end."""
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    async with await anyio.open_process([sys.executable, "-c", HOLDER], env=env, stderr=None) as process:
        try:
            with anyio.fail_after(120):
                assert process.stdout is not None
                assert (await process.stdout.receive()).strip() == b"ready"
            yield process
        finally:
            process.kill()
        await process.wait()


@pytest.mark.clauses("L2")
async def test_a_run_of_another_process_is_locked_until_that_is_dead_and_then_free_at_once() -> None:
    async with holder():
        loaded = await Held.load("held")
        for call in (
            lambda: Held().kickoff({"id": "held"}),
            lambda: Held.resume("held"),
            lambda: loaded.update_state(x=1),
            lambda: loaded.cancel(),
        ):
            with pytest.raises(errors.RunLockedError) as caught:
                await call()
            assert (caught.value.run_id, bool(caught.value.owner)) == ("held", True)
        other = Held()
        await other.kickoff()

    assert await Held.resume("held") == "freed"
    assert other.status == "finished"


@pytest.mark.clauses("L2")
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
async def test_a_run_of_a_process_that_was_stopped_for_days_is_free() -> None:
    # old leases are cleared away, and one that is missing must not make its owner alive again
    async with holder() as process:
        process.send_signal(signal.SIGSTOP)
        sql("UPDATE owners SET expires = expires - 200000")
        await Held().kickoff()

        assert await Held.resume("held") == "freed"
    await Held().kickoff()


@pytest.mark.clauses("L2")
async def test_a_run_in_this_process_is_locked_for_another_persistence_object_too() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Steps):
        async def first(self) -> str:
            inside.set()
            await go_on.wait()
            return ""

    flow = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await inside.wait()
        with pytest.raises(errors.RunLockedError):
            await Slow.resume(flow.run_id, persistence=SQLiteFlowPersistence("./runs.db"))
        go_on.set()

    assert flow.status == "finished"


# ---- damage --------------------------------------------------------------------------------------------------------


def changed(value: Any) -> Any:
    """The value with one bit changed, or with something where nothing was."""
    if isinstance(value, bytes):
        middle = len(value) // 2
        return value[:middle] + bytes([value[middle] ^ 1]) + value[middle + 1 :]
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1)
    return "x" if value is None else value + 1


CHECKPOINT = [
    "pass_number",
    "format",
    "version",
    "kind",
    "status",
    "at",
    "method",
    "base",
    "state",
    "progress",
    "changes",
    "result",
    "inputs",
    "outcome",
    "previous",
    "digest",
]
HEAD = [*rows._HEAD[1:]]


async def two_runs() -> tuple[str, str]:
    """A run that failed in its third step, to be damaged, and one that did so too, to be left alone."""

    class Failing(Steps):
        name = "Steps"

        async def third(self, value: str) -> str:
            raise ValueError

    flows = Failing(), Failing()
    for flow in flows:
        with pytest.raises(errors.MethodError):
            await flow.kickoff({"size": 3})
    return flows[0].run_id, flows[1].run_id


async def assert_corrupt_alone(damaged: str, other: str) -> None:
    def evidence() -> list[tuple[Any, ...]]:
        return sql("SELECT * FROM checkpoints") + sql("SELECT run_id, flow, status, head, head_digest, base FROM runs")

    before = evidence()
    for call in (Steps.load, Steps.resume, Steps.fork):
        with pytest.raises(errors.CheckpointCorruptError) as caught:
            await call(damaged)
        assert caught.value.run_id == damaged
    with pytest.raises(errors.CheckpointCorruptError):
        await Steps().kickoff({"id": damaged})

    assert evidence() == before
    assert await Steps.resume(other) == "one two three"


@pytest.mark.clauses("V4")
@pytest.mark.parametrize("column", CHECKPOINT)
async def test_a_changed_bit_in_a_checkpoint_is_found_and_hurts_that_run_only(column: str) -> None:
    damaged, other = await two_runs()
    (key, value), *_ = sql(
        f"SELECT id, {column} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) "
        f"AND {column} IS NOT NULL AND length({column}) > 0 ORDER BY seq DESC",
        damaged,
    )
    sql(f"UPDATE checkpoints SET {column} = ? WHERE id = ?", changed(value), key)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("column", HEAD)
async def test_a_changed_bit_in_the_head_of_a_run_is_found_and_hurts_that_run_only(column: str) -> None:
    damaged, other = await two_runs()
    ((value,),) = sql(f"SELECT {column} FROM runs WHERE run_id = ?", damaged)
    sql(f"UPDATE runs SET {column} = ? WHERE run_id = ?", changed(value), damaged)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("seq", [0, 1, 2, 3])
async def test_a_missing_checkpoint_is_found(seq: int) -> None:
    damaged, other = await two_runs()
    sql("DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?", damaged, seq)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
async def test_a_checkpoint_of_another_run_in_its_place_is_found() -> None:
    damaged, other = await two_runs()
    run = "(SELECT id FROM runs WHERE run_id = ?)"
    for column in ("state", "changes", "previous", "digest", "at"):
        sql(
            f"UPDATE checkpoints SET {column} = (SELECT {column} FROM checkpoints WHERE run = {run} AND seq = 2) "
            f"WHERE run = {run} AND seq = 2",
            other,
            damaged,
        )

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
async def test_an_old_head_with_its_own_digest_is_found() -> None:
    # a stale copy of the row, as a lost write leaves it: valid in itself, and yet behind the checkpoints
    class Peek(Steps):
        name = "Steps"

        async def second(self, value: str) -> str:
            old.extend(sql("SELECT * FROM runs"))
            raise ValueError

    old: list[tuple[Any, ...]] = []
    flow = Peek()
    with pytest.raises(errors.MethodError):
        await flow.kickoff()
    marks = ", ".join("?" * len(old[0]))
    sql(f"REPLACE INTO runs VALUES ({marks})", *old[0])

    with pytest.raises(errors.CheckpointCorruptError):
        await Steps.load(flow.run_id)


@pytest.mark.clauses("V4")
async def test_an_unknown_id_in_a_damaged_database_is_no_new_run() -> None:
    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(Steps().kickoff)
    ((size,),) = sql("PRAGMA page_size")
    ((page,),) = sql("SELECT rootpage FROM sqlite_schema WHERE name = 'checkpoints'")
    data = await anyio.Path(PATH).read_bytes()
    start_at = (page - 1) * size
    await anyio.Path(PATH).write_bytes(data[:start_at] + b"\xff" * size + data[start_at + size :])
    ran: list[str] = []

    class Never(Steps):
        name = "Steps"

        async def first(self) -> str:
            ran.append("first")
            return ""

    for call in (lambda: Never().kickoff({"id": "lost?"}), lambda: Never.load("lost?"), lambda: Never.resume("lost?")):
        with pytest.raises(errors.StorageCorruptError):
            await call()

    assert ran == []


async def test_reading_does_not_wait_for_writers() -> None:
    flow = Steps()
    await flow.kickoff()
    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
        async with Steps.persistence:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(120):
                loaded = await Steps.load(flow.run_id)
                history = await loaded.history()
            other.execute("ROLLBACK")

    assert loaded.state.done == ["first", "second", "third"]
    assert len(history) == 4


# ---- the whole of it, verified -----------------------------------------------------------------------------------


async def two_passes() -> str:
    """A finished run of two passes: loading begins at the second."""
    flow = Steps()
    await flow.kickoff()
    await flow.kickoff()
    return flow.run_id


@pytest.mark.clauses("V4")
async def test_a_sound_database_verifies() -> None:
    await two_passes()
    damaged, _ = await two_runs()

    assert await Steps.persistence.verify() == []
    assert await Steps.persistence.verify(damaged) == []


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("column", ["state", "changes", "previous", "digest", "method"])
async def test_damage_that_loading_does_not_meet_is_found_by_verifying(column: str) -> None:
    other = await two_passes()
    damaged = await two_passes()
    run = "run = (SELECT id FROM runs WHERE run_id = ?) AND seq = 2"
    ((value,),) = sql(f"SELECT {column} FROM checkpoints WHERE {run}", damaged)
    sql(f"UPDATE checkpoints SET {column} = ? WHERE {run}", changed(value), damaged)
    assert (await Steps.load(damaged)).status == "finished"

    (found,) = await Steps.persistence.verify()

    assert isinstance(found, errors.CheckpointCorruptError)
    assert (found.run_id, found.seq) == (damaged, 2)
    assert [type(error) for error in await Steps.persistence.verify(damaged)] == [errors.CheckpointCorruptError]
    assert await Steps.persistence.verify(other) == []


@pytest.mark.clauses("V4")
async def test_checkpoints_whose_run_is_gone_are_found_by_verifying() -> None:
    run_id = await two_passes()
    sql("DELETE FROM runs WHERE run_id = ?", run_id)

    (found,) = await Steps.persistence.verify()

    assert isinstance(found, errors.StorageCorruptError)
    assert "8 checkpoints belong to no run" in str(found)


async def test_an_unknown_run_cannot_be_verified() -> None:
    await two_passes()

    with pytest.raises(errors.RunNotFoundError):
        await Steps.persistence.verify("unknown")


# ---- a key, for those who distrust the disk ----------------------------------------------------------------------


KEY = b"a secret of 24 bytes ..."


def forge(run_id: str) -> None:
    """Finish a run by hand, as somebody who knows the format can: with all its digests."""
    ((*fields, _),) = sql(rows.SELECT_HEAD.partition(" WHERE")[0])
    head = Head(*fields)
    (last,) = sql("SELECT * FROM checkpoints ORDER BY seq DESC LIMIT 1")
    names = [name for _, name, *_ in sql("PRAGMA table_info(checkpoints)")]
    names = ["number" if name == "pass_number" else name for name in names]
    stored = {name: value for name, value in zip(names, last, strict=True) if name in Checkpoint._fields}
    made_up = Checkpoint(
        run_id=run_id, flow=head.flow, identity=head.identity, **{**stored, "state": b'{"id":"x","size":9}'}
    ).sealed()
    sql("UPDATE checkpoints SET state = ?, digest = ? WHERE id = ?", made_up.state, made_up.digest, last[0])
    forged = head._replace(head_digest=made_up.digest)
    sql("UPDATE runs SET head_digest = ?, digest = ?", forged.head_digest, forged.digest())


@pytest.mark.clauses("V4")
@pytest.mark.parametrize("key", [None, KEY])
async def test_what_was_made_up_is_found_where_there_is_a_key(key: bytes | None) -> None:
    storage = SQLiteFlowPersistence(PATH, key=key)
    flow = Steps(persistence=storage)
    await flow.kickoff({"id": "x"})
    assert (await Steps.load("x", persistence=storage)).state.size == 0
    forge("x")

    if key is None:
        assert (await Steps.load("x", persistence=storage)).state.size == 9
    else:
        with pytest.raises(errors.CheckpointCorruptError, match="under another key"):
            await Steps.load("x", persistence=storage)


@pytest.mark.clauses("V4")
async def test_with_a_key_a_run_goes_on_and_with_another_it_does_not() -> None:
    class Failing(Steps):
        name = "Steps"

        async def third(self, value: str) -> str:
            raise ValueError

    flow = Failing(persistence=SQLiteFlowPersistence(PATH, key=KEY))
    with pytest.raises(errors.MethodError):
        await flow.kickoff()

    for other in (None, KEY[::-1]):
        with pytest.raises(errors.CheckpointCorruptError):
            await Steps.resume(flow.run_id, persistence=SQLiteFlowPersistence(PATH, key=other))
    assert await Steps.resume(flow.run_id, persistence=SQLiteFlowPersistence(PATH, key=KEY)) == "one two three"


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_has_16_to_64_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 64 bytes"):
        SQLiteFlowPersistence(PATH, key=b"k" * size)


@pytest.mark.clauses("V4")
@pytest.mark.parametrize(
    ("name", "text", "damaged"),
    [
        ("runs", "UNIQUE", "UNIQUe"),
        ("checkpoints", "REFERENCES", "REFERENCEs"),
        ("commits", "NULL AS at", "NULL as at"),
        ("append_first", "BEGIN", "BEGIn"),
        ("append_running", "NEW.seq - 1", "NEW.seq - 3"),
        ("append_other", "NEW.epoch", "OLD.epoch"),
    ],
)
async def test_a_damaged_schema_is_found_and_what_others_added_is_theirs(name: str, text: str, damaged: str) -> None:
    # else a trigger that compares too little would commit what does not follow, and one that compares too much would fence
    flow = Steps()
    await flow.kickoff()
    sql("CREATE INDEX somebody_elses ON checkpoints (at)")
    assert await Steps.resume(flow.run_id) == "one two three"
    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", (text, damaged, name))

    with pytest.raises(errors.StorageCorruptError, match=rf"schema is not as it was made \({name}\)"):
        await Steps.resume(flow.run_id)


@pytest.mark.parametrize("size", [0, 1, appends._LARGE - 3, appends._LARGE, 3 * appends._LARGE])
async def test_parts_of_any_size_are_stored_as_they_are(size: int) -> None:
    state = b'"' + b"\0" * size + b'"'
    given = made("x", state=state, progress=b"", changes=None, outcome=b"''")

    async with SQLiteFlowPersistence(PATH) as persistence:
        await persistence.append(given)

    names = ("state", "progress", "changes", "result", "outcome", "previous")
    assert sql(f"SELECT {', '.join(names)} FROM checkpoints") == [(state, b"", None, None, b"''", b"")]
    assert sql("SELECT typeof(state), typeof(progress), typeof(digest) FROM checkpoints") == [("blob",) * 3]


async def test_a_part_of_a_wrong_type_hurts_its_own_run_alone() -> None:
    runs = [made(name) for name in "abcd"]
    runs[2] = runs[2]._replace(state="{}")  # type: ignore[arg-type]  # as a caller's mistake
    failed: list[str] = []

    async with SQLiteFlowPersistence(PATH) as persistence:

        async def append(checkpoint: Checkpoint) -> None:
            try:
                await persistence.append(checkpoint)
            except errors.StorageError:
                failed.append(checkpoint.run_id)

        async with anyio.create_task_group() as group:
            for checkpoint in runs:
                group.start_soon(append, checkpoint)

    assert failed == ["c"]
    assert [run_id for (run_id,) in sql("SELECT run_id FROM runs ORDER BY run_id")] == ["a", "b", "d"]
