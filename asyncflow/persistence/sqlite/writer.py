"""The writer: commits each batch of jobs in one transaction. It runs on the connection's event loop and gets one batch at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import aiosqlite
from pydantic_core import to_json

from ...errors import (
    AsyncflowError,
    StaleCheckpoint,
    StorageCorruptError,
    StorageNotFoundError,
    StorageWriteError,
)
from .._database.commit_logs import log_looked_up, log_retried, log_unclear
from .._database.commit_outcomes import not_written, shows
from .._database.compaction import compact_batch
from .._database.jobs import Append, Compact, Confirm, InboxJob, Job, Owning, Prune, Send, SetAside
from .._database.lease import Lease, now
from .._database.ownership_rules import Liveness
from .._database.restoring import Restore, restore
from .._database.run_head import Head
from .._database.trees import prepare_deletes
from . import rows
from .appends import CHANGES, Appends
from .database import check_identity, close_database, stop, waited_since
from .explain import explain, primary_code
from .file_identity import FileIdentity
from .inboxes import SqliteInboxes
from .owning import execute_owning
from .pruning import SqliteBatch, SqliteTrees, forget_dead

__all__ = ["Writer"]

_CAUSED_BY_ONE_JOB: Final = (
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FULL,
    0,
)
"""SQLite error codes that a single job of a batch can cause.

It does not follow the stored checkpoints, is too large, or has a value of a wrong type. SQLITE_FULL is here as well as among the
disk errors: half a batch may still fit. 0 is for errors of Python's binding.
"""


class Writer:
    """Executes jobs.

    A batch of checkpoints, of any size, takes one hop to the connection's thread for each kind of insert (at most three) and one for
    the commit; a single checkpoint takes one. A renewal of the lease takes further hops.
    """

    def __init__(
        self,
        path: Path,
        owner: str,
        key: bytes,
        lease: float,
        files: FileIdentity,
        open_database: Callable[[bool], Coroutine[Any, Any, aiosqlite.Connection]],
        on_open: Callable[[], None],
        holders: Callable[[], Sequence[str]],
        liveness: Callable[[str], Liveness],
    ) -> None:
        """Create a writer; it does no I/O.

        `open_database`: opens the database; its argument is whether the disk has failed since the last opening. `on_open`: called
        after the database was opened and `files` has recorded the files. `holders`: returns the possible holders of the write lock.
        `liveness`: what is known of an owner, apart from its lease.
        """
        self._path = path
        self._owner = owner
        self._key = key
        self.lease: Lease = Lease(lease)
        self._appends = Appends(owner, key)
        self._open_database = open_database
        self._current: aiosqlite.Connection | None = None
        self._on_open = on_open
        self._holders = holders
        self._liveness = liveness
        self._files = files
        self._began = 0.0
        self._has_failed = False

    async def open(self) -> None:
        """Open the connection. Raises the errors of `open_database`."""
        self._files.expect()
        self._current = await self._open_database(self._has_failed)
        self._files.keep()
        self._on_open()
        self._has_failed = False

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._current is not None:
            await (self._current.close() if self._files.is_cut_off else close_database(self._current))

    def abandon(self) -> None:
        """Close the connection without its event loop."""
        stop(self._current)

    @property
    def has_lease(self) -> bool:
        """Whether the lease is stored. The first transaction of this writer stores it."""
        return self.lease.is_known

    @property
    def _connection(self) -> aiosqlite.Connection:
        assert self._current is not None, "`_tried` and `_open_again` open the connection before it is used"
        return self._current

    # ---- a batch and its outcome -----------------------------------------------------------------------------------

    async def write(self, batch: Sequence[Job], *, is_part: bool = False) -> None:
        """Commit a batch. Set the `error` of each job that was not committed.

        If a single job can be the cause of an error, each half of the batch is retried, down to that job: so one job of 512 costs 18
        more transactions. After a disk error it is unknown what was committed. The writer looks it up on a new connection, and retries
        only jobs that were certainly not committed, and only if the disk was full. `is_part`: the batch is such a half.
        """
        error = await self._tried(batch)
        if error is None:
            return
        code = primary_code(error)
        if code == sqlite3.SQLITE_ERROR and self._current is not None:
            error = await self._error_if_upgraded(self._current) or error
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
            self._has_failed = True
            batch = await self._resolved(batch, error)
        may_be_one_job = not isinstance(error, sqlite3.Error) or code in _CAUSED_BY_ONE_JOB
        if len(batch) > 1 and may_be_one_job:
            if code == sqlite3.SQLITE_CONSTRAINT and (rest := await self._refuse_second_starts(batch, error)):
                await self.write(rest)
                return
            if not is_part:
                log_retried(batch, error)
            half = len(batch) // 2
            await self.write(batch[:half], is_part=True)
            await self.write(batch[half:], is_part=True)
            return
        for job in batch:
            job.error = self._translated(error, job)

    async def _tried(self, batch: Sequence[Job]) -> Exception | None:
        is_committed = False
        self._began = time.monotonic()
        try:
            if self._current is None:
                await self.open()
            await self._transaction(batch)
            is_committed = True
        except (sqlite3.Error, UnicodeDecodeError, AsyncflowError) as error:
            return error
        finally:
            if not is_committed:  # also if the event loop is being closed during the commit
                self._appends.forget_all()
                await self._roll_back()
        return None

    async def _error_if_upgraded(self, connection: aiosqlite.Connection) -> AsyncflowError | None:
        """Return the error for a database that a newer asyncflow has upgraded since it was opened, else None.

        Called after SQLITE_ERROR, because statements of this version fail on the upgraded schema.
        """
        try:
            await check_identity(connection, self._path)
        except AsyncflowError as newer:
            return newer
        return None

    async def _roll_back(self) -> None:
        if self._current is not None:
            with contextlib.suppress(
                sqlite3.Error
            ):  # SQLite may have rolled back already; anything still open ends with the connection
                await self._current.rollback()

    async def _refuse_second_starts(self, batch: Sequence[Job], error: Exception) -> list[Job]:
        """Refuse the first checkpoints of runs that are stored already, and return the other jobs; return [] if there are no such.

        A client may repeat its starts, and must not cost the neighbours in the batch a transaction each.
        """
        starts = {job.run_id: job for job in batch if isinstance(job, Append) and job.checkpoint.seq == 0}
        if self._current is None or not starts:
            return []
        try:
            found = await self._current.execute_fetchall(rows.SELECT_STORED, (to_json(list(starts)).decode(),))
        except (sqlite3.Error, ValueError):  # then each job gets an error of its own
            return []
        for (run_id,) in found:
            starts[run_id].error = self._translated(error, starts[run_id])
        return [job for job in batch if job.error is None] if found else []

    def _translated(self, error: Exception, job: Job) -> Exception:
        if isinstance(error, sqlite3.IntegrityError) and isinstance(job, Append):
            c = job.checkpoint
            return StaleCheckpoint(
                f"checkpoint {c.seq} of run {c.run_id} was not saved: it does not follow the stored checkpoint, or another owner "
                "has taken over the run",
                run_id=c.run_id,
                seq=c.seq,
            )
        if primary_code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL):
            return self._not_written(error, job, "not saved")
        if not isinstance(error, sqlite3.Error | UnicodeDecodeError):
            return error
        is_busy = primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        waited = waited_since(self._began)
        translated = explain(error, self._path, waited, self._holders() if is_busy else ())
        translated.__cause__ = error
        return translated

    async def _fold_deleted_log(self) -> None:
        """Fold a deleted log into the database, unless another process has already started a new log."""
        if not self._files.can_fold:
            return
        ((is_busy, frames, folded),) = await self._connection.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        if not is_busy and frames == folded:
            self._files.advice = "What was saved before is in the database. Close the storage"
            self._files.check()

    async def _transaction(self, batch: Sequence[Job]) -> None:
        try:
            self._files.check()
        except StorageNotFoundError:
            await self._fold_deleted_log()
            raise
        appended = [job for job in batch if isinstance(job, Append)]
        owning = [job for job in batch if not isinstance(job, Append)]
        sent = now()
        # A Confirm asks for a renewal even if none is due.
        renews = self.lease.is_due(sent) or any(isinstance(job, Confirm) for job in owning)
        if not (owning or renews) and [type(job) for job in appended] == [Append]:
            await self._append(appended, is_alone=True)
            self._appends.committed()
            return
        await self._execute(appended, owning, [job for job in batch if isinstance(job, InboxJob)])
        if renews:
            await self._renew()
        await self._connection.commit()
        self._appends.committed()
        if renews:
            self.lease.renewed_for(batch, sent)

    async def _execute(
        self, appended: Sequence[Append], owning: Sequence[Job], about_inboxes: Sequence[InboxJob]
    ) -> None:
        """Execute the jobs of a transaction, first those that depend on stored rows."""
        if owning or about_inboxes:
            await self._connection.execute("BEGIN IMMEDIATE")
            await self._execute_owning(owning)
        if about_inboxes:
            await self._append_with_inboxes(appended, about_inboxes)
        elif appended:
            await self._append(appended)

    async def _append_with_inboxes(self, appended: Sequence[Append], jobs: Sequence[InboxJob]) -> None:
        """Store checkpoints, and execute jobs about inboxes before and after that."""
        inboxes = SqliteInboxes(self._key, self._connection)
        refused = await inboxes.prepare(jobs)
        left = [job for job in appended if job not in refused]
        if left:
            await self._append(left)
        await inboxes.complete(left)

    async def _execute_owning(self, jobs: Sequence[Job]) -> None:
        """Execute the jobs that depend on stored rows, under the write lock: no other process changes the rows before the commit."""
        trees = SqliteTrees(self._key, self._liveness, self._connection)
        deletes = await prepare_deletes(trees, jobs)
        for job in jobs:
            self._appends.forget(job.run_id)
            if isinstance(job, Prune):
                await SqliteBatch(job, self._key, trees).run()
            elif isinstance(job, Compact):
                await compact_batch(job, SqliteInboxes(self._key, self._connection), self._key)
            elif isinstance(job, Restore):
                await restore(job, SqliteInboxes(self._key, self._connection), self._key)
        about_owners = [job for job in jobs if isinstance(job, Owning) and job not in deletes.refused]
        if about_owners:
            await execute_owning(self._connection, about_owners, self._owner, self._key, self._liveness)
        await deletes.complete()

    async def _renew(self) -> None:
        """Renew the lease, and delete the leases of dead owners."""
        await self._connection.execute(rows.RENEW, (self._owner, self.lease.seconds))
        await self._connection.execute(rows.EXPEL)
        await forget_dead(self._connection, self._liveness)

    async def _append(self, jobs: Sequence[Append], *, is_alone: bool = False) -> None:
        """Store checkpoints. `is_alone`: a single one that is its own transaction, which is committed at once."""
        before = self._connection.total_changes
        if is_alone:
            insert, values = self._appends.insert(jobs[0])
            await self._connection.execute(insert.one, values)
        else:
            for insert, rows_of_it in self._appends.inserts(jobs):
                await self._connection.executemany(insert.many, rows_of_it)
        if self._connection.total_changes != before + CHANGES * len(jobs):
            raise StorageCorruptError(
                f"the schema of {self._path} is damaged: it did not store a checkpoint as given. Restore the database from a backup"
            )

    # ---- unknown outcomes ----------------------------------------------------------------------------------------

    async def _resolved(self, batch: Sequence[Job], error: Exception) -> Sequence[Job]:
        """Return the jobs of a failed batch that were certainly not committed.

        All others were found, so they were committed. If the lookup itself fails, all jobs get an error with outcome 'unknown', and
        none is returned.

        A commit that failed may be in the log all the same. After a failed fsync, a reader sees data
        that a power cut would lose. So `open` first writes the log again and syncs it (`_has_failed`), and what the new connection
        finds is valid.
        """
        try:
            await self._open_again()
            found = [await self._is_stored(job) for job in batch]
        except (sqlite3.Error, AsyncflowError) as refused:
            log_unclear(batch, error, refused)
            for job in batch:
                job.error = self._not_written(error, job, "unknown")
            return ()
        log_looked_up(batch, sum(found), error)
        return [job for job, is_stored in zip(batch, found, strict=True) if not is_stored]

    async def _open_again(self) -> None:
        before, self._current = self._current, None
        if before is not None:
            with contextlib.suppress(sqlite3.Error):
                await before.close()
        await self.open()

    async def _is_stored(self, job: Job) -> bool:
        if isinstance(job, Append):
            c = job.checkpoint
            found = await self._connection.execute_fetchall(rows.SELECT_DIGEST, (c.run_id, c.seq))
            return [tuple(row) for row in found] == [(c.digest,)]
        if isinstance(job, Send | SetAside):
            return await SqliteInboxes(self._key, self._connection).is_stored(job)
        stored = list(await self._connection.execute_fetchall(rows.SELECT_HEAD, (job.run_id,)))
        head = Head.read(job.run_id, tuple(stored[0]), self._key) if stored else None
        return shows(head, job, self._owner)

    def _not_written(self, error: Exception, job: Job, outcome: str) -> StorageWriteError:
        return not_written(error, job, outcome, where=self._path, cure="once the disk works and has space")
