"""The catalog of a database: its query, and the conversion of its rows into entries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple

from ..protocol import RunEntry, check_query
from ..status import Status, status_of

__all__ = ["Query", "entry_of", "query_of"]


class Query(NamedTuple):
    """The filter for a page of the catalog; None matches any value. `status`: as it is stored."""

    run_id: str | None
    flow: str | None
    status: Status | None
    identities: Collection[str] | None
    before: int | None
    limit: int


def query_of(status: Status | Literal["unfinished"] | None, **asked: Any) -> tuple[Query, Status | None]:
    """Return the query for `Catalog.runs`, and the status by which its rows must still be filtered, None if that is not needed.

    The database stores one status for running and interrupted runs: only the process knows whether an owner is alive. Raises
    `ValueError` for an unknown status and a negative limit.
    """
    check_query(status, asked["limit"])
    if status in ("running", "interrupted"):
        return Query(status="running", **asked), status
    return Query(status="running" if status == "unfinished" else status, **asked), None


def entry_of(row: tuple[Any, ...], is_driven: bool) -> RunEntry:
    """Return the entry of a row: id, flow, status, pass, seq, owner, times, position, takeovers, identity, seconds of the lease."""
    run_id, flow, stored, pass_number, seq = row[:5]
    status = status_of(stored, is_driven)
    return RunEntry._make((run_id, flow, status, pass_number, seq, is_driven, *row[6:11]))
