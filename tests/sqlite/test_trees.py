"""Trees of runs in a file: see trees.py."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
import trees

from asyncflow import SQLiteFlowPersistence
from asyncflow.persistence.sqlite.pruning import SqliteTrees


@pytest.fixture
def storage() -> SQLiteFlowPersistence:
    return SQLiteFlowPersistence("runs.db", durability="process")


def change(statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


@pytest.mark.clauses("K3", "V4")
async def test_a_changed_parent_is_found(storage: Any) -> None:
    await trees.a_changed_parent_is_found(storage, change)


@pytest.mark.clauses("K3")
async def test_a_run_whose_parent_was_changed_is_not_deleted(storage: Any) -> None:
    await trees.a_run_whose_parent_was_changed_is_not_deleted(storage, change)


@pytest.mark.clauses("K3")
async def test_parents_in_a_circle_end_every_call(storage: Any) -> None:
    await trees.parents_in_a_circle_end_every_call(storage, change)


@pytest.mark.clauses("K1")
async def test_a_child_waits_for_the_end_of_its_parent(storage: Any) -> None:
    def begin() -> sqlite3.Connection:
        connection = sqlite3.connect("runs.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = 'parent')")
        connection.execute("DELETE FROM runs WHERE run_id = 'parent'")
        return connection

    await trees.a_child_waits_for_the_end_of_its_parent(storage, begin)


@pytest.mark.clauses("K1", "K2")
async def test_no_child_is_left_by_a_deletion(storage: Any) -> None:
    other = SQLiteFlowPersistence("runs.db", durability="process")
    await trees.no_child_is_left_by_a_deletion(storage, other, change)


@pytest.mark.clauses("K2")
async def test_trees_are_pruned_in_batches(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await trees.trees_are_pruned_in_batches(storage, monkeypatch, SqliteTrees)


@pytest.mark.clauses("K2")
async def test_wide_trees_are_listed_and_deleted(storage: Any) -> None:
    await trees.wide_trees_are_listed_and_deleted(storage, 5_000)


@pytest.mark.clauses("K1")
async def test_a_run_that_is_over_gets_no_child(storage: Any) -> None:
    await trees.a_run_that_is_over_gets_no_child(storage)


@pytest.mark.clauses("K4")
async def test_children_that_outlive_their_parents_are_found(storage: Any) -> None:
    await trees.children_that_outlive_their_parents_are_found(storage, change)
