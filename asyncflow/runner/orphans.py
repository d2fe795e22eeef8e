"""Cancels orphans: children that nothing has cancelled although their parents are over, because the process that did so died."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from .._pace import Pace
from .._runs.cancelling import cancel_stored
from .._runtime.audience import Audience
from ..errors import RunFencedError, RunNotFoundError, StorageError
from ..persistence.children import Children
from ..persistence.protocol import FlowPersistence, offers

__all__ = ["Orphans"]

EVERY: Final = 30.0
"""Seconds between two looks."""

REST: Final = 100
"""The pause after a look, at least, in times of how long it took: a look reads all children that are not over."""

PAGE: Final = 100
"""Orphans in one look."""

logger: Final = logging.getLogger("asyncflow")


class Orphans:
    """Looks for orphans of any flow."""

    def __init__(self, persistence: FlowPersistence, audience: Audience) -> None:
        """`audience`: who observes the runs of the runner."""
        self._persistence = persistence
        self._audience = audience

    async def keep_looking(self) -> None:
        """Look until this is cancelled, if the storage knows children."""
        pace, logged, took = Pace(), "", 0.0
        while offers(self._persistence, Children):
            await pace.pause(max(EVERY, REST * took))
            began = anyio.current_time()
            try:
                await self.cancel_all()
                logged = ""
            except Exception as error:  # any exception of a backend: the next look follows
                if str(error) != logged:
                    logger.warning("look for orphans failed: it is retried: %s", error)
                logged = str(error)
            took = anyio.current_time() - began

    async def cancel_all(self) -> None:
        """Cancel the orphans that there are now."""
        storage: object = self._persistence
        if not offers(storage, Children):
            return
        seen = set[str]()
        while found := [entry for entry in await storage.orphans(PAGE) if entry.run_id not in seen]:
            seen.update(entry.run_id for entry in found)
            for entry in found:
                about = {"run_id": entry.run_id, "flow": entry.flow}
                try:
                    await cancel_stored(self._persistence, entry.run_id, self._audience)
                    logger.info(
                        "orphan cancelled: %s of %s, whose parent is over", entry.run_id, entry.flow, extra=about
                    )
                except (StorageError, RunFencedError, RunNotFoundError) as error:
                    logger.warning("orphan not cancelled: %s of %s: %s", entry.run_id, entry.flow, error, extra=about)
