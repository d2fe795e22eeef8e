"""Signals on PostgreSQL: of another process, to a run that is driven here, and for a run whose process died."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anyio
import psycopg
import pytest
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
