"""Retries on PostgreSQL: a pause outlives its process, and another one waits for the rest of it."""

from __future__ import annotations

import subprocess
import sys
import time

import anyio
import psycopg
import pytest

from asyncflow import errors
from asyncflow.persistence.postgres import PostgresFlowPersistence

TRYING = """
import os, sys, time
import anyio
from asyncflow import Flow, Retry, start, this_invocation
from asyncflow.persistence.postgres import PostgresFlowPersistence


class Trying(Flow[dict]):
    name = "Trying"

    @start(retry=Retry(initial=1.5, jitter=0))
    async def call(self) -> list:
        self.state["dropped"] = this_invocation().attempt == 1
        if this_invocation().attempt == 1:
            raise ValueError("no")
        return [this_invocation().attempt, time.time()]
"""
DIES = """
async def main() -> None:
    storage = PostgresFlowPersistence(sys.argv[1], schema=sys.argv[2])
    async with storage, anyio.create_task_group() as group:
        group.start_soon(Trying(persistence=storage).kickoff, {"id": "x"})
        while (c := await storage.load("x")) is None or c.kind != "retrying":
            await anyio.sleep(0.01)
        os._exit(9)


anyio.run(main)
"""


@pytest.mark.clauses("R2", "L1")
async def test_a_pause_over_a_takeover_ends_when_it_was_due(
    persistence: PostgresFlowPersistence, conninfo: str, schema: str, sql: psycopg.Connection
) -> None:
    command = [sys.executable, "-c", TRYING + DIES, conninfo, schema]
    died = await anyio.to_thread.run_sync(lambda: subprocess.run(command, timeout=100, check=False))
    assert died.returncode == 9
    names: dict[str, type] = {"__name__": "trying"}  # type: ignore[dict-item]
    exec(TRYING, names)
    flow = names["Trying"]
    async with persistence:
        failed = (await (await flow.load("x", persistence=persistence)).history())[-1]
        with pytest.raises(errors.RunLockedError):
            await flow.resume("x", persistence=persistence)
        sql.execute(
            f"UPDATE {schema}.owners SET expires = clock_timestamp() WHERE owner IN (SELECT owner FROM {schema}.runs)"
        )
        attempt, at = await flow.resume("x", persistence=persistence)
        kinds = [entry.kind for entry in await (await flow.load("x", persistence=persistence)).history()]

    assert (failed.kind, failed.error) == ("retrying", "builtins.ValueError: no")
    assert attempt == 2
    assert failed.at + 1.45 <= at <= time.time()
    assert kinds == ["started", "retrying", "finished"]
