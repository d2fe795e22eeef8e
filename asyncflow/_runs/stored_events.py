"""The stored events of a run, read from its history while that grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import anyio

from .._pace import Pace
from .._runtime.observe import events_from
from ..events import Event
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence
from ..persistence.status import Status, has_ended
from .ownership import catalog_entry
from .reading import loaded, reading, rows_between

__all__ = ["StoredEvents"]

LATE: Final = 1.0
"""Seconds between two looks at the storage: the longest pause."""


class StoredEvents:
    """The events of a run's checkpoints after a position, each once and in order: look at the storage again and again.

    - `after`: the (seq, n) of the last event that is already known.
    - `soon`: seconds until the next look after one that found something; then pauses become longer.
    """

    def __init__(self, storage: FlowPersistence, run_id: str, after: tuple[int, int], soon: float) -> None:
        self._storage = storage
        self._run_id = run_id
        self.position: tuple[int, int] = after
        """That of the newest event that was read."""
        self._whole = max(-1, after[0] - 1)  # the checkpoint of `after` may have further events
        """The seq of the newest checkpoint all of whose events were read."""
        self.has_ended: bool = False
        """Whether the run had ended at the last look."""
        self._pause = self._soon = soon
        self._pace = Pace()

    @property
    def seq(self) -> int:
        """The seq of the newest checkpoint of which anything was read."""
        return max(self._whole, self.position[0])

    async def unread(self) -> Iterator[Event]:
        """Look at the storage, and return an iterator over the events that are new. Use it up before the next call.

        Raises `RunNotFoundError`, `CapabilityMissingError` if the backend keeps no history, and `StorageError`s; the iterator raises
        `CheckpointCorruptError`.
        """
        newest, status = await self._newest()
        rows = await rows_between(self._storage, self._run_id, after=self._whole, until=newest)
        self._whole, self.has_ended = max(self._whole, newest), has_ended(status)
        return self._new(rows)

    def pass_over(self, event: Event) -> bool:
        """Note that an event was read elsewhere, before all that follow it. Return whether it is new."""
        if event.position <= self.position:
            return False
        self.position, self._whole, self._pause = event.position, max(self._whole, event.seq - 1), self._soon
        return True

    async def pause(self, nudge: anyio.Event | None = None) -> None:
        """Pause until the next look, or until an event is set."""
        await self._pace.pause(self._pause, nudge)
        self._pause = min(self._pause * 1.5, LATE)

    def _new(self, rows: Sequence[Checkpoint]) -> Iterator[Event]:
        for row in rows:
            with reading(self._run_id, row.seq):
                found = events_from(row)
            yield from filter(self.pass_over, found)

    async def _newest(self) -> tuple[int, Status]:
        """Return the seq of the newest checkpoint, and the status of the run: of a catalog, because it costs least."""
        entry = await catalog_entry(self._storage, self._run_id)
        if entry is not None:
            return entry.seq, entry.status
        c = await loaded(self._storage, self._run_id)
        return c.seq, c.status
