"""The inboxes of runs that are not stored: in this process, as long as they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import RunNotFoundError
from ..persistence.inbox import NewSignal, StoredSignal
from ..persistence.memory_inbox import MemoryInbox

__all__ = ["UNSTORED", "UnstoredInboxes"]


class UnstoredInboxes:
    """Keeps the signals of the runs that this process runs without persistence."""

    def __init__(self) -> None:
        self._inboxes = MemoryInbox()
        self._running: set[str] = set()

    def send(self, run_id: str, signal: NewSignal) -> bool:
        """Send a signal to a run. Return False if the run has received it already. Raises `RunNotFoundError` if it is not running."""
        if run_id not in self._running:
            raise RunNotFoundError(
                f"no run {run_id} is running in this process without persistence; the signal was not sent",
                run_id=run_id,
            )
        is_new = not self._inboxes.has_received(run_id, signal)
        if is_new:
            self._inboxes.add(run_id, signal)
        return is_new

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were not taken, the oldest first."""
        return self._inboxes.untaken(run_id)

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        """Take a signal out of the inbox."""
        self._inboxes.remove(signal)

    @contextmanager
    def watch(self, run_id: str, arrived: Callable[[], object]) -> Iterator[None]:
        """Accept signals for a run, and call a function whenever one has arrived."""
        self._running.add(run_id)
        try:
            with self._inboxes.watch(run_id, arrived):
                yield
        finally:
            self._running.discard(run_id)
            self._inboxes.forget(run_id)


UNSTORED: Final = UnstoredInboxes()
"""Of this process."""
