"""Looks at all waiting runs once a day: warns of those that wait for long, and wakes those whose stored wake time is too late.

The wake time is outside the digest of its row. If it was damaged, nothing else would notice a run that is never due.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import anyio

from .._runs.run_pages import RunPages
from .._runtime.parking import wakes_at
from .._runtime.timing import clock_of
from ..errors import StorageError
from ..persistence.checkpoint import UNREADABLE, decode_progress
from ..persistence.parking import Parking
from ..persistence.protocol import Catalog, FlowPersistence, RunEntry, offers

__all__ = ["Sweep"]

PAGE: Final = 100
"""Runs in one page of the list."""

PAUSE: Final = 0.01
"""Seconds between two runs, for everything else that this process does."""

FIRST: Final = 60.0
EVERY: Final = 86_400.0
"""Seconds until the first sweep, and from one to the next."""

TOLERANCE: Final = 1.0
"""Seconds by which a stored wake time may be later than the one that follows from the progress of the run."""

logger: Final = logging.getLogger("asyncflow")


class Sweep:
    """Looks at the waiting runs of registered flows."""

    def __init__(
        self,
        persistence: FlowPersistence,
        identities: Callable[[], Collection[str]],
        wake: Callable[[RunEntry], Awaitable[bool]],
        warn_after: float | None,
    ) -> None:
        """`identities`, `wake`: as for `Waker`. `warn_after`: seconds of waiting after which a run is reported; None: never."""
        self._persistence = persistence
        self._clock = clock_of(persistence)
        self._identities = identities
        self._wake = wake
        self._warn_after = warn_after

    async def keep_sweeping(self) -> None:
        """Sweep until this is cancelled."""
        pause = FIRST
        while True:
            await anyio.sleep(pause)
            pause = EVERY
            try:
                await self.sweep()
            except StorageError as error:
                logger.warning("sweep of waiting runs failed: the next one follows within a day: %s", error)

    async def sweep(self) -> None:
        """Look at each waiting run once. Log one warning if any wait for long."""
        persistence = self._persistence
        if not offers(persistence, Catalog) or not offers(self._persistence, Parking):
            return
        long, longest, ids = 0, None, frozenset(self._identities())
        async for page in RunPages(persistence, PAGE, status="waiting", identities=ids):
            for entry in page:
                if self._warn_after is not None and entry.updated_at < self._clock() - self._warn_after:
                    long += 1
                    longest = entry if longest is None or entry.updated_at < longest.updated_at else longest
                if await self._is_late(entry):
                    logger.warning(
                        "wake time wrong: %s of %s is woken now", entry.run_id, entry.flow, extra=_about(entry)
                    )
                    await self._wake(entry)
                await anyio.sleep(PAUSE)
        if longest is not None and self._warn_after is not None:
            days = self._warn_after / EVERY
            logger.warning(
                "runs wait for long: %d runs have waited for more than %g days, the longest %s of %s. Send their signals, or cancel them",
                *(long, days, longest.run_id, longest.flow),
            )

    async def _is_late(self, entry: RunEntry) -> bool:
        """Whether the stored wake time of a run is later than the one that follows from its progress."""
        if entry.wake_at is None or entry.wake_at <= self._clock():
            return False
        try:
            stored = await self._persistence.load(entry.run_id)
            if stored is None or stored.seq != entry.seq:
                return False
            return wakes_at(decode_progress(stored.progress or b""), stored.at) < entry.wake_at - TOLERANCE
        except (StorageError, *UNREADABLE) as error:
            logger.warning("waiting run unreadable: %s of %s: %s", entry.run_id, entry.flow, error, extra=_about(entry))
            return False


def _about(entry: RunEntry) -> dict[str, str]:
    return {"run_id": entry.run_id, "flow": entry.flow}
