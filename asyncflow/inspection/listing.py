"""Lists of stored runs, page by page, and the run that a person means by the beginning of its id."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Literal

from .._runs.call_errors import place_of
from .._runs.reading import takes
from ..errors import CapabilityMissingError, RunNotFoundError
from ..persistence.protocol import Catalog, FlowPersistence, RunEntry, RunSearch, check_query, offers, session
from ..persistence.status import Status

__all__ = ["RunPage", "find_run", "list_runs"]

CANDIDATES: Final = 5
"""How many runs an error names that an id may mean."""

EXAMINED: Final = 200_000
"""How many positions of the catalog a page looks at by default: about 30 ms."""

FEW: Final = 500
"""Up to how many runs with the same beginning of their ids are read at once, and filtered here."""

AT_ONCE: Final = 1_000
"""Runs that one read of a backend returns that cannot search."""

INDEXED: Final = ("running", "interrupted", "waiting", "unfinished")
"""The statuses by which databases find runs without looking at others."""

SLACK: Final = 3600.0
"""Seconds by which the clocks of processes may differ that share a storage: positions are not quite in the order of times."""


class RunPage(list[RunEntry]):
    """A page of runs, the newest first."""

    next: int | None = None
    """The position before which the next page begins; None if there is none."""


async def list_runs(
    storage: FlowPersistence,
    *,
    flow: str | None = None,
    status: Status | Literal["unfinished"] | None = None,
    id_text: str | None = None,
    since: float | None = None,
    until: float | None = None,
    parent: str | None = None,
    identities: Collection[str] | None = None,
    before: int | None = None,
    limit: int = 50,
    examine: int | None = EXAMINED,
) -> RunPage:
    """Return a page of the stored runs, the newest first. A page may have fewer runs than `limit`, or none, and still a `next` one.

    - `storage`: where the runs are stored.
    - `flow`: only runs of the flow with this name.
    - `status`: only runs with this status; "unfinished": running and interrupted ones.
    - `id_text`: only runs whose id begins with this text or, if there is none, whose id contains it.
    - `since`: only runs that were changed at this time or later, in seconds since the Unix epoch.
    - `until`: only runs that were created at this time or earlier, in seconds since the Unix epoch.
    - `parent`: only the children of the run with this id.
    - `identities`: only runs whose `RunEntry.identity` is one of these.
    - `before`: only runs with a smaller position: `next` of the page before.
    - `limit`: the maximum number of runs.
    - `examine`: how many runs a page looks at, so that it takes a bounded time if few of them fit; None: as many as it needs.

    Raises `CapabilityMissingError` if the backend has no catalog, `ValueError` for an unknown status and a negative limit, and
    `StorageError`s.
    """
    check_query(status, limit)
    catalog: Any = _catalog(storage)
    asked = {"flow": flow, "status": status, "parent": parent, "identities": identities}
    filters: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    search = RunSearch(changed_since=since, created_until=until)
    async with session(storage):
        if not takes(catalog.runs, "search"):
            search = search._replace(id_part=id_text)
            return await _read_through(catalog, filters, search, before, limit, examine)
        if not id_text:
            return await _search_page(catalog, filters, search, before, limit, examine)
        known = await catalog.runs(limit=FEW, search=RunSearch(id_prefix=id_text))
        if 0 < len(known) < FEW:
            return _page_of([each for each in known if search.fits(each) and _fits(each, before, **filters)], limit)
        search = search._replace(id_prefix=id_text) if known else search._replace(id_part=id_text)
        return await _search_page(catalog, filters, search, before, limit, examine)


async def _search_page(
    catalog: Any, filters: dict[str, Any], search: RunSearch, before: int | None, limit: int, examine: int | None
) -> RunPage:
    """Return a page of what a backend finds that can search: at once where it has an index for that."""
    if search.created_until is not None and before is None:
        before = await _position_at(catalog, search.created_until)
    is_indexed = filters.get("status") in INDEXED or "parent" in filters or not filters
    if examine is None or (is_indexed and search == RunSearch() and "flow" not in filters):
        return _page_of(await _searched(catalog, before, limit, search, filters), limit)
    return await _within(catalog, filters, search, before, limit, examine)


async def _within(
    catalog: Any, filters: dict[str, Any], search: RunSearch, before: int | None, limit: int, examine: int
) -> RunPage:
    """Return a page of what fits among the next so many positions. Another one follows if there are any below."""
    top = await _newest_below(catalog, before)
    if top is None:
        return RunPage()
    lowest = max(0, top.position - examine)
    found = await _searched(catalog, top.position + 1, limit, search._replace(after=lowest), filters)
    page = _page_of(found, limit)
    if page.next is None and await _newest_below(catalog, lowest + 1) is not None:
        page.next = lowest + 1
    return page


async def _searched(
    catalog: Any, before: int | None, limit: int, search: RunSearch, filters: dict[str, Any]
) -> list[RunEntry]:
    found: list[RunEntry] = await catalog.runs(before=before, limit=limit + 1, search=search, **filters)
    return found


async def _read_through(
    catalog: Any, filters: dict[str, Any], search: RunSearch, before: int | None, limit: int, examine: int | None
) -> RunPage:
    """Return a page of a backend that cannot search: read its runs, and leave out those that do not fit."""
    taken = {name: value for name, value in filters.items() if takes(catalog.runs, name)}
    left = {name: value for name, value in filters.items() if name not in taken}
    page, examined = RunPage(), 0
    while True:
        found = await catalog.runs(before=before, limit=AT_ONCE, **taken)
        page += [entry for entry in found if search.fits(entry) and _fits(entry, None, **left)]
        if len(page) > limit or len(found) < AT_ONCE:
            return _page_of(page, limit)
        before, examined = found[-1].position, examined + AT_ONCE
        if examine is not None and examined >= examine:
            page.next = before
            return page


def _page_of(found: list[RunEntry], limit: int) -> RunPage:
    """Return the page of runs of which one more than the limit was asked for."""
    page = RunPage(found[:limit])
    if len(found) > limit:
        page.next = page[-1].position if page else found[0].position + 1
    return page


def _fits(
    entry: RunEntry,
    before: int | None,
    flow: str | None = None,
    status: str | None = None,
    parent: str | None = None,
    identities: Collection[str] | None = None,
) -> bool:
    statuses = ("running", "interrupted") if status == "unfinished" else (status,)
    is_one = flow in (None, entry.flow) and parent in (None, entry.parent)
    is_known = identities is None or entry.identity in identities
    return (
        is_one
        and is_known
        and (before is None or entry.position < before)
        and (status is None or entry.status in statuses)
    )


async def _newest_below(catalog: Any, before: int | None) -> RunEntry | None:
    found: list[RunEntry] = await catalog.runs(before=before, limit=1)
    return found[0] if found else None


async def _position_at(catalog: Any, until: float) -> int | None:
    """Return a position below which all runs are that were created by a time; None if the newest one was."""
    newest = await _newest_below(catalog, None)
    if newest is None or newest.created_at <= until + SLACK:
        return None
    low, high = 0, newest.position
    while high - low > 1:
        middle = (low + high) // 2
        entry = await _newest_below(catalog, middle + 1)
        if entry is not None and entry.created_at > until + SLACK:
            high = min(middle, entry.position)
        else:
            low = middle
    return high


async def find_run(storage: FlowPersistence, text: str) -> str:
    """Return the id of the run that a person means: of a full id, or of the beginning of one.

    - `storage`: where the runs are stored.
    - `text`: the id, or enough of its beginning.

    Raises `RunNotFoundError` if no run has such an id, or several have, with the newest of them; and `StorageError`s.
    """
    async with session(storage):
        if text and await _is_id(storage, text):
            return text
        found = [entry.run_id for entry in await _beginning_with(storage, text)] if text else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise RunNotFoundError(
            f"no run whose id is or begins with {text!r} is stored in {place_of(storage)}; check the id", run_id=text
        )
    more = ", ..." if len(found) > CANDIDATES else ""
    raise RunNotFoundError(
        f"several runs have an id that begins with {text!r}: {', '.join(found[:CANDIDATES])}{more}; give more of the id",
        run_id=text,
    )


async def _is_id(storage: FlowPersistence, text: str) -> bool:
    """Whether this is the id of a run. A catalog answers without a check of the whole storage, which an unknown id causes in `load`."""
    if offers(storage, Catalog):
        return bool(await storage.runs(run_id=text, limit=1))
    return await storage.load(text) is not None


async def _beginning_with(storage: Any, text: str) -> list[RunEntry]:
    """Return the newest runs whose ids begin with a text, one more at most than an error names."""
    if not offers(storage, Catalog):
        return []
    catalog: Any = storage
    search = RunSearch(id_prefix=text)
    if takes(catalog.runs, "search"):
        return await _searched(catalog, None, CANDIDATES, search, {})
    return await _read_through(catalog, {}, search, None, CANDIDATES + 1, None)


def _catalog(storage: FlowPersistence) -> Catalog:
    if offers(storage, Catalog):
        return storage
    raise CapabilityMissingError(
        f"{type(storage).__name__} does not list its runs: it lacks the capability Catalog (`async def runs(...)`)",
        capability="Catalog",
    )
