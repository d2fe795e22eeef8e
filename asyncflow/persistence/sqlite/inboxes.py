"""Jobs about the inboxes of runs, for SQLite."""

from __future__ import annotations

from typing import Any

import aiosqlite

from .._database.inboxes import Inboxes
from .._database.run_head import Head
from . import rows

__all__ = ["SqliteInboxes"]


class SqliteInboxes(Inboxes):
    """Jobs about inboxes, on the writing connection, under the write lock."""

    def __init__(self, key: bytes, connection: aiosqlite.Connection) -> None:
        super().__init__(key)
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.execute_fetchall(rows.of_tables(sql), values)]

    async def execute(self, sql: str, *values: Any) -> None:
        await self._connection.execute(rows.of_tables(sql), values)

    async def head(self, run_id: str) -> tuple[str, int] | None:
        found = await self.fetch(rows.SELECT_HEAD, run_id)
        if not found:
            return None
        head = Head.read(run_id, found[0], self._key)
        return head.status, head.head
