"""Compaction in database backends: delete the checkpoints of a run's earlier passes, in batches, between which other commits run.

The first batch moves the place where the run begins, which readers respect at once; so a compaction can be interrupted at any time.
"""

from __future__ import annotations

from typing import Final, Protocol

import anyio

from ...errors import CheckpointCorruptError
from ..compaction import first_digest
from .group_commit import GroupCommit
from .inboxes import Inboxes
from .jobs import Compact

__all__ = ["SELECT_FIRST", "compact", "compact_batch"]

CHECKPOINTS: Final = 1_024
"""The checkpoints that one transaction deletes at most."""

SELECT_FIRST: Final = "SELECT first, first_digest FROM @runs WHERE run_id = ?"
"""Where a run begins, and the digest that protects it: see `compaction.check_first`."""

_RUN: Final = "SELECT id, pass_number, first FROM @runs WHERE run_id = ?"
_LAST_BEFORE: Final = "SELECT seq FROM @checkpoints WHERE run = ? AND pass_number < ? ORDER BY seq DESC LIMIT 1"
"""The last checkpoint of the pass before: it reads the checkpoints of the present pass only."""
_FIRST: Final = (
    "SELECT digest FROM @checkpoints WHERE run = ? AND seq = ? AND progress IS NOT NULL AND state IS NOT NULL"
)
_MOVE: Final = "UPDATE @runs SET first = ?, first_digest = ? WHERE id = ?"
_OLDEST: Final = "SELECT seq FROM @checkpoints WHERE run = ? ORDER BY seq LIMIT 1"
_COUNT: Final = "SELECT count(*) FROM @checkpoints WHERE run = ? AND seq < ?"
_DELETE: Final = "DELETE FROM @checkpoints WHERE run = ? AND seq < ?"
_FORGET: Final = "DELETE FROM @signals WHERE run = ? AND taken < ? AND substr(key, 1, 1) = ' '"
"""Delete the signals without a key that those checkpoints took."""


class Opened(Protocol):
    """The open resources that compaction needs."""

    commits: GroupCommit

    def rest(self) -> float: ...


async def compact(opened: Opened, run_id: str) -> int | None:
    """Delete the checkpoints of a run's earlier passes. Return how many were deleted; None for an unknown run."""
    gone = 0
    while True:
        job, began = Compact(run_id), anyio.current_time()
        await opened.commits.submit(job)
        if not job.is_known:
            return None
        gone += job.gone
        if job.is_done:
            return gone
        await anyio.sleep((anyio.current_time() - began) * opened.rest())


async def compact_batch(job: Compact, tables: Inboxes, key: bytes) -> None:
    """Execute one batch, on rows that are locked until the commit."""
    job.gone, job.is_done, job.is_known = 0, True, await tables.head(job.run_id) is not None  # this may be a retry
    if not job.is_known:
        return
    ((run, pass_number, first),) = await tables.fetch(_RUN, job.run_id)
    before = await tables.fetch(_LAST_BEFORE, run, pass_number)
    if before and before[0][0] >= first:
        first = before[0][0] + 1
        found = await tables.fetch(_FIRST, run, first)
        if not found:
            raise CheckpointCorruptError(
                f"checkpoint {first} of run {job.run_id}, with which its present pass begins, is missing or not complete. Nothing was "
                "deleted; restore the database from a backup",
                run_id=job.run_id,
                seq=first,
            )
        await tables.execute(_MOVE, first, first_digest(job.run_id, first, found[0][0], key), run)
    oldest = await tables.fetch(_OLDEST, run)
    until = min(first, oldest[0][0] + CHECKPOINTS) if oldest else first
    ((job.gone,),) = await tables.fetch(_COUNT, run, until)
    if job.gone:
        await tables.execute(_DELETE, run, until)
        await tables.execute(_FORGET, run, until)
    job.is_done = until == first
