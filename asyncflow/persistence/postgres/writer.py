"""The writer: commits each batch of jobs in one transaction. It runs on the loop host's event loop and gets one batch at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

import anyio
import psycopg

from ...errors import (
    AsyncflowError,
    StaleCheckpoint,
    StorageWriteError,
)
from .._database.commit_logs import log_looked_up, log_retried, log_unclear
from .._database.commit_outcomes import not_written, shows
from .._database.compaction import compact_batch
from .._database.jobs import Append, Compact, Confirm, InboxJob, Job, Owning, Park, Prune, Send, SetAside
from .._database.lease import Lease, now
from .._database.ownership_rules import Liveness, effect_of
from .._database.restoring import Restore, restore
from .._database.run_head import Head, values_of
from .._database.shared_resource import AWAY, PAUSE
from .._database.trees import prepare_deletes
from ..inbox import unknown_run
from . import rows
from .clock import ServerClock
from .database import BUSY_SECONDS, Connection, Target, explain, is_alive, is_lost, is_settled, rows_of
from .inboxes import PostgresInboxes
from .lost import IDLE_SECONDS, fence, new_session
from .pruning import PostgresBatch, PostgresTrees

__all__ = ["Writer"]

_CAUSED_BY_ONE_JOB: Final = ("22", "23", "40", "53", "54", "55", "57")
"""SQLSTATE classes of errors that a single job of a batch can cause: it is too large, or waits for a lock that other jobs do not need."""

ONE_MORE: Final = 0.02
"""Seconds that each further job waits for locks after the batch has used up its waiting time."""

_UNKNOWN: Final = ("08", "40003")
"""SQLSTATEs (prefixes) with which the server reports that the outcome of the transaction is unknown."""

_OWNER: Final = Head._fields.index("owner")

Verdicts = dict[Job, Exception]
"""The errors of single jobs in a transaction that otherwise succeeds."""


class Writer:
    """Executes jobs. A batch of checkpoints, of any size, is one statement: one round trip to the server."""

    def __init__(
        self,
        target: Target,
        owner: str,
        key: bytes,
        lease: float,
        liveness: Callable[[str], Liveness],
        clock: ServerClock,
        *,
        upgrades: bool = True,
    ) -> None:
        """Create a writer; it does no I/O. `liveness`: what is known of an owner, apart from its lease. `clock`: it is measured.

        `upgrades`: whether opening creates or upgrades the schema.
        """
        self._target = target
        self._owner = owner
        self._key = key
        self.lease: Lease = Lease(lease)
        self._liveness = liveness
        self._clock = clock
        self._upgrades = upgrades
        self._current: Connection | None = None
        self._turn: anyio.Lock | None = None
        """Serializes writes and reads on a shared connection. Created lazily, on the event loop where it is used."""
        self._session = 0
        """The random number of this connection, for fencing it; see lost.py."""

    async def open(self) -> None:
        """Open the connection. Raises a typed storage error on failure."""
        self._current = await self._target.opened(self._clock, upgrades=self._upgrades)
        self._session = new_session()

    @property
    def is_pooled(self) -> bool:
        """Whether a connection pooler is between this process and the server, so that statements must not be prepared."""
        return self._current is not None and self._current.prepare_threshold is None

    async def close(self) -> bool:
        """Release the lease and close the connection. Return whether the lease is released."""
        if self._current is None:
            return False
        try:
            with contextlib.suppress(psycopg.Error, OSError):
                await self._current.execute(self._target.sql(rows.LEAVE), (self._owner,))
                return True
            return False
        finally:
            await self._current.close()

    def abandon(self) -> None:
        """Close the connection without its event loop."""
        if self._current is not None:
            self._current.pgconn.finish()

    @property
    def has_lease(self) -> bool:
        """Whether this writer has written anything, and a lease with it."""
        return self.lease.is_known

    @contextlib.asynccontextmanager
    async def lent(self) -> AsyncIterator[Connection]:
        """Lend the connection for reading. Nothing is written meanwhile, provided that all writes use `write_in_turn`."""
        turn = self._turn = self._turn or anyio.Lock()
        async with turn:
            yield await self._connected()

    # ---- a batch and its outcome -----------------------------------------------------------------------------------

    async def write(self, batch: Sequence[Job]) -> None:
        """Commit a batch. Set the `error` of each job that was not committed.

        If a single job can be the cause of an error, each job is retried alone: the server has reported that nothing was committed.
        If the server has not reported that, the writer looks up what was committed, and retries nothing blindly.
        """
        await self._write(batch, BUSY_SECONDS)

    async def write_in_turn(self, batch: Sequence[Job]) -> None:
        """Do the same as `write`, for a connection that is also lent to readers."""
        turn = self._turn = self._turn or anyio.Lock()
        async with turn:
            await self.write(batch)

    async def _write(self, batch: Sequence[Job], seconds: float) -> None:
        """Commit a batch, waiting at most `seconds` for locks of other transactions."""
        batch = sorted(batch, key=lambda job: job.run_id)  # all writers lock in this order: no deadlocks
        try:
            connection = await self._connected()
        except AsyncflowError as error:
            for job in batch:
                job.error = self._not_written(error, job, "not saved")
            return
        failure = await self._tried(connection, batch, seconds)
        if failure is not None:
            await self._handle_failure(connection, batch, failure)

    async def _handle_failure(self, connection: Connection, batch: Sequence[Job], error: Exception) -> None:
        state = getattr(error, "sqlstate", None) or ""
        if not is_settled(connection) or state.startswith(_UNKNOWN):
            await self._resolve(connection, batch, error)
        elif len(batch) > 1 and (state == "" or state.startswith(_CAUSED_BY_ONE_JOB)):
            log_retried(batch, error)
            deadline = time.monotonic() + BUSY_SECONDS  # shared by all jobs: a whole table may be locked
            for job in batch:
                await self._write((job,), max(ONE_MORE, deadline - time.monotonic()))
        else:
            newer = await self._target.newer(connection, error)
            for job in batch:
                job.error = newer or self._translated(error, job)

    async def _tried(self, connection: Connection, batch: Sequence[Job], seconds: float) -> Exception | None:
        try:
            verdicts = await self._transaction(connection, batch, seconds)
        except (psycopg.Error, OSError) as error:
            return error
        for job in batch:
            job.error = verdicts.get(job)
        return None

    def _translated(self, error: Exception, job: Job) -> Exception:
        translated = explain(error, self._target)
        if isinstance(translated, StorageWriteError):
            return self._not_written(error, job, "not saved")
        translated.__cause__ = error
        return translated

    async def _transaction(self, connection: Connection, batch: Sequence[Job], seconds: float) -> Verdicts:
        sent = now()
        # A Confirm asks for a renewal even if none is due.
        renews = self.lease.is_due(sent) or any(isinstance(job, Confirm) for job in batch)
        begin = (self._session, int(seconds * 1000), self._owner, self.lease.seconds if renews else None)
        verdicts, appends, owning = _sorted_out(batch)
        about_inboxes = [job for job in batch if isinstance(job, InboxJob) and job not in verdicts]
        if owning or about_inboxes or connection.isolation_level is not None:
            async with connection.transaction():
                await self._timed(connection, rows.BEGIN, (*begin, str(int(IDLE_SECONDS * 1000))), renews=renews)
                await self._execute_owning(connection, owning, verdicts)
                await self._store_with_inboxes(connection, begin, appends, about_inboxes, verdicts)
        else:
            await self._store(connection, begin, appends, verdicts)
        if renews:
            self.lease.renewed_for(batch, sent)
        return verdicts

    async def _execute_owning(self, connection: Connection, jobs: Sequence[Job], verdicts: Verdicts) -> None:
        """Execute the jobs that depend on stored rows: those about owners together, then each pruning."""
        trees = PostgresTrees(self._key, self._liveness, connection, self._target)
        deletes = await prepare_deletes(trees, jobs)
        verdicts.update(deletes.refused)
        about_owners = [job for job in jobs if isinstance(job, Owning) and job not in deletes.refused]
        if about_owners:
            await self._own(connection, about_owners, verdicts)
        await deletes.complete()
        for job in jobs:
            if isinstance(job, Prune):
                await PostgresBatch(job, self._key, trees).run()
            elif isinstance(job, Compact):
                try:
                    await compact_batch(job, PostgresInboxes(self._key, connection, self._target), self._key)
                except AsyncflowError as error:
                    verdicts[job] = error
            elif isinstance(job, Restore):
                await restore(job, PostgresInboxes(self._key, connection, self._target), self._key)

    async def _store_with_inboxes(
        self,
        connection: Connection,
        begin: tuple[Any, ...],
        appends: Sequence[Append],
        jobs: Sequence[InboxJob],
        verdicts: Verdicts,
    ) -> None:
        """Store checkpoints, and execute jobs about inboxes before and after that."""
        inboxes = PostgresInboxes(self._key, connection, self._target)
        await inboxes.prepare(jobs)
        verdicts.update({job: job.error for job in jobs if isinstance(job.error, Exception)})
        await self._store(connection, begin, [job for job in appends if job not in verdicts], verdicts)
        await inboxes.complete([job for job in jobs if isinstance(job, Append) and job not in verdicts])

    async def _store(
        self, connection: Connection, begin: tuple[Any, ...], appends: Sequence[Append], verdicts: Verdicts
    ) -> None:
        if not appends:
            return
        columns = zip(*(values_of(job.checkpoint, self._owner, self._key) for job in appends), strict=True)
        values = (*begin, *map(list, columns))
        for place in await self._timed(connection, rows.STORE, values, renews=begin[-1] is not None):
            verdicts[appends[place - 1]] = _stale(appends[place - 1])

    async def _timed(self, connection: Connection, text: str, values: tuple[Any, ...], *, renews: bool) -> Any:
        """Return what a statement returns after the server's time, by which the clock is measured when the lease is renewed."""
        sent = now()
        ((at, found, *_),) = await rows_of(connection, self._target.sql(text), values)
        if renews:
            self._clock.measured(at, sent, now())
        return found

    # ---- unknown outcomes ----------------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        """Return the connection, or a new one if it was lost. While the server restarts, wait for it, for some seconds."""
        if self._current is not None:
            if is_alive(self._current):
                return self._current
            await self._current.close()
        deadline = anyio.current_time() + BUSY_SECONDS
        while True:
            try:
                await self.open()
                break
            except AWAY:
                if anyio.current_time() > deadline:
                    raise
            await anyio.sleep(PAUSE)
        assert self._current is not None, "opened just now"
        return self._current

    async def _resolve(self, connection: Connection, batch: Sequence[Job], error: Exception) -> None:
        """Find out what was committed, on a new connection, after nothing sent over the old one can take effect any more."""
        await connection.close()
        lost = self._session
        try:
            found = await self._looked_up(lost, batch)
        except (psycopg.Error, OSError, AsyncflowError) as refused:
            log_unclear(batch, error, refused)
            for job in batch:
                job.error = self._not_written(error, job, "unknown")
            return
        log_looked_up(batch, sum(found), error)
        for job, is_stored in zip(batch, found, strict=True):
            job.error = None if is_stored else self._not_written(error, job, "not saved")

    async def _looked_up(self, lost: int, batch: Sequence[Job]) -> list[bool]:
        deadline = anyio.current_time() + BUSY_SECONDS
        while True:
            connection = await self._connected()
            try:
                await fence(connection, self._target, lost)
                return [await self._is_stored(connection, job) for job in batch]
            except psycopg.OperationalError as error:  # a look-up changes nothing and can be repeated
                if not is_lost(error) or anyio.current_time() > deadline:
                    raise

    async def _is_stored(self, connection: Connection, job: Job) -> bool:
        sql = self._target.sql
        if isinstance(job, Append):
            c = job.checkpoint
            return await rows_of(connection, sql(rows.SELECT_DIGEST), (c.run_id, c.seq)) == [(c.digest,)]
        if isinstance(job, Send | SetAside):
            return await PostgresInboxes(self._key, connection, self._target).is_stored(job)
        found = await rows_of(connection, sql(rows.SELECT_HEAD), (job.run_id,))
        head = Head.read(job.run_id, found[0], self._key) if found else None
        return shows(head, job, self._owner)

    def _not_written(self, error: Exception, job: Job, outcome: str) -> StorageWriteError:
        return not_written(error, job, outcome, where=f"to {self._target}", cure="once the server is available")

    # ---- owners ------------------------------------------------------------------------------------------------

    async def _own(self, connection: Connection, jobs: Sequence[Owning], verdicts: Verdicts) -> None:
        """Decide on all jobs, on rows that are locked until the commit, and write the changes."""
        sql = self._target.sql
        found = await rows_of(connection, sql(rows.LOCK_HEADS), ([job.run_id for job in jobs],))
        heads: dict[str, tuple[Any, ...]] = {row[0]: row for row in found}
        # An `Acquire` of this batch may make this owner the owner of a run that a later job wants.
        leases = await self._leases(connection, (*(row[_OWNER] for row in found), self._owner))
        for job in jobs:
            if job.run_id not in heads:
                continue
            try:
                head = Head.read(job.run_id, heads[job.run_id], self._key)
                left = None if head.owner is None else leases.get(head.owner, 0.0)
                change = effect_of(job, head, self._owner, self._liveness, left)
            except AsyncflowError as error:
                verdicts[job] = error
                continue
            if change.takeovers != "kept":
                count = rows.COUNT_TAKEOVER if change.takeovers == "counted" else rows.FORGET_TAKEOVERS
                await connection.execute(sql(count), (job.run_id,))
            if change.head is None:
                await connection.execute(sql(rows.DELETE_CHECKPOINTS), (job.run_id,))
                await connection.execute(sql(rows.DELETE_RUN), (job.run_id,))
                del heads[job.run_id]
            elif change.head != head:
                new = change.head
                owned = (new.owner, new.epoch, new.digest(self._key))
                if isinstance(job, Park) and new.status == "running":
                    await connection.execute(sql(rows.PARK_RUN), (*owned, job.newest, job.wake_at, new.run_id))
                else:
                    await connection.execute(sql(rows.OWN_RUN), (*owned, new.run_id))
                heads[job.run_id] = (*new, new.digest(self._key))

    async def _leases(self, connection: Connection, owners: Iterable[str | None]) -> dict[str, float]:
        """Return the remaining seconds of each owner's lease, by the server's clock. Owners that have left have no lease."""
        known = [owner for owner in set(owners) if owner is not None]
        return dict(await rows_of(connection, self._target.sql(rows.SELECT_LEASES), (known,)))


def _sorted_out(batch: Sequence[Job]) -> tuple[Verdicts, list[Append], list[Job]]:
    """Return the jobs that are refused, the checkpoints, and the jobs that depend on stored rows."""
    refused: Verdicts = {job: error for job in batch if (error := _nameless(job)) is not None}
    appends = [job for job in batch if isinstance(job, Append) and job not in refused]
    owning = [job for job in batch if not isinstance(job, Append) and rows.is_text(job.run_id)]
    return refused, appends, owning


def _nameless(job: Job) -> Exception | None:
    """Return an error if a job has a name that PostgreSQL cannot store, else None. No run is stored under such an id."""
    if isinstance(job, Send) and not rows.is_text(job.run_id):
        return unknown_run(job.run_id)
    if not isinstance(job, Append):
        return None
    c = job.checkpoint
    wrong = next((name for name in (c.run_id, c.flow, c.method) if not rows.is_text(name)), None)
    if wrong is None:
        return None
    return StorageWriteError(
        f"checkpoint {c.seq} was not saved: {wrong!r} contains a character that PostgreSQL cannot store (NUL, or a lone "
        "surrogate); use another name",
        outcome="not saved",
        run_id=c.run_id,
        seq=c.seq,
    )


def _stale(job: Append) -> StaleCheckpoint:
    c = job.checkpoint
    return StaleCheckpoint(
        f"checkpoint {c.seq} of run {c.run_id} was not saved: it does not follow the stored checkpoint, or another owner has "
        "taken over the run",
        run_id=c.run_id,
        seq=c.seq,
    )
