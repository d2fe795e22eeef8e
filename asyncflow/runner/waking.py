"""Wakes parked runs that are due: those of registered flows, whichever process has parked them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import anyio

from .._pace import Pace, simulation
from .._runtime.timing import clock_of
from ..persistence.parking import Parking
from ..persistence.protocol import FlowPersistence, RunEntry, offers

__all__ = ["Waker"]

SPARE: Final = 16
"""Runs that a look lists beyond those that it may take: some may fail to wake."""

RARELY: Final = 5.0
"""Seconds between two looks while no registered flow waits: an earlier version of one may have parked runs."""

logger: Final = logging.getLogger("asyncflow")


class Waker:
    """Looks for parked runs that are due, and hands them to the runner."""

    def __init__(
        self,
        persistence: FlowPersistence,
        identities: Callable[[], Collection[str]],
        wake: Callable[[RunEntry], Awaitable[bool]],
        may_take: Callable[[], int],
        may_wait: Callable[[], bool],
        skipped: Callable[[], int],
    ) -> None:
        """Keep what it calls.

        `identities`: under which runs of registered flows are stored. `wake`: resumes a run, and returns whether it did. `may_take`:
        how many runs a look may take. `may_wait`: whether any registered flow waits. `skipped`: how many due runs may have to be
        left alone: their back-off is not over, or they are being woken.
        """
        self._may_wait = may_wait
        self._is_full = False
        """Whether the last look has woken all that it might."""
        self._nudge: anyio.Event | None = None
        """Belongs to the event loop on which this looks; set to look at once."""
        self._persistence = persistence
        self._clock = clock_of(persistence)
        self._identities = identities
        self._wake = wake
        self._may_take = may_take
        self._skipped = skipped

    def look_now(self) -> None:
        """Look for runs that are due at once: a signal was sent here."""
        if self._nudge is not None:
            self._nudge.set()

    def look_for_more(self) -> None:
        """Look at once if the last look has woken all that it might: more runs may be due."""
        if self._is_full:
            self.look_now()

    async def keep_looking(self) -> None:
        """Look for runs that are due until this is cancelled. A look that has woken all that it may is followed by the next at once."""
        persistence, looked = self._persistence, -RARELY
        if not offers(persistence, Parking):
            return
        self._logged = ""
        nudge, pace = anyio.Event(), Pace()
        self._nudge = nudge
        while True:
            limit, woken, next_due = self._may_take(), 0, math.inf
            is_time = self._may_wait() or anyio.current_time() - looked >= RARELY
            if limit > 0 and is_time:
                looked = anyio.current_time()
                for entry in await self._found(persistence, limit + self._skipped() + SPARE):
                    left = (entry.wake_at or 0.0) - self._clock()
                    if left > 0:
                        next_due = min(next_due, left)
                    else:
                        woken += woken < limit and await self._wake(entry)
                self._is_full = woken >= limit
            if not woken or woken < limit:
                await pace.pause(persistence.poll_seconds, nudge, at_most=next_due)
            nudge = self._nudge = anyio.Event()

    async def _found(self, persistence: Parking, limit: int) -> list[RunEntry]:
        try:
            until = self._clock() if simulation.get() is None else math.inf
            found = await persistence.parked(self._identities(), until=until, limit=limit)
            self._logged = ""
            return found
        except Exception as error:  # any exception of a backend: the runs that are driven here continue
            if str(error) != self._logged:
                logger.warning("look for waiting runs failed: it is retried, but until then none is woken: %s", error)
            self._logged = str(error)
            return []
