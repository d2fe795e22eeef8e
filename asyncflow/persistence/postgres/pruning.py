"""Deletion of a batch of ended runs, for PostgreSQL. The server's clock decides how long ago a run ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from .._database.jobs import Prune
from .._database.ownership_rules import Liveness
from .._database.pruning import Batch
from . import rows
from .database import Connection, Target, rows_of

__all__ = ["SELECT_ENDED", "PostgresBatch"]

_ENDED: Final = "status IN ('finished', 'cancelled', 'failed')"
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
_DELETE: Final = (
    "DELETE FROM {schema}.checkpoints WHERE run = ANY(%s::bigint[])",
    "DELETE FROM {schema}.runs WHERE id = ANY(%s::bigint[])",
)
"""In this order, because checkpoints refer to runs."""


class PostgresBatch(Batch):
    """A batch of pruning, on the writing connection, in its transaction."""

    def __init__(
        self, job: Prune, key: bytes, liveness: Callable[[str], Liveness], connection: Connection, target: Target
    ) -> None:
        super().__init__(job, key, liveness)
        self._connection = connection
        self._target = target

    async def _fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await rows_of(self._connection, self._target.sql(sql), values)

    async def found(self, ids: Sequence[int], older_than: float) -> Iterable[tuple[Any, ...]]:
        return await self._fetch(_LOCK, list(ids), older_than)

    async def newest(self, flow: str, identity: str, count: int) -> list[int]:
        return [place for (place,) in await self._fetch(_NEWEST, flow, identity, count)]

    async def have_ended(self, ids: Sequence[int]) -> bool:
        return await self._fetch(_COUNT, list(ids)) == [(len(ids),)]

    async def lease(self, owner: str) -> float:
        left: list[tuple[str, float]] = await self._fetch(rows.SELECT_LEASES, [owner])
        return left[0][1] if left else 0.0

    async def delete(self, ids: Sequence[int]) -> None:
        for sql in _DELETE:
            await self._connection.execute(self._target.sql(sql), (list(ids),))
