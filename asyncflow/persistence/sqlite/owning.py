"""Jobs about the owners of runs: those of a transaction together, because each statement is a hop to the connection's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import aiosqlite
from pydantic_core import to_json

from ...errors import AsyncflowError
from .._database.jobs import Owning, Park
from .._database.ownership_rules import Liveness, effect_of
from .._database.run_head import Head
from . import rows

__all__ = ["execute_owning"]

Statement = tuple[str, tuple[Any, ...]]
"""An SQL text and its values."""


async def execute_owning(
    connection: aiosqlite.Connection,
    jobs: Sequence[Owning],
    owner: str,
    key: bytes,
    liveness: Callable[[str], Liveness],
) -> None:
    """Execute jobs about the owners of runs, on rows that no other process can change until the commit. Set the errors of refused ones.

    `owner`: this owner. `liveness`: what is known of another owner, apart from its lease.
    """
    ids = to_json(list({job.run_id for job in jobs})).decode()
    found = await connection.execute_fetchall(rows.SELECT_OWNED, (ids,))
    stored = {row[0]: row for row in map(tuple, found)}
    heads: dict[str, Head | None] = {}
    statements: list[Statement] = []
    for job in jobs:
        job.error = None  # this transaction may be a retry
        if job.run_id not in stored:
            continue
        *row, left = stored[job.run_id]
        try:
            head = heads[job.run_id] if job.run_id in heads else Head.read(job.run_id, row, key)
            if head is None:
                continue
            change = effect_of(job, head, owner, liveness, left)
        except AsyncflowError as error:
            job.error = error
            continue
        heads[job.run_id] = change.head
        if change.takeovers != "kept":
            statements.append(
                (rows.COUNT_TAKEOVER if change.takeovers == "counted" else rows.FORGET_TAKEOVERS, (job.run_id,))
            )
        if change.head is None:
            statements += [(rows.DELETE_CHECKPOINTS, (job.run_id,)), (rows.DELETE_RUN, (job.run_id,))]
        elif change.head != head:
            statements.append(_owned(job, change.head, key))
    await _execute(connection, statements)


def _owned(job: Owning, head: Head, key: bytes) -> Statement:
    owned = head.owner, head.epoch, head.digest(key)
    if isinstance(job, Park) and head.status == "running":
        return rows.PARK_RUN, (*owned, job.newest, job.wake_at, head.run_id)
    return rows.OWN_RUN, (*owned, head.run_id)


async def _execute(connection: aiosqlite.Connection, statements: Sequence[Statement]) -> None:
    """Execute statements: those of each run in their order, and those of one text together."""
    left = list(statements)
    while left:
        first: dict[str, Statement] = {}
        rest: list[Statement] = []
        for statement in left:  # the next statement of each run
            run_id = statement[1][-1]
            (rest.append(statement) if run_id in first else first.setdefault(run_id, statement))
        for sql, same in groupby(sorted(first.values(), key=lambda s: s[0]), key=lambda s: s[0]):
            await connection.executemany(sql, [values for _, values in same])
        left = rest
