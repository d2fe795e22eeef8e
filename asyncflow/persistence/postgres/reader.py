"""The reader: uses a few connections of its own, so that a load never queues behind a commit and never sees half of one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
import psycopg

from ...errors import StorageUnreachableError
from .._database.compaction import SELECT_FIRST
from .._database.inboxes import ARRIVED, PARENT, RECEIVED, TAKERS, UNTAKEN, Received, signal_of
from .._database.jobs import Ended
from .._database.listing import Query, condition, searching
from .._database.run_head import Head, checkpoint_of
from ..checkpoint import Checkpoint
from ..compaction import check_first, valid_first
from ..inbox import StoredSignal
from . import rows
from .database import Connection, Target, explained, is_alive, is_lost, is_settled, rows_of
from .pruning import SELECT_ENDED
from .writer import Writer

__all__ = ["Reader"]

T = TypeVar("T")

_ALL: Final = (1 << 63) - 1
"""PostgreSQL's largest BIGINT."""

TRIES: Final = 2
"""Attempts to read. A dead connection may be detected only when it is used. Reading changes nothing, so it can be retried."""


async def _for_reading(connection: Connection) -> None:
    """Make each transaction of a connection a read-only snapshot. It sends nothing to the server."""
    await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    await connection.set_read_only(True)


class Reader:
    """Reads runs on at most `most` connections, each opened when it is needed. Runs on the loop host's event loop.

    If `most` is 0, it uses the writer's connection, in turns with the writer.
    """

    def __init__(self, target: Target, key: bytes, most: int, writer: Writer) -> None:
        self._target = target
        self._key = key
        self._most = most
        self._writer = writer
        self._turns: anyio.Semaphore | None = None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    has_sound_inboxes = True

    newest = None
    has_cancellable_inboxes = False
    """A cancellation would end the statement at the server."""

    async def checkpoints(
        self, run_id: str, seq: int | None, *, whole: bool, after: int = -1
    ) -> list[Checkpoint] | None:
        """See `opened.Reads`."""
        if not rows.is_text(run_id):
            return None
        if seq is None and not whole:
            return await self._newest(run_id)
        return await self._in_snapshot(
            lambda connection: self._select(connection, run_id, seq, after if whole else None)
        )

    async def everything(self, run_id: str) -> tuple[list[Checkpoint], Received] | None:
        """See `opened.Reads`."""
        if not rows.is_text(run_id):
            return None

        async def read(connection: Connection) -> tuple[list[Checkpoint], Received] | None:
            checkpoints = await self._select(connection, run_id, None, -1)
            if checkpoints is None:
                return None
            return checkpoints, await self._received(connection, run_id)

        return await self._in_snapshot(read)

    async def runs(self, query: Query) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""
        run_id, flow, status, identities, before, limit, parent, search = query
        if not all(rows.is_text(name) for name in (run_id, flow, parent, *search[:2]) if name is not None):
            return []
        chosen = condition(status)
        bound: tuple[Any, ...] = (_ALL if before is None else before, flow, flow)
        if run_id is not None:
            chosen, bound = f"{chosen} AND run_id = %s", (*bound, run_id)
        if parent is not None:
            chosen, bound = f"{chosen} AND parent = %s", (*bound, parent)
        if identities is not None:
            known = list(filter(rows.is_text, identities))
            chosen, bound = f"{chosen} AND {rows.FLOW} = ANY(%s::text[])", (*bound, known)
        for condition_of_search, values in searching(search, "%s", "strpos(run_id, %s) > 0"):
            chosen, bound = f"{chosen} AND {condition_of_search}", (*bound, *values)
        return await self._found(rows.SELECT_PAGE.replace("{chosen}", chosen), (*bound, limit))

    async def parked(self, identities: Collection[str], until: float, limit: int) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""
        found: list[tuple[Any, ...]] = []
        for identity in filter(rows.is_text, identities):  # one range of the index for each
            found += await self._found(rows.SELECT_PARKED, (identity, until, limit))
        return found

    async def orphans(self, limit: int) -> list[tuple[Any, ...]]:
        """See `opened.Reads`."""
        return await self._found(rows.SELECT_ORPHANS, (limit,))

    async def quiet(self, run_ids: Collection[str]) -> list[str]:
        """See `opened.Reads`."""
        known = list(filter(rows.is_text, run_ids))
        return [run_id for (run_id,) in await self._found(rows.SELECT_QUIET, (known,))]

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """See `opened.Reads`."""
        return [Ended._make(row) for row in await self._found(SELECT_ENDED, (after, older_than, limit))]

    async def run_ids(self) -> list[str]:
        """See `opened.Reads`."""
        return [str(run_id) for (run_id,) in await self._found(rows.SELECT_RUN_IDS)]

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """See `opened.Reads`."""
        found = await self._found(rows.of_tables(UNTAKEN), (run_id,)) if rows.is_text(run_id) else []
        return [signal_of(run_id, row, self._key) for row in found]

    async def check_inboxes(self) -> None:
        """Do nothing: see `damage`."""

    async def received(self, run_id: str) -> Received:
        """See `opened.Reads`."""
        if not rows.is_text(run_id):
            return Received(run_id, (), (), self._key)
        return await self._in_snapshot(lambda connection: self._received(connection, run_id))

    async def _received(self, connection: Connection, run_id: str) -> Received:
        found = await rows_of(connection, self._target.sql(rows.of_tables(RECEIVED)), (run_id,))
        takers = await rows_of(connection, self._target.sql(rows.of_tables(TAKERS)), (run_id,))
        (parent,) = await rows_of(connection, self._target.sql(rows.of_tables(PARENT)), (run_id,))
        return Received(run_id, found, takers, self._key, parent)

    async def arrived(self, owner: str) -> list[tuple[str, int]]:
        """Return the runs of an owner that have signals in their inboxes. See `arrivals.Arrivals`."""
        return [(run_id, newest) for run_id, newest in await self._found(rows.of_tables(ARRIVED), (owner,))]

    async def damage(self) -> list[str]:
        """Return an empty list: PostgreSQL checks its pages itself, if checksums are enabled, and always enforces its keys."""
        return []

    async def select(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, in which `@` is before the names of tables."""
        return await self._found(rows.of_tables(sql))

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._all:
            await connection.close()
        self._all.clear()

    def abandon(self) -> None:
        """Close the connections without their event loop."""
        for connection in self._all:
            connection.pgconn.finish()

    # ---- connections -------------------------------------------------------------------------------------------

    async def _found(self, text: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, which is a snapshot by itself: one round trip."""
        return await self._tried(lambda connection: rows_of(connection, self._target.sql(text), values or None))

    async def _in_snapshot(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """Call `read` in one transaction, and return its result."""

        async def within(connection: Connection) -> T:
            async with connection.transaction():
                return await read(connection)

        return await self._tried(within)

    async def _tried(self, read: Callable[[Connection], Awaitable[T]]) -> T:
        """Call `read` with a connection, and once more with another if that is lost. Return its result."""
        with explained(self._target):
            for left in reversed(range(TRIES)):
                try:
                    async with self._connection() as connection:
                        return await read(connection)
                except psycopg.ProgrammingError as error:
                    await self._refuse_newer(error)
                    raise
                except (psycopg.OperationalError, StorageUnreachableError) as error:
                    if not left or not (isinstance(error, StorageUnreachableError) or is_lost(error)):
                        raise
        raise AssertionError("the last try returns or raises")

    async def _refuse_newer(self, error: psycopg.Error) -> None:
        """Raise `StorageVersionError` if a newer asyncflow has upgraded the schema since it was opened."""
        async with self._connection() as connection:
            newer = await self._target.newer(connection, error)
        if newer is not None:
            raise newer from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        if not self._most:
            async with self._writer.lent() as connection:
                isolation = connection.isolation_level
                await _for_reading(connection)
                try:
                    yield connection
                finally:
                    if is_settled(connection):
                        await connection.set_isolation_level(isolation)
                        await connection.set_read_only(None)
            return
        turns = self._turns = self._turns or anyio.Semaphore(self._most)
        async with turns:
            connection = await self._checked_out()
            try:
                yield connection
            finally:
                if is_alive(connection):
                    self._idle.append(connection)
                else:
                    await self._drop(connection)

    async def _checked_out(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if is_alive(connection):
                return connection
            await self._drop(connection)
        connection = await self._target.connected()
        self._all.add(connection)
        if self._writer.is_pooled:
            connection.prepare_threshold = None
        await _for_reading(connection)
        return connection

    async def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        await connection.close()

    # ---- runs --------------------------------------------------------------------------------------------------

    async def _newest(self, run_id: str) -> list[Checkpoint] | None:
        """Return the rows of a run from its last complete checkpoint on."""
        found = await self._found(rows.SELECT_NEWEST, (run_id,))
        if not found:
            return None
        size = len(rows.COLUMNS_OF_HEAD)
        head = Head.read(run_id, found[0][:size], self._key)
        checkpoints = [checkpoint_of(head, row[size:]) for row in found if row[size] is not None]
        head.verify(head.base, head.head, checkpoints)
        return checkpoints

    async def _select(
        self, connection: Connection, run_id: str, seq: int | None, after: int | None
    ) -> list[Checkpoint] | None:
        sql = self._target.sql
        found = await rows_of(connection, sql(rows.SELECT_HEAD), (run_id,))
        if not found:
            return None
        head = Head.read(run_id, found[0], self._key)
        last = head.head if seq is None else seq
        first, protected = 0, None
        if after is not None or seq is not None:
            ((first, protected),) = await rows_of(connection, sql(rows.of_tables(SELECT_FIRST)), (run_id,))
            first = valid_first(run_id, first, head.head)
        if not first <= last <= head.head:
            return None
        base = head.base if seq is None else await self._base(connection, run_id, seq)
        base = base if after is None else max(after + 1, first)
        until = _ALL if seq is None else seq  # rows behind the head must be detected, too
        stored = await rows_of(connection, sql(rows.SELECT_CHECKPOINTS), (run_id, base, until))
        checkpoints = [checkpoint_of(head, row) for row in stored]
        if base <= last:
            head.verify(base, last, checkpoints)
        if after is not None and after < first:
            check_first(run_id, first, protected, checkpoints[0].digest, self._key)
        return checkpoints

    async def _base(self, connection: Connection, run_id: str, seq: int) -> int:
        found = await rows_of(connection, self._target.sql(rows.SELECT_BASE), (run_id, seq))
        return int(found[0][0]) if found else seq
