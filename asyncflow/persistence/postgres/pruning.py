"""Deletion of runs with their descendants, and of ended runs in batches, for PostgreSQL, whose clock decides how long ago a run ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .._database.jobs import Prune
from .._database.ownership_rules import Liveness
from .._database.pruning import Batch
from .._database.trees import ROOT, Trees
from . import rows
from .database import Connection, Target, rows_of

__all__ = ["SELECT_ENDED", "PostgresBatch", "PostgresTrees"]

_ENDED: Final = f"status IN ('finished', 'cancelled', 'failed') AND {ROOT.replace('@', '{schema}.')}"
_AGE: Final = (
    "extract(epoch FROM clock_timestamp())::DOUBLE PRECISION - "
    "CASE WHEN abs(ended_at - updated_at) < 86400 THEN ended_at ELSE updated_at END"
)
"""Seconds since a run ended.

`updated_at` is by its writer's clock, `ended_at` by the server's, which is used. If they differ by more than a day, the run was
copied from another database, and `updated_at` is used.
"""

SELECT_ENDED: Final = (
    f"SELECT id, head, head_digest FROM {{schema}}.runs WHERE id > %s AND {_ENDED} AND {_AGE} > %s ORDER BY id LIMIT %s"
)
_LOCK: Final = (
    f"SELECT id, {rows.HEAD} FROM {{schema}}.runs WHERE id = ANY(%s::bigint[]) AND {_ENDED} AND {_AGE} > %s "
    "ORDER BY id FOR UPDATE SKIP LOCKED"
)
"""Rows that another transaction has locked are skipped: their runs are still in use."""
_NEWEST: Final = (
    f"SELECT id FROM {{schema}}.runs WHERE flow = %s AND identity = %s AND {_ENDED} ORDER BY id DESC LIMIT %s"
)
_COUNT: Final = f"SELECT count(*) FROM {{schema}}.runs WHERE id = ANY(%s::bigint[]) AND {_ENDED}"


class PostgresTrees(Trees):
    """The trees of runs, on the writing connection, in its transaction."""

    these = "= ANY(?::bigint[])"
    lock = "FOR UPDATE"
    skip = "FOR UPDATE SKIP LOCKED"

    def __init__(self, key: bytes, liveness: Callable[[str], Liveness], connection: Connection, target: Target) -> None:
        super().__init__(key, liveness)
        self._connection = connection
        self._target = target

    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await rows_of(self._connection, self._target.sql(rows.of_tables(sql)), values)

    async def execute(self, sql: str, *values: Any) -> None:
        await self._connection.execute(self._target.sql(rows.of_tables(sql)), values)

    def bound(self, ids: Sequence[int]) -> list[int]:
        return list(ids)

    async def lease(self, owner: str) -> float:
        left: list[tuple[str, float]] = await self.fetch(rows.SELECT_LEASES, [owner])
        return left[0][1] if left else 0.0


class PostgresBatch(Batch):
    """A batch of pruning, on the writing connection, in its transaction."""

    def __init__(self, job: Prune, key: bytes, trees: PostgresTrees) -> None:
        super().__init__(job, key, trees)
        self._fetch = trees.fetch

    async def found(self, ids: Sequence[int], older_than: float) -> Iterable[tuple[Any, ...]]:
        return await self._fetch(_LOCK, list(ids), older_than)

    async def newest(self, flow: str, identity: str, count: int) -> list[int]:
        return [place for (place,) in await self._fetch(_NEWEST, flow, identity, count)]

    async def have_ended(self, ids: Sequence[int]) -> bool:
        return await self._fetch(_COUNT, list(ids)) == [(len(ids),)]
