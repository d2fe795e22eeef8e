"""The common part of the database backends: one writer behind a queue, separate readers, and connections that are open while in use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, Generic, Literal, Self, TypeVar

from ..._waiting import current_loop, is_closed
from ...errors import (
    CheckpointCorruptError,
    PersistenceLoopError,
    RunNotFoundError,
    StorageCorruptError,
    StorageError,
    StorageVersionError,
)
from ..checkpoint import Checkpoint, fold, verified
from ..children import check_parent
from ..fence import Fence
from ..inbox import NewSignal, StoredSignal
from ..protocol import RunEntry, RunOwner, RunSearch, check_retention
from ..status import Status
from .compaction import compact
from .handle_limit import no_handles_left
from .jobs import Acquire, Append, AppendChild, AppendLast, AppendTaking, Delete, Job, Park, Release, Send, SetAside
from .listing import entry_of, query_of
from .opened import Opened
from .ownership_rules import Liveness, is_driving
from .pruning import forget
from .shared_resource import SharedResource

__all__ = ["DatabasePersistence", "checked_key", "checked_lease"]

T = TypeVar("T", bound=Opened)

_PAGE: Final = 1_000
"""Runs that one read of the children of a run returns."""


class DatabasePersistence(ABC, Generic[T]):
    """A backend with all capabilities. It uses the resources that `_opened` opens, once for each event loop. Creating one does no I/O."""

    def __init__(self) -> None:
        self._shared: SharedResource[T] = SharedResource(
            self, self._open, _closed, lambda opened: opened.abandon(), self._waits
        )
        self._entered: dict[object, list[AbstractAsyncContextManager[object]]] = {}

    @property
    @abstractmethod
    def _where(self) -> object:
        """The name of the storage in error messages."""

    @property
    def _place(self) -> str:
        """Where the runs are: the name of the storage, and all else that a person needs to find them."""
        return str(self._where)

    @abstractmethod
    async def _opened(self) -> T:
        """Open the resources for the running event loop."""

    def _waits(self) -> float:
        """Return for how many seconds opening is retried while the storage is unreachable or busy."""
        return 0.0

    async def _open(self) -> T:
        try:
            return await self._opened()
        except (OSError, RuntimeError) as error:
            if translated := no_handles_left(error, self._where):
                raise translated from error
            raise

    # ---- open and close ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        session = self._kept_open()
        await session.__aenter__()
        self._entered.setdefault(current_loop(), []).append(session)
        return self

    @asynccontextmanager
    async def _kept_open(self) -> AsyncIterator[None]:
        """Hold a session open. If its user does not exit it, it ends with the event loop, which closes its asynchronous generators."""
        async with self._shared.use():
            yield

    async def __aexit__(self, *_: object) -> None:
        loop = current_loop()
        if loop not in self._entered:
            self._forget_closed_loops()
            return
        sessions = self._entered[loop]
        session = sessions.pop()
        if not sessions:
            del self._entered[loop]
        await session.__aexit__(None, None, None)

    def _forget_closed_loops(self) -> None:
        """Forget the sessions of closed event loops, which ended with their loops. Raises `PersistenceLoopError` if there are none."""
        closed = [loop for loop in self._entered if is_closed(loop)]
        if not closed:
            raise PersistenceLoopError(
                f"{self!r} was entered on another event loop; exit it there. It is still open on that loop"
            )
        for loop in closed:
            del self._entered[loop]

    def session(self) -> AbstractAsyncContextManager[object]:
        """Keep the resources open: the first user to enter opens them, the last one to exit closes them."""
        return self._shared.use()

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    def append(self, checkpoint: Checkpoint) -> Coroutine[Any, Any, None]:
        """Store a checkpoint, complete or a delta. See `CheckpointLog.append`."""
        opened = self._shared.current
        if opened is None:
            return self._submit(Append(checkpoint))
        if not checkpoint.seq:
            opened.unreleased.forget(checkpoint.run_id)
        return opened.commits.submit(Append(checkpoint))

    def append_child(self, checkpoint: Checkpoint, parent: str) -> Coroutine[Any, Any, None]:
        """Store the first checkpoint of a child run, unless its parent is over or not stored. See `Children.append_child`."""
        opened = self._shared.current
        if opened is None:
            return self._submit(AppendChild(checkpoint, parent))
        opened.unreleased.forget(checkpoint.run_id)
        return opened.commits.submit(AppendChild(checkpoint, parent))

    # ---- the inbox ---------------------------------------------------------------------------------------------

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        """Store a signal for a run. See `Inbox.send`."""
        job = Send(run_id, signal, seq)
        async with self._shared.use() as opened:
            if not opened.reader.has_sound_inboxes:
                await opened.home.run(opened.reader.check_inboxes)
            try:
                await opened.commits.submit(job)
            except RunNotFoundError:
                await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=False))  # it may be damaged
                raise
            opened.arrivals.happened(run_id)
            opened.parked.happened(run_id)
        return job.is_new

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were neither taken nor set aside. See `Inbox.inbox`."""
        async with self._shared.use() as opened:
            if not opened.reader.has_sound_inboxes:
                await opened.home.run(opened.reader.check_inboxes)
            read = opened.home.read if opened.reader.has_cancellable_inboxes else opened.home.run
            return await read(lambda: opened.reader.inbox(run_id))

    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        """Store a checkpoint, and take a signal from the inbox of its run. See `Inbox.append_taking`."""
        await self._submit(AppendTaking(checkpoint, signal))

    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        """Store the last checkpoint of a pass, if no signal has come since the inbox was read. See `Inbox.append_last`."""
        await self._submit(AppendLast(checkpoint, newest))

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        """Keep a signal out of the inbox from now on. See `Inbox.set_aside`."""
        await self._submit(SetAside(signal, problem))

    async def _submit(self, job: Job) -> None:
        async with self._shared.use() as opened:
            await opened.commits.submit(job)

    @contextmanager
    def watch(self, run_id: str, arrived: Callable[[], object]) -> Iterator[None]:
        """Call a function whenever a signal may have arrived for a run; while a session is open. See `Inbox.watch`."""
        opened = self._shared.current
        assert opened is not None, "called within a session"
        with opened.arrivals.watch(run_id, arrived):
            yield

    # ---- reading -----------------------------------------------------------------------------------------------

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """Return the newest checkpoint of a run or the one at `seq`, as a complete one, verified from the last complete checkpoint on.

        Raises `CheckpointCorruptError` if this run alone is damaged, `StorageCorruptError` if the database is.
        """
        async with self._shared.use() as opened:
            newest, found = opened.reader.newest, None
            if seq is None and newest is not None:
                found = await opened.home.read(lambda: newest(run_id))
            if not found:
                found = await opened.home.run(lambda: opened.reader.checkpoints(run_id, seq, whole=False))
        return None if found is None else fold(found)

    async def history(self, run_id: str, *, after: int = -1, until: int | None = None) -> list[Checkpoint]:
        """Return the checkpoints of a run with a seq above `after`, in order, as they are stored. `until`: the last one; None: all."""
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.checkpoints(run_id, until, whole=True, after=after))
        return verified(found or [], part=after >= 0)

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: Status | Literal["unfinished"] | None = None,
        identities: Collection[str] | None = None,
        parent: str | None = None,
        before: int | None = None,
        limit: int = 100,
        search: RunSearch | None = None,
    ) -> list[RunEntry]:
        """Return catalog entries, newest run first. `parent`: only the children of this run. See `Catalog.runs`."""
        asked: dict[str, Any] = {"run_id": run_id, "flow": flow, "identities": identities, "parent": parent}
        query, chosen = query_of(status, **asked, before=before, limit=limit, search=search or RunSearch())
        found: list[RunEntry] = []
        async with self._shared.use() as opened:
            while len(found) < limit:
                rows = await opened.home.run(partial(opened.reader.runs, query))
                page = [entry_of(row, _is_driven(opened, row[5], row[11])) for row in rows]
                found += [entry for entry in page if chosen in (None, entry.status)]
                if len(page) < limit:
                    break
                query = query._replace(before=page[-1].position)
        return found[:limit]

    async def owner_of(self, run_id: str) -> RunOwner | None:
        """Return the owner of a run, None if it has none. See `Owners.owner_of`."""
        query, _ = query_of(None, run_id=run_id, limit=1)
        async with self._shared.use() as opened:
            for row in await opened.home.run(partial(opened.reader.runs, query)):
                owner, left = row[5], row[11]
                if owner is not None:
                    is_here = opened.liveness(owner) in (Liveness.HERE, Liveness.ALIAS)
                    return RunOwner(owner, _is_driven(opened, owner, left), is_here, opened.name_of(owner), left)
        return None

    async def children(self, run_id: str) -> list[RunEntry]:
        """Return the direct children of a run, in the order in which they were first stored. See `Children.children`."""
        found: list[RunEntry] = []
        while page := await self.runs(parent=run_id, before=found[-1].position if found else None, limit=_PAGE):
            found += page
        return found[::-1]

    async def orphans(self, limit: int) -> list[RunEntry]:
        """Return children that are not over although their parent is, the oldest first. See `Children.orphans`."""
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.orphans(limit))
            return [entry_of(row, _is_driven(opened, row[5], row[11])) for row in found]

    async def delete(self, run_id: str) -> bool:
        """Delete a run that has no living owner, with its descendants. See `Retention.delete`."""
        async with self._shared.use() as opened:
            job = Delete(run_id)
            await opened.commits.submit(job)
            return job.is_done

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Delete runs that ended more than `older_than` seconds ago, in batches between which other commits run. See `Retention.prune`.

        If it is cancelled, the completed batches stay deleted. It logs the number of deleted runs at INFO to the logger
        `asyncflow`, every 5 seconds and at the end. The file or table does not shrink: its space is reused.
        """
        check_retention(older_than, keep_last)
        async with self._shared.use() as opened:
            return await forget(opened, self._where, older_than, keep_last)

    async def compact(self, run_id: str) -> int | None:
        """Delete the checkpoints of a run's earlier passes, in batches between which other commits run. See `Compaction.compact`."""
        async with self._shared.use() as opened:
            return await compact(opened, run_id)

    async def verify(self, run_id: str | None = None) -> list[StorageError]:
        """Check a run, or the whole database, and return the errors found; empty if there are none. It changes nothing.

        It reads every checkpoint and checks its digest, the chain from the first checkpoint to the head, whether it folds, and whether the
        first one names the parent that is stored. It reads
        every signal that is kept, taken or not, and checks its digest, and that it was taken by the checkpoint that it names.

        - `run_id`: the run to check; None: every run, and the database itself.

        Raises `RunNotFoundError` for an unknown run.
        """
        async with self._shared.use() as opened:
            if run_id is not None:
                return await self._wrong_with(opened, run_id)
            damage = await opened.home.run(opened.reader.damage)
            found: list[StorageError] = [
                StorageCorruptError(f"{self._where} is damaged: {what}; restore it from a backup") for what in damage
            ]
            for each in await opened.home.run(opened.reader.run_ids):
                found += await self._wrong_with(opened, each)
            return found

    async def _wrong_with(self, opened: T, run_id: str) -> list[StorageError]:
        try:
            stored = await opened.home.run(lambda: opened.reader.everything(run_id))
            if stored is None:
                raise RunNotFoundError(f"no run {run_id} is stored in {self._where}; check the id", run_id=run_id)
            checkpoints, received = stored
            fold(checkpoints)
            received.check(first=checkpoints[0].seq if checkpoints else 0)
            parent, digest = received.parent
            progress = checkpoints[0].progress if checkpoints else None
            check_parent(run_id, parent, digest, progress, received.key)
        except (CheckpointCorruptError, StorageCorruptError, StorageVersionError) as error:
            return [error]
        return []

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run. Raises `RunLockedError` while its owner is a living process. See `Ownership.acquire`."""
        async with self._shared.use() as opened:
            opened.unreleased.forget(run_id)
            job = Acquire(run_id, force=force)
            await opened.commits.submit(job)
            return job.epoch

    async def release(self, run_id: str, epoch: int) -> None:
        """Release a run. See `Ownership.release`."""
        async with self._shared.use() as opened:
            try:
                await opened.commits.submit(Release(run_id, epoch))
            except StorageError:
                opened.unreleased.add(run_id, epoch)
                raise

    # ---- parked runs -------------------------------------------------------------------------------------------

    poll_seconds: float
    """See `Parking.poll_seconds`."""

    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        """Release a run that only waits, and store when it is due. See `Parking.park`."""
        async with self._shared.use() as opened:
            try:
                await opened.commits.submit(Park(run_id, epoch, wake_at, newest))
            except StorageError:
                opened.unreleased.add(run_id, epoch)
                raise

    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        """Return parked runs, the earliest wake time first. See `Parking.parked`."""
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.parked(identities, until, limit))
        return sorted((entry_of(row, False) for row in found), key=lambda entry: entry.wake_at or 0.0)[:limit]

    @contextmanager
    def watch_parked(self, run_id: str, woken: Callable[[], object]) -> Iterator[None]:
        """Call a function whenever a run may have ceased to be parked; while a session is open. See `Parking.watch_parked`."""
        opened = self._shared.current
        assert opened is not None, "called within a session"
        with opened.parked.watch(run_id, woken):
            yield

    def fence(self) -> Fence | None:
        """Return this owner's fence while a session is open, otherwise None. See `Fencing.fence`."""
        opened = self._shared.current
        return None if opened is None else opened.fence


def checked_key(key: bytes | None) -> bytes:
    """Return the key (b"" for None). Raises `ValueError` if its length is not valid."""
    if key is not None and not 16 <= len(key) <= 64:
        raise ValueError(f"key must have 16 to 64 bytes, not {len(key)}; secrets.token_bytes(32) creates one")
    return key or b""


def checked_lease(lease: float) -> float:
    """Return the lease. Raises `ValueError` if it is not above 0."""
    if lease <= 0:
        raise ValueError(f"lease must be a number of seconds above 0, not {lease!r}")
    return lease


def _is_driven(opened: Opened, owner: str | None, left: float | None) -> bool:
    return owner is not None and is_driving(opened.liveness(owner), left)


async def _closed(opened: Opened) -> None:
    """Close the connections after the queued jobs are committed, and stop being an owner."""
    opened.stop_renewing()
    opened.arrivals.close()
    opened.parked.close()
    try:
        await opened.commits.drained()
    finally:
        try:
            await opened.home.run(opened.close)
        finally:
            opened.leave()
            opened.home.close()
