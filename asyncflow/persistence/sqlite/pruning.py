"""Deletion of runs with their descendants, and of a batch of ended runs, for SQLite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import aiosqlite
from pydantic_core import to_json

from .._database.jobs import Prune
from .._database.ownership_rules import Liveness
from .._database.pruning import Batch
from .._database.trees import ROOT, Trees
from . import rows

__all__ = ["SELECT_ENDED", "SqliteBatch", "SqliteTrees", "forget_dead"]

_ENDED: Final = f"status IN ('finished', 'cancelled', 'failed') AND {rows.of_tables(ROOT)}"
_THESE: Final = "IN (SELECT value FROM json_each(?))"

SELECT_ENDED: Final = (
    f"SELECT id, head, head_digest FROM runs WHERE id > ? AND {_ENDED} AND updated_at < ? ORDER BY id LIMIT ?"
)
_SELECT: Final = f"SELECT id, {rows.HEAD} FROM runs WHERE id {_THESE} AND {_ENDED} AND updated_at < ?"
_NEWEST: Final = f"SELECT id FROM runs WHERE flow = ? AND identity = ? AND {_ENDED} ORDER BY id DESC LIMIT ?"
_COUNT: Final = f"SELECT count(*) FROM runs WHERE id {_THESE} AND {_ENDED}"
_DELETE_RANGE: Final = (
    "DELETE FROM checkpoints WHERE run BETWEEN ? AND ?",
    "DELETE FROM runs WHERE id BETWEEN ? AND ?",
)
_EXPIRED: Final = f"SELECT owner FROM owners WHERE expires < {rows.NOW}"
_FORGET_OWNER: Final = "DELETE FROM owners WHERE owner = ?"


class SqliteTrees(Trees):
    """The trees of runs, on the writing connection, under the write lock."""

    these = _THESE

    def __init__(self, key: bytes, liveness: Callable[[str], Liveness], connection: aiosqlite.Connection) -> None:
        super().__init__(key, liveness)
        self._connection = connection

    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.execute_fetchall(rows.of_tables(sql), values)]

    async def execute(self, sql: str, *values: Any) -> None:
        await self._connection.execute(rows.of_tables(sql), values)

    def bound(self, ids: Sequence[int]) -> str:
        return _json(ids)

    async def lease(self, owner: str) -> float | None:
        left = await self.fetch(rows.SELECT_LEASE, owner)
        return left[0][0] if left else None

    async def delete(self, ids: Sequence[int]) -> None:
        first, last = min(ids), max(ids)
        if last - first == len(ids) - 1:  # the usual case, and faster
            for sql in _DELETE_RANGE:
                await self.execute(sql, first, last)
        else:
            await super().delete(ids)


class SqliteBatch(Batch):
    """A batch of pruning, on the writing connection, in its transaction."""

    def __init__(self, job: Prune, key: bytes, trees: SqliteTrees) -> None:
        super().__init__(job, key, trees)
        self._fetch = trees.fetch

    async def found(self, ids: Sequence[int], older_than: float) -> Iterable[tuple[Any, ...]]:
        return await self._fetch(_SELECT, _json(ids), time.time() - older_than)  # this is the file's host

    async def newest(self, flow: str, identity: str, count: int) -> list[int]:
        return [place for (place,) in await self._fetch(_NEWEST, flow, identity, count)]

    async def have_ended(self, ids: Sequence[int]) -> bool:
        return await self._fetch(_COUNT, _json(ids)) == [(len(ids),)]


async def forget_dead(connection: aiosqlite.Connection, liveness: Callable[[str], Liveness]) -> None:
    """Delete the expired leases of dead owners, which prove nothing. A living owner with an expired lease keeps the lease's row."""
    for (owner,) in await connection.execute_fetchall(_EXPIRED):
        if liveness(owner) is Liveness.DEAD:
            await connection.execute(_FORGET_OWNER, (owner,))


def _json(ids: Sequence[int]) -> str:
    return to_json(ids).decode()
