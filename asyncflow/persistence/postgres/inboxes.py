"""Jobs about the inboxes of runs, for PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .._database.inboxes import FORGET, NEWEST, Inboxes
from .._database.run_head import Head
from . import rows
from .database import Connection, Target, rows_of

__all__ = ["PostgresInboxes"]

_THESE: Final = "= ANY(?::text[])"


class PostgresInboxes(Inboxes):
    """Jobs about inboxes, on the writing connection, in its transaction. Each locks the row of its run."""

    def __init__(self, key: bytes, connection: Connection, target: Target) -> None:
        super().__init__(key)
        self._connection = connection
        self._target = target

    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await rows_of(self._connection, self._target.sql(rows.of_tables(sql)), values)

    async def execute(self, sql: str, *values: Any) -> None:
        await self._connection.execute(self._target.sql(rows.of_tables(sql)), values)

    async def newest(self, run_ids: Sequence[str]) -> dict[str, int]:
        await self.fetch(rows.LOCK_HEADS, list(run_ids))
        return dict(await self.fetch(NEWEST.format(these=_THESE), list(run_ids)))

    async def forget(self, run_ids: Sequence[str]) -> None:
        await self.execute(FORGET.format(these=_THESE), list(run_ids))

    async def heads(self, run_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        return {row[0]: row for row in await self.fetch(rows.LOCK_HEADS, list(filter(rows.is_text, run_ids)))}

    async def adopt(self, children: Sequence[tuple[str, str, bytes]]) -> None:
        columns = map(list, zip(*children, strict=True))
        await self.execute(rows.ADOPT, *columns)

    async def head(self, run_id: str) -> tuple[str, int] | None:
        found = await self.fetch(rows.LOCK_HEADS, [run_id])
        if not found:
            return None
        head = Head.read(run_id, found[0], self._key)
        return head.status, head.head
