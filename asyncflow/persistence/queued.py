"""What the persistences with a database have in common: one writer behind a queue, readers beside it, open while in use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from .._waiting import current_loop, is_closed
from ..errors import (
    CheckpointCorruptError,
    PersistenceLoopError,
    RunNotFoundError,
    StorageCorruptError,
    StorageError,
    StorageVersionError,
)
from .checkpoint import Checkpoint, fold, verified
from .commits import Commits
from .fencing import Fence
from .handles import no_handles_left
from .home import Home
from .jobs import Acquire, Append, Delete, Ended, Release
from .listing import Query, entry_of, query_of
from .protocol import RunEntry, RunStatus, check_retention
from .pruning import forget
from .shared import Shared

__all__ = ["Opened", "QueuedPersistence", "Reads", "Unreleased", "checked_key", "checked_lease"]


class Reads(Protocol):
    """Reads runs, on the home's event loop. Each answer is of one snapshot of the database."""

    async def checkpoints(
        self, run_id: str, seq: int | None, *, whole: bool, after: int = -1
    ) -> list[Checkpoint] | None:
        """A run's rows up to `seq` (the newest, if None): those `after` one, or from the last complete one on; None if unknown.

        Raises `CheckpointCorruptError`.
        """
        ...

    async def runs(self, query: Query) -> list[tuple[Any, ...]]:
        """A page of the catalog, the newest run first: rows as `listing.entry_of` takes them."""
        ...

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """Runs that ended so many seconds ago, by the clock of the database, after a place in the catalog, in its order."""
        ...

    async def run_ids(self) -> list[str]:
        """The ids of all runs, in order of their making."""
        ...

    async def damage(self) -> list[str]:
        """What is wrong with the database itself."""
        ...


class Opened(Protocol):
    """What is open while a persistence is in use."""

    home: Home
    commits: Commits
    unreleased: Unreleased
    stop_renewing: Callable[[], object]

    @property
    def fence(self) -> Fence:
        """Proves the owner's lease."""
        ...

    @property
    def reader(self) -> Reads:
        """Reads runs."""
        ...

    def may_replace(self, owner: str) -> bool:
        """Whether the runs of an owner are free, whatever its lease says."""
        ...

    def is_here(self, owner: str) -> bool:
        """Whether an owner is of this process."""
        ...

    def may_forget(self, owner: str) -> bool:
        """Whether the runs of an owner may be deleted, whatever its lease says."""
        ...

    def rest(self) -> float:
        """What is left to other processes between two large transactions, as a part of the time that one takes."""
        ...

    def is_driving(self, owner: str, left: float | None) -> bool:
        """Whether an owner lives; `left`: the seconds of its lease, None if it has none."""
        ...

    async def close(self) -> None:
        """Close what is open; on the home's event loop."""
        ...

    def leave(self) -> None:
        """Be no owner any more; after `close`."""
        ...

    def abandon(self) -> None:
        """Let go of what a closed event loop has left open."""
        ...


class Unreleased:
    """Runs that could not be given back: it is tried again with each renewal of the lease, as others may wait for them."""

    def __init__(self, commits: Commits) -> None:
        self._commits = commits
        self._jobs: list[Release] = []

    def add(self, run_id: str, epoch: int) -> None:
        """Remember one. Whoever has taken it over meanwhile keeps it."""
        self._jobs.append(Release(run_id, epoch))

    def forget(self, run_id: str) -> None:
        """Let go of one: it is begun anew, or taken up, and is not to be given back."""
        self._jobs = [job for job in self._jobs if job.run_id != run_id]

    def try_again(self) -> None:
        """Queue them; on the home's event loop."""
        left = [job for job in self._jobs if not job.is_settled or job.error is not None]
        self._jobs = [job if job.is_taken and not job.is_settled else self._queued(job) for job in left]

    def _queued(self, job: Release) -> Release:
        again = Release(job.run_id, job.epoch)
        self._commits.put(again)
        return again


T = TypeVar("T", bound=Opened)


class QueuedPersistence(ABC, Generic[T]):
    """All capabilities, over what `_opened` opens, once for each event loop that uses it. Making one does no I/O."""

    def __init__(self) -> None:
        self._shared: Shared[T] = Shared(self, self._open, _closed, lambda opened: opened.abandon(), self._waits)
        self._entered: dict[object, list[AbstractAsyncContextManager[object]]] = {}

    @property
    @abstractmethod
    def _where(self) -> object:
        """What errors call the place."""

    @abstractmethod
    async def _opened(self) -> T:
        """Open it for the loop that is running."""

    def _waits(self) -> float:
        """For how many seconds an opening is tried again while the storage is away."""
        return 0.0

    async def _open(self) -> T:
        try:
            return await self._opened()
        except (OSError, RuntimeError) as error:
            if told := no_handles_left(error, self._where):
                raise told from error
            raise

    # ---- open and close ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        session = self._kept_open()
        await session.__aenter__()
        self._entered.setdefault(current_loop(), []).append(session)
        return self

    @asynccontextmanager
    async def _kept_open(self) -> AsyncIterator[None]:
        """A session that is left, if its user does not leave it, when the event loop ends: that closes its generators."""
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
        """Forget what was entered on closed loops: its sessions ended with them. Raises `PersistenceLoopError` if there is nothing."""
        closed = [loop for loop in self._entered if is_closed(loop)]
        if not closed:
            raise PersistenceLoopError(
                f"{self!r} was entered on another event loop; leave it there. It is still open on that one"
            )
        for loop in closed:
            del self._entered[loop]

    def session(self) -> AbstractAsyncContextManager[object]:
        """Keep it open for a while; opened by the first that enters, closed by the last that leaves."""
        return self._shared.use()

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    def append(self, checkpoint: Checkpoint) -> Coroutine[Any, Any, None]:
        """Store a checkpoint, complete or a delta. See `CheckpointLog`."""
        opened = self._shared.held
        if opened is None:
            return self._opened_for(checkpoint)
        if not checkpoint.seq:
            opened.unreleased.forget(checkpoint.run_id)
        return opened.commits.submit(Append(checkpoint))

    async def _opened_for(self, checkpoint: Checkpoint) -> None:
        async with self._shared.use() as opened:
            await opened.commits.submit(Append(checkpoint))

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of a run, or the one at `seq`, verified from the last complete one on.

        Raises `CheckpointCorruptError` for this run alone, `StorageCorruptError` for a damaged database.
        """
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.checkpoints(run_id, seq, whole=False))
        if found is None:
            return None
        return fold(found)

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        """The checkpoints of a run after this seq, in order, as they are stored."""
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=True, after=after))
        return verified(found or [], part=after >= 0)

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: RunStatus | Literal["unfinished"] | None = None,
        identities: Collection[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        """Runs, the newest first. See `Catalog`."""
        query, chosen = query_of(status, run_id=run_id, flow=flow, identities=identities, before=before, limit=limit)
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

    async def delete(self, run_id: str) -> bool:
        """Forget a run that nobody drives. See `Retention`."""
        async with self._shared.use() as opened:
            job = Delete(run_id, opened.may_forget)
            await opened.commits.submit(job)
            return job.is_done

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Forget runs that ended so long ago, in batches that others can get between. See `Retention`.

        Cancelled, it keeps what was done until then. How many runs are gone is logged at INFO, logger `asyncflow`, every 5 seconds
        and at the end. The file, or the table, does not become smaller: its space is used again.
        """
        check_retention(older_than, keep_last)
        async with self._shared.use() as opened:
            return await forget(opened, self._where, older_than, keep_last)

    async def verify(self, run_id: str | None = None) -> list[StorageError]:
        """What is wrong with a run, or with the whole database: empty, if nothing is. Nothing is changed.

        Every checkpoint is read: its digest, the chain from the first to the head, and whether it folds. Without a
        `run_id`, of every run, and the database itself is checked.
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
            stored = await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=True))
            if stored is None:
                raise RunNotFoundError(f"no run {run_id} is stored in {self._where}; check the id", run_id=run_id)
            fold(stored)
        except (CheckpointCorruptError, StorageCorruptError, StorageVersionError) as error:
            return [error]
        return []

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run. Raises `RunLockedError` while the owner is a process that lives. See `Ownership`."""
        async with self._shared.use() as opened:
            opened.unreleased.forget(run_id)
            job = Acquire(run_id, opened.may_replace, opened.is_here, force=force)
            await opened.commits.submit(job)
            return job.epoch

    async def release(self, run_id: str, epoch: int) -> None:
        """Be the owner no longer. See `Ownership`."""
        async with self._shared.use() as opened:
            try:
                await opened.commits.submit(Release(run_id, epoch))
            except StorageError:
                opened.unreleased.add(run_id, epoch)
                raise

    def fence(self) -> Fence | None:
        """Whether this process can still be the owner of its runs, while a session is open. See `Fencing`."""
        opened = self._shared.held
        return None if opened is None else opened.fence


def checked_key(key: bytes | None) -> bytes:
    """The key, if it can be one."""
    if key is not None and not 16 <= len(key) <= 64:
        raise ValueError(f"a key has 16 to 64 bytes, not {len(key)}; secrets.token_bytes(32) makes one")
    return key or b""


def checked_lease(lease: float) -> float:
    """The lease, if it can be one."""
    if lease <= 0:
        raise ValueError(f"a lease is a number of seconds above 0, not {lease!r}")
    return lease


def _is_driven(opened: Opened, owner: str | None, left: float | None) -> bool:
    return owner is not None and opened.is_driving(owner, left)


async def _closed(opened: Opened) -> None:
    """Close the connections, when what is queued is committed, and be no owner any more."""
    opened.stop_renewing()
    try:
        await opened.commits.drained()
    finally:
        try:
            await opened.home.run(opened.close)
        finally:
            opened.leave()
            opened.home.close()
