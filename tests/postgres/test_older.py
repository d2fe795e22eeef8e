"""A schema that an older version wrote: it is upgraded at once, its runs load, verify and resume to their right ends."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import psycopg
import pytest
from ends import HERE, VERSIONS, assert_comes_to_its_end, runs_of
from stored_flows import FLOWS

from asyncflow import errors
from asyncflow._version import VERSION
from asyncflow.persistence.postgres import PostgresFlowPersistence, database, rows


@pytest.fixture(params=[version for version in VERSIONS if (HERE / version / "runs.sql").exists()])
def version(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def older(version: str, conninfo: str, schema: str, sql: psycopg.Connection) -> Iterator[PostgresFlowPersistence]:
    sql.execute(f"CREATE SCHEMA {schema}")
    sql.execute((HERE / version / "runs.sql").read_text().replace("{schema}", schema).encode())
    yield PostgresFlowPersistence(conninfo, schema=schema)
    sql.execute(f"DROP SCHEMA {schema} CASCADE")


async def test_every_run_of_an_older_schema_verifies_and_finishes_right(
    version: str, older: PostgresFlowPersistence
) -> None:
    async with older:
        assert await older.verify() == []
        for run_id, told in runs_of(version).items():
            stored = await older.load(run_id)
            assert stored is not None
            assert (stored.flow, stored.status, stored.seq) == (told["flow"], told["status"], told["seq"])
            assert [each.signal.key for each in await older.inbox(run_id)] == told.get("inbox", [])
            await assert_comes_to_its_end(run_id, told, older)
        assert await older.verify() == []


def rows_in(sql: psycopg.Connection, schema: str) -> list[tuple[Any, ...]]:
    return sql.execute(
        f"SELECT max(version), (SELECT count(*) FROM {schema}.checkpoints) FROM {schema}.asyncflow"
    ).fetchall()


async def test_a_schema_is_upgraded_in_one_transaction_or_refused_whole(
    older: PostgresFlowPersistence, schema: str, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_in(sql, schema)
    if before[0][0] == len(database.MIGRATIONS):
        return
    text = database.Target.sql
    with monkeypatch.context() as patch:
        broken = "DROP FUNCTION {schema}.store; NO SUCH STATEMENT"
        newest = f"-- Version {len(database.MIGRATIONS)}."
        patch.setattr(database.Target, "sql", lambda self, s: text(self, s + (broken if s.startswith(newest) else "")))
        with pytest.raises(errors.StorageError):
            await older.load("linear-failed")
    assert rows_in(sql, schema) == before

    await older.load("linear-failed")
    assert rows_in(sql, schema) == [(len(database.MIGRATIONS), before[0][1])]


async def test_a_process_of_0_1_is_refused_by_an_upgraded_schema_and_changes_nothing(
    older: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    await older.load("linear-failed")
    before = rows_in(sql, schema)
    arrays = ["text", "text", "bigint", "bigint", "text", "text", "float8", "text", "bigint", "bigint"]
    types = ["bigint", "text", "float8", *(f"{each}[]" for each in arrays)]
    of_0_1 = ", ".join(f"NULL::{each}" for each in [*types, *["bytea[]"] * 8, "text[]", "bytea[]"])

    with pytest.raises(psycopg.errors.RaiseException, match="upgraded by a newer asyncflow: update asyncflow"):
        sql.execute(f"SELECT {schema}.store({of_0_1})")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        sql.execute(f"SELECT run_id, flow, status, number FROM {schema}.runs")
    assert rows_in(sql, schema) == before


async def test_a_process_of_0_5_is_refused_by_an_upgraded_schema_and_changes_nothing(
    older: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    await older.load("linear-failed")
    before = rows_in(sql, schema)
    values = ", ".join(f"NULL::{each}[]" for each in rows._ARRAYS)

    with pytest.raises(psycopg.errors.RaiseException, match="upgraded by a newer asyncflow: update asyncflow"):
        sql.execute(
            f"SELECT {schema}.store_checkpoints(NULL::bigint, NULL::bigint, NULL::text, NULL::float8, {values})"
        )
    with pytest.raises(psycopg.errors.UndefinedColumn):
        sql.execute(f"SELECT run_id, head, run_digest FROM {schema}.runs")
    assert rows_in(sql, schema) == before


@pytest.mark.parametrize("column", ["made_by", "instantiate"])  # the second name is that of a few commits
async def test_a_schema_names_the_version_that_upgraded_it_under_either_name_of_the_column(
    column: str, persistence: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    sql.execute(f"CREATE SCHEMA {schema}")
    for name in database.MIGRATIONS[:-1]:
        text = resources.files("asyncflow.persistence.postgres").joinpath(name).read_text("utf-8")
        sql.execute(text.replace("{schema}", schema).replace("made_by", column).encode())

    assert await persistence.load("x") is None

    newest = sql.execute(f"SELECT {column} FROM {schema}.asyncflow ORDER BY version DESC LIMIT 1").fetchone()
    assert newest == (VERSION,)


@pytest.mark.clauses("S3")
async def test_a_connected_process_is_refused_once_a_newer_version_upgrades_the_schema(
    persistence: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    cls = FLOWS["Linear"]
    async with persistence as storage:
        await cls(persistence=storage).kickoff({"id": "x"})
        sql.execute(f"ALTER TABLE {schema}.runs RENAME COLUMN head TO newest")
        sql.execute(f"INSERT INTO {schema}.asyncflow VALUES (99, '9.9')")

        for call in (lambda: cls(persistence=storage).kickoff(), lambda: storage.load("x"), lambda: storage.runs()):
            with pytest.raises(errors.StorageVersionError, match=r"asyncflow 9\.9"):
                await call()
