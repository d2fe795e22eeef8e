"""The earlier passes of a run are deleted, also while it is driven, and what is left is as safe as before."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import anyio
import pytest
from test_endless import Loop

from asyncflow import Flow, FlowRunner, continue_as, errors, start
from asyncflow.persistence import SQLiteFlowPersistence
from asyncflow.persistence._database import compaction


async def compacted(store: Any) -> str:
    flow = Loop(persistence=store)
    await flow.kickoff({"last": 4})
    assert await Loop.compact(flow.run_id, persistence=store) == 6
    return flow.run_id


@pytest.mark.clauses("W14")
async def test_earlier_passes_are_deleted_and_the_rest_is_read_as_before(log: Any) -> None:
    run_id = await compacted(log)
    rows = await log.history(run_id)
    loaded = await Loop.load(run_id, persistence=log)
    older = await Loop.load(run_id, seq=7, persistence=log)
    copy = await Loop.fork(run_id, seq=7, persistence=log)

    assert [row.seq for row in rows] == [6, 7, 8, 9]
    assert [row.seq for row in await log.history(run_id, after=7)] == [8, 9]
    assert [row.seq for row in await log.history(run_id, after=2)] == [6, 7, 8, 9]
    assert [entry.seq for entry in await loaded.history()] == [6, 7, 8, 9]
    assert (loaded.status, loaded.state.turn, older.state.turn) == ("finished", 4, 4)
    assert await copy.kickoff() == "4 turns: turn 1, turn 2, turn 3"
    with pytest.raises(errors.RunNotFoundError):
        await Loop.load(run_id, seq=5, persistence=log)
    assert await Loop.compact(run_id, persistence=log) == 0


@pytest.mark.clauses("W14")
async def test_events_begin_where_the_run_does(log: Any) -> None:
    run_id = await compacted(log)
    async with FlowRunner(log, flows=[Loop]) as runner:
        seen = [event.seq async for event in (await runner.get(run_id)).events()]
        assert await runner.compact(run_id) == 0

    assert sorted(set(seen)) == [6, 7, 8, 9]


@pytest.mark.clauses("W14")
async def test_a_compacted_run_continues(log: Any) -> None:
    run_id = await compacted(log)
    flow = Loop(persistence=log)

    assert await flow.kickoff({"id": run_id, "turn": 4, "last": 6}) is not None
    assert await Loop.compact(run_id, persistence=log) > 0


@pytest.mark.clauses("W14")
async def test_a_run_is_compacted_while_it_is_driven(log: Any) -> None:
    deleted: list[int] = []

    class Long(Flow[dict]):
        name = "Long"

        @start()
        async def turn(self) -> int:
            self.state["turn"] = self.state.get("turn", 0) + 1
            if self.state["turn"] % 10 == 0:
                deleted.append(await Long.compact(self.run_id, persistence=log))
            if self.state["turn"] < 30:
                continue_as()
            return self.state["turn"]

    flow = Long(persistence=log)
    assert await flow.kickoff() == 30
    assert deleted == [9, 10, 10]
    assert len(await log.history(flow.run_id)) == 2


@pytest.mark.clauses("W14")
async def test_it_is_done_in_batches_and_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "CHECKPOINTS", 4)
    async with SQLiteFlowPersistence("runs.db") as store:
        flow = Loop(persistence=store)
        await flow.kickoff({"last": 9})
        with anyio.CancelScope() as scope:
            scope.cancel()
            await store.compact(flow.run_id)
        assert await store.verify() == []
        left = await store.compact(flow.run_id)

        assert left is not None
        assert await store.verify() == []
        assert (await store.history(flow.run_id))[0].seq == 16


@pytest.mark.clauses("W14", "D4", "V4")
@pytest.mark.parametrize("key", [None, b"k" * 16], ids=["without a key", "keyed"])
async def test_a_first_checkpoint_that_is_missing_is_detected(key: bytes | None) -> None:
    async with SQLiteFlowPersistence("runs.db", key=key) as store:
        flow = Loop(persistence=store)
        await flow.kickoff({"last": 4})
        await store.compact(flow.run_id)
        assert await store.verify(flow.run_id) == []
    with closing(sqlite3.connect("runs.db")) as database, database:
        database.execute("DELETE FROM checkpoints WHERE seq = 6")
    async with SQLiteFlowPersistence("runs.db", key=key) as store:
        (lost,) = await store.verify(flow.run_id)
    with closing(sqlite3.connect("runs.db")) as database, database:
        database.execute("UPDATE runs SET first = 9")
    async with SQLiteFlowPersistence("runs.db", key=key) as store:
        (moved,) = await store.verify(flow.run_id)
        with pytest.raises(errors.CheckpointCorruptError):
            await store.history(flow.run_id)

    assert isinstance(lost, errors.CheckpointCorruptError)
    assert isinstance(moved, errors.CheckpointCorruptError)
    assert "first checkpoint" in str(moved)


@pytest.mark.clauses("W14")
async def test_what_cannot_be_compacted_says_why(store: Any) -> None:
    with pytest.raises((errors.RunNotFoundError, errors.CapabilityMissingError)):
        await Loop.compact("unknown", persistence=store)
    with pytest.raises(errors.CapabilityMissingError):
        await Loop.compact("unknown")
