"""Wakes parked runs that are due: those of registered flows, whichever process has parked them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import anyio

from .._runtime.timing import now, virtual_clock
from ..persistence.parking import Parking
from ..persistence.protocol import FlowPersistence, RunEntry, offers

__all__ = ["Waker"]

FEWEST: Final = 16
"""Runs that a look takes although no slot is free: they wait for slots like others, so a busy runner does not starve them."""

MOST: Final = 500
"""Runs that a look takes at most, so that other processes get some."""

RARELY: Final = 5.0
"""Seconds between two looks while no registered flow waits: an earlier version of one may have parked runs."""

VIRTUAL: Final = 60.0
"""Seconds of virtual time between two looks."""

logger = logging.getLogger("asyncflow")


class Waker:
    """Looks for parked runs that are due, and hands them to the runner."""

    def __init__(
        self,
        persistence: FlowPersistence,
        identities: Callable[[], Collection[str]],
        wake: Callable[[RunEntry], Awaitable[bool]],
        free_slots: Callable[[], int],
        may_wait: Callable[[], bool],
    ) -> None:
        """Keep what it calls.

        `identities`: under which runs of registered flows are stored. `wake`: resumes a run, and returns whether it did. `may_wait`:
        whether any registered flow waits.
        """
        self._may_wait = may_wait
        self._nudge = anyio.Event()
        self._persistence = persistence
        self._identities = identities
        self._wake = wake
        self._free_slots = free_slots

    def look_now(self) -> None:
        """Look for runs that are due at once: a signal was sent here."""
        self._nudge.set()

    async def keep_looking(self) -> None:
        """Look for runs that are due until this is cancelled. A look that finds as many as it may is followed by the next at once."""
        persistence, logged = self._persistence, ""
        if not offers(persistence, Parking):
            return
        while True:
            limit = min(max(self._free_slots(), FEWEST), MOST)
            found: list[RunEntry] = []
            try:
                found = await persistence.parked(self._identities(), until=now(), limit=limit)
                logged = ""
            except Exception as error:  # any exception of a backend: the runs that are driven here continue
                if str(error) != logged:
                    logger.warning(
                        "look for waiting runs failed: it is retried, but until then none is woken: %s", error
                    )
                logged = str(error)
            for entry in found:
                await self._wake(entry)
            if len(found) < limit:
                pause = persistence.poll_seconds if self._may_wait() else RARELY
                with anyio.move_on_after(pause if virtual_clock.get() is None else VIRTUAL):
                    await self._nudge.wait()
            self._nudge = anyio.Event()
