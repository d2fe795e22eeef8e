"""`SQLiteFlowPersistence`: the default backend. It needs no configuration and works on asyncio and trio alike."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Self

import aiosqlite
import anyio

from ...errors import ForkedProcessError, PersistenceLoopError, RunLockedError, StorageCorruptError
from ..checkpoint import Checkpoint, fold
from . import rows
from .commits import Acquire, Append, Commits, Release
from .database import close_database, explained, open_database
from .home import Home, current_loop, home_here, run
from .owners import Owner
from .rows import Head, checkpoint_of

__all__ = ["SQLiteFlowPersistence"]

_DRIVEN: set[tuple[str, str]] = set()
"""(database, run id) of the runs that are driven in this process, by whichever persistence object."""


class _Open:
    """What is open while a persistence is in use."""

    def __init__(self, home: Home, connection: aiosqlite.Connection, path: Path) -> None:
        self.home = home
        self.connection = connection
        self.owner = Owner(path)
        self.commits = Commits(connection, home, path, self.owner.id)
        self.name = str(path.resolve())
        self.process = os.getpid()
        self.is_sound = False


class SQLiteFlowPersistence:
    """Runs in a SQLite file: WAL, group commit, every checkpoint in one transaction.

    Making one does no I/O and binds no loop. Entered with `async with`, it stays open until that ends; otherwise the
    first operation opens it and the last one to end closes it.

    `path`: the file; its folder is made where it is missing. `durability`: with "full", an acknowledged checkpoint
    survives power loss (synchronous=FULL); with "process" it survives the death of the process, and at power loss the
    newest ones may be lost, never the order.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Literal["full", "process"] = "full") -> None:
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self.path = Path(path)
        self.durability: Literal["full", "process"] = durability
        self._open: _Open | None = None
        self._users = 0
        self._opening: anyio.Lock | None = None
        self._loop: object = None

    def __repr__(self) -> str:
        return f"SQLiteFlowPersistence({str(self.path)!r}, durability={self.durability!r})"

    # ---- open and close ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """Keep it open for a while; opened by the first that enters, closed by the last that leaves."""
        await self._enter()
        try:
            yield self
        finally:
            await self._leave()

    async def _enter(self) -> None:
        loop = current_loop()
        if self._users and self._loop is not loop:
            self._refuse_fork()
            if getattr(self._loop, "is_closed", bool)():
                self._users = 0  # that loop ended without its tasks: nothing of it is left to wait for
        if self._users and self._loop is not loop:
            raise PersistenceLoopError(
                f"{self!r} is in use on another event loop; give each loop a persistence of its own. Nothing was written"
            )
        if not self._users:
            self._loop, self._opening, self._open = loop, anyio.Lock(), None
        self._users += 1
        try:
            assert self._opening is not None, "set by the first user"
            async with self._opening:
                if self._open is None:
                    self._open = await self._opened()
        except BaseException:
            self._users -= 1
            raise
        self._refuse_fork()

    async def _opened(self) -> _Open:
        home = home_here()
        try:
            synchronous = "FULL" if self.durability == "full" else "NORMAL"
            connection = await run(home, lambda: open_database(self.path, synchronous=synchronous))
            opened = _Open(home, connection, self.path)
            opened.owner.enter()
        except BaseException:
            home.close()
            raise
        return opened

    async def _leave(self) -> None:
        self._users -= 1
        if self._users or self._open is None:
            return
        opened, self._open = self._open, None
        try:
            await opened.commits.drained()
        finally:
            try:
                await run(opened.home, lambda: close_database(opened.connection))
            finally:
                opened.owner.leave()
                opened.home.close()

    def _refuse_fork(self) -> None:
        if self._open is not None and self._open.process != os.getpid():
            raise ForkedProcessError(f"{self!r} was opened before this process was forked; open a new one after the fork")

    # ---- the protocol ------------------------------------------------------------------------------------------

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint after its predecessor."""
        await self.append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, complete or a delta. See `CheckpointLog`."""
        opened = self._open
        if opened is not None:
            await opened.commits.submit(Append(checkpoint))
            return
        async with self.session():
            await self.append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of a run, or the one at `seq`, verified from the last complete one on.

        Raises `CheckpointCorruptError` for this run alone, `StorageCorruptError` for a damaged database.
        """
        async with self.session():
            found = await self._read(run_id, seq, whole=False)
        if found is None:
            return None
        return fold(found)

    async def history(self, run_id: str) -> list[Checkpoint]:
        """Every checkpoint of a run, in order, as it is stored."""
        async with self.session():
            return await self._read(run_id, None, whole=True) or []

    async def acquire(self, run_id: str, *, is_new: bool = False) -> int:
        """Become the owner of a run. Raises `RunLockedError` while another owner lives. See `Ownership`."""
        async with self.session():
            opened = self._opened_now()
            driven = (opened.name, run_id)
            if driven in _DRIVEN:
                raise RunLockedError(
                    f"run {run_id} is being driven in this process; await that, or try again when it has ended",
                    run_id=run_id,
                    owner=opened.owner.id,
                )
            _DRIVEN.add(driven)
            if is_new:
                return 1
            job = Acquire(run_id, opened.owner.may_replace)
            try:
                await opened.commits.submit(job)
            except BaseException:
                _DRIVEN.discard(driven)
                raise
            return job.epoch

    async def release(self, run_id: str, epoch: int | None) -> None:
        """Be the owner no longer. See `Ownership`."""
        async with self.session():
            opened = self._opened_now()
            _DRIVEN.discard((opened.name, run_id))
            if epoch is not None:
                await opened.commits.submit(Release(run_id, epoch))

    def _opened_now(self) -> _Open:
        assert self._open is not None, "within a session"
        return self._open

    async def _read(self, run_id: str, seq: int | None, *, whole: bool) -> list[Checkpoint] | None:
        opened = self._opened_now()
        return await run(opened.home, lambda: self._select(opened, run_id, seq, whole))

    async def _select(self, opened: _Open, run_id: str, seq: int | None, whole: bool) -> list[Checkpoint] | None:
        connection = opened.connection
        with explained(self.path):
            found = list(await connection.execute_fetchall(rows.SELECT_HEAD, (run_id,)))
            if not found:
                await self._refuse_damage(opened)
                return None
            head = Head.read(tuple(found[0]))
            last = head.head if seq is None else seq
            if not 0 <= last <= head.head:
                return None
            base = head.base
            if seq is not None:
                bases = list(await connection.execute_fetchall(rows.SELECT_BASE, (run_id, seq)))
                base = bases[0][0] if bases else -1
            span = (run_id, 0 if whole else base, last)
            stored = await connection.execute_fetchall(rows.SELECT_CHECKPOINTS, span)
        checkpoints = [checkpoint_of(head, tuple(row)) for row in stored]
        head.verify(last, checkpoints)
        return checkpoints

    async def _refuse_damage(self, opened: _Open) -> None:
        """An id that is not found may be one that was lost: then it is not a new run. Looked at once an opening."""
        if not opened.is_sound:
            ((verdict,),) = await opened.connection.execute_fetchall("PRAGMA quick_check(1)")
            if verdict != "ok":
                raise StorageCorruptError(f"{self.path} is damaged ({verdict}); restore it from a backup. It is kept as it is")
            opened.is_sound = True
