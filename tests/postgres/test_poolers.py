"""PgBouncer between a program and its server: what a lost reply does, and what each way of pooling allows."""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest
from figures import FACTOR, SEED
from loops import LOOPS
from pooler import MakePooler, PoolMode
from proxy import PLACES, Proxy
from saved import Saved
from waiting import until

from asyncflow import Flow, FlowPersistence, FlowRunner, FlowState, errors, listen, start
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.database import BUSY_SECONDS
from asyncflow.testing._checkpoints import Chain
from asyncflow.testing.conformance import PersistenceConformance

CUTS = max(12, round(12 * FACTOR))
WORKING: tuple[PoolMode, ...] = ("session", "transaction")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Work(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it


class Steps(Flow[Work]):
    @start()
    async def first(self) -> int:
        self.state.done.append("first")
        return 1

    @listen(first)
    async def second(self, n: int) -> int:
        self.state.done.append("second")
        return n + 1


class Busy:
    """A neighbour that connects, writes nothing and leaves, again and again: it takes whichever session has become free."""

    def __init__(self, conninfo: str) -> None:
        self.count = 0
        self.error: Exception | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(conninfo,))
        self._thread.start()

    def _work(self, conninfo: str) -> None:
        try:
            while not self._is_over.is_set():
                with psycopg.connect(conninfo) as connection:
                    connection.execute("SELECT pg_sleep(0.002)")
                    connection.execute("SELECT 1")
                self.count += 1
        except Exception as error:
            self.error = error

    def end(self) -> None:
        self._is_over.set()
        self._thread.join(60)


# ---- a lost reply --------------------------------------------------------------------------------------------------


class Neighbour:
    """Another program, behind the same pooler: it begins a transaction as soon as it gets a session, and keeps it open."""

    def __init__(self, conninfo: str, first: psycopg.Connection) -> None:
        self.has_begun = threading.Event()
        self.pids: list[tuple[int, ...]] = []
        self.error: Exception | None = None
        self._first = first
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(conninfo,))
        self._thread.start()

    def _work(self, conninfo: str) -> None:
        try:
            with psycopg.connect(conninfo) as connection:
                self.pids = connection.execute("SELECT pg_backend_pid()").fetchall()
                self._first.close()  # a session for the client that lost one
                self.has_begun.set()
                assert self._may_end.wait(60)
                connection.execute("SELECT 1")
        except Exception as error:
            self.error = error
            self._first.close()
            self.has_begun.set()

    def end(self) -> None:
        self._may_end.set()
        self._thread.join(60)


@pytest.mark.found("D3")
@pytest.mark.clauses("S1")
async def test_a_session_that_a_pooler_has_handed_on_is_not_ended(
    make_pooler: MakePooler, persistence: PostgresFlowPersistence, sql: psycopg.Connection, stack: ExitStack
) -> None:
    pooler = make_pooler("session", default_pool_size=2)
    proxy = stack.enter_context(closing(Proxy(pooler.conninfo)))
    chain = Chain("run")
    async with PostgresFlowPersistence(proxy.conninfo, schema=persistence._target.schema) as storage:
        await storage.append(chain.add())
        ours = sql.execute(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()",
            (f"%{persistence._target.schema}%.append_checkpoints(%",),
        ).fetchall()
        first = psycopg.connect(pooler.conninfo)
        first.execute("SELECT 1")  # takes the other session
        neighbour = Neighbour(pooler.conninfo, first)
        stack.callback(neighbour.end)
        await until(lambda: any(pool["cl_waiting"] for pool in pooler.tell("SHOW POOLS")))
        proxy.arm("before the reply")
        await storage.append(chain.add())  # it was committed, and that is found out
        await storage.append(chain.add())

    neighbour.end()
    assert await persistence.load("run") == chain.rows[-1]
    assert neighbour.pids == ours, "the session of the lost connection was handed on"
    assert neighbour.error is None
    assert proxy.cuts == 1


@pytest.mark.found("D3")
@pytest.mark.clauses("D1", "S1")
@pytest.mark.parametrize("mode", WORKING)
async def test_what_became_of_a_checkpoint_is_known_wherever_a_connection_to_a_pooler_is_cut(
    mode: PoolMode,
    make_pooler: MakePooler,
    persistence: PostgresFlowPersistence,
    sql: psycopg.Connection,
    stack: ExitStack,
    anyio_backend: tuple[str, object],
) -> None:
    rng = random.Random(f"{SEED}/{mode}/{anyio_backend}")
    pooler = make_pooler(mode, default_pool_size=3)
    proxy = stack.enter_context(closing(Proxy(pooler.conninfo)))
    schema = persistence._target.schema
    others = [Busy(pooler.conninfo) for _ in range(4)]
    for each in others:
        stack.callback(each.end)
    seen: Counter[str] = Counter()
    chains = [Chain(f"run {n}") for n in range(3)]
    async with PostgresFlowPersistence(proxy.conninfo, schema=schema) as storage:
        saved = Saved(storage)
        await saved.save(*(chain.add() for chain in chains))
        for n in range(CUTS):
            place = PLACES[n % len(PLACES)]
            rows = [chain.add() for chain in rng.sample(chains, rng.randint(1, len(chains)))]
            proxy.arm(place)
            await saved.save(*rows)
            if place == "late":
                await anyio.sleep(0.15)  # until it has been delivered: nothing may come of it then
            found = sql.execute(f"SELECT run_id, head, head_digest FROM {schema}.runs").fetchall()
            heads = {run_id: (head, digest) for run_id, head, digest in found}
            for row in rows:
                is_there = heads[row.run_id] == (row.seq, row.digest)
                assert saved.told[row.run_id] == ("saved" if is_there else "not saved"), f"{place}, {n} of seed {SEED}"
                seen[saved.told[row.run_id]] += 1
            await saved.save(*(row for row in rows if saved.told[row.run_id] != "saved"))
            assert set(saved.told.values()) <= {"saved"}

    for each in others:
        each.end()
    assert [each.error for each in others] == [None] * len(others)
    assert min(each.count for each in others) > 0
    assert proxy.cuts == CUTS
    assert min(seen["saved"], seen["not saved"]) >= CUTS / 4


# ---- ways of pooling -----------------------------------------------------------------------------------------------


async def use_all(storage: PostgresFlowPersistence) -> list[Any]:
    """Everything that a storage is used for, often enough for statements to be prepared, where they are."""
    results: list[Any] = []
    async with storage, FlowRunner(storage, flows=[Steps], recover_every=None) as runner:
        for n in range(8):
            results.append(await Steps(persistence=storage).kickoff({"id": f"run {n}"}))
            results.append((await Steps.load(f"run {n}", persistence=storage)).state.done)
            results.append(await Steps.resume(f"run {n}", persistence=storage))
        async with anyio.create_task_group() as group:
            for n in range(8, 40):
                group.start_soon(partial(runner.run, Steps, run_id=f"run {n}"))
        results.append(len(await storage.runs()))
        results.append(await storage.delete("run 0"))
        results.append(await storage.prune(older_than=0.0, keep_last=30))
        results.append(await storage.verify())
    return results


USED = [*[2, ["first", "second"], 2] * 8, 40, True, 9, []]


@pytest.mark.found("D10", "D9")
@pytest.mark.parametrize(
    ("mode", "size", "options"),
    [
        *(("session", 2, {"readers": 1}), ("session", 1, {"readers": 0})),
        *(("transaction", 5, {}), ("transaction", 1, {}), ("transaction", 1, {"readers": 0})),
    ],
)
async def test_all_goes_well_through_a_pooler_that_has_as_many_connections_as_are_needed(
    mode: PoolMode, size: int, options: dict[str, Any], make_pooler: MakePooler, persistence: PostgresFlowPersistence
) -> None:
    pooler = make_pooler(mode, default_pool_size=size, query_wait_timeout=60)
    storage = PostgresFlowPersistence(pooler.conninfo, schema=persistence._target.schema, **options)

    assert await use_all(storage) == USED


@pytest.mark.found("D10")
async def test_programs_that_share_the_sessions_of_a_pooler_do_not_run_each_others_statements(
    make_pooler: MakePooler, persistence: PostgresFlowPersistence, sql: psycopg.Connection, stack: ExitStack
) -> None:
    pooler = make_pooler("transaction", default_pool_size=2)
    schemas = [f"{persistence._target.schema}_{n}" for n in range(3)]
    for schema in schemas:
        stack.callback(sql.execute, f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    told: dict[str, list[Any]] = {}

    async def use(schema: str) -> None:
        told[schema] = await use_all(PostgresFlowPersistence(pooler.conninfo, schema=schema))

    async with anyio.create_task_group() as group:
        for schema in schemas:
            group.start_soon(use, schema)

    assert told == dict.fromkeys(schemas, USED)


@pytest.mark.found("D10")
async def test_a_pooler_of_statements_is_refused_at_opening_and_named(
    make_pooler: MakePooler, persistence: PostgresFlowPersistence, sql: psycopg.Connection
) -> None:
    pooler = make_pooler("statement")
    for _ in range(2):  # with the schema, and without
        started = anyio.current_time()
        with pytest.raises(errors.StorageError, match=r"pools statements.*pool_mode = transaction"):
            await PostgresFlowPersistence(pooler.conninfo, schema=persistence._target.schema).load("any")
        assert anyio.current_time() - started < BUSY_SECONDS, "waiting does not help"
        await persistence.load("any")


@pytest.mark.found("D9")
@pytest.mark.parametrize("is_open", [True, False])
async def test_a_pool_that_has_nothing_free_is_busy(
    is_open: bool, make_pooler: MakePooler, persistence: PostgresFlowPersistence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.persistence.postgres.persistence.BUSY_SECONDS", 0.1)
    await persistence.append(Chain("run").add())
    pooler = make_pooler("session", default_pool_size=1, query_wait_timeout=1)
    one, another = (PostgresFlowPersistence(pooler.conninfo, schema=persistence._target.schema) for _ in range(2))
    async with one:
        with pytest.raises(errors.StorageBusyError, match="pooler"):
            await (one if is_open else another).load("run")


class TestThroughAPool(PersistenceConformance):
    """A pooler of transactions: no session is kept, and two are all there are."""

    @pytest.fixture(params=[LOOPS["uvloop"]], ids=["uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> object:
        return request.param

    @pytest.fixture
    def persistence(self, persistence: PostgresFlowPersistence, make_pooler: MakePooler) -> FlowPersistence:
        pooler = make_pooler("transaction", default_pool_size=2)
        return PostgresFlowPersistence(pooler.conninfo, schema=persistence._target.schema)

    def another(self, persistence: FlowPersistence) -> FlowPersistence:
        assert isinstance(persistence, PostgresFlowPersistence)
        return PostgresFlowPersistence(persistence._target.conninfo, schema=persistence._target.schema)
