"""Jobs about the inboxes of runs, for SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import aiosqlite
from pydantic_core import to_json

from .._database.inboxes import FORGET, NEWEST, Inboxes
from .._database.run_head import Head
from . import rows

__all__ = ["SqliteInboxes"]

_THESE: Final = "IN (SELECT value FROM json_each(?))"


class SqliteInboxes(Inboxes):
    """Jobs about inboxes, on the writing connection, under the write lock."""

    def __init__(self, key: bytes, connection: aiosqlite.Connection) -> None:
        super().__init__(key)
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.execute_fetchall(rows.of_tables(sql), values)]

    async def execute(self, sql: str, *values: Any) -> None:
        await self._connection.execute(rows.of_tables(sql), values)

    async def newest(self, run_ids: Sequence[str]) -> dict[str, int]:
        return dict(await self.fetch(NEWEST.format(these=_THESE), _json(run_ids)))

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self.execute(FORGET.format(these=_THESE), _json(run_ids))

    async def heads(self, run_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row for row in await self.fetch(rows.SELECT_HEADS, _json(run_ids))}

    async def adopt(self, children: Sequence[tuple[str, str, bytes]]) -> None:
        found = [(parent, digest, run_id) for run_id, parent, digest in children]
        await self._connection.executemany(rows.ADOPT, found)

    async def head(self, run_id: str) -> tuple[str, int] | None:
        found = await self.fetch(rows.SELECT_HEAD, run_id)
        if not found:
            return None
        head = Head.read(run_id, found[0], self._key)
        return head.status, head.head


def _json(run_ids: Sequence[str]) -> str:
    return to_json(list(run_ids)).decode()
