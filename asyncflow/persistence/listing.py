"""The catalog of a database: what is asked of it, and how its rows become entries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, cast, get_args

from .checkpoint import Status
from .protocol import RunEntry, RunStatus

__all__ = ["Query", "entry_of", "query_of"]


class Query(NamedTuple):
    """The runs that a page of the catalog is to list; None for any. `status`: as it is stored."""

    run_id: str | None
    flow: str | None
    status: Status | None
    identities: Collection[str] | None
    before: int | None
    limit: int


def query_of(status: RunStatus | Literal["unfinished"] | None, **asked: Any) -> tuple[Query, RunStatus | None]:
    """The query for `Catalog.runs`, and the status to choose by among what it finds, where the database does not know that.

    The database stores one status for running and interrupted runs: whether an owner lives is known to the process alone.
    Raises `ValueError` for an unknown status, and for a limit below 0.
    """
    if asked["limit"] < 0:
        raise ValueError(f"limit is a number of runs, 0 or more, not {asked['limit']!r}")
    known = (*get_args(RunStatus), "unfinished")
    if status not in (None, *known):
        raise ValueError(f"status is one of {', '.join(map(repr, known))}, not {status!r}")
    if status in ("running", "interrupted"):
        return Query(status="running", **asked), status
    return Query(status="running" if status == "unfinished" else cast("Status | None", status), **asked), None


def entry_of(row: tuple[Any, ...], is_driven: bool) -> RunEntry:
    """The entry of a row: id, flow, status, pass, seq, owner, times, position, takeovers, identity, seconds of the lease."""
    run_id, flow, stored, number, seq = row[:5]
    status = "interrupted" if stored == "running" and not is_driven else stored
    return RunEntry._make((run_id, flow, status, number, seq, is_driven, *row[6:11]))
