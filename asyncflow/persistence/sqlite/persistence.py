"""`SQLiteFlowPersistence`: the default backend. It needs no configuration and supports both asyncio and trio."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, Literal, Never

import anyio

from ..._keywords import not_taken
from ...errors import StorageBusyError, StorageReadOnlyError
from .._database.base import DatabasePersistence, checked_key, checked_lease
from .._database.group_commit import GroupCommit
from .._database.jobs import Job, Renew
from .._database.lease import LeaseFence
from .._database.loop_host import LoopHost, current_loop_host
from .._database.ownership_rules import Liveness
from .._database.unreleased import Unreleased
from .._database.watches import Watches
from .database import BUSY_SECONDS, PAUSE, open_database
from .explain import is_stopped
from .file_identity import FileIdentity
from .owners import Owner
from .path import database_path
from .read_only import Onlooker, open_to_read, reading_options
from .reader import Reader
from .writer import Writer

__all__ = ["SQLiteFlowPersistence"]

LOOK_SECONDS: Final = 0.25
"""Seconds between two looks at the inboxes of the runs that wait for signals."""


class _Open:
    """The resources that are open while a backend is in use."""

    def __init__(
        self, home: LoopHost, path: Path, synchronous: str, key: bytes, lease: float, *, read_only: bool = False
    ) -> None:
        self.home = home
        self.path = path
        self.read_only = read_only
        real = Path(os.path.realpath(path))  # the same for all processes, however they name the file
        self.owner = Onlooker(real) if read_only else Owner(real)
        self.file = file = FileIdentity(path)
        open_file = partial(open_to_read, path) if read_only else partial(open_database, path, synchronous)
        self.writer = Writer(path, self.owner.id, key, lease, file, open_file, self.note, self.holders, self.liveness)
        self.commits = GroupCommit(home, self._refuse if read_only else self.writer.write)
        self.fence = LeaseFence(self.writer.lease, self.commits)
        self.unreleased = Unreleased(self.commits)
        self.reader = Reader(path, key, file, reading_options(path) if read_only else "")
        self.arrivals = Watches(home, self._arrived, LOOK_SECONDS)
        self.parked = Watches(home, self._woken, LOOK_SECONDS)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.place = Path(os.path.realpath(path))  # unlike `Path.resolve` it never raises, whatever exists there

    async def open(self) -> None:
        """Open the database. Raises the errors of `open_database`, and `StorageBusyError` while a living owner has a different log open."""
        until = anyio.current_time() + BUSY_SECONDS
        while not self.read_only and (owner := self._torn_from()):
            if anyio.current_time() >= until:
                raise StorageBusyError(
                    f"{self.path}-wal or {self.path.name}-shm, which belong to the database, were deleted or replaced while {owner} has it "
                    "open. What it has saved could be lost, so nothing was opened. End that process, or close the storage there; then "
                    "try again"
                )
            await anyio.sleep(PAUSE)
        await self.writer.open()

    async def _refuse(self, batch: Sequence[Job]) -> None:
        """Refuse to write to a database that was opened to be read only."""
        for job in batch:
            job.error = StorageReadOnlyError(f"{self.path} was opened with read_only=True; nothing was saved")

    def _torn_from(self) -> str | None:
        """Return an owner that has this database open, but a log other than the present one, else None.

        It may be closing at this moment.
        """
        database, *now = self.file.files.split()
        for owner, files in self.owner.others():
            noted = files.split()
            if noted[:1] == [database] and noted[1:] != now:
                return owner
        return None

    def note(self) -> None:
        """Publish which files are open, for other processes."""
        self.owner.note(self.file.files)

    def holders(self) -> list[str]:
        """Return the possible holders of the write lock: the process that holds it, or else all that have the database open."""
        pid, known = self.file.writer, [owner for owner, _ in self.owner.others()]
        if pid is None:
            return list(dict.fromkeys(known))
        found = next((owner for owner in known if owner.startswith(f"process {pid} ")), f"process {pid}")
        stopped = f", which is stopped: resume it (kill -CONT {pid}), or end it" if is_stopped(pid) else ""
        return [found + stopped]

    def renew(self) -> None:
        """Renew the lease, if there is one. It is renewed between commits as well, because methods can run for long."""
        if self.writer.has_lease:
            self.commits.put(Renew())
            self.unreleased.try_again()

    def liveness(self, owner: str) -> Liveness:
        return self.owner.liveness(owner)

    def name_of(self, owner: str) -> str:
        return self.owner.name_of(owner)

    def rest(self) -> float:
        """See `base.Opened`. Processes that wait for SQLite's lock poll it, so it must be free for long enough."""
        return 0.5 if self.owner.others() else 0.05

    async def _arrived(self, _: list[str]) -> Sequence[tuple[str, int]]:
        return await self.reader.arrived(self.owner.id)

    async def _woken(self, run_ids: list[str]) -> Sequence[tuple[str, int]]:
        quiet = frozenset(await self.reader.quiet(run_ids))
        return [(run_id, 0) for run_id in run_ids if run_id not in quiet]

    async def close(self) -> None:
        """Close the connections. Runs on the event loop that they use.

        The last connection to close folds the log into the database, unless it is read-only. A log that was truncated must not be
        folded in.
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
        """Release what a closed event loop has left open: the runs, and the file's lock."""
        self.owner.leave()
        self.reader.abandon()
        self.writer.abandon()


class SQLiteFlowPersistence(DatabasePersistence[_Open]):
    """Stores runs in a SQLite file: WAL mode, group commit, every checkpoint in one transaction.

    Creating an object does no I/O. Entered with `async with`, it stays open until that block ends. Otherwise the first operation
    opens it, and the last one to end closes it. One object serves any number of event loops and threads: it opens the file once for
    each loop.

    - `path`: the database file. It is created if it is missing, but its folder must exist. A relative path is resolved against the
      current folder at this moment, and "~" is the user's home. None: `$ASYNCFLOW_DB`, else `./asyncflow.db`.
    - `db_path`: another name of `path`.
    - `durability`: with "full", an acknowledged checkpoint survives power loss (synchronous=FULL); with "process", it survives the
      death of the process, but a power loss may lose the newest checkpoints, never their order.
    - `key`: 16 to 64 secret bytes, for users who do not trust the disk: digests detect whether a checkpoint was damaged, and with a
      key also whether it was forged by an attacker who can write the file. It does not encrypt, and cannot detect that the whole
      file was replaced by an older copy of itself. A file keeps the key that it was created with.
    - `lease`: seconds after which another process may take over the runs of a process that is alive but no longer renews its lease.
    - `read_only`: to look at runs only. It creates, upgrades and owns nothing, also while other processes use the file; what would write
      raises `StorageReadOnlyError`.

    Raises `ArgumentsError` and `ValueError` for other arguments. Operations raise `StorageError`s: `StorageBusyError` where another
    process holds the file's lock, `StorageNotFoundError`, `StorageReadOnlyError`, `StorageNotADatabaseError`, `ForeignDatabaseError`,
    `StorageVersionError`, `StorageCorruptError` for what the file cannot be, and with `read_only` `StorageOutdatedError`.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        *misplaced: Never,
        db_path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None = None,
        durability: Literal["full", "process"] = "full",
        key: bytes | None = None,
        lease: float = 30.0,
        read_only: bool = False,
        **unknown: Never,
    ) -> None:
        if misplaced or unknown or (path is not None and db_path is not None):
            known = ("path", "durability", "key", "lease", "read_only")
            takes = "SQLiteFlowPersistence takes one path"
            raise not_taken("SQLiteFlowPersistence", unknown, known, places=not unknown, takes=takes)
        if durability not in ("full", "process"):
            raise ValueError(f"durability must be 'full' or 'process', not {durability!r}")
        self.path: Path = database_path(db_path if path is None else path)
        self._key = checked_key(key)
        self.lease: float = checked_lease(lease)
        self.durability: Literal["full", "process"] = durability
        self.read_only = read_only
        super().__init__()

    poll_seconds = LOOK_SECONDS

    def __repr__(self) -> str:
        return f"SQLiteFlowPersistence({str(self.path)!r}, durability={self.durability!r})"

    @property
    def _where(self) -> Path:
        return self.path

    async def _opened(self) -> _Open:
        async with AsyncExitStack() as undo:
            home = await current_loop_host()
            undo.callback(home.close)
            synchronous = "FULL" if self.durability == "full" else "NORMAL"
            opened = _Open(home, self.path, synchronous, self._key, self.lease, read_only=self.read_only)
            undo.callback(opened.owner.leave)
            undo.push_async_callback(home.run, opened.close)
            await home.run(opened.open)
            opened.owner.enter(opened.file.files)
            opened.stop_renewing = home.every(self.lease / 3, opened.renew)
            undo.pop_all()
            return opened

    @property
    def can_create(self) -> bool:
        """Whether an id that is not found is surely new: the file was checked for damage since it was opened.

        The first load of an unknown id checks it.
        """
        opened = self._shared.current
        return opened is not None and opened.reader.is_sound

    @property
    def place(self) -> object:
        """The real path of the file, however it was named."""
        opened = self._shared.any_current
        return Path(os.path.realpath(self.path)) if opened is None else opened.place
