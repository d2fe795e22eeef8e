"""The inboxes of runs in this process's memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from .._waiting import call_on, current_loop
from .inbox import CAPACITY, NewSignal, StoredSignal, full, key_in_use

__all__ = ["MemoryInbox", "MemoryWatches"]

_changing = threading.Lock()
"""Held while anything is changed, because event loops in several threads can use one object. Never held over an await."""


def _forked() -> None:
    global _changing
    _changing = threading.Lock()  # another thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class MemoryWatches:
    """Calls those who watch runs, on their event loops."""

    def __init__(self) -> None:
        self._watches: dict[str, dict[object, tuple[object, Callable[[], object]]]] = {}

    def call(self, run_id: str) -> None:
        """Call those who watch a run."""
        if not self._watches:
            return
        with _changing:
            watches = list(self._watches.get(run_id, {}).values())
        for loop, function in watches:
            call_on(loop, function)

    @contextmanager
    def watch(self, run_id: str, function: Callable[[], object]) -> Iterator[None]:
        """Return a context manager within which a function is called on this event loop whenever something happens to a run."""
        watch = object()
        with _changing:
            self._watches.setdefault(run_id, {})[watch] = (current_loop(), function)
        try:
            yield
        finally:
            with _changing:
                watches = self._watches[run_id]
                del watches[watch]
                if not watches:
                    del self._watches[run_id]


class MemoryInbox:
    """Keeps the signals of runs, and calls those who watch for them, on their event loops."""

    def __init__(self) -> None:
        self._untaken: dict[str, dict[int, StoredSignal]] = {}
        self._contents: dict[str, dict[str, bytes]] = {}
        """For each run, the digests of the signals that it has received, by key."""
        self._watches = MemoryWatches()
        self._last = 0

    def has_received(self, run_id: str, signal: NewSignal) -> bool:
        """Whether a run has received a signal already. Raises `SignalKeyError` if its key stands for another one."""
        with _changing:
            known = self._contents.get(run_id, {}).get(signal.key)
        if known is not None and known != signal.content:
            raise key_in_use(run_id, signal)
        return known is not None

    def add(self, run_id: str, signal: NewSignal) -> None:
        """Store a signal that the run has not received. Raises `InboxFullError`."""
        with _changing:
            untaken = self._untaken.setdefault(run_id, {})
            if len(untaken) >= CAPACITY:
                raise full(run_id, signal)
            self._last += 1
            untaken[self._last] = StoredSignal(self._last, run_id, signal)
            self._contents.setdefault(run_id, {})[signal.key] = signal.content
        self._watches.call(run_id)

    def untaken(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were neither taken nor set aside, the oldest first."""
        with _changing:
            return list(self._untaken.get(run_id, {}).values())

    def has(self, signal: StoredSignal) -> bool:
        """Whether a signal is in the inbox."""
        with _changing:
            return signal.id in self._untaken.get(signal.run_id, {})

    def is_read(self, run_id: str, newest: int) -> bool:
        """Whether no signal in the inbox has a larger id."""
        with _changing:
            untaken = self._untaken.get(run_id)
            return not untaken or next(reversed(untaken)) <= newest

    def remove(self, signal: StoredSignal) -> None:
        """Take a signal out of the inbox. Its key stays known."""
        with _changing:
            self._untaken.get(signal.run_id, {}).pop(signal.id, None)

    def clear(self, run_id: str) -> None:
        """Take all signals out of the inbox of a run, and forget those without a key."""
        for signal in self.untaken(run_id):
            self.remove(signal)
        with _changing:
            contents = self._contents.get(run_id, {})
            self._contents[run_id] = {key: content for key, content in contents.items() if not key.startswith(" ")}

    def forget(self, run_id: str) -> None:
        """Delete the inbox of a run."""
        with _changing:
            self._untaken.pop(run_id, None)
            self._contents.pop(run_id, None)

    def watch(self, run_id: str, arrived: Callable[[], object]) -> AbstractContextManager[object]:
        """Call a function on this event loop whenever a signal has arrived for a run."""
        return self._watches.watch(run_id, arrived)
