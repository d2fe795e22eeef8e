"""The count of takeovers: what takes it along, and what begins it again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import anyio
import pytest
from moments import interrupted_once, stored, until

from asyncflow import Flow, Signal, SQLiteFlowPersistence, sleep, start, wait_for
from asyncflow.testing._checkpoints import Chain


def taken_over(times: int) -> None:
    """Make the run look as if it had been taken over from that many dead owners at its newest checkpoint."""
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        connection.execute("UPDATE runs SET takeovers = ?, counted_at = head", (times,))


async def count(storage: SQLiteFlowPersistence) -> int:
    return (await storage.runs())[0].takeovers


@pytest.mark.clauses("L2")
@pytest.mark.parametrize(
    ("kinds", "left"),
    [
        (["resumed"], 7),
        (["resumed", "resumed", "resumed"], 7),
        (["method"], 0),
        (["resumed", "method"], 0),
        (["method", "resumed"], 0),
        (["edited"], 0),
        (["failed"], 0),
    ],
)
async def test_only_a_resume_takes_the_count_along(kinds: list[Any], left: int) -> None:
    chain = Chain("a")
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.append(chain.add())
        taken_over(7)
        for kind in kinds:
            await storage.append(chain.add(kind=kind, status="failed" if kind == "failed" else "running"))
        assert await count(storage) == left


class Naps(Flow[dict]):
    name = "Naps"

    @start()
    async def nap(self) -> None:
        await sleep(3600)


class Asks(Flow[dict]):
    name = "Asks"
    answered = Signal("answered")

    @start()
    async def ask(self) -> None:
        await wait_for(self.answered)


@pytest.mark.clauses("L2", "W11")
@pytest.mark.parametrize("flow", [Naps, Asks])
async def test_a_method_that_reaches_its_wait_again_resets_the_count(flow: Any) -> None:
    """Else a run that waits for a person is quarantined after ten deployments that kill their processes."""
    async with SQLiteFlowPersistence("runs.db") as storage:
        run = flow(persistence=storage)
        await interrupted_once(run.kickoff, stored(storage, run.run_id, 1))
        taken_over(7)
        again = flow(persistence=storage)
        async with anyio.create_task_group() as group:
            group.start_soon(again.kickoff, {"id": run.run_id})
            await until(lambda: _is_reset(storage))
            group.cancel_scope.cancel()


async def _is_reset(storage: SQLiteFlowPersistence) -> bool:
    newest = await storage.load((await storage.runs())[0].run_id)
    with closing(sqlite3.connect("runs.db")) as connection:
        ((counted_at,),) = connection.execute("SELECT counted_at FROM runs")
    return newest is not None and newest.kind == "resumed" and counted_at is None
