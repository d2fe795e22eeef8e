"""`PostgresFlowPersistence`: for programs on several hosts, on asyncio and trio alike."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final

from ..commits import Commits
from ..fencing import LeaseFence
from ..home import Home, home_here
from ..jobs import Renew
from ..queued import QueuedPersistence, Unreleased, checked_key, checked_lease
from .database import BUSY_SECONDS, Target
from .reader import Reader
from .writer import Writer

__all__ = ["PostgresFlowPersistence"]

_OURS: Final[dict[str, object]] = {}
"""The owners of this process, and where: which runs it drives it knows better than any lease."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OURS.clear)  # the parent's owners are not the child's


class _Open:
    """What is open while a persistence is in use."""

    def __init__(self, home: Home, target: Target, place: object, key: bytes, lease: float, readers: int) -> None:
        self.home = home
        self.owner = uuid.uuid4().hex
        self.place = place
        self.writer = Writer(target, self.owner, key, lease)
        self.commits = Commits(home, self.writer.write if readers else self.writer.write_in_turn)
        self.fence = LeaseFence(self.writer.lease, self.commits)
        self.unreleased = Unreleased(self.commits)
        self.reader = Reader(target, key, readers, self.writer)
        self.stop_renewing: Callable[[], object] = lambda: None
        self.has_left = False

    def enter(self) -> None:
        _OURS[self.owner] = self.place

    def renew(self) -> None:
        """Renew the lease, if there is one: between commits, as long methods run."""
        if self.writer.has_lease:
            self.commits.put(Renew())
            self.unreleased.try_again()

    def may_replace(self, owner: str) -> bool:
        return _OURS.get(owner) == self.place

    def is_here(self, owner: str) -> bool:
        return owner in _OURS

    def may_forget(self, owner: str) -> bool:
        return False

    def rest(self) -> float:
        return 0.0  # others wait for their own rows alone

    def is_driving(self, owner: str, left: float | None) -> bool:
        return left is not None and left > 0

    async def close(self) -> None:
        """Close the connections; on the event loop that they live on."""
        try:
            await self.reader.close()
        finally:
            self.has_left = await self.writer.close()

    def leave(self) -> None:
        """An owner whose lease is still stored stays one of this process: its runs are free to whoever comes next here."""
        if self.has_left:
            _OURS.pop(self.owner, None)

    def abandon(self) -> None:
        """Let go of what a closed event loop has left open."""
        self.reader.abandon()
        self.writer.abandon()


class PostgresFlowPersistence(QueuedPersistence[_Open]):
    """Runs in a PostgreSQL database: group commit, every checkpoint in one transaction that is durable when it is told.

    Making one does no I/O. Entered with `async with`, it stays open until that ends; otherwise the first operation opens it and
    the last one to end closes it. One object serves any number of event loops and threads, with connections of their own for each
    loop: one that writes, and at most `readers` that read. PostgreSQL 14 or later;
    through a pooler only if that keeps a server's connection for a client's (pgbouncer: session pooling).

    `conninfo`: where the server is, such as "postgresql://user@host/database"; what it leaves out comes from libpq's
    environment variables. `schema`: made where it is missing, with its tables; give each program its own. `lease`: seconds after which
    the runs of a process that has not been heard of may be taken up by another; a clean end gives them up at once. `key`: 16
    to 64 secret bytes, for those who distrust the server, as in `SQLiteFlowPersistence`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        schema: str = "asyncflow",
        lease: float = 30.0,
        readers: int = 4,
        key: bytes | None = None,
    ) -> None:
        if readers < 0:
            raise ValueError(f"readers is a number of connections, not {readers!r}")
        self._target = Target.of(conninfo, schema)
        self._key = checked_key(key)
        self.lease = checked_lease(lease)
        self.readers = readers
        super().__init__()

    def __repr__(self) -> str:
        t = self._target
        return f"<PostgresFlowPersistence: schema {t.schema!r} of {t}>"

    @property
    def _where(self) -> Target:
        return self._target

    async def _opened(self) -> _Open:
        async with AsyncExitStack() as undo:
            home = await home_here()
            undo.callback(home.close)
            opened = _Open(home, self._target, self.place, self._key, self.lease, self.readers)
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
    def place(self) -> object:
        """The schema, as it is named: a server that is named in two ways is two places, kept apart by leases alone."""
        t = self._target
        return ("postgresql", t.host, t.port, t.database, t.schema)
