"""Readers of events, which iterate over them in their own time. None of them makes a run wait."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Final, Self, TypeVar

import anyio

from ..events import Event, EventsLost
from .timing import now

__all__ = ["LIMIT", "EventStream", "Reader", "live"]

LIMIT: Final = 1_000
"""Live events that a reader may be behind, and as many stored ones. After that, its oldest ones are dropped."""

E = TypeVar("E", bound=Event)

_numbers: Final = itertools.count()
"""The numbers of the live events of this process."""


def live(kind: type[E], run_id: str, flow: str, at: float, **fields: Any) -> E:
    """Return a live event."""
    return kind(run_id=run_id, flow=flow, seq=-1, n=next(_numbers), at=at, **fields)


class Reader:
    """The events that one reader has not read yet. It never makes a run wait: events that it is too slow for are dropped and counted."""

    __slots__ = (
        *("__weakref__", "_arrivals", "_changed", "_live", "_lost", "_rereads", "_stored"),
        *("has_gap", "is_over", "run_id"),
    )

    def __init__(self, run_id: str | None = None, *, rereads: bool = False) -> None:
        """`run_id`: of the only run whose events it reads; None: it reads those of all runs.

        `rereads`: whether it reads stored events from the storage when they were dropped.
        """
        self.run_id: str | None = run_id
        self.is_over: bool = False
        self.has_gap: bool = False
        """Whether stored events have to be read from the storage. Reset it before they are: more may be dropped meanwhile."""
        self._rereads = rereads
        self._arrivals = 0
        self._live: deque[tuple[int, Event]] = deque()
        self._stored: deque[tuple[int, Event]] = deque()
        self._lost = 0
        self._changed: anyio.Event | None = None

    def put(self, event: Event) -> None:
        """Add an event."""
        lane = self._live if event.is_live else self._stored
        if len(lane) >= LIMIT:
            lane.popleft()
            if self._rereads and not event.is_live:
                self.has_gap = True
            else:
                self._lost += 1
        self._arrivals += 1
        lane.append((self._arrivals, event))
        self.wake()

    def wake(self) -> None:
        """Set `next_change`."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def end(self) -> None:
        """Add no more events: once these are read, there are no others."""
        self.is_over = True
        self.wake()

    def close(self) -> None:
        """Read no more: forget what is unread."""
        self._live.clear()
        self._stored.clear()
        self._lost = 0
        self.end()

    def take(self, known: int | None = None) -> Event | None:
        """Return the next event, and remove it; None if there is none now.

        `known`: the seq up to which checkpoints were read. Where others are missing after it, `has_gap` is set, and this returns None.
        """
        if self._lost:
            count, self._lost = self._lost, 0
            return live(EventsLost, self.run_id or "", "", now(), count=count)
        lanes = [lane for lane in (self._live, self._stored) if lane]
        if not lanes or self.has_gap:
            return None
        lane = min(lanes, key=lambda lane: lane[0][0])
        event = lane[0][1]
        if known is not None and event.seq > known + 1:
            self.has_gap = True
            return None
        lane.popleft()
        return event

    def forget_until(self, position: tuple[int, int]) -> None:
        """Remove the stored events up to this position, and the live events before them: they were read, or are past."""
        before = 0
        while self._stored and self._stored[0][1].position <= position:
            before = self._stored.popleft()[0]
        while self._live and self._live[0][0] < before:
            self._live.popleft()

    @property
    def next_change(self) -> anyio.Event:
        """An event that is set when there is another event, or no more will come, or `wake` is called. It is set if that is so now."""
        if self._live or self._stored or self._lost or self.is_over:
            changed = anyio.Event()
            changed.set()
            return changed
        self._changed = self._changed or anyio.Event()
        return self._changed


class EventStream:
    """The events of runs as they come, to iterate over once: `async for event in flow.events()`.

    It gets what happens from the call on that returned it. If its reader is slow, it drops events, live ones and stored ones, each after
    1,000 that are unread, and an `EventsLost` says how many. Leave it by `aclose`, or as an async context manager, or drop it.

    - `reader`: what keeps the unread events; `events()` makes it.
    """

    def __init__(self, reader: Any) -> None:
        self._reader: Reader = reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Raises `StopAsyncIteration` once there are no more."""
        while (event := self._reader.take()) is None:
            if self._reader.is_over:
                raise StopAsyncIteration
            await self._reader.next_change.wait()
        return event

    async def aclose(self) -> None:
        """Read no more events: those that are unread are dropped."""
        self._reader.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.aclose()
