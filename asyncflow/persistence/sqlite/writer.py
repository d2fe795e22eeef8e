"""Writing: one transaction for a batch of jobs. Lives on the connection's event loop, and is asked for one batch at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import aiosqlite

from ...errors import AsyncflowError, RunLockedError, StaleCheckpoint
from . import rows
from .database import explain
from .jobs import Acquire, Append, Job, Release
from .rows import Head, values_of

__all__ = ["Writer"]


class Writer:
    """Does what jobs ask for: two hops to the connection's thread for a batch of checkpoints, of any size."""

    def __init__(self, connection: aiosqlite.Connection, path: Path, owner: str) -> None:
        self._connection = connection
        self._path = path
        self._owner = owner

    async def write(self, batch: Sequence[Job]) -> None:
        """Commit a batch. One that fails is tried again one by one, so that an error reaches its own job only."""
        error = await self._tried(batch)
        if error is not None and len(batch) == 1:
            batch[0].error = self._told(error, batch[0])
        elif error is not None:
            for job in batch:
                await self.write((job,))

    async def _tried(self, batch: Sequence[Job]) -> Exception | None:
        is_committed = False
        try:
            await self._transaction(batch)
            is_committed = True
        except (sqlite3.Error, AsyncflowError) as error:
            return error
        finally:
            if not is_committed:  # also where the event loop is being closed around the commit
                await self._roll_back()
        return None

    async def _roll_back(self) -> None:
        try:
            await self._connection.rollback()
        except sqlite3.Error:
            # SQLite ends the transaction by itself on some errors; what is still open ends with the connection
            return

    def _told(self, error: Exception, job: Job) -> Exception:
        if isinstance(error, sqlite3.IntegrityError) and isinstance(job, Append):
            c = job.checkpoint
            return StaleCheckpoint(
                f"checkpoint {c.seq} of run {c.run_id} was not saved: it does not follow what is stored, or another owner has "
                "taken the run over",
                run_id=c.run_id,
                seq=c.seq,
            )
        return explain(error, self._path) if isinstance(error, sqlite3.Error) else error

    async def _transaction(self, batch: Sequence[Job]) -> None:
        appends = [values_of(job.checkpoint, self._owner) for job in batch if isinstance(job, Append)]
        owning = [job for job in batch if not isinstance(job, Append)]
        if owning:
            await self._connection.execute("BEGIN IMMEDIATE")  # to read what nobody changes until the commit
        for job in owning:
            await self._own(job)
        if appends:
            await self._connection.executemany(rows.COMMIT, appends)
        await self._connection.commit()

    # ---- owners ------------------------------------------------------------------------------------------------

    async def _own(self, job: Job) -> None:
        found = list(await self._connection.execute_fetchall(rows.SELECT_HEAD, (job.run_id,)))
        if not found:
            return
        head = Head.read(tuple(found[0]))
        if isinstance(job, Acquire):
            await self._acquire(job, head)
        elif isinstance(job, Release) and head.epoch == job.epoch and head.owner == self._owner:
            await self._set_owner(head._replace(owner=None))

    async def _acquire(self, job: Acquire, head: Head) -> None:
        if head.owner is not None and not job.may_replace(head.owner):
            raise RunLockedError(
                f"run {job.run_id} is being driven by another process (owner {head.owner}), which is alive; await that, "
                "or try again when it has ended",
                run_id=job.run_id,
                owner=head.owner,
            )
        job.epoch = head.epoch + 1
        await self._set_owner(head._replace(owner=self._owner, epoch=job.epoch))

    async def _set_owner(self, head: Head) -> None:
        await self._connection.execute(rows.OWN_RUN, (head.owner, head.epoch, head.digest(), head.run_id))
