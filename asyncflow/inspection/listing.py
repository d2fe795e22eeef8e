"""Lists of stored runs, page by page, and the run that a person means by a part of its id."""

from __future__ import annotations

from typing import Any, Final, Literal

from ..errors import CapabilityMissingError, RunNotFoundError
from ..persistence.protocol import Catalog, FlowPersistence, RunEntry, check_query, offers, session
from ..persistence.status import Status
from .reading import takes

__all__ = ["RunPage", "find_run", "list_runs"]

CANDIDATES: Final = 5
"""How many runs an error names that an id may mean."""

EXAMINED: Final = 1_000
"""Runs that one read of a backend returns that does not filter them itself."""


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
    before: int | None = None,
    limit: int = 50,
) -> RunPage:
    """Return a page of the stored runs, the newest first.

    - `storage`: where the runs are stored.
    - `flow`: only runs of the flow with this name.
    - `status`: only runs with this status; "unfinished": running and interrupted ones.
    - `id_text`: only runs whose id contains this text.
    - `since`: only runs that were changed at this time or later, in seconds since the Unix epoch.
    - `until`: only runs that were created at this time or earlier, in seconds since the Unix epoch.
    - `parent`: only the children of the run with this id.
    - `before`: only runs with a smaller position: `next` of the page before.
    - `limit`: the maximum number of runs.

    Raises `CapabilityMissingError` if the backend has no catalog, `ValueError` for an unknown status and a negative limit, and
    `StorageError`s.
    """
    check_query(status, limit)
    catalog: Any = _catalog(storage)
    asked = {"flow": flow, "status": status, "parent": parent, "id_text": id_text, "since": since, "until": until}
    asked = {name: value for name, value in asked.items() if value is not None}
    passed = {name: value for name, value in asked.items() if takes(catalog.runs, name)}
    left: dict[str, Any] = {name: value for name, value in asked.items() if name not in passed}
    page = RunPage()
    async with session(storage):
        while len(page) <= limit:
            size = max(limit + 1 - len(page), EXAMINED if left else 0)
            found = await catalog.runs(before=before, limit=size, **passed)
            page += [entry for entry in found if _fits(entry, **left)]
            if len(found) < size:
                break
            before = found[-1].position
    if len(page) > limit:
        page.next = page[limit - 1].position if limit else before
        del page[limit:]
    return page


def _fits(
    entry: RunEntry,
    parent: str | None = None,
    id_text: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> bool:
    """Whether a run is one that was asked for."""
    return (
        parent in (None, entry.parent)
        and (id_text is None or id_text in entry.run_id)
        and (since is None or entry.updated_at >= since)
        and (until is None or entry.created_at <= until)
    )


async def find_run(storage: FlowPersistence, text: str) -> str:
    """Return the id of the run that a person means: of a full id, or of the beginning of one.

    - `storage`: where the runs are stored.
    - `text`: the id, or enough of its beginning.

    Raises `RunNotFoundError` if no run has such an id, or several have, with the newest of them; and `StorageError`s.
    """
    async with session(storage):
        if text and await storage.load(text) is not None:
            return text
        found = [entry.run_id for entry in await _beginning_with(storage, text)] if text else []
    if len(found) == 1:
        return found[0]
    if not found:
        raise RunNotFoundError(
            f"no run whose id is or begins with {text!r} is stored in {storage!r}; check the id", run_id=text
        )
    more = ", ..." if len(found) > CANDIDATES else ""
    raise RunNotFoundError(
        f"several runs have an id that begins with {text!r}: {', '.join(found[:CANDIDATES])}{more}; give more of the id",
        run_id=text,
    )


async def _beginning_with(storage: Any, text: str) -> list[RunEntry]:
    found: list[RunEntry] = []
    known: Any = storage
    if offers(storage, Catalog):
        before: int | None = None
        while len(found) <= CANDIDATES:
            page = await list_runs(known, id_text=text, before=before)
            found += [entry for entry in page if entry.run_id.startswith(text)]
            if page.next is None:
                break
            before = page.next
    return found


def _catalog(storage: FlowPersistence) -> Catalog:
    if offers(storage, Catalog):
        return storage
    raise CapabilityMissingError(
        f"{type(storage).__name__} does not list its runs: it lacks the capability Catalog (`async def runs(...)`)",
        capability="Catalog",
    )
