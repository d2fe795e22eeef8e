"""Runs that stopped here before their end although nobody asked for that: a storage that failed, a class that has lost a method.

Their owner lives, so no other process takes them up; and what stopped them may do so again. So it is told, and they are tried again
ever more seldom.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Final

import anyio

from ..errors import MethodError, RunCancelledError, RunFencedError, RunLockedError, RunNotFoundError

__all__ = ["Left"]

AGAIN: Final = 0.5
LATEST: Final = 60.0
"""Seconds until such a run is tried again: at first, and at most."""

ENDED: Final = (MethodError, RunCancelledError, RunLockedError, RunFencedError, RunNotFoundError)
"""What a run is not left behind with: it has ended, is driven by another, or has been deleted."""

logger = logging.getLogger("asyncflow")


class Left:
    """Knows which runs those are, and when each is to be tried again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, float]] = {}

    def note(self, run_id: str, flow: str, error: BaseException | None) -> None:
        """What a run came to here, or that it could not be taken up."""
        if error is None or isinstance(error, ENDED):
            self._known.pop(run_id, None)
            return
        _, pause = self._known.get(run_id, (0.0, AGAIN))
        self._known[run_id] = anyio.current_time() + pause, min(2 * pause, LATEST)
        logger.warning("run %s of %s stopped before its end, and stays as it is stored: %s", run_id, flow, error)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._known

    def waits(self, run_id: str) -> bool:
        """Whether a run is to be tried again later, and not now."""
        return run_id in self._known and self._known[run_id][0] > anyio.current_time()

    def keep(self, seen: Container[str]) -> None:
        """Forget all others: somebody else has ended them."""
        self._known = {run_id: when for run_id, when in self._known.items() if run_id in seen}
