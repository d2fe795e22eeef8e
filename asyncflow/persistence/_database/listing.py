"""The catalog of a database: its query, and the conversion of its rows into entries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal, NamedTuple

from ..protocol import RunEntry, RunSearch, check_query
from ..status import Status, status_of

__all__ = ["LAST", "ORPHANED", "PARKED", "Query", "condition", "entry_of", "query_of", "searching"]

PARKED: Final = "status = 'running' AND wake_at IS NOT NULL"
"""The condition for parked runs, as in the partial indexes of `parking.sql`."""


_LIVES: Final = "status IN ('running', 'failed')"

ORPHANED: Final = (
    f"runs.parent IS NOT NULL AND runs.{_LIVES} "
    f"AND NOT EXISTS (SELECT 1 FROM @runs p WHERE p.run_id = runs.parent AND p.{_LIVES})"
)
"""The condition for child runs that are not over although their parent is, for the index `live_children`. `@`: the prefix of a table."""


LAST: Final = chr(0x10FFFF)
"""The last character: what begins with a text is less than the text with this one."""


def searching(search: RunSearch, place: str, contains: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Return the SQL conditions of a search, each with its values.

    `place`: how the database writes a parameter. `contains`: its condition for an id that contains a text.
    """
    prefix, part, since, until, after = search
    known = (
        (prefix, f"run_id >= {place} AND run_id < {place}", (prefix, f"{prefix}{LAST}")),
        (part, contains, (part,)),
        (since, f"updated_at >= {place}", (since,)),
        (until, f"created_at <= {place}", (until,)),
        (after, f"id > {place}", (after,)),
    )
    return [(sql, values) for asked, sql, values in known if asked is not None]


class Query(NamedTuple):
    """The filter for a page of the catalog; None matches any value. `status`: see `condition`."""

    run_id: str | None = None
    flow: str | None = None
    status: Status | None = None
    identities: Collection[str] | None = None
    before: int | None = None
    limit: int = 100
    parent: str | None = None
    search: RunSearch = RunSearch()


def condition(status: Status | None) -> str:
    """Return the SQL condition for runs of a status, with literals, so that a database can use its partial indexes."""
    if status == "waiting":
        return PARKED
    if status == "running":
        return "status = 'running' AND wake_at IS NULL"
    return "1 = 1" if status is None else f"status = '{status}'"


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
    """Return the entry of a row of `SELECT_RUNS`: as `RunEntry`, with the owner, and the seconds of the lease before the wake time."""
    run_id, flow, stored, pass_number, seq = row[:5]
    # No digest covers the wake time: what is no number is due at once.
    wake_at = row[12] if row[12] is None or isinstance(row[12], int | float) else 0.0
    status = status_of(stored, is_driven, is_parked=wake_at is not None)
    return RunEntry._make((run_id, flow, status, pass_number, seq, is_driven, *row[6:11], wake_at, row[13] or ""))
