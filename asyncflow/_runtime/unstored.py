"""The inboxes of runs that are not stored: in this process, as long as they run."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from ..errors import NotWaitingError, RunNotFoundError
from ..persistence.inbox import NewSignal, StoredSignal, second
from ..persistence.memory_inbox import MemoryInbox

__all__ = ["UNSTORED", "UnstoredInboxes"]


class UnstoredInboxes:
    """Keeps the signals of the runs that this process runs without persistence."""

    def __init__(self) -> None:
        self._inboxes = MemoryInbox()
        self._running: dict[str, list[Callable[[], frozenset[str]]]] = {}
        """The runs that are running, with what returns the signals that each waits for: one for each instance with that id."""
        self._changing = threading.Lock()

    def forked(self) -> None:
        """Replace the lock in the child of a fork: another thread of the parent may have held it."""
        self._changing = threading.Lock()

    def send(self, run_id: str, signal: NewSignal, *, refuses_early: bool) -> bool:
        """Send a signal to a run. Return False if the run has received it already.

        Raises `RunNotFoundError` if it is not running, and, if `refuses_early`, `NotWaitingError` if nothing waits for it.
        """
        with self._changing:
            expected = self._running.get(run_id)
            if not expected:
                raise RunNotFoundError(
                    f"no run {run_id} is running in this process without persistence; the signal was not sent",
                    run_id=run_id,
                )
            if self._inboxes.has_received(run_id, signal):
                return False
            if refuses_early:
                self._check_place(run_id, signal, expected)
            self._inboxes.add(run_id, signal)
            return True

    def _check_place(self, run_id: str, signal: NewSignal, expected: list[Callable[[], frozenset[str]]]) -> None:
        """Raise `NotWaitingError` if nothing waits for a signal, or another one has its place."""
        if not any(signal.name in names() for names in expected):
            raise NotWaitingError(
                f"nothing waits for {signal.name} in run {run_id} now; it was not sent",
                run_id=run_id,
                signal=signal.name,
            )
        if any(stored.signal.name == signal.name for stored in self._inboxes.untaken(run_id)):
            raise second(run_id, signal)

    def end(self, run_id: str, newest: int) -> bool:
        """Let a run take no more signals, unless one has come with a larger id than `newest`. Return whether that is so."""
        with self._changing:
            if not self._inboxes.is_read(run_id, newest):
                return False
            if len(self._running.get(run_id, ())) == 1:
                self._running[run_id].clear()
            return True

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were not taken, the oldest first."""
        return self._inboxes.untaken(run_id)

    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        """Take a signal out of the inbox."""
        self._inboxes.remove(signal)

    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]:
        """Call a function whenever a signal has arrived for a run."""
        return self._inboxes.watch(run_id, arrived)

    @contextmanager
    def open(
        self,
        run_id: str,
        arrived: Callable[[], object],
        expected: Callable[[], frozenset[str]],
        continues: Callable[[], bool],
    ) -> Iterator[None]:
        """Accept signals for a run, and call a function whenever one has arrived. `expected`: returns those that the run waits for.

        `continues`: whether the run accepts signals in its next pass, too. Then `close` ends that, unless that pass has begun.
        """
        with self._changing:
            instances = self._running.setdefault(run_id, [])
            if _between_passes in instances:
                instances.remove(_between_passes)
            instances.append(expected)
        try:
            with self._inboxes.watch(run_id, arrived):
                yield
        finally:
            with self._changing:
                if expected in instances:
                    instances.remove(expected)
                    if continues():
                        instances.append(_between_passes)
                self._forget_if_closed(run_id, instances)

    def close(self, run_id: str) -> None:
        """Accept no more signals for a run that has ended between two passes."""
        if run_id not in self._running:
            return
        with self._changing:
            instances = self._running.get(run_id, [])
            if _between_passes in instances:
                instances.remove(_between_passes)
                self._forget_if_closed(run_id, instances)

    def _forget_if_closed(self, run_id: str, instances: list[Callable[[], frozenset[str]]]) -> None:
        if not instances and self._running.get(run_id) is instances:
            del self._running[run_id]
            self._inboxes.forget(run_id)


def _between_passes() -> frozenset[str]:
    """Return the signals that a run waits for between two passes: none."""
    return frozenset()


UNSTORED: Final = UnstoredInboxes()
"""Of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=UNSTORED.forked)
