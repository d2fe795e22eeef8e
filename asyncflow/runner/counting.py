"""Counts the runs that are parked in a runner's storage, for observers that measure. Without one, nothing is counted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Final

import anyio

from .._runs.run_pages import RunPages
from .._runtime.audience import Audience
from ..errors import StorageError
from ..persistence.parking import Parking
from ..persistence.protocol import Catalog, FlowPersistence, offers

__all__ = ["Counting"]

PAGE: Final = 200
MOST: Final = 10_000
"""Runs that are counted at most: it takes 50 pages, and more is an answer, too."""

FIRST: Final = 1.0
EVERY: Final = 60.0
"""Seconds until the first count, and from one to the next."""

logger: Final = logging.getLogger("asyncflow")


class Counting:
    """Counts the waiting runs of registered flows."""

    def __init__(
        self, persistence: FlowPersistence, identities: Callable[[], Collection[str]], audience: Audience
    ) -> None:
        self._persistence = persistence
        self._identities = identities
        self._audience = audience

    async def keep_counting(self) -> None:
        """Count until this is cancelled."""
        pause, logged = FIRST, ""
        while True:
            await anyio.sleep(pause)
            pause = EVERY
            try:
                count = await self.count()
                self._audience.measured(lambda observer, found=count: observer.on_waiting(found), "")  # type: ignore[misc]
                logged = ""
            except StorageError as error:
                if str(error) != logged:
                    logger.warning("count of waiting runs failed: it is retried: %s", error)
                logged = str(error)

    async def count(self) -> int:
        """Return how many runs of registered flows are parked, at most `MOST`. Raises `StorageError`s."""
        persistence, ids = self._persistence, frozenset(self._identities())
        if not offers(persistence, Catalog) or not offers(self._persistence, Parking):
            return 0
        count = 0
        async for page in RunPages(persistence, PAGE, status="waiting", identities=ids):
            count += len(page)
            if count >= MOST:
                break
        return count
