"""The events of a run, past and future, read from its storage."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from .._pace import Pace
from .._runs.ownership import catalog_entry
from .._runtime.observe import events_from
from ..events import Event
from ..persistence.protocol import FlowPersistence, session
from ..persistence.status import Status, has_ended
from .reading import history_of, loaded, reading

__all__ = ["follow"]

SOON: Final = 0.2
LATE: Final = 1.0
"""Seconds between two looks at the storage: after an event, and the longest."""


async def follow(
    storage: FlowPersistence, run_id: str, *, after: tuple[int, int] = (-1, 0)
) -> AsyncGenerator[Event, None]:
    """Iterate over the past and future events of a run until it has ended, whichever process drives it, each once and in order.

    A run that nothing drives is waited for: it may be resumed at any time. The storage is asked once a second at least.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `after`: the (seq, n) of the last event that is already known; the default is none.

    Raises `RunNotFoundError`, also if the run is deleted meanwhile, `CapabilityMissingError` if the backend keeps no history, and
    `StorageError`s.
    """
    seq, n = after
    read, pause, pace = max(-1, seq - 1), SOON, Pace()
    async with session(storage):
        while True:
            newest, status = await _newest(storage, run_id)
            rows = await history_of(storage, run_id, after=read, until=newest)
            pause = SOON if rows else min(pause * 1.5, LATE)
            read = max(read, newest)
            for row in rows:
                with reading(run_id, row.seq):
                    found = events_from(row)
                for event in found:
                    if (event.seq, event.n) > (seq, n):
                        yield event
            if has_ended(status):
                return
            await pace.pause(pause)


async def _newest(storage: FlowPersistence, run_id: str) -> tuple[int, Status]:
    """Return the seq of the newest checkpoint of a run, and its status: of a catalog, because it costs least."""
    entry = await catalog_entry(storage, run_id)
    if entry is not None:
        return entry.seq, entry.status
    c = await loaded(storage, run_id)
    return c.seq, c.status
