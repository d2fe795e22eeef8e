"""`PostgresFlowPersistence`: the PostgreSQL backend, for programs on several hosts. It supports both asyncio and trio."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from ...errors import StorageReadOnlyError
from .._database.base import DatabasePersistence, checked_key, checked_lease
from .._database.group_commit import GroupCommit
from .._database.jobs import Job, Renew
from .._database.lease import LeaseFence
from .._database.loop_host import LoopHost, current_loop_host
from .._database.ownership_rules import Liveness
from .._database.unreleased import Unreleased
from .._database.watches import Watches
from .clock import ServerClock
from .database import BUSY_SECONDS, Target
from .reader import Reader
from .writer import Writer

__all__ = ["PostgresFlowPersistence"]

LOOK_SECONDS: Final = 0.1
"""Seconds between two looks at the inboxes of the runs that wait for signals. LISTEN would need a session of its own behind a pooler."""

_OURS: Final[dict[str, object]] = {}
"""The owners of this process, with their places. This process knows which runs it drives better than any lease does."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OURS.clear)  # the parent's owners are not the child's


class _Open:
    """The resources that are open while a backend is in use."""

    def __init__(
        self,
        home: LoopHost,
        target: Target,
        place: object,
        key: bytes,
        lease: float,
        readers: int,
        clock: ServerClock,
        *,
        read_only: bool = False,
    ) -> None:
        self.home = home
        self.read_only = read_only
        self._target = target
        self.owner = uuid.uuid4().hex
        self.place = place
        self.writer = Writer(target, self.owner, key, lease, self.liveness, clock, upgrades=not read_only)
        write = self.writer.write if readers else self.writer.write_in_turn
        self.commits = GroupCommit(home, self._refuse if read_only else write)
        self.fence = LeaseFence(self.writer.lease, self.commits)
        self.unreleased = Unreleased(self.commits)
        self.reader = Reader(target, key, readers, self.writer)
        self.arrivals = Watches(home, self._arrived, LOOK_SECONDS)
        self.parked = Watches(home, self._woken, LOOK_SECONDS)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.has_left = False

    async def _refuse(self, batch: Sequence[Job]) -> None:
        """Refuse to write to a database that was opened to be read only."""
        for job in batch:
            job.error = StorageReadOnlyError(f"{self._target} was opened with read_only=True; nothing was saved")

    def enter(self) -> None:
        _OURS[self.owner] = self.place

    def renew(self) -> None:
        """Renew the lease, if there is one. It is renewed between commits as well, because methods can run for long."""
        if self.writer.has_lease:
            self.commits.put(Renew())
            self.unreleased.try_again()

    def liveness(self, owner: str) -> Liveness:
        place = _OURS.get(owner)
        if place is None:
            return Liveness.UNPROVEN
        return Liveness.HERE if place == self.place else Liveness.ALIAS

    def name_of(self, owner: str) -> str:
        return f"process {os.getpid()} on {socket.gethostname()}" if owner in _OURS else ""

    def rest(self) -> float:
        return 0.0  # other transactions wait for their own rows only

    async def _arrived(self, _: list[str]) -> Sequence[tuple[str, int]]:
        return await self.reader.arrived(self.owner)

    async def _woken(self, run_ids: list[str]) -> Sequence[tuple[str, int]]:
        quiet = frozenset(await self.reader.quiet(run_ids))
        return [(run_id, 0) for run_id in run_ids if run_id not in quiet]

    async def close(self) -> None:
        """Close the connections. Runs on the event loop that they use."""
        try:
            await self.reader.close()
        finally:
            if self.read_only:  # it has stored no lease
                self.has_left = True
                self.writer.abandon()
            else:
                self.has_left = await self.writer.close()

    def leave(self) -> None:
        """Stop being an owner. If its lease is still stored, it remains an owner of this process, which may take over its runs at once."""
        if self.has_left:
            _OURS.pop(self.owner, None)

    def abandon(self) -> None:
        """Release what a closed event loop has left open."""
        self.reader.abandon()
        self.writer.abandon()


class PostgresFlowPersistence(DatabasePersistence[_Open]):
    """Stores runs in a PostgreSQL database: group commit, every checkpoint in one transaction that is durable when it is acknowledged.

    Creating an object does no I/O. Entered with `async with`, it stays open until that block ends. Otherwise the first operation
    opens it, and the last one to end closes it. One object serves any number of event loops and threads, with separate connections
    for each loop: one that writes, and at most `readers` that read. It needs PostgreSQL 14 or later. A connection pooler may
    pool sessions or transactions, but not statements.

    - `conninfo`: where the server is, such as "postgresql://user@host/database"; missing parts come from libpq's environment
      variables.
    - `schema`: the database schema; it and its tables are created if they are missing. Use a separate one for each program.
    - `lease`: seconds after which another process may take over the runs of a process that no longer renews its lease; a clean
      shutdown releases them at once.
    - `readers`: the maximum number of connections that read, for each event loop.
    - `key`: 16 to 64 secret bytes, for users who do not trust the server, as in `SQLiteFlowPersistence`.
    - `read_only`: to look at runs only. It creates, upgrades and owns nothing; what would write raises `StorageReadOnlyError`.

    Raises `ValueError` for other arguments. Operations raise `StorageError`s: `StorageUnreachableError` and `StorageBusyError` where
    the server does not answer, `StorageVersionError`, `StorageCorruptError`, and with `read_only` `StorageOutdatedError`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "asyncflow",
        lease: float = 30.0,
        readers: int = 4,
        key: bytes | None = None,
        read_only: bool = False,
    ) -> None:
        if readers < 0:
            raise ValueError(f"readers must be a number of connections, not {readers!r}")
        self._target = Target.of(conninfo, schema)
        self._key = checked_key(key)
        self.lease: float = checked_lease(lease)
        self.readers = readers
        self.read_only = read_only
        self._clock = ServerClock()
        super().__init__()

    poll_seconds = LOOK_SECONDS

    def __repr__(self) -> str:
        return f"<PostgresFlowPersistence: {self._place}>"

    @property
    def _where(self) -> Target:
        return self._target

    @property
    def _place(self) -> str:
        return f"schema {self._target.schema!r} of {self._target}"

    async def _opened(self) -> _Open:
        async with AsyncExitStack() as undo:
            home = await current_loop_host()
            undo.callback(home.close)
            given = self._target, self.place, self._key, self.lease, self.readers, self._clock
            opened = _Open(home, *given, read_only=self.read_only)
            undo.callback(opened.leave)
            undo.push_async_callback(home.run, opened.close)
            await home.run(opened.writer.open)
            opened.enter()
            opened.stop_renewing = home.every(self.lease / 3, opened.renew)
            undo.pop_all()
            return opened

    def _waits(self) -> float:
        return BUSY_SECONDS

    @property
    def clock_offset(self) -> float:
        """Seconds by which the server's clock is ahead of this machine's. See `Clocked.clock_offset`."""
        return self._clock.offset

    @property
    def place(self) -> object:
        """A key of the schema by its name. A server that is named in two ways gives two places, which only leases keep apart."""
        t = self._target
        return ("postgresql", t.host, t.port, t.database, t.schema)
