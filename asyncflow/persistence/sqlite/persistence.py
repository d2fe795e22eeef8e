"""`SQLiteFlowPersistence`: the default backend. It needs no configuration and works on asyncio and trio alike."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Literal, Self

from ...errors import CheckpointCorruptError, RunLockedError, RunNotFoundError, StorageCorruptError, StorageError
from ..checkpoint import Checkpoint, Status, fold, verified
from ..protocol import RunEntry
from ..shared import Shared
from .commits import Commits
from .database import open_database
from .home import Home, home_here
from .jobs import Acquire, Append, Delete, Release, Renew
from .owners import Owner
from .reader import Reader
from .writer import Writer

__all__ = ["SQLiteFlowPersistence"]


class _Open:
    """What is open while a persistence is in use."""

    def __init__(self, home: Home, path: Path, synchronous: str, key: bytes, lease: float) -> None:
        self.home = home
        self.owner = Owner(path)
        self.writer = Writer(path, self.owner.id, key, lease, partial(open_database, path, synchronous))
        self.commits = Commits(home, self.writer.write)
        self.reader = Reader(path, key)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.place = Path(os.path.realpath(path))  # unlike `Path.resolve` it raises nothing, whatever stands there

    def renew(self) -> None:
        """Renew the lease, if there is one: between commits, as long methods run."""
        if self.writer.has_lease:
            self.commits.put(Renew())

    async def close(self) -> None:
        """Close the connections; on the event loop that they live on."""
        try:
            await self.reader.close()
        finally:
            await self.writer.close()

    def abandon(self) -> None:
        """Let go of what a closed event loop has left open: the runs, and the file's lock."""
        self.owner.leave()
        self.reader.abandon()
        self.writer.abandon()


class SQLiteFlowPersistence:
    """Runs in a SQLite file: WAL, group commit, every checkpoint in one transaction.

    Making one does no I/O and binds no loop. Entered with `async with`, it stays open until that ends; otherwise the
    first operation opens it and the last one to end closes it.

    `path`: the file; its folder is made where it is missing. `durability`: with "full", an acknowledged checkpoint
    survives power loss (synchronous=FULL); with "process" it survives the death of the process, and at power loss the
    newest ones may be lost, never the order. `key`: 16 to 64 secret bytes, for those who distrust the disk: digests tell whether
    a checkpoint was damaged, and with a key also whether somebody who can write the file has made it up. It does not
    encrypt, and cannot tell that the whole file was replaced by an older copy of itself. A file keeps the key that it was begun with.
    `lease`: seconds after which the runs of a process that lives, but has not been heard of, may be taken up by another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Literal["full", "process"] = "full",
        key: bytes | None = None,
        lease: float = 30.0,
    ) -> None:
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self.path = Path(path)
        if str(path) == ":memory:" or "\0" in str(path):
            raise ValueError(f"{str(path)!r} is no file; for runs in memory there is MemoryFlowPersistence()")
        if key is not None and not 16 <= len(key) <= 64:
            raise ValueError(f"a key has 16 to 64 bytes, not {len(key)}; secrets.token_bytes(32) makes one")
        if lease <= 0:
            raise ValueError(f"a lease is a number of seconds above 0, not {lease!r}")
        self.lease = lease
        self._key = key or b""
        self.durability: Literal["full", "process"] = durability
        self._shared: Shared[_Open] = Shared(self, self._opened, _closed, _Open.abandon)
        self._entered: list[AbstractAsyncContextManager[object]] = []

    def __repr__(self) -> str:
        return f"SQLiteFlowPersistence({str(self.path)!r}, durability={self.durability!r})"

    # ---- open and close ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        session = self._shared.use()
        await session.__aenter__()
        self._entered.append(session)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._entered.pop().__aexit__(None, None, None)

    def session(self) -> AbstractAsyncContextManager[object]:
        """Keep it open for a while; opened by the first that enters, closed by the last that leaves."""
        return self._shared.use()

    async def _opened(self) -> _Open:
        with ExitStack() as undo:
            home = await home_here()
            undo.callback(home.close)
            synchronous = "FULL" if self.durability == "full" else "NORMAL"
            opened = _Open(
                home, self.path.absolute(), synchronous, self._key, self.lease
            )  # once: the working directory may change
            await home.run(opened.writer.open)
            try:
                opened.owner.enter()
            except BaseException:
                await home.run(opened.close)
                raise
            opened.stop_renewing = home.every(self.lease / 3, opened.renew)
            undo.pop_all()
            return opened

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, complete or a delta. See `CheckpointLog`."""
        opened = self._shared.held
        if opened is not None:
            await opened.commits.submit(Append(checkpoint))
            return
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
        self, *, flow: str | None = None, status: Status | None = None, before: int | None = None, limit: int = 100
    ) -> list[RunEntry]:
        """Runs, the newest first. See `Catalog`."""
        if status not in (None, "running", "failed", "finished", "cancelled"):
            raise ValueError(f"status is 'running', 'failed', 'finished' or 'cancelled', not {status!r}")
        async with self._shared.use() as opened:
            found = await opened.home.run(lambda: opened.reader.runs(flow, status, before, limit))
            return [RunEntry._make((*r[:5], _is_driven(opened, r[5], r[9]), *r[6:9])) for r in found]

    async def delete(self, run_id: str) -> bool:
        """Forget a run that nobody drives. See `Retention`."""
        async with self._shared.use() as opened:
            job = Delete(run_id, opened.owner.is_dead)
            await opened.commits.submit(job)
            return job.is_done

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Forget runs that ended so long ago. See `Retention`."""
        kept: Counter[str] = Counter()
        gone = 0
        async with self._shared.use() as opened:
            for run_id, flow, at in await opened.home.run(opened.reader.ended):
                kept[flow] += 1
                if kept[flow] > keep_last and at < time.time() - older_than:
                    with suppress(RunLockedError):  # it is taken up at this moment
                        gone += await self.delete(run_id)
        return gone

    async def verify(self, run_id: str | None = None) -> list[StorageError]:
        """What is wrong with a run, or with the whole database: empty, if nothing is. Nothing is changed.

        Every checkpoint is read: its digest, the chain from the first to the head, and whether it folds. Without a
        `run_id`, of every run, and the file is checked as SQLite does (`integrity_check`).
        Raises `RunNotFoundError` for an unknown run.
        """
        async with self._shared.use() as opened:
            if run_id is not None:
                return await self._wrong_with(opened, run_id)
            damage = await opened.home.run(opened.reader.damage)
            found: list[StorageError] = [
                StorageCorruptError(f"{self.path} is damaged: {what}; restore it from a backup") for what in damage
            ]
            for each in await opened.home.run(opened.reader.run_ids):
                found += await self._wrong_with(opened, each)
            return found

    async def _wrong_with(self, opened: _Open, run_id: str) -> list[StorageError]:
        try:
            stored = await opened.home.run(lambda: opened.reader.checkpoints(run_id, None, whole=True))
            if stored is None:
                raise RunNotFoundError(f"no run {run_id} is stored in {self.path}; check the id", run_id=run_id)
            fold(stored)
        except (CheckpointCorruptError, StorageCorruptError) as error:
            return [error]
        return []

    @property
    def place(self) -> object:
        """The file, whichever way it was named."""
        opened = self._shared.held
        return Path(os.path.realpath(self.path)) if opened is None else opened.place

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run. Raises `RunLockedError` while the owner is a process that lives. See `Ownership`."""
        async with self._shared.use() as opened:
            job = Acquire(run_id, opened.owner.may_replace, force=force)
            await opened.commits.submit(job)
            return job.epoch

    async def release(self, run_id: str, epoch: int) -> None:
        """Be the owner no longer. See `Ownership`."""
        async with self._shared.use() as opened:
            await opened.commits.submit(Release(run_id, epoch))


def _is_driven(opened: _Open, owner: str | None, left: float | None) -> bool:
    """Whether an owner lives and its lease, if it has one, has not run out."""
    return owner is not None and not opened.owner.is_dead(owner) and (left is None or left > 0)


async def _closed(opened: _Open) -> None:
    """Close the connections, when what is queued is committed, and be no owner any more."""
    opened.stop_renewing()
    try:
        await opened.commits.drained()
    finally:
        try:
            await opened.home.run(opened.close)
        finally:
            opened.owner.leave()
            opened.home.close()
