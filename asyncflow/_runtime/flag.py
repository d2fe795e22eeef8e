"""Something that happens once, in thousands of runs, and that hardly anybody waits for."""

from __future__ import annotations

import anyio
import anyio.lowlevel

__all__ = ["Flag"]


class Flag:
    """Something that happens once. An `anyio.Event` takes 0.9 KB; here it is made by the first who waits, if there is one."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: anyio.Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        if self._is_set:
            await anyio.lowlevel.checkpoint()  # as an event does
            return
        event = self._event = self._event or anyio.Event()
        await event.wait()
