"""`PostgresFlowPersistence`: the schema, group commit, leases, damage, the catalog, and how each failure is reported."""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from anyio.abc import TaskStatus
from loops import LOOPS
from server import Server

import asyncflow
from asyncflow import Flow, FlowRunner, FlowState, errors, listen, start
from asyncflow.persistence._database.jobs import Acquire, Delete, Renew
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.database import MIGRATIONS
from asyncflow.testing._checkpoints import Chain

ENV = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
on_one_loop = pytest.mark.parametrize("anyio_backend", [LOOPS["uvloop"]], ids=["uvloop"], indirect=True)
"""For long tables of what has nothing to do with loops."""

Query = Callable[..., list[tuple[Any, ...]]]


class Work(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it


class Steps(Flow[Work]):
    name = "Steps"

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


@pytest.fixture
def query(sql: psycopg.Connection, schema: str) -> Query:
    """Ask the schema, as another program would; `{0}` stands for its name."""

    def ask(statement: str, *values: Any) -> list[tuple[Any, ...]]:
        cursor = sql.execute(statement.format(schema), values or None)
        return cursor.fetchall() if cursor.description else []

    return ask


def same(persistence: PostgresFlowPersistence, **options: Any) -> PostgresFlowPersistence:
    """Another persistence of the same storage."""
    target = persistence._target
    return PostgresFlowPersistence(target.conninfo, schema=target.schema, **options)


async def store_all(persistence: PostgresFlowPersistence, rows: list[Any]) -> dict[int, Exception | None]:
    """Save these at once; what became of each, by its place."""
    told: dict[int, Exception | None] = {}

    async def save(place: int, row: Any, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            await persistence.append(row)
            told[place] = None
        except errors.AsyncflowError as error:
            told[place] = error

    async with anyio.create_task_group() as group:
        for place, row in enumerate(rows):
            await group.start(save, place, row)  # in this order: they may be of one run
    return told


# ---- the schema ----------------------------------------------------------------------------------------------------


async def test_many_that_open_a_new_schema_at_once_make_it_once(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(same(persistence).load, "any")

    assert query("SELECT version FROM {0}.asyncflow ORDER BY 1") == [(n,) for n in range(1, len(MIGRATIONS) + 1)]


async def test_a_schema_of_another_program_is_refused_and_left_as_it_was(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    query("CREATE SCHEMA {0}")
    query("CREATE TABLE {0}.runs (mine TEXT)")

    with pytest.raises(errors.ForeignDatabaseError):
        await persistence.load("any")

    assert query("SELECT relname FROM pg_class WHERE relnamespace = '{0}'::regnamespace") == [("runs",)]


async def test_a_newer_schema_is_refused(persistence: PostgresFlowPersistence, query: Query) -> None:
    await persistence.load("any")
    query("INSERT INTO {0}.asyncflow VALUES (99)")

    with pytest.raises(errors.StorageVersionError):
        await persistence.load("any")


@pytest.mark.clauses("D3")
async def test_a_commit_is_durable_where_the_server_would_not_wait_for_it(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, query: Query
) -> None:
    await persistence.load("any")
    query("SET synchronous_commit = off")
    with sql.transaction():
        query("SELECT {0}.begin(1, 1000, NULL, NULL)")
        inside = query("SHOW synchronous_commit")

    assert inside == [("on",)]
    assert query("SHOW synchronous_commit") == [("off",)]


def test_importing_asyncflow_does_not_import_psycopg_and_without_it_the_extra_is_named() -> None:
    program = """
import sys
import asyncflow, asyncflow.persistence
assert not any(name.startswith("psycopg") for name in sys.modules)
sys.modules["psycopg"] = None
try:
    import asyncflow.persistence.postgres
except ImportError as error:
    assert ".[postgres]" in str(error)
else:
    raise SystemExit("it was imported")
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=ENV)


# ---- group commit --------------------------------------------------------------------------------------------------


async def test_many_runs_at_once_need_far_fewer_transactions_than_checkpoints(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    async with persistence, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(Steps(persistence=persistence).kickoff)

    ((checkpoints, transactions),) = query("SELECT count(*), count(DISTINCT xmin::text) FROM {0}.checkpoints")
    assert checkpoints == 400
    assert transactions <= 60


async def test_a_lone_run_pays_one_transaction_for_each_checkpoint(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    flow = Steps(persistence=persistence)
    assert await flow.kickoff() == "one two three"

    assert query("SELECT count(*), count(DISTINCT xmin::text) FROM {0}.checkpoints") == [(4, 4)]
    assert query("SELECT run_id, status, head, owner FROM {0}.runs") == [(flow.run_id, "finished", 3, None)]


async def test_checkpoints_of_one_run_in_one_batch_follow_one_another(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, query: Query
) -> None:
    chain = Chain("run")
    told: dict[int, Exception | None] = {}

    async def store_the_rest() -> None:
        told.update(await store_all(persistence, chain.extend(20)))

    async with persistence:
        await persistence.append(chain.add())
        queue = persistence._shared.current.commits._queue  # type: ignore[union-attr]
        async with anyio.create_task_group() as group:
            with sql.transaction():
                query("SELECT FROM {0}.runs FOR UPDATE")  # the first of them waits, and the others queue up behind it
                group.start_soon(store_the_rest)
                with anyio.fail_after(120):
                    while len(queue) < 19:  # noqa: ASYNC110 - no event to wait for
                        await anyio.sleep(0.001)
        found = await persistence.history("run")

    assert set(told.values()) == {None}
    assert found == chain.rows
    assert query("SELECT count(DISTINCT xmin::text) FROM {0}.checkpoints") == [(3,)]


@pytest.mark.clauses("D1", "D4")
async def test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    first, *chains = [Chain(f"run {n}") for n in range(6)]
    rows = [chain.add() for chain in (first, *chains)]
    rows[2] = chains[1].instead(previous=b"another")
    rows[3] = chains[2].rows[0]._replace(flow="a\0b", epoch=1).sealed()
    async with persistence:
        told = await store_all(persistence, rows)

    assert [type(told[n]).__name__ for n in range(6)] == [
        *("NoneType", "NoneType", "StaleCheckpoint", "StorageWriteError", "NoneType", "NoneType")
    ]
    assert query("SELECT run_id FROM {0}.runs ORDER BY 1") == [(f"run {n}",) for n in (0, 1, 4, 5)]


@pytest.mark.clauses("L1")
async def test_a_run_that_is_acquired_and_deleted_in_one_batch_is_kept(persistence: PostgresFlowPersistence) -> None:
    async with persistence:
        chain = Chain("x")
        await persistence.save(chain.add())
        await persistence.release("x", 1)
        opened = persistence._shared.current
        assert opened is not None, "entered"
        first, acquire, delete = Renew(), Acquire("x"), Delete("x")
        for job in (first, acquire, delete):  # the first one is committed alone, if the loop gets to it
            opened.commits.put(job)
        await persistence.save(Chain("y").add())

        assert acquire.epoch == 2
        assert isinstance(delete.error, errors.RunLockedError)
        assert await persistence.load("x") is not None


@pytest.mark.clauses("D1")
async def test_a_run_locked_by_another_program_is_waited_for_and_fails_no_neighbours(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.persistence.postgres.writer.BUSY_SECONDS", 0.2)
    chains = [Chain(f"run {n}") for n in range(4)]
    async with persistence:
        await store_all(persistence, [chain.add() for chain in chains])
        with sql.transaction():
            query("SELECT FROM {0}.runs WHERE run_id = 'run 2' FOR UPDATE")
            told = await store_all(persistence, [chain.add() for chain in chains])
        assert isinstance(told[2], errors.StorageBusyError)
        assert [told[n] for n in (0, 1, 3)] == [None] * 3

        await persistence.append(chains[2].rows[1])


@on_one_loop
async def test_where_a_whole_table_is_locked_a_batch_does_not_wait_once_for_each_of_its_jobs(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.persistence.postgres.writer.BUSY_SECONDS", 0.5)
    async with persistence:
        await persistence.load("any")
        with sql.transaction(), anyio.fail_after(60):  # half a second for each would be 120
            query("LOCK TABLE {0}.runs")
            told = await store_all(persistence, [Chain(f"run {n}").add() for n in range(240)])

    assert {type(error) for error in told.values()} == {errors.StorageBusyError}


@pytest.mark.parametrize("name", ["a\0b", "half \ud83d"])
async def test_an_id_that_cannot_be_stored_is_the_id_of_no_run(persistence: PostgresFlowPersistence, name: str) -> None:
    async with persistence:
        assert await persistence.load(name) is None
        assert await persistence.history(name) == []
        assert await persistence.acquire(name) == 0
        assert await persistence.delete(name) is False
        assert await persistence.runs(flow=name) == []
        await persistence.release(name, 1)


# ---- leases --------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, anyio
from asyncflow import *
from asyncflow.persistence._database.jobs import Acquire, Delete, Renew
from asyncflow.persistence.postgres import PostgresFlowPersistence

class Steps(Flow[dict]):
    name = "Steps"
    persistence = PostgresFlowPersistence(sys.argv[1], schema=sys.argv[2])

    @start()
    async def first(self):
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        return "kept"

    @listen(first)
    async def second(self):
        print("second", flush=True)

async def main():
    try:
        await Steps().kickoff({"id": "held"})
    except Exception as error:
        print(type(error).__name__, flush=True)

anyio.run(main)
"""


@pytest.fixture
def holder(persistence: PostgresFlowPersistence) -> Iterator[subprocess.Popen[str]]:
    """A process that drives the run "held", and is in a body of it."""
    target = persistence._target
    command = [sys.executable, "-c", HOLDER, target.conninfo, target.schema]
    with subprocess.Popen(command, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


class Held(Flow[dict[str, Any]]):
    name = "Steps"

    @start()
    async def first(self) -> str:
        return "freed"

    @listen(first)
    async def second(self) -> str:
        return "taken over"


@pytest.mark.clauses("L1", "L2", "L3")
async def test_a_run_is_its_owners_until_the_lease_has_run_out_and_then_the_owner_is_fenced(
    persistence: PostgresFlowPersistence, holder: subprocess.Popen[str], query: Query
) -> None:
    async with persistence:
        with pytest.raises(errors.RunLockedError) as caught:
            await Held.resume("held", persistence=persistence)
        with pytest.raises(errors.RunLockedError):
            await persistence.delete("held")
        ((owner,),) = query("SELECT owner FROM {0}.runs")
        is_driven = [entry.is_driven for entry in await persistence.runs(run_id="held")]
        async with FlowRunner(persistence, recover_every=None) as runner:
            status = await (await runner.get("held")).status()
        holder.send_signal(signal.SIGSTOP)
        query("UPDATE {0}.owners SET expires = clock_timestamp()")
        epoch = await persistence.acquire("held")
        takeovers = [entry.takeovers for entry in await persistence.runs()]
        await persistence.release("held", epoch)
        result = await Held.resume("held", persistence=persistence)
        takeovers += [entry.takeovers for entry in await persistence.runs()]
        holder.send_signal(signal.SIGCONT)
        rest, _ = holder.communicate("go on\n", timeout=120)

    assert caught.value.owner == owner
    assert "may have died" in str(caught.value), "its lease is all that is known of it"
    assert caught.value.seconds is not None
    assert 0 < caught.value.seconds <= persistence.lease
    assert is_driven == [True]
    assert status == "running"
    assert takeovers == [1, 0], "it was given back in order"
    assert result == "taken over"
    assert rest == "RunFencedError\n"
    assert query("SELECT count(*), max(epoch) FROM {0}.checkpoints") == [(4, 3)], "started, resumed, and two ends"


@pytest.mark.clauses("L2")
async def test_a_resume_takes_the_count_of_takeovers_along(persistence: PostgresFlowPersistence, query: Query) -> None:
    chain = Chain("a")
    async with persistence:
        await persistence.append(chain.add())
        query("UPDATE {0}.runs SET takeovers = 7, counted_at = head")
        found = []
        for kind in ("resumed", "resumed", "method"):
            await persistence.append(chain.add(kind=kind))
            found += [entry.takeovers for entry in await persistence.runs()]

    assert found == [7, 7, 0]


@pytest.mark.clauses("L1")
async def test_a_run_can_be_taken_by_force(persistence: PostgresFlowPersistence, holder: subprocess.Popen[str]) -> None:
    async with persistence:
        assert await persistence.acquire("held", force=True) == 2
        assert [entry.takeovers for entry in await persistence.runs()] == [0], "its owner was alive"
        rest, _ = holder.communicate("go on\n", timeout=120)

    assert rest == "RunFencedError\n"


@pytest.mark.clauses("L2")
async def test_a_clean_end_gives_up_the_lease(persistence: PostgresFlowPersistence, query: Query) -> None:
    async with persistence:
        await Steps(persistence=persistence).kickoff()
        during = query("SELECT count(*) FROM {0}.owners")

    assert during == [(1,)]
    assert query("SELECT count(*) FROM {0}.owners") == [(0,)]


@pytest.mark.clauses("L2")
async def test_a_lease_is_renewed_while_a_method_runs(persistence: PostgresFlowPersistence, query: Query) -> None:
    seen: set[Any] = set()

    class Long(Steps):
        async def first(self) -> str:
            with anyio.fail_after(120):
                while len(seen) < 3:
                    seen.update(query("SELECT expires FROM {0}.owners"))
                    await anyio.sleep(0.02)
            return "one"

    assert await Long(persistence=same(persistence, lease=1.5)).kickoff() == "one two three"


@pytest.mark.clauses("L2")
async def test_a_failed_run_has_no_owner(persistence: PostgresFlowPersistence, query: Query) -> None:
    class Failing(Steps):
        async def second(self, value: str) -> str:
            raise ValueError

    async with persistence:
        with pytest.raises(errors.MethodError):
            await Failing(persistence=persistence).kickoff()

        assert query("SELECT status, owner, epoch FROM {0}.runs") == [("failed", None, 1)]


# ---- leaving -------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("L2")
def test_what_a_closed_loop_has_left_open_is_let_go_and_its_runs_are_free(
    persistence: PostgresFlowPersistence, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    backend, options = anyio_backend
    chain = Chain("run")

    async def leak() -> None:
        await persistence.__aenter__()
        await persistence.append(chain.add())
        await persistence.load("run")

    async def go_on() -> int:
        async with persistence:
            return await persistence.acquire("run")

    anyio.run(leak, backend=backend, backend_options=options)

    assert anyio.run(go_on, backend="asyncio") == 2


LEAKING = """
import os, sys, warnings, anyio
from asyncflow.errors import ForkedProcessError
from asyncflow.persistence._database.jobs import Acquire, Delete, Renew
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.database import MIGRATIONS
from asyncflow.testing._checkpoints import Chain

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # Python 3.12 says so; see the guide
persistence = PostgresFlowPersistence(sys.argv[1], schema=sys.argv[2])
chain = Chain("run")

async def used_in_a_child():
    try:
        await persistence.append(chain.rows[0])
    except ForkedProcessError:
        print("forked", flush=True)

async def main():
    await persistence.__aenter__()
    await persistence.append(chain.add())
    child = os.fork()
    if not child:
        try:
            used_in_a_child().send(None)
        except StopIteration:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    await persistence.append(chain.add())
    print("left", flush=True)

anyio.run(main, backend=sys.argv[3])
"""


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_process_that_leaks_one_leaves_and_a_forked_child_does_it_no_harm(
    persistence: PostgresFlowPersistence, query: Query, loop: str
) -> None:
    target = persistence._target
    command = [sys.executable, "-c", LEAKING, target.conninfo, target.schema, loop]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "forked\nleft\n", "")
    assert query("SELECT head FROM {0}.runs") == [(1,)]


# ---- damage --------------------------------------------------------------------------------------------------------

FLIPS = {
    "flow": "flow || 'x'",
    "pass_number": "pass_number + 1",
    "base": "base + 1",
    "status": "'failed'",
    "head_digest": "set_byte(head_digest, 3, get_byte(head_digest, 3) # 4)",
    "owner": "'another'",
    "epoch": "epoch + 1",
    "entry_digest": "set_byte(entry_digest, 3, get_byte(entry_digest, 3) # 4)",
}
CHECKPOINT_FLIPS = {
    "pass_number": "pass_number + 1",
    "kind": "'edited'",
    "at": "at + 0.25",
    "method": "method || 'x'",
    "state": "set_byte(state, 3, get_byte(state, 3) # 4)",
    "progress": "set_byte(progress, 3, get_byte(progress, 3) # 4)",
    "inputs": "NULL",
    "previous": "'x'",
    "digest": "set_byte(digest, 3, get_byte(digest, 3) # 4)",
}


@on_one_loop
@pytest.mark.clauses("V4")
@pytest.mark.parametrize(
    ("table", "column", "change"),
    [("runs", *flip) for flip in FLIPS.items()] + [("checkpoints", *flip) for flip in CHECKPOINT_FLIPS.items()],
)
async def test_a_changed_column_is_found_and_hurts_that_run_only(
    table: str, column: str, change: str, persistence: PostgresFlowPersistence, query: Query
) -> None:
    hurt, sound = Chain("hurt"), Chain("sound")
    async with persistence:
        for chain in (hurt, sound):
            await store_all(persistence, [chain.add(), *chain.extend(2, whole=True)])
        where = (
            "run_id = 'hurt'"
            if table == "runs"
            else "seq = 2 AND run = (SELECT id FROM {0}.runs WHERE run_id = 'hurt')"
        )
        query(f"UPDATE {{0}}.{table} SET {column} = {change} WHERE {where}")

        with pytest.raises(errors.CheckpointCorruptError) as caught:
            await persistence.load("hurt")
        assert caught.value.run_id == "hurt"
        assert [(type(error), error.run_id) for error in await persistence.verify()] == [
            (errors.CheckpointCorruptError, "hurt")
        ]
        if table == "runs":
            with pytest.raises(errors.CheckpointCorruptError):
                await persistence.acquire("hurt", force=True)
        assert await persistence.load("sound") == sound.rows[-1]


@on_one_loop
@pytest.mark.clauses("V4")
@pytest.mark.parametrize("seq", [0, 1, 2])
async def test_a_missing_checkpoint_is_found(seq: int, persistence: PostgresFlowPersistence, query: Query) -> None:
    chain = Chain("run")
    async with persistence:
        await store_all(persistence, [chain.add(), *chain.extend(2)])
        query("DELETE FROM {0}.checkpoints WHERE seq = %s", seq)

        with pytest.raises(errors.CheckpointCorruptError):
            await persistence.load("run")


@on_one_loop
@pytest.mark.clauses("V4")
async def test_with_its_key_a_run_resumes_and_with_another_it_does_not(persistence: PostgresFlowPersistence) -> None:
    keyed, other = same(persistence, key=b"k" * 16), same(persistence, key=b"o" * 16)
    chain = Chain("run")
    await keyed.append(chain.add())
    await keyed.append(chain.add())

    assert await keyed.load("run") == chain.rows[-1]
    for stranger in (other, persistence):
        with pytest.raises(errors.CheckpointCorruptError):
            await stranger.load("run")


# ---- the catalog ---------------------------------------------------------------------------------------------------


async def test_runs_are_listed_the_newest_first_page_by_page(persistence: PostgresFlowPersistence) -> None:
    async with persistence:
        for n in range(5):
            status = "running" if n % 2 else "finished"
            await persistence.append(Chain(f"run {n}").add(status=status, flow="A" if n < 4 else "B"))
        everything = await persistence.runs()
        pages = await persistence.runs(limit=2), await persistence.runs(limit=2, before=everything[1].position)
        running = await persistence.runs(status="running")

    assert [entry.run_id for entry in everything] == [f"run {n}" for n in (4, 3, 2, 1, 0)]
    assert [*pages[0], *pages[1]] == everything[:4]
    assert [(entry.run_id, entry.is_driven) for entry in running] == [("run 3", True), ("run 1", True)]
    assert [entry.run_id for entry in await persistence.runs(flow="B")] == ["run 4"]


async def test_runs_are_forgotten_unless_they_are_driven(persistence: PostgresFlowPersistence, query: Query) -> None:
    async with persistence:
        for n in range(6):
            await persistence.append(Chain(f"run {n}").add(status="finished" if n else "running"))
        with pytest.raises(errors.RunLockedError):
            await persistence.delete("run 0")
        assert await persistence.delete("run 1")
        assert not await persistence.delete("run 1")
        assert await persistence.prune(older_than=0.0, keep_last=2) == 2

    assert query("SELECT run_id FROM {0}.runs ORDER BY id") == [("run 0",), ("run 4",), ("run 5",)]
    assert query("SELECT count(*) FROM {0}.checkpoints") == [(3,)]


# ---- troubles ------------------------------------------------------------------------------------------------------

SECRET = "rosebud"


@pytest.fixture(scope="module")
def roles(private_server: Server) -> None:
    with psycopg.connect(private_server.conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")


TROUBLES: dict[str, tuple[dict[str, Any], type[errors.StorageError]]] = {
    "no such host": ({"host": "asyncflow.invalid"}, errors.StorageUnreachableError),
    "nobody listens": ({"host": "127.0.0.1", "port": 1}, errors.StorageUnreachableError),
    "no such socket": ({"host": "/nowhere"}, errors.StorageUnreachableError),
    "no such database": ({"dbname": "missing"}, errors.StorageNotFoundError),
    "wrong password": ({"user": "locked"}, errors.StorageReadOnlyError),
    "no such role": ({"user": "stranger"}, errors.StorageReadOnlyError),
    "may not make a schema": ({"user": "guest"}, errors.StorageReadOnlyError),
    "read-only": ({"options": "-c default_transaction_read_only=on"}, errors.StorageReadOnlyError),
    "too many connections": ({"user": "crowd"}, errors.StorageBusyError),
    "a statement takes too long": ({"options": "-c statement_timeout=1"}, errors.StorageBusyError),
}


@on_one_loop
@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(("changed", "expected"), TROUBLES.values(), ids=list(TROUBLES))
async def test_each_failure_at_opening_has_its_own_error_type_and_does_not_show_the_password(
    changed: dict[str, Any],
    expected: type[errors.StorageError],
    private_server: Server,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncflow.persistence.postgres.persistence.BUSY_SECONDS", 0.1)
    conninfo = psycopg.conninfo.make_conninfo(private_server.conninfo, password=SECRET, **changed)
    persistence = PostgresFlowPersistence(conninfo, schema=schema)

    with pytest.raises(errors.StorageError) as caught:
        await persistence.load("any")

    assert type(caught.value) is expected
    assert str(changed.get("host", private_server.folder)) in str(caught.value)
    assert repr(changed.get("dbname", "postgres")) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(persistence)


@on_one_loop
@pytest.mark.found("P6")
async def test_an_event_loop_that_psycopg_cannot_use_is_reported_as_that_and_at_once(
    persistence: PostgresFlowPersistence, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise psycopg.InterfaceError("Psycopg cannot use the 'ProactorEventLoop' to run in async mode.")

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
    with pytest.raises(errors.StorageError, match="SelectorEventLoop") as caught:
        await persistence.load("any")

    assert type(caught.value) is errors.StorageError


async def test_a_schema_that_is_dropped_meanwhile_is_reported(
    persistence: PostgresFlowPersistence, query: Query
) -> None:
    async with persistence:
        await persistence.append(Chain("run").add())
        query("DROP SCHEMA {0} CASCADE")

        for operation in (lambda: persistence.load("run"), lambda: persistence.append(Chain("other").add())):
            with pytest.raises(errors.StorageNotFoundError):
                await operation()


async def test_what_is_read_only_is_not_written(persistence: PostgresFlowPersistence, query: Query) -> None:
    chain = Chain("run")
    await persistence.append(chain.add())
    target = persistence._target
    conninfo = psycopg.conninfo.make_conninfo(target.conninfo, options="-c default_transaction_read_only=on")
    async with PostgresFlowPersistence(conninfo, schema=target.schema) as reading:
        assert await reading.load("run") == chain.rows[0]
        with pytest.raises(errors.StorageReadOnlyError):
            await reading.append(chain.add())

    assert query("SELECT head FROM {0}.runs") == [(0,)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"conninfo": f"postgresql://user:{SECRET}@[host/database"},
        {"conninfo": f"password {SECRET}"},
        {"schema": 'a"b'},
        {"schema": "pg_catalog"},
        {"lease": 0},
        {"readers": -1},
        {"key": b"short"},
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not |cannot") as caught:
        PostgresFlowPersistence(**{"conninfo": "postgresql://host/database", **arguments})

    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_making_one_does_no_io() -> None:
    persistence = PostgresFlowPersistence(f"postgresql://me:{SECRET}@nowhere.invalid/work")

    assert (
        repr(persistence) == "<PostgresFlowPersistence: schema 'asyncflow' of database 'work' at nowhere.invalid:5432>"
    )
