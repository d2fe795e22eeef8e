"""`prune` of a SQLite storage: each deletion decides in its own transaction, in batches that others get between."""

import logging
import os
import sqlite3
from contextlib import closing
from typing import Any

import pytest
import retention

from asyncflow import Flow, SQLiteFlowPersistence, errors, start
from asyncflow.persistence.sqlite.pruning import SqliteTrees


@pytest.fixture
def storage() -> SQLiteFlowPersistence:
    return SQLiteFlowPersistence("runs.db", durability="process")


@pytest.fixture
def other() -> SQLiteFlowPersistence:
    return SQLiteFlowPersistence("runs.db", durability="process")


@pytest.mark.found("R1")
@retention.each_meanwhile
async def test_a_run_that_resumes_after_it_was_listed_is_kept(
    storage: Any, other: Any, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retention.what_goes_on_is_kept(storage, other, meanwhile, monkeypatch)


@pytest.mark.found("R1", "R5")
async def test_the_newest_are_counted_again_in_each_batch(
    storage: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retention.the_newest_are_counted_anew_in_each_batch(storage, other, monkeypatch)


@pytest.mark.found("R5")
async def test_runs_pruned_before_a_cancellation_are_gone_and_reported(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await retention.what_was_done_before_a_cancellation_is_kept(storage, monkeypatch, caplog)


@pytest.mark.found("R5")
async def test_many_runs_are_pruned_by_few_statements(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await retention.many_runs_take_few_statements(storage, monkeypatch, SqliteTrees)


@pytest.mark.found("R1")
async def test_a_run_whose_head_is_damaged_is_kept_and_stops_no_pruning(storage: Any) -> None:
    async with storage:
        for n in range(3):
            await retention.ended(storage, f"run {n}")
        with closing(sqlite3.connect("runs.db")) as connection, connection:
            connection.execute("UPDATE runs SET base = 7 WHERE run_id = 'run 1'")
        gone = await storage.prune(older_than=retention.HOUR)

        assert gone == 2
        assert [entry.run_id for entry in await storage.runs()] == ["run 1"]
        with pytest.raises(errors.CheckpointCorruptError):
            await storage.load("run 1")


class Secret(Flow[dict[str, Any]]):
    @start()
    async def first(self) -> str:
        self.state["kept"] = "state-hunter2"
        return "result-hunter2"


@pytest.mark.found("T8")
async def test_no_value_is_logged_by_the_driver_where_the_root_logger_is_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    storage = SQLiteFlowPersistence("runs.db")
    async with storage:
        flow = Secret(persistence=storage)
        await flow.kickoff({"given": "input-hunter2"})
        await Secret.load(flow.run_id, persistence=storage)

    assert "hunter2" not in caplog.text
    assert logging.getLogger("aiosqlite").level == logging.INFO


@pytest.mark.found("T13")
async def test_the_space_of_pruned_runs_is_used_again_and_vacuum_gives_it_back(storage: Any) -> None:
    async def store(begin: int) -> None:
        for n in range(begin, begin + 150):
            await retention.ended(storage, f"run {n}")

    def size() -> int:
        return os.path.getsize("runs.db")

    async with storage:
        await store(0)
        await storage.prune(older_than=0)
        with closing(sqlite3.connect("runs.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = size()
        await store(150)
        await storage.prune(older_than=0)
    again = size()
    with closing(sqlite3.connect("runs.db")) as connection:
        connection.execute("VACUUM")

    assert again <= 1.2 * before
    assert size() < before / 2
