"""The reader: uses a read-only connection of its own, so that a load never queues behind a commit and never sees half of one."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import aiosqlite
import anyio
from pydantic_core import to_json

from ...errors import StorageCorruptError, StorageError
from .._database.compaction import SELECT_FIRST
from .._database.inboxes import ARRIVED, PARENT, RECEIVED, TAKERS, UNTAKEN, UNTAKEN_OF, Received, signal_of
from .._database.jobs import Ended
from .._database.listing import LAST, Query, condition, searching
from .._database.run_head import Head, checkpoint_of
from ..checkpoint import Checkpoint
from ..compaction import check_first, valid_first
from ..inbox import StoredSignal
from . import rows
from .database import check_identity, connected, explained, reading, stop
from .explain import primary_code
from .file_identity import FileIdentity
from .gathering import Gathered
from .pruning import SELECT_ENDED

__all__ = ["Reader"]

T = TypeVar("T")

_HEAD: Final = len(Head._fields) + 1
"""The number of columns of a run's head, with its digest."""

_ALL: Final = (1 << 63) - 1
"""SQLite's largest integer."""


def _any_text(data: bytes) -> str:
    """Decode a stored text, damaged or not. Text that is no longer UTF-8 fails its digest, as it should."""
    return data.decode("utf-8", "backslashreplace")


class Reader:
    """Reads runs. It opens its connection at the first read, and runs on the connection's event loop."""

    def __init__(self, path: Path, key: bytes, files: FileIdentity, how: str = "") -> None:
        """Create a reader; it does no I/O. `how`: further options of the connection, see `reading`."""
        self._path = path
        self._how = how
        self._key = key
        self._connection: aiosqlite.Connection | None = None
        self._files = files
        self._turn: anyio.Lock | None = None
        self._newest = Gathered(rows.SELECT_NEWEST, rows.SELECT_NEWEST_OF, self._alone)
        self._untaken = Gathered(rows.of_tables(UNTAKEN), rows.of_tables(UNTAKEN_OF), self._alone)
        self.is_sound: bool = False
        """Whether the file was checked for damage since it was opened."""
        self.has_sound_inboxes: bool = False
        """See `opened.Reads`."""
        self.has_cancellable_inboxes = True
        """See `opened.Reads`."""

    async def checkpoints(
        self, run_id: str, seq: int | None, *, whole: bool, after: int = -1
    ) -> list[Checkpoint] | None:
        """Return the rows of a run up to `seq` (None: the newest), or None if the run is unknown.

        If `whole` is set, the rows with a seq above `after`; otherwise the rows from the last complete checkpoint on. The rows are
        from one snapshot of the database. Raises `CheckpointCorruptError`, `StorageCorruptError`.
        """
        return await self._in_snapshot(
            lambda connection: self._select(connection, run_id, seq, after if whole else None)
        )

    async def everything(self, run_id: str) -> tuple[list[Checkpoint], Received] | None:
        """See `opened.Reads`."""

        async def read(connection: aiosqlite.Connection) -> tuple[list[Checkpoint], Received] | None:
            checkpoints = await self._select(connection, run_id, None, -1)
            if checkpoints is None:
                return None
            return checkpoints, await self._received(connection, run_id)

        return await self._in_snapshot(read)

    async def newest(self, run_id: str) -> list[Checkpoint]:
        """See `opened.Reads`."""
        if self._connection is None:
            return []  # opening must not be cancelled
        found = await self._newest.rows(run_id)
        if not found or found[0][_HEAD] is None:
            return []
        head = Head.read(run_id, found[0][:_HEAD], self._key)
        checkpoints = [checkpoint_of(head, row[_HEAD:]) for row in found]
        head.verify(head.base, head.head, checkpoints)
        return checkpoints

    async def run_ids(self) -> list[str]:
        """Return the ids of all runs, in order of creation."""
        found = await self._in_snapshot(lambda connection: connection.execute_fetchall(rows.SELECT_RUN_IDS))
        return [str(run_id) for (run_id,) in found]

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """See `opened.Reads`."""
        return [signal_of(run_id, row, self._key) for row in await self._untaken.rows(run_id)]

    async def received(self, run_id: str) -> Received:
        """See `opened.Reads`."""
        return await self._in_snapshot(lambda connection: self._received(connection, run_id))

    async def check_inboxes(self) -> None:
        """See `opened.Reads`."""
        if self.has_sound_inboxes:
            return
        for table in ("runs", "signals"):
            ((verdict,), *_) = await self._fetched(f"PRAGMA integrity_check({table})", ())
            self._refuse(verdict)
        self.has_sound_inboxes = True

    async def _received(self, connection: aiosqlite.Connection, run_id: str) -> Received:
        found = await connection.execute_fetchall(rows.of_tables(RECEIVED), (run_id,))
        takers = await connection.execute_fetchall(rows.of_tables(TAKERS), (run_id,))
        (parent,) = await connection.execute_fetchall(rows.of_tables(PARENT), (run_id,))
        return Received(run_id, list(map(tuple, found)), list(map(tuple, takers)), self._key, tuple(parent))

    async def arrived(self, owner: str) -> list[tuple[str, int]]:
        """Return the runs of an owner that have signals in their inboxes. See `arrivals.Arrivals`."""
        found = await self._fetched(rows.of_tables(ARRIVED), (owner,))
        return [(run_id, newest) for run_id, newest in found]

    async def damage(self) -> list[str]:
        """Return the damage that SQLite finds in the file, and the number of rows that belong to no run. It reads the whole file."""
        verdicts = await self._in_snapshot(lambda connection: connection.execute_fetchall("PRAGMA integrity_check"))
        strays = await self._in_snapshot(lambda connection: connection.execute_fetchall("PRAGMA foreign_key_check"))
        lost = [f"{count} {table} belong to no run" for table, count in Counter(row[0] for row in strays).items()]
        return [str(verdict) for (verdict,) in verdicts if verdict != "ok"] + lost

    async def select(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, in which `@` is before the names of tables."""
        return await self._fetched(rows.of_tables(sql), ())

    async def _fetched(self, sql: str, bound: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is a snapshot by itself. It takes one hop instead of three."""
        async with self._alone() as connection:
            return list(map(tuple, await connection.execute_fetchall(sql, bound)))

    async def _in_snapshot(self, read: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Call `read` in one transaction, and return its result."""
        async with self._alone() as connection:
            await connection.execute("BEGIN")
            try:
                return await read(connection)
            finally:
                await connection.rollback()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[aiosqlite.Connection]:
        """Lend the connection exclusively, so that a read does not run inside the older snapshot of another read."""
        # created here, because the lock is used on this event loop and not on the callers' loop
        turn = self._turn = self._turn or anyio.Lock(fast_acquire=True)
        async with turn:
            with explained(self._path):
                self._connection = self._connection or await self._opened()
                self._files.check()
                try:
                    yield self._connection
                except sqlite3.OperationalError as error:
                    if (
                        primary_code(error) == sqlite3.SQLITE_ERROR
                    ):  # a newer asyncflow may have upgraded the schema since it was opened
                        await check_identity(self._connection, self._path)
                    raise

    async def hold(self) -> None:
        """Open the connection and access the database, whether or not anything can be read from it, so that it is held open."""
        with contextlib.suppress(sqlite3.Error):
            self._connection = self._connection or await self._opened()
            await self._connection.execute_fetchall("SELECT count(*) FROM sqlite_schema")

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    def abandon(self) -> None:
        """Close the connection without its event loop."""
        stop(self._connection)

    async def _opened(self) -> aiosqlite.Connection:
        connection = reading(self._path, self._how)
        await connected(connection)
        connection.text_factory = _any_text
        return connection

    async def runs(self, query: Query) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""
        run_id, flow, status, identities, before, limit, parent, search = query
        chosen = [condition(status)]
        bound: list[Any] = [_ALL if before is None else before]
        if flow is not None:
            chosen.append("flow = ?")
            bound.append(flow)
        if run_id is not None:
            chosen.append("run_id = ?")
            bound.append(run_id)
        if parent is not None:
            chosen.append("parent = ?")
            bound.append(parent)
        if identities is not None:
            chosen.append(f"{rows.FLOW} IN ({', '.join('?' * len(identities))})")
            bound.extend(identities)
        for condition_of_search, values in searching(search, "?", "instr(run_id, ?) > 0"):
            chosen.append(condition_of_search)
            bound += values
        sql = rows.SELECT_PAGE.format(chosen=" AND ".join(chosen))
        if search.id_prefix is not None and await self._are_few(search.id_prefix):
            sql = rows.by_run_id(sql)
        bound.append(limit)
        return await self._fetched(sql, bound)

    async def _are_few(self, prefix: str) -> bool:
        """Whether few runs have an id that begins so: then they are looked up by the index of ids, and sorted."""
        ((found,),) = await self._fetched(rows.COUNT_PREFIXED, (prefix, prefix + LAST))
        return bool(found < rows.FEW)

    async def parked(self, identities: Collection[str], until: float, limit: int) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""

        async def found(connection: aiosqlite.Connection) -> list[tuple[Any, ...]]:
            rows_of_all: list[tuple[Any, ...]] = []
            for identity in identities:  # one range of the index for each
                page = await connection.execute_fetchall(rows.SELECT_PARKED, (identity, until, limit))
                rows_of_all += map(tuple, page)
            return rows_of_all

        return await self._in_snapshot(found)

    async def orphans(self, limit: int) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""
        return await self._fetched(rows.SELECT_ORPHANS, (limit,))

    async def quiet(self, run_ids: Collection[str]) -> list[str]:
        """See `opened.Reads`."""
        ids = to_json(list(run_ids)).decode()
        found = await self._fetched(rows.SELECT_QUIET, (ids,))
        return [run_id for (run_id,) in found]

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """See `opened.Reads`."""
        bound = (after, time.time() - older_than, limit)  # this process runs on the file's host, so its clock is valid
        found = await self._in_snapshot(lambda connection: connection.execute_fetchall(SELECT_ENDED, bound))
        return [Ended._make(row) for row in found]

    async def _select(
        self, connection: aiosqlite.Connection, run_id: str, seq: int | None, after: int | None
    ) -> list[Checkpoint] | None:
        found = list(await connection.execute_fetchall(rows.SELECT_HEAD, (run_id,)))
        if not found:
            await self._refuse_damage(connection)
            return None
        head = Head.read(run_id, tuple(found[0]), self._key)
        last = head.head if seq is None else seq
        first, protected = 0, None
        if after is not None or seq is not None:
            ((first, protected),) = await connection.execute_fetchall(rows.of_tables(SELECT_FIRST), (run_id,))
            first = valid_first(run_id, first, head.head)
        if not first <= last <= head.head:
            return None
        begins = after is not None and after < first
        base = head.base if seq is None else await self._base(connection, run_id, seq)
        base = base if after is None else max(after + 1, first)
        until = _ALL if seq is None else seq  # rows behind the head must be detected, too
        stored = await connection.execute_fetchall(rows.SELECT_CHECKPOINTS, (run_id, base, until))
        checkpoints = [checkpoint_of(head, tuple(row)) for row in stored]
        if after is None or after < last:
            head.verify(base, last, checkpoints)
        if begins:
            check_first(run_id, first, protected, checkpoints[0].digest, self._key)
        return checkpoints

    async def _base(self, connection: aiosqlite.Connection, run_id: str, seq: int) -> Any:
        found = list(await connection.execute_fetchall(rows.SELECT_BASE, (run_id, seq)))
        return found[0][0] if found else seq

    async def _refuse_damage(self, connection: aiosqlite.Connection) -> None:
        """Raise `StorageCorruptError` if the file is damaged: an unknown id may be a lost run, not a new one. Checked once per opening."""
        if self.is_sound:
            return
        ((verdict,),) = await connection.execute_fetchall("PRAGMA quick_check(1)")
        if verdict == "ok":  # quick_check does not compare the ids with their index, which was used to look for the run
            ((verdict,), *_) = await connection.execute_fetchall("PRAGMA integrity_check(runs)")
        self._refuse(verdict)
        self.is_sound = True

    def _refuse(self, verdict: str) -> None:
        code = re.search(r"error code=(\d+)", verdict)
        if code is not None and int(code[1]) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise StorageError(
                f"{self._path} cannot be read ({verdict}); nothing was saved. Try again once the disk works"
            )
        if verdict != "ok":
            raise StorageCorruptError(
                f"{self._path} is damaged ({verdict}); restore it from a backup. It is kept as it is"
            )
