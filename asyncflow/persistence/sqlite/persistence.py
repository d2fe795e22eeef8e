"""`SQLiteFlowPersistence`: the default backend. It needs no configuration and works on asyncio and trio alike."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Literal, Never

import anyio

from ..._keywords import not_taken
from ...errors import StorageBusyError
from ..commits import Commits
from ..fencing import LeaseFence
from ..home import Home, home_here
from ..jobs import Renew
from ..queued import QueuedPersistence, Unreleased, checked_key, checked_lease
from .database import BUSY_SECONDS, PAUSE, open_database
from .explain import is_stopped
from .owners import Owner
from .path import database_path
from .place import Place
from .reader import Reader
from .writer import Writer

__all__ = ["SQLiteFlowPersistence"]


class _Open:
    """What is open while a persistence is in use."""

    def __init__(self, home: Home, path: Path, synchronous: str, key: bytes, lease: float) -> None:
        self.home = home
        self.path = path
        self.owner = Owner(Path(os.path.realpath(path)))  # the same for all, whichever way they name the file
        self.file = file = Place(path)
        opened = partial(open_database, path, synchronous)
        self.writer = Writer(path, self.owner.id, key, lease, file, opened, self.note, self.holders, self.owner.is_dead)
        self.commits = Commits(home, self.writer.write)
        self.fence = LeaseFence(self.writer.lease, self.commits)
        self.unreleased = Unreleased(self.commits)
        self.reader = Reader(path, key, file)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.place = Path(os.path.realpath(path))  # unlike `Path.resolve` it raises nothing, whatever stands there

    async def open(self) -> None:
        """Open the database. Raises what `open_database` raises; `StorageBusyError` while a living owner has another log open."""
        until = anyio.current_time() + BUSY_SECONDS
        while owner := self._torn_from():
            if anyio.current_time() >= until:
                raise StorageBusyError(
                    f"{self.path}-wal or {self.path.name}-shm, which belong to the database, were deleted or replaced while {owner} has it "
                    "open. What it has saved could be lost, so nothing was opened. End that process, or let it close its storage; then "
                    "try again"
                )
            await anyio.sleep(PAUSE)
        await self.writer.open()

    def _torn_from(self) -> str | None:
        """An owner that has this database open, but another log than the one that is there; it may be closing at this moment."""
        database, *now = self.file.files.split()
        for owner, files in self.owner.others():
            noted = files.split()
            if noted[:1] == [database] and noted[1:] != now:
                return owner
        return None

    def note(self) -> None:
        """Tell others which files are open."""
        self.owner.note(self.file.files)

    def holders(self) -> list[str]:
        """Who may hold the lock of writers: the process that does, or else all that have the database open."""
        pid, known = self.file.writer, [owner for owner, _ in self.owner.others()]
        if pid is None:
            return list(dict.fromkeys(known))
        found = next((owner for owner in known if owner.startswith(f"process {pid} ")), f"process {pid}")
        stopped = f", which is stopped: let it go on (kill -CONT {pid}), or end it" if is_stopped(pid) else ""
        return [found + stopped]

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

    def rest(self) -> float:
        """Whoever waits for SQLite's lock asks now and then, so it has to be free for long enough."""
        return 0.5 if self.owner.others() else 0.05

    def is_driving(self, owner: str, left: float | None) -> bool:
        """Whether an owner lives and its lease, if it has one, has not run out."""
        return not self.owner.is_dead(owner) and (left is None or left > 0)

    async def close(self) -> None:
        """Close the connections; on the event loop that they live on.

        The last one to close folds the log into the database, unless it only reads: a log that was cut off must not be folded in.
        """
        first, last = self.reader.close, self.writer.close
        if self.file.is_cut_off:
            await self.reader.hold()
            first, last = last, first
        try:
            await first()
        finally:
            await last()

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

    `path` (or `db_path`): the file. It is made where it is missing, but its folder has to be there. A relative path begins at the
    current folder of this moment, and "~" is the user's home. None: `$ASYNCFLOW_DB`, else `./asyncflow.db`. `durability`: with "full", an
    acknowledged checkpoint survives power loss (synchronous=FULL); with "process" it survives the death of the process, and at power
    loss the newest ones may be lost, never the order. `key`: 16 to 64 secret bytes, for those who distrust the disk: digests tell
    whether a checkpoint was damaged, and with a key also whether somebody who can write the file has made it up. It does not
    encrypt, and cannot tell that the whole file was replaced by an older copy of itself. A file keeps the key that it was begun with.
    `lease`: seconds after which the runs of a process that lives, but has not been heard of, may be taken up by another.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        *misplaced: Never,
        db_path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        durability: Literal["full", "process"] = "full",
        key: bytes | None = None,
        lease: float = 30.0,
        **unknown: Never,
    ) -> None:
        if misplaced or unknown or (path is not None and db_path is not None):
            known = ("path", "durability", "key", "lease")
            takes = "SQLiteFlowPersistence takes one path"
            raise not_taken("SQLiteFlowPersistence", unknown, known, places=not unknown, takes=takes)
        if durability not in ("full", "process"):
            raise ValueError(f"durability is 'full' or 'process', not {durability!r}")
        self.path = database_path(db_path if path is None else path)
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
            opened = _Open(home, self.path, synchronous, self._key, self.lease)
            undo.callback(opened.owner.leave)
            undo.push_async_callback(home.run, opened.close)
            await home.run(opened.open)
            opened.owner.enter(opened.file.files)
            opened.stop_renewing = home.every(self.lease / 3, opened.renew)
            undo.pop_all()
            return opened

    @property
    def place(self) -> object:
        """The file, whichever way it was named."""
        opened = self._shared.held_anywhere
        return Path(os.path.realpath(self.path)) if opened is None else opened.place
