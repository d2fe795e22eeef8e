"""Group commit: what arrives while a commit is under way goes into the next one.

Each waiter returns after its own commit and not before. Nobody who waits owns the transaction. A batch that fails is
tried again one by one, so that an error reaches its own waiter only.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
import anyio

from ..._waiting import outlast
from ...errors import AsyncflowError, RunLockedError, StaleCheckpoint, StorageWriteError
from ..checkpoint import Checkpoint
from . import rows
from .database import explain
from .home import Home, Waiter
from .rows import Head

__all__ = ["Acquire", "Append", "Commits", "Release"]

BATCH: Final = 512
"""Checkpoints in one transaction, at most: larger ones gain nothing and delay everybody."""

BATCH_BYTES: Final = 8 * 1024 * 1024
PORTION: Final = 16
"""Waiters woken at once, so that the event loop gets to breathe: each goes on with its next method, some 50 us."""


class Job:
    """Something to be done in a transaction, and those who wait for it."""

    __slots__ = ("error", "is_settled", "is_taken", "late", "run_id", "size", "waiter")

    def __init__(self, run_id: str, size: int = 300) -> None:
        self.run_id = run_id
        self.size = size
        self.is_taken = False
        self.is_settled = False
        self.error: BaseException | None = None
        self.waiter: Waiter | None = None
        self.late: anyio.Event | None = None
        """For one who was cancelled, and waits again."""

    def settle(self) -> None:
        """It is known what became of it."""
        self.is_settled = True
        if self.waiter is not None:
            self.waiter.wake()
        if self.late is not None:
            self.late.set()


class Append(Job):
    """Store a checkpoint."""

    __slots__ = ("checkpoint",)

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.run_id, checkpoint.size)
        self.checkpoint = checkpoint


class Acquire(Job):
    """Become the owner of a run that is stored.

    `epoch` is then the new one, 1 for a run that is not stored. `may_replace` says whether an owner's runs are free.
    """

    __slots__ = ("epoch", "may_replace")

    def __init__(self, run_id: str, may_replace: Callable[[str], bool]) -> None:
        super().__init__(run_id)
        self.may_replace = may_replace
        self.epoch = 1


class Release(Job):
    """Be the owner no longer."""

    __slots__ = ("epoch",)

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Commits:
    """The queue of one writing connection."""

    def __init__(self, connection: aiosqlite.Connection, home: Home, path: Path, owner: str) -> None:
        self._connection = connection
        self._home = home
        self._path = path
        self._owner = owner
        self._queue: deque[Job] = deque()
        self._busy = False
        self._idle = anyio.Event()
        self._idle.set()

    async def submit(self, job: Job) -> None:
        """Queue a job, at once, and wait until it is committed.

        Raises what became of it. Cancelled while it is queued it is withdrawn; later, its commit is waited for.
        """
        job.waiter = self._home.waiter()
        self._queue.append(job)
        if not self._busy:
            self._begin()
        try:
            await job.waiter
        except anyio.get_cancelled_exc_class():
            if not job.is_taken:
                self._withdraw(job)
            elif not job.is_settled:
                job.late = anyio.Event()
                await outlast(job.late)
            raise
        if job.error is not None:
            raise job.error

    async def drained(self) -> None:
        """Wait until nothing is queued or under way."""
        await outlast(self._idle)

    def _withdraw(self, job: Job) -> None:
        """Take a job out of the queue, and with it all that follow it in its run: they build upon it."""
        later = list(self._queue)[self._queue.index(job) :]
        for other in later:
            if other.run_id == job.run_id:
                self._queue.remove(other)
                other.error = _stale(other, "the one before it was withdrawn")
                other.settle()

    def _begin(self) -> None:
        """Start the next commit with what is queued."""
        batch: list[Job] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            job = self._queue.popleft()
            job.is_taken = True
            size += job.size
            batch.append(job)
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._busy = True
        self._home.spawn(lambda: self._write(batch), lambda ended: self._ended(batch, ended))

    def _ended(self, batch: list[Job], ended: Any) -> None:
        error = None if ended.cancelled() else ended.exception()
        if ended.cancelled() or error is not None:
            for job in batch:
                job.error = job.error or _cut_off(job, error)
        self._wake(batch, 0)

    def _wake(self, batch: list[Job], start: int) -> None:
        for job in batch[start : start + PORTION]:
            job.settle()
        if start + PORTION < len(batch):
            self._home.soon(lambda: self._wake(batch, start + PORTION))
        else:
            self._home.soon(self._go_on)

    def _go_on(self) -> None:
        """Begin the next commit when all who were woken have had their turn: their next checkpoints go into it together."""
        if self._queue:
            self._begin()
        else:
            self._busy = False
            self._idle.set()

    # ---- on the connection's loop ------------------------------------------------------------------------------

    async def _write(self, batch: Sequence[Job]) -> None:
        try:
            await self._transaction(batch)
        except (sqlite3.Error, AsyncflowError) as error:
            await self._roll_back()
            if len(batch) == 1:
                batch[0].error = explain(error, self._path) if isinstance(error, sqlite3.Error) else error
                return
            for job in batch:
                await self._write((job,))
        except BaseException:  # such as the cancellation of an event loop that is being closed around the commit
            await self._roll_back()
            raise

    async def _roll_back(self) -> None:
        try:
            await self._connection.rollback()
        except sqlite3.Error:
            # SQLite ends the transaction by itself on some errors; what is still open ends with the connection
            return

    async def _transaction(self, batch: Sequence[Job]) -> None:
        appends = [job.checkpoint for job in batch if isinstance(job, Append)]
        owning = [job for job in batch if not isinstance(job, Append)]
        if owning:
            await self._connection.execute("BEGIN IMMEDIATE")
        for job in owning:
            await self._own(job)
        if appends:
            await self._append(appends)
        await self._connection.commit()

    async def _append(self, checkpoints: list[Checkpoint]) -> None:
        now = time.time()
        first: dict[str, Checkpoint] = {}
        newest: dict[str, Head] = {}
        for c in checkpoints:
            first.setdefault(c.run_id, c)
            newest[c.run_id] = Head.after(c, self._owner)
        heads = [(first[run_id], head) for run_id, head in newest.items()]
        new = [(*head, now, head.digest()) for c, head in heads if c.seq == 0]
        if new:
            try:
                await self._connection.executemany(rows.INSERT_RUN, new)
            except sqlite3.IntegrityError:
                raise _stale(checkpoints[0], "a run with this id exists") from None
        known = [
            (
                h.status,
                h.number,
                h.head,
                h.head_digest,
                h.base,
                h.owner,
                now,
                h.digest(),
                h.run_id,
                h.epoch,
                c.seq - 1,
                c.previous,
            )
            for c, h in heads
            if c.seq
        ]
        if known:
            cursor = await self._connection.executemany(rows.UPDATE_RUN, known)
            if cursor.rowcount != len(known):
                raise _stale(checkpoints[0], "another owner has taken the run over")
        try:
            await self._connection.executemany(rows.INSERT_CHECKPOINT, checkpoints)
        except sqlite3.IntegrityError:
            raise _stale(checkpoints[0], "its seq is stored already") from None

    async def _own(self, job: Job) -> None:
        head = await self._head(job.run_id)
        if head is None:
            return
        if isinstance(job, Acquire):
            await self._acquire(job, head)
        elif isinstance(job, Release) and head.epoch == job.epoch and head.owner == self._owner:
            await self._set_owner(head, None, head.epoch)

    async def _acquire(self, job: Acquire, head: Head) -> None:
        if head.owner is not None and not job.may_replace(head.owner):
            raise RunLockedError(
                f"run {job.run_id} is being driven by another process (owner {head.owner}), which is alive; await that, "
                "or try again when it has ended",
                run_id=job.run_id,
                owner=head.owner,
            )
        job.epoch = head.epoch + 1
        await self._set_owner(head, self._owner, job.epoch)

    async def _head(self, run_id: str) -> Head | None:
        found = list(await self._connection.execute_fetchall(rows.SELECT_HEAD, (run_id,)))
        return Head.read(tuple(found[0])) if found else None

    async def _set_owner(self, head: Head, owner: str | None, epoch: int) -> None:
        new = head._replace(owner=owner, epoch=epoch)
        await self._connection.execute(rows.OWN_RUN, (owner, epoch, new.digest(), head.run_id, head.epoch))


def _stale(job: Job | Checkpoint, why: str) -> StaleCheckpoint:
    return StaleCheckpoint(f"a checkpoint of run {job.run_id} was not saved: {why}", run_id=job.run_id)


def _cut_off(job: Job, cause: BaseException | None) -> StorageWriteError:
    why = "the event loop ended" if cause is None else f"{type(cause).__name__} was raised"
    error = StorageWriteError(
        f"{why} during a commit of run {job.run_id}; whether it was saved is found out when it is resumed",
        run_id=job.run_id,
    )
    error.__cause__ = cause
    return error
