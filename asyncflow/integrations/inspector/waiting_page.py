"""What waits for people: the parked runs that wait for signals."""

from __future__ import annotations

from typing import Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from ...errors import AsyncflowError
from ...inspection import Wait, list_runs, run_detail
from ...persistence.protocol import RunEntry, session
from .access import Action
from .reading import number
from .site import Site

__all__ = ["show_waiting"]

PAGE: Final = 25
"""Runs on one page."""

LOOKS: Final = 4
"""How many pages of waiting runs are read, at most, until one page is full of runs that wait for signals."""


class WaitingRun(NamedTuple):
    """A run that waits."""

    run: RunEntry
    signals: tuple[Wait, ...]
    """The signals that it waits for; none if only its class knows them, and that is not known here."""
    due_at: float | None
    """When the next of its waits for a time is due."""
    problem: str = ""
    """Why it cannot be read."""


async def show_waiting(site: Site, request: Request) -> Response:
    """Answer with the runs that wait for signals, the newest first."""
    await site.allow(request, Action("list"))
    before, found = number(request, "before"), list[WaitingRun]()
    async with session(site.storage):
        for _ in range(LOOKS):
            page = await list_runs(site.storage, status="waiting", before=before, limit=PAGE)
            before = page.next
            found += [each for run in page if (each := await _waiting(site, run)) is not None]
            if before is None or len(found) >= PAGE:
                break
    return site.page(request, "waiting", waiting=found, next=before, is_first="before" not in request.query_params)


async def _waiting(site: Site, run: RunEntry) -> WaitingRun | None:
    """Return a run that waits for signals; None for one that only waits for a time."""
    known = site.flow_of(run)
    try:
        detail = await run_detail(site.storage, run.run_id, flow=None if known is None else known.cls)
    except AsyncflowError as error:  # it is damaged, or was just deleted; the others are shown
        return WaitingRun(run, (), run.wake_at, str(error))
    signals = tuple(wait for wait in detail.waits if wait.kind == "signal")
    times = [wait.due_at for wait in detail.waits if wait.due_at is not None]
    if not signals and (known is not None or run.wake_at not in (None, float("inf"))):
        return None
    return WaitingRun(run, signals, min(times, default=None))
