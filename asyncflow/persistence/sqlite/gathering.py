"""Reads of single runs: those that are asked for while another read is running are answered together, by one statement and one hop."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import aiosqlite
import anyio
from pydantic_core import to_json

from ..._waiting import to_its_end

__all__ = ["Gathered"]

Row = tuple[Any, ...]

MOST: Final = 64
"""Runs that one statement reads at most: their rows are in memory together."""


class _Batch:
    """Runs whose rows are read together."""

    __slots__ = ("done", "found", "run_ids")

    def __init__(self, run_id: str) -> None:
        self.run_ids = {run_id}
        self.found: dict[str, list[Row]] | None = None
        """The rows by run id; None if they were not read: the task that was to read them failed or was cancelled."""
        self.done: anyio.Event | None = None
        """Set once they were read or not; None if only one task waits for them."""


class Gathered:
    """One statement about a run, by its id. All its users are on one event loop.

    `one`: the statement. `many`: the same one for a JSON array of run ids; its first column is the run id, and the rows of each run are
    in the order of `one`. `alone`: lends the connection exclusively, see `Reader`.
    """

    def __init__(
        self, one: str, many: str, alone: Callable[[], AbstractAsyncContextManager[aiosqlite.Connection]]
    ) -> None:
        self._one = one
        self._many = many
        self._alone = alone
        self._next: _Batch | None = None
        """The batch that is read next, and that can still grow."""

    async def rows(self, run_id: str) -> list[Row]:
        """Return the rows of a run, as they are stored when this is called, or later.

        It may be cancelled at any await. Raises `StorageError`s.
        """
        batch = self._next
        if batch is not None and len(batch.run_ids) < MOST:
            batch.run_ids.add(run_id)
            batch.done = batch.done or anyio.Event()
            await batch.done.wait()
            if batch.found is None:  # each of them may fail for a reason of its own
                return await self._read_one(run_id)
            return batch.found.get(run_id, [])
        return await self._read_first(run_id)

    async def _read_first(self, run_id: str) -> list[Row]:
        """Read the rows of a run, and of those that are asked for until the connection is free."""
        batch = self._next = _Batch(run_id)
        try:
            async with self._alone() as connection:
                self._close(batch)
                if len(batch.run_ids) == 1:
                    return await self._fetched(connection, self._one, run_id)
                try:
                    batch.found = self._by_run(
                        await self._fetched(connection, self._many, to_json(list(batch.run_ids)).decode())
                    )
                    return batch.found.get(run_id, [])
                except (aiosqlite.Error, ValueError):
                    return await self._fetched(connection, self._one, run_id)
        finally:
            self._close(batch)
            if batch.done is not None:
                batch.done.set()

    def _close(self, batch: _Batch) -> None:
        if self._next is batch:
            self._next = None

    async def _read_one(self, run_id: str) -> list[Row]:
        async with self._alone() as connection:
            return await self._fetched(connection, self._one, run_id)

    async def _fetched(self, connection: aiosqlite.Connection, sql: str, bound: str) -> list[Row]:
        """Execute a statement. A cancelled one runs to its end in the connection's thread, and is waited for."""
        try:
            return list(map(tuple, await connection.execute_fetchall(sql, (bound,))))
        except anyio.get_cancelled_exc_class():
            # The next reader must not queue up behind statements that nothing waits for.
            await to_its_end(lambda: connection.execute_fetchall("SELECT 1"))
            raise

    @staticmethod
    def _by_run(rows: list[Row]) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for run_id, *row in rows:
            found.setdefault(run_id, []).append(tuple(row))
        return found
