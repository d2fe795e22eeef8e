"""A server that is away when a storage is opened, that hangs up meanwhile, or that can only be read."""

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import psycopg
import pytest
from fastapi import FastAPI
from proxy import Place, Proxy
from server import Server
from waiting import until

from asyncflow import Flow, FlowRunner, FlowState, errors, start
from asyncflow.integrations.fastapi import flow_router, lifespan
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.database import _LOCK

PAGE = Path(__file__).parents[2] / "examples" / "guide" / "postgresql.md"
BUSY = "asyncflow.persistence.postgres.persistence.BUSY_SECONDS"


class Short(Flow[FlowState]):
    @start()
    async def only(self) -> int:
        return 1


class Failing(Flow[FlowState]):
    @start()
    async def only(self) -> int:
        raise ValueError("as ever")


@pytest.fixture
def stopped(private_server: Server) -> Iterator[Server]:
    """The server, stopped; it is started again at the end."""
    private_server.stop()
    yield private_server
    if not private_server.is_running:
        private_server.start()


async def start_soon(server: Server) -> None:
    await anyio.sleep(0.1)
    server.launch()
    await anyio.to_thread.run_sync(server.wait)


# ---- away at the start ---------------------------------------------------------------------------------------------


@pytest.mark.found("D7")
async def test_a_first_opening_waits_for_a_server_that_is_away(
    stopped: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUSY, 60.0)
    async with anyio.create_task_group() as group:
        group.start_soon(start_soon, stopped)
        result = await Short(persistence=PostgresFlowPersistence(stopped.conninfo, schema=schema)).kickoff()

    assert result == 1


@pytest.mark.found("D7")
async def test_an_opening_that_waits_can_be_cancelled(stopped: Server, schema: str) -> None:
    with anyio.move_on_after(0.2) as scope:
        await PostgresFlowPersistence(stopped.conninfo, schema=schema).load("any")

    assert scope.cancelled_caught


@pytest.mark.found("D7")
async def test_a_runner_waits_for_a_server_that_is_away_for_as_long_as_its_patience(
    stopped: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUSY, 0.01)
    storage = PostgresFlowPersistence(stopped.conninfo, schema=schema)
    with pytest.raises(errors.StorageUnreachableError):
        async with FlowRunner(storage, patience=0.1):
            raise AssertionError("entered")

    async with anyio.create_task_group() as group:
        group.start_soon(start_soon, stopped)
        async with FlowRunner(storage, patience=60) as runner:
            assert runner.is_open
            assert await runner.run(Short) == 1


@pytest.mark.found("D7")
async def test_an_application_answers_503_until_its_database_is_there(
    stopped: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUSY, 0.01)
    runner = FlowRunner(PostgresFlowPersistence(stopped.conninfo, schema=schema))
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [Short]))
    transport = httpx2.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        meanwhile = [await client.get("/readyz"), await client.post("/flows/Short", json={})]
        stopped.launch()
        await anyio.to_thread.run_sync(stopped.wait)
        with anyio.fail_after(60):
            while (await client.get("/readyz")).status_code == 503:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.02)
        ready, begun = await client.get("/readyz"), await client.post("/flows/Short?wait=30", json={})

    assert [answer.status_code for answer in meanwhile] == [503, 503]
    assert all(answer.headers["Retry-After"] for answer in meanwhile)
    assert ready.status_code == 200
    assert begun.json()["result"] == 1


@pytest.mark.found("D7")
async def test_an_application_can_end_while_its_database_is_away(
    stopped: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUSY, 0.01)
    runner = FlowRunner(PostgresFlowPersistence(stopped.conninfo, schema=schema))
    app = FastAPI(lifespan=lifespan(runner))
    with anyio.fail_after(60):
        async with app.router.lifespan_context(app):
            assert not runner.is_open


@pytest.mark.found("D7")
async def test_an_error_that_waiting_does_not_change_is_raised_at_once(conninfo: str, schema: str) -> None:
    missing = psycopg.conninfo.make_conninfo(conninfo, dbname="missing")
    with anyio.fail_after(4), pytest.raises(errors.StorageNotFoundError):
        await PostgresFlowPersistence(missing, schema=schema).load("any")

    with anyio.fail_after(4), pytest.raises(errors.StorageNotFoundError):
        async with FlowRunner(PostgresFlowPersistence(missing, schema=schema)):
            raise AssertionError("entered")


# ---- lost while it is opened ---------------------------------------------------------------------------------------


@pytest.mark.found("R10")
@pytest.mark.parametrize("place", ["before the request", "in the request", "before the reply"])
async def test_a_connection_that_is_lost_while_a_storage_is_opened_is_made_again(
    place: Place, proxy: Proxy, persistence: PostgresFlowPersistence
) -> None:
    cuts = 0
    for skipped in range(20):
        storage = PostgresFlowPersistence(proxy.conninfo, schema=persistence._target.schema)
        proxy.arm(place, after=skipped)
        async with FlowRunner(storage, recover_every=None) as runner:
            cuts, before = proxy.cuts, cuts
            if cuts == before:
                break
            proxy.disarm()
            assert await runner.run(Short) == 1

    assert cuts == skipped >= 3, "each exchange of an opening was cut once"


@pytest.mark.found("R10")
async def test_a_session_that_is_terminated_while_a_storage_is_opened_is_made_again(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection
) -> None:
    results: list[int] = []
    name = persistence._target.schema

    async def use() -> None:
        async with FlowRunner(persistence) as runner:
            results.append(await runner.run(Short))

    def waiting() -> list[tuple[int]]:
        return sql.execute(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = hashtext(%s)::oid",
            (name,),
        ).fetchall()

    async with anyio.create_task_group() as group:
        with sql.transaction():
            sql.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, name))  # its schema cannot be made
            group.start_soon(use)
            for _ in range(3):
                (found,) = await until(waiting)
                assert sql.execute("SELECT pg_terminate_backend(%s, 5000)", found).fetchall() == [(True,)]

    assert results == [1]


# ---- a standby, and a role -----------------------------------------------------------------------------------------


@pytest.mark.found("R13")
async def test_a_run_that_has_ended_gives_its_outcome_where_nothing_can_be_written(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection
) -> None:
    await Short(persistence=persistence).kickoff({"id": "done"})
    with contextlib.suppress(errors.MethodError):
        await Failing(persistence=persistence).kickoff({"id": "failed"})
    rows = sql.execute(f"SELECT * FROM {persistence._target.schema}.runs ORDER BY id").fetchall()
    read_only = psycopg.conninfo.make_conninfo(
        persistence._target.conninfo, options="-c default_transaction_read_only=on"
    )
    standby = PostgresFlowPersistence(read_only, schema=persistence._target.schema)
    async with FlowRunner(standby, flows=[Short, Failing], recover_every=None) as runner:
        assert await Short.resume("done", persistence=standby) == 1
        assert await runner.run(Short, run_id="done") == 1
        assert (await Short.load("done", persistence=standby)).status == "finished"
        assert await standby.verify() == []
        with pytest.raises(errors.StorageReadOnlyError):
            await Failing.resume("failed", persistence=standby)
        with pytest.raises(errors.MethodError):
            await runner.run(Failing, run_id="failed")
        with pytest.raises(errors.StorageReadOnlyError):
            await runner.run(Short, run_id="another")

    assert sql.execute(f"SELECT * FROM {persistence._target.schema}.runs ORDER BY id").fetchall() == rows


@pytest.mark.found("R13")
async def test_a_role_with_the_rights_that_the_guide_grants_does_all_but_make_the_tables(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, role: str
) -> None:
    schema = persistence._target.schema
    storage = PostgresFlowPersistence(
        psycopg.conninfo.make_conninfo(persistence._target.conninfo, user=role), schema=schema
    )
    with pytest.raises(errors.StorageReadOnlyError):
        await storage.load("any")
    async with persistence:
        pass  # its owner makes the tables
    with pytest.raises(errors.StorageReadOnlyError):
        await storage.load("any")
    statements = re.findall("^GRANT .*;$", PAGE.read_text("utf-8"), re.MULTILINE)
    for statement in statements:
        sql.execute(statement.replace("SCHEMA asyncflow TO app", f"SCHEMA {schema} TO {role}").encode())

    async with FlowRunner(storage, flows=[Short, Failing]) as runner:
        assert await runner.run(Short, run_id="done") == 1
        with pytest.raises(errors.MethodError):
            await runner.run(Failing, run_id="failed")
        with pytest.raises(errors.MethodError):
            await Failing.resume("failed", persistence=storage)
        assert await storage.delete("failed")
        assert await storage.prune(older_than=0.0) == 1
        assert await storage.verify() == []
    assert len(statements) == 2


@pytest.fixture
def role(sql: psycopg.Connection) -> Iterator[str]:
    name = f"r{uuid.uuid4().hex}"
    sql.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    sql.execute(f"DROP OWNED BY {name}")
    sql.execute(f"DROP ROLE {name}")
