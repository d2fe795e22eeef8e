"""Trees of runs on a server: see trees.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trees

from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.pruning import PostgresTrees


@pytest.fixture
def change(sql: psycopg.Connection, schema: str) -> Callable[..., Any]:
    def changed(statement: str, *values: Any) -> list[Any]:
        text = statement.replace("FROM runs", f"FROM {schema}.runs").replace("UPDATE runs", f"UPDATE {schema}.runs")
        cursor = sql.execute(text.replace("?", "%s").encode(), values)
        return cursor.fetchall() if cursor.description else []

    return changed


@pytest.mark.clauses("K3", "V4")
async def test_a_changed_parent_is_found(persistence: Any, change: Any) -> None:
    await trees.a_changed_parent_is_found(persistence, change)


@pytest.mark.clauses("K3")
async def test_a_run_whose_parent_was_changed_is_not_deleted(persistence: Any, change: Any) -> None:
    await trees.a_run_whose_parent_was_changed_is_not_deleted(persistence, change)


@pytest.mark.clauses("K3")
async def test_parents_in_a_circle_end_every_call(persistence: Any, change: Any) -> None:
    await trees.parents_in_a_circle_end_every_call(persistence, change)


@pytest.mark.clauses("K1")
async def test_a_child_waits_for_the_end_of_its_parent(persistence: Any, conninfo: str, schema: str) -> None:
    def begin() -> psycopg.Connection:
        connection = psycopg.connect(conninfo)
        connection.execute(
            f"DELETE FROM {schema}.checkpoints WHERE run = (SELECT id FROM {schema}.runs WHERE run_id = 'parent')".encode()
        )
        connection.execute(f"DELETE FROM {schema}.runs WHERE run_id = 'parent'".encode())
        return connection

    await trees.a_child_waits_for_the_end_of_its_parent(persistence, begin)


@pytest.mark.clauses("K1", "K2")
async def test_no_child_is_left_by_a_deletion(persistence: Any, conninfo: str, schema: str, change: Any) -> None:
    other = PostgresFlowPersistence(conninfo, schema=schema)
    await trees.no_child_is_left_by_a_deletion(persistence, other, change)


@pytest.mark.clauses("K2")
async def test_trees_are_pruned_in_batches(persistence: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await trees.trees_are_pruned_in_batches(persistence, monkeypatch, PostgresTrees)


@pytest.mark.clauses("K2")
async def test_wide_trees_are_listed_and_deleted(persistence: Any) -> None:
    await trees.wide_trees_are_listed_and_deleted(persistence, 5_000)


@pytest.mark.clauses("K1")
async def test_a_run_that_is_over_gets_no_child(persistence: Any) -> None:
    await trees.a_run_that_is_over_gets_no_child(persistence)


@pytest.mark.clauses("K4")
async def test_children_that_outlive_their_parents_are_found(persistence: Any, change: Any) -> None:
    await trees.children_that_outlive_their_parents_are_found(persistence, change)
