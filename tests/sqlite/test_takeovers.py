"""The count of takeovers: what takes it along, and what begins it again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from asyncflow import SQLiteFlowPersistence
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
