"""A one-time event: there is one in each of thousands of runs, and few tasks wait for it."""

from __future__ import annotations

import anyio
import anyio.lowlevel

__all__ = ["Flag"]


class Flag:
    """A one-time event. An `anyio.Event` takes 0.9 KB; here only the first task that waits creates one."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None

    def is_set(self) -> bool:
        """Whether the event has happened."""
        return self._is_set

    def set(self) -> None:
        """Set the flag, and wake the waiting tasks."""
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Wait until the event has happened."""
        if self._is_set:
            await anyio.lowlevel.checkpoint()  # as `anyio.Event` does
            return
        event = self._event = self._event or anyio.Event()
        await event.wait()
