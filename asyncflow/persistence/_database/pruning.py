"""Retention in database backends: a reader lists runs that ended long ago, and the writer deletes them in batches.

The list decides nothing. Each batch decides again in the transaction that deletes, so a run that was resumed, recovered or started
again since it was listed is kept. Between two batches, other commits of this and other processes can run.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio

from ...errors import CheckpointCorruptError
from .group_commit import GroupCommit
from .jobs import Ended, Prune
from .loop_host import LoopHost
from .ownership_rules import Verdict, to_delete
from .run_head import Head
from .trees import Trees

__all__ = ["Batch", "forget"]

PAGE: Final = 2_048
"""Runs in one page of the list, which is held in memory."""

RUNS: Final = 256
CHECKPOINTS: Final = 1_024
"""The maximum of runs, and of their checkpoints, that one statement deletes. A run with more checkpoints is deleted whole."""

PORTION: Final = 0.02
"""Seconds after which a batch ends, because other transactions wait for the lock that long."""

REPORT_EVERY: Final = 5.0
"""Seconds between two progress messages in the log."""

logger = logging.getLogger("asyncflow")


class Lists(Protocol):
    """Lists runs that may be deleted."""

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """Return up to `limit` runs that ended more than `older_than` seconds ago by the database's clock, in catalog order.

        The page starts after the catalog position `after`.
        """
        ...


class Opened(Protocol):
    """The open resources that pruning needs."""

    home: LoopHost
    commits: GroupCommit

    @property
    def reader(self) -> Lists:
        """The reader that lists runs that may be deleted."""
        ...

    def rest(self) -> float:
        """Return the pause between two batches, for other processes, as a fraction of the time that a batch takes."""
        ...


async def forget(opened: Opened, where: object, older_than: float, keep_last: int) -> int:
    """Delete runs that ended long ago. Return how many were deleted.

    If it is cancelled or raises, the completed batches stay deleted, and it logs the number of their runs.
    """
    gone, after, reported = 0, -1, time.monotonic()
    kept: dict[tuple[str, str], list[int]] = {}
    try:
        while listed := await opened.home.run(partial(opened.reader.ended, older_than, after, PAGE)):
            after = listed[-1].id
            while listed:
                job = Prune(listed, older_than, keep_last, kept)
                began = time.monotonic()
                try:
                    await opened.commits.submit(job)
                finally:
                    gone += job.gone if job.is_settled and job.error is None else 0
                listed = listed[job.looked_at :]
                if time.monotonic() - reported > REPORT_EVERY:
                    reported = time.monotonic()
                    logger.info("pruning in progress: %d runs deleted so far from %s", gone, where)
                await anyio.sleep((time.monotonic() - began) * opened.rest())
    finally:
        if gone:
            logger.info("pruning done: %d runs deleted from %s", gone, where)
    return gone


class Batch(ABC):
    """One transaction of pruning. The rows that it reads are locked until the commit."""

    def __init__(self, job: Prune, key: bytes, trees: Trees) -> None:
        self._job = job
        self._key = key
        self._trees = trees
        self._bounds: dict[tuple[str, str], int] = {}
        self._free: dict[str | None, bool] = {None: True}

    @abstractmethod
    async def found(self, ids: Sequence[int], older_than: float) -> Iterable[tuple[Any, ...]]:
        """Return catalog position, head and digest of those of the runs `ids` that ended more than `older_than` seconds ago."""

    @abstractmethod
    async def newest(self, flow: str, identity: str, count: int) -> list[int]:
        """Return the newest `count` ended runs of a flow, newest first."""

    @abstractmethod
    async def have_ended(self, ids: Sequence[int]) -> bool:
        """Whether all of these runs are stored and have ended."""

    async def run(self) -> None:
        """Delete as many of the listed runs as the time for a batch allows."""
        job = self._job
        job.gone = job.looked_at = 0  # this batch may be a retry
        until = time.monotonic() + PORTION
        while job.looked_at < len(job.listed) and (not job.looked_at or time.monotonic() < until):
            following = self._next()
            listed = {each.id: each for each in following}
            heads = self._unchanged(await self.found(list(listed), job.older_than), listed)
            for owner in {head.owner for head in heads.values()} - self._free.keys():
                assert owner is not None, "free"
                verdict = to_delete(self._trees.liveness(owner), await self._trees.lease(owner))
                self._free[owner] = verdict is Verdict.FREE
            if job.keep_last:
                for flow, identity in {(head.flow, head.identity) for head in heads.values()} - self._bounds.keys():
                    self._bounds[flow, identity] = await self._bound(flow, identity)
            chosen = [place for place, head in heads.items() if self._may_go(place, head)]
            gone, looked_at = await self._whole(chosen, following)
            if gone:
                await self._trees.delete(gone)
            job.looked_at += looked_at
            job.gone += len(gone)

    async def _whole(self, chosen: Sequence[int], following: Sequence[Ended]) -> tuple[list[int], int]:
        """Return the ids of runs with all their descendants, and how many of the `following` runs this decides.

        Trees that have too many descendants for one transaction are decided half by half; a single one is deleted whole.
        """
        count = len(following)
        while (trees := await self._trees.deletable(chosen, CHECKPOINTS if count > 1 else None)) is None:
            count //= 2
            chosen = [place for place in chosen if place <= following[count - 1].id]
        return [place for root, below in trees.items() for place in (root, *below)], count

    def _next(self) -> Sequence[Ended]:
        job, size = self._job, 0
        following = job.listed[job.looked_at : job.looked_at + RUNS]
        for count, each in enumerate(following):
            size += each.head + 1
            if count and size > CHECKPOINTS:
                return following[:count]
        return following

    def _unchanged(self, rows: Iterable[tuple[Any, ...]], listed: dict[int, Ended]) -> dict[int, Head]:
        """Return the heads, by catalog position, of the runs that are undamaged and got no checkpoint since they were listed."""
        heads: dict[int, Head] = {}
        for place, *row in rows:
            try:
                head = Head.read(row[0], row, self._key)
            except CheckpointCorruptError:
                continue  # a damaged run is kept as it is: `verify` reports it
            if (head.head, head.head_digest) == listed[place][1:]:
                heads[place] = head
        return heads

    def _may_go(self, place: int, head: Head) -> bool:
        is_old = not self._job.keep_last or place < self._bounds[head.flow, head.identity]
        return is_old and self._free[head.owner]

    async def _bound(self, flow: str, identity: str) -> int:
        """Return the position of the oldest of the newest runs of a flow that are kept: earlier ones may be deleted. 0: none may."""
        name, kept, most = (flow, identity), self._job.kept, self._job.keep_last
        if name not in kept or not await self.have_ended(kept[name]):
            kept[name] = await self.newest(flow, identity, most)
        return kept[name][-1] if len(kept[name]) == most else 0
