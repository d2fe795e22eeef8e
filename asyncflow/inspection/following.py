"""The events of a run, past and future, read from its storage."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from .._runs.stored_events import StoredEvents
from ..events import Event
from ..persistence.protocol import FlowPersistence, session

__all__ = ["follow"]

SOON: Final = 0.2
"""Seconds between two looks at the storage, after an event."""


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
    events = StoredEvents(storage, run_id, after, SOON)
    async with session(storage):
        while True:
            for event in await events.unread():
                yield event
            if events.has_ended:
                return
            await events.pause()
