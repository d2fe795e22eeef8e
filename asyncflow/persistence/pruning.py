"""Retention of databases: runs that ended long ago are listed by a reader, and deleted in batches by the writer.

A list decides nothing. Each batch decides again, in the transaction that deletes, so a run that was resumed, begun anew or taken up
since it was listed stays. Between two batches others commit, in this process and in others.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import anyio

from ..errors import CheckpointCorruptError
from .commits import Commits
from .head import Head
from .home import Home
from .jobs import Ended, Prune

__all__ = ["Batch", "forget"]

PAGE: Final = 2_048
"""Runs listed at once: what is held in memory."""

RUNS: Final = 256
CHECKPOINTS: Final = 1_024
"""Runs, and their checkpoints, that are deleted by one statement; of a run with more than that, all."""

PORTION: Final = 0.02
"""Seconds after which a batch ends: so long do others wait for the lock."""

TELL: Final = 5.0
"""Seconds between two lines in the log."""

logger = logging.getLogger("asyncflow")


class Lists(Protocol):
    """Lists what could be forgotten."""

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """Runs that ended so many seconds ago, by the clock of the database, after a place in the catalog, in its order."""
        ...


class Opened(Protocol):
    """What is open."""

    home: Home
    commits: Commits

    @property
    def reader(self) -> Lists:
        """Lists what could be forgotten."""
        ...

    def may_forget(self, owner: str) -> bool:
        """Whether the runs of an owner may be deleted, whatever its lease says."""
        ...

    def rest(self) -> float:
        """What is left to other processes between two batches, as a part of the time that a batch takes."""
        ...


async def forget(opened: Opened, where: object, older_than: float, keep_last: int) -> int:
    """Forget runs that ended long ago; how many.

    Cancelled, or raising, it keeps what was done until then, and logs how many these were.
    """
    gone, after, told = 0, -1, time.monotonic()
    kept: dict[tuple[str, str], list[int]] = {}
    try:
        while listed := await opened.home.run(partial(opened.reader.ended, older_than, after, PAGE)):
            after = listed[-1].id
            while listed:
                job = Prune(listed, older_than, keep_last, kept, opened.may_forget)
                began = time.monotonic()
                try:
                    await opened.commits.submit(job)
                finally:
                    gone += job.gone if job.is_settled and job.error is None else 0
                listed = listed[job.looked_at :]
                if time.monotonic() - told > TELL:
                    told = time.monotonic()
                    logger.info("pruning %s: %d runs are deleted so far", where, gone)
                await anyio.sleep((time.monotonic() - began) * opened.rest())
    finally:
        if gone:
            logger.info("pruned %s: %d runs are deleted", where, gone)
    return gone


class Batch(ABC):
    """One transaction of it. What it reads is changed by nobody until the commit."""

    def __init__(self, job: Prune, key: bytes) -> None:
        self._job = job
        self._key = key
        self._bounds: dict[tuple[str, str], int] = {}
        self._free: dict[str | None, bool] = {None: True}

    @abstractmethod
    async def found(self, ids: Sequence[int], older_than: float) -> Iterable[tuple[Any, ...]]:
        """Place, head and digest of those runs that have ended so long ago."""

    @abstractmethod
    async def newest(self, flow: str, identity: str, count: int) -> list[int]:
        """The newest runs of a flow that have ended, the newest first."""

    @abstractmethod
    async def have_ended(self, ids: Sequence[int]) -> bool:
        """Whether all of these are stored and have ended."""

    @abstractmethod
    async def is_free(self, owner: str) -> bool:
        """Whether an owner drives nothing any more."""

    @abstractmethod
    async def delete(self, ids: Sequence[int]) -> None:
        """Delete these runs, with their checkpoints."""

    async def run(self) -> None:
        """Delete as many of the listed runs as there is time for."""
        job = self._job
        job.gone = job.looked_at = 0  # it may be tried again
        until = time.monotonic() + PORTION
        while job.looked_at < len(job.listed) and (not job.looked_at or time.monotonic() < until):
            listed = {each.id: each for each in self._next()}
            heads = self._unchanged(await self.found(list(listed), job.older_than), listed)
            for owner in {head.owner for head in heads.values()} - self._free.keys():
                assert owner is not None, "free"
                self._free[owner] = await self.is_free(owner)
            if job.keep_last:
                for flow, identity in {(head.flow, head.identity) for head in heads.values()} - self._bounds.keys():
                    self._bounds[flow, identity] = await self._bound(flow, identity)
            chosen = [place for place, head in heads.items() if self._may_go(place, head)]
            if chosen:
                await self.delete(chosen)
            job.looked_at += len(listed)
            job.gone += len(chosen)

    def _next(self) -> Sequence[Ended]:
        job, size = self._job, 0
        following = job.listed[job.looked_at : job.looked_at + RUNS]
        for count, each in enumerate(following):
            size += each.head + 1
            if count and size > CHECKPOINTS:
                return following[:count]
        return following

    def _unchanged(self, rows: Iterable[tuple[Any, ...]], listed: dict[int, Ended]) -> dict[int, Head]:
        """The heads, by their place in the catalog, of those that are undamaged and had no checkpoint since they were listed."""
        heads: dict[int, Head] = {}
        for place, *row in rows:
            try:
                head = Head.read(row[0], row, self._key)
            except CheckpointCorruptError:
                continue  # it is kept as it is: `verify` reports it
            if (head.head, head.head_digest) == listed[place][1:]:
                heads[place] = head
        return heads

    def _may_go(self, place: int, head: Head) -> bool:
        is_old = not self._job.keep_last or place < self._bounds[head.flow, head.identity]
        return is_old and self._free[head.owner]

    async def _bound(self, flow: str, identity: str) -> int:
        """The place of the oldest run of a flow that is kept as one of its newest: those before it may go. 0: none may."""
        name, kept, most = (flow, identity), self._job.kept, self._job.keep_last
        if name not in kept or not await self.have_ended(kept[name]):
            kept[name] = await self.newest(flow, identity, most)
        return kept[name][-1] if len(kept[name]) == most else 0
