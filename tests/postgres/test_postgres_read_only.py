"""A schema that is opened to read only: it shows runs, and nothing is created, upgraded or owned."""

from __future__ import annotations

import psycopg
import pytest

from asyncflow import Flow, start
from asyncflow.errors import StorageNotFoundError, StorageOutdatedError, StorageReadOnlyError
from asyncflow.persistence.postgres import PostgresFlowPersistence


class Visit(Flow[dict[str, int]]):
    name = "Visit"

    @start()
    async def count(self) -> int:
        return 1


async def test_runs_are_shown_and_writing_is_refused(
    persistence: PostgresFlowPersistence, conninfo: str, schema: str, sql: psycopg.Connection
) -> None:
    async with persistence:
        await Visit(persistence=persistence).kickoff({"id": "visit-1"})
    before = sql.execute(f"SELECT * FROM {schema}.owners").fetchall()  # type: ignore[arg-type]

    async with PostgresFlowPersistence(conninfo, schema=schema, read_only=True) as storage:
        (entry,) = await storage.runs()
        with pytest.raises(StorageReadOnlyError, match="read_only=True; nothing was saved"):
            await storage.delete("visit-1")

    assert (entry.run_id, entry.status) == ("visit-1", "finished")
    assert sql.execute(f"SELECT * FROM {schema}.owners").fetchall() == before  # type: ignore[arg-type]


async def test_a_missing_schema_is_not_created(conninfo: str, schema: str, sql: psycopg.Connection) -> None:
    with pytest.raises(StorageNotFoundError, match="no run was ever stored"):
        await PostgresFlowPersistence(conninfo, schema=schema, read_only=True).runs()

    assert sql.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchall() == []


async def test_a_schema_of_an_older_version_is_not_upgraded(
    persistence: PostgresFlowPersistence, conninfo: str, schema: str, sql: psycopg.Connection
) -> None:
    async with persistence:
        pass
    sql.execute(f"DELETE FROM {schema}.asyncflow WHERE version > 8")  # type: ignore[arg-type]

    with pytest.raises(StorageOutdatedError, match="older asyncflow"):
        await PostgresFlowPersistence(conninfo, schema=schema, read_only=True).runs()

    assert sql.execute(f"SELECT max(version) FROM {schema}.asyncflow").fetchone() == (8,)  # type: ignore[arg-type]
