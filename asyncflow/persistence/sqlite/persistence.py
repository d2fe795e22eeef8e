"""`SQLiteFlowPersistence`: the default backend. It needs no configuration and works on asyncio and trio alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal, Never

from ..._keywords import not_taken
from ..commits import Commits
from ..fencing import LeaseFence
from ..home import Home, home_here
from ..jobs import Renew
from ..queued import QueuedPersistence, Unreleased, checked_key, checked_lease
from .database import open_database
from .owners import Owner
from .place import Place
from .reader import Reader
from .writer import Writer

__all__ = ["SQLiteFlowPersistence"]


class _Open:
    """What is open while a persistence is in use."""

    def __init__(self, home: Home, path: Path, synchronous: str, key: bytes, lease: float) -> None:
        self.home = home
        self.owner = Owner(Path(os.path.realpath(path)))  # the same for all, whichever way they name the file
        file = Place(path)
        self.writer = Writer(path, self.owner.id, key, lease, file, partial(open_database, path, synchronous))
        self.commits = Commits(home, self.writer.write)
        self.fence = LeaseFence(self.writer.lease, self.commits)
        self.unreleased = Unreleased(self.commits)
        self.reader = Reader(path, key, file)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.place = Path(os.path.realpath(path))  # unlike `Path.resolve` it raises nothing, whatever stands there

    def renew(self) -> None:
        """Renew the lease, if there is one: between commits, as long methods run."""
        if self.writer.has_lease:
            self.commits.put(Renew())
            self.unreleased.try_again()

    def may_replace(self, owner: str) -> bool:
        return self.owner.may_replace(owner)

    def is_here(self, owner: str) -> bool:
        return self.owner.is_here(owner)

    def may_forget(self, owner: str) -> bool:
        return self.owner.is_dead(owner)

    def is_driving(self, owner: str, left: float | None) -> bool:
        """Whether an owner lives and its lease, if it has one, has not run out."""
        return not self.owner.is_dead(owner) and (left is None or left > 0)

    async def close(self) -> None:
        """Close the connections; on the event loop that they live on."""
        try:
            await self.reader.close()
        finally:
            await self.writer.close()

    def leave(self) -> None:
        self.owner.leave()

    def abandon(self) -> None:
        """Let go of what a closed event loop has left open: the runs, and the file's lock."""
        self.owner.leave()
        self.reader.abandon()
        self.writer.abandon()


class SQLiteFlowPersistence(QueuedPersistence[_Open]):
    """Runs in a SQLite file: WAL, group commit, every checkpoint in one transaction.

    Making one does no I/O. Entered with `async with`, it stays open until that ends; otherwise the first operation opens it and
    the last one to end closes it. One object serves any number of event loops and threads: it opens the file once for each loop.

    `path` (or `db_path`): the file; its folder is made where it is missing; `$ASYNCFLOW_DB`, else `./asyncflow.db`, unless given.
    `durability`: with "full", an acknowledged checkpoint
    survives power loss (synchronous=FULL); with "process" it survives the death of the process, and at power loss the
    newest ones may be lost, never the order. `key`: 16 to 64 secret bytes, for those who distrust the disk: digests tell whether
    a checkpoint was damaged, and with a key also whether somebody who can write the file has made it up. It does not
    encrypt, and cannot tell that the whole file was replaced by an older copy of itself. A file keeps the key that it was begun with.
    `lease`: seconds after which the runs of a process that lives, but has not been heard of, may be taken up by another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *misplaced: Never,
        db_path: str | os.PathLike[str] | None = None,
        durability: Literal["full", "process"] = "full",
        key: bytes | None = None,
        lease: float = 30.0,
        **unknown: Never,
    ) -> None:
        if misplaced or unknown or (path is not None and db_path is not None):
            known = ("path", "durability", "key", "lease")
            takes = "SQLiteFlowPersistence takes one path"
            raise not_taken("SQLiteFlowPersistence", unknown, known, places=not unknown, takes=takes)
        path = db_path if path is None else path
        path = os.environ.get("ASYNCFLOW_DB") or "asyncflow.db" if path is None else path
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self.path = Path(path)
        if str(path) == ":memory:" or "\0" in str(path):
            raise ValueError(f"{str(path)!r} is no file; for runs in memory there is MemoryFlowPersistence()")
        self._key = checked_key(key)
        self.lease = checked_lease(lease)
        self.durability: Literal["full", "process"] = durability
        super().__init__()

    def __repr__(self) -> str:
        return f"SQLiteFlowPersistence({str(self.path)!r}, durability={self.durability!r})"

    @property
    def _where(self) -> Path:
        return self.path

    async def _opened(self) -> _Open:
        async with AsyncExitStack() as undo:
            home = await home_here()
            undo.callback(home.close)
            synchronous = "FULL" if self.durability == "full" else "NORMAL"
            opened = _Open(
                home, self.path.absolute(), synchronous, self._key, self.lease
            )  # once: the working directory may change
            undo.callback(opened.owner.leave)
            undo.push_async_callback(home.run, opened.close)
            await home.run(opened.writer.open)
            opened.owner.enter()
            opened.stop_renewing = home.every(self.lease / 3, opened.renew)
            undo.pop_all()
            return opened

    @property
    def place(self) -> object:
        """The file, whichever way it was named."""
        opened = self._shared.held_anywhere
        return Path(os.path.realpath(self.path)) if opened is None else opened.place
