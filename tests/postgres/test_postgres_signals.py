"""Signals on PostgreSQL: of another process, to a run that is driven here, and for a run whose process died."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import psycopg
import pytest
from answers import CHANGES, assert_it_is_found_and_nothing_is_taken_twice, changes, is_read, three_signals
from moments import interrupted_once, stored, until

from asyncflow import Flow, FlowRunner, Signal, and_, errors, listen, start
from asyncflow.persistence import NewSignal
from asyncflow.persistence.postgres import PostgresFlowPersistence

SENDS = """
import sys
import anyio
from asyncflow.persistence import NewSignal
from asyncflow.persistence.postgres import PostgresFlowPersistence

storage = PostgresFlowPersistence(sys.argv[1], schema=sys.argv[2])
print(anyio.run(storage.send, sys.argv[3], NewSignal("approved", b"7", "key", "another process", 0.0)))
"""


class Approval(Flow[dict]):
    name = "Approval"
    approved = Signal("approved", int)

    @start()
    async def draft(self) -> str:
        return "draft"

    @listen(and_(draft, approved))
    async def publish(self, draft: str, approved: int) -> list[Any]:
        return [draft, approved]


@pytest.mark.clauses("W6")
async def test_a_signal_of_another_process_reaches_a_run_that_is_driven_here(
    persistence: PostgresFlowPersistence, conninfo: str, schema: str
) -> None:
    async with FlowRunner(persistence, flows=[Approval]) as runner:
        handle = await runner.start(Approval)
        await until(stored(persistence, handle.run_id, 1))
        command = [sys.executable, "-c", SENDS, conninfo, schema, handle.run_id]
        for said in ("True", "False"):
            done = await anyio.to_thread.run_sync(
                lambda: subprocess.run(command, capture_output=True, text=True, timeout=100)
            )
            assert done.stdout.strip() == said, done.stderr
        with anyio.fail_after(60):
            assert await handle.result() == ["draft", 7]


@pytest.mark.clauses("W6")
async def test_an_interrupted_run_takes_its_signals_when_it_is_resumed(persistence: PostgresFlowPersistence) -> None:
    async with persistence:
        run = Approval(persistence=persistence)
        await interrupted_once(run.kickoff, stored(persistence, run.run_id, 1))
        await Approval.signal(run.run_id, Approval.approved, 3, persistence=persistence, key="k")
        with pytest.raises(errors.SignalKeyError):
            await Approval.signal(run.run_id, Approval.approved, 4, persistence=persistence, key="k")
        assert await Approval.resume(run.run_id, persistence=persistence) == ["draft", 3]
        with pytest.raises(errors.RunEndedError):
            await Approval.signal(run.run_id, Approval.approved, 4, persistence=persistence)
        with pytest.raises(errors.RunNotFoundError):
            await persistence.send("a\0b", NewSignal("approved", b"1", "k", "", 0.0))


async def test_pruning_deletes_the_signals_of_its_runs(
    persistence: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    async with persistence:
        run = Approval(persistence=persistence)
        await interrupted_once(run.kickoff, stored(persistence, run.run_id, 1))
        await Approval.signal(run.run_id, Approval.approved, 3, persistence=persistence, key="k")
        await Approval.resume(run.run_id, persistence=persistence)
        assert sql.execute(f"SELECT count(*) FROM {schema}.signals").fetchall() == [(1,)]

        assert await persistence.prune(older_than=0) == 1
        assert sql.execute(f"SELECT count(*) FROM {schema}.signals").fetchall() == [(0,)]


@pytest.mark.clauses("V4", "W6")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("key", "column"), CHANGES)
async def test_a_changed_row_of_a_signal_is_found_and_nothing_is_taken_twice(
    key: str,
    column: str,
    persistence: PostgresFlowPersistence,
    schema: str,
    sql: psycopg.Connection,
    anyio_backend: str,
) -> None:
    async with persistence:
        for run_id in ("hurt", "sound"):
            await three_signals(persistence, run_id)
        assert await persistence.verify() == []
        where = f"key = %s AND run = (SELECT id FROM {schema}.runs WHERE run_id = 'hurt')"
        sql.execute(f"UPDATE {schema}.signals SET {column} = %s WHERE {where}", (changes(key)[column], key))

        await assert_it_is_found_and_nothing_is_taken_twice(persistence, "hurt", "sound", is_read=is_read(key, column))


@pytest.mark.clauses("V4")
async def test_a_changed_row_of_a_signal_fails_the_end_of_its_run_alone(
    persistence: PostgresFlowPersistence, schema: str, sql: psycopg.Connection
) -> None:
    """Both ends are in one batch; the one that finds the row must not take the other one with it."""
    async with persistence:
        ends = {}
        for run_id in ("hurt", "sound"):
            await three_signals(persistence, run_id)
            newest = await persistence.load(run_id)
            assert newest is not None
            end = newest._replace(
                seq=newest.seq + 1, kind="finished", status="finished", previous=newest.digest, base=newest.seq + 1
            )
            ends[run_id] = end._replace(epoch=await persistence.acquire(run_id)).sealed()
        sql.execute(f"UPDATE {schema}.signals SET sender = 'eve' WHERE key = 'waits' AND run = 1")
        found: dict[str, Exception] = {}

        async def end(run_id: str) -> None:
            try:
                await persistence.append_last(ends[run_id], 99)
            except errors.StorageError as error:
                found[run_id] = error

        async with anyio.create_task_group() as group:
            for run_id in ends:
                group.start_soon(end, run_id)

        assert {run_id: type(error) for run_id, error in found.items()} == {"hurt": errors.CheckpointCorruptError}
        loaded = {run_id: await persistence.load(run_id) for run_id in ends}
        assert [row.status for row in loaded.values() if row is not None] == ["running", "finished"]
