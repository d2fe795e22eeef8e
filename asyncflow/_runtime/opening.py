"""Opening a runner's storage, which may be away: its server is starting, restarting or full, or another process holds its lock."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack

import anyio

from ..errors import StorageError
from ..persistence.shared import AWAY, PAUSE
from .runs import session

__all__ = ["Opening"]

logger = logging.getLogger("asyncflow")


class Opening:
    """A storage that is held open, from now on or from when it is there, until a stack ends."""

    def __init__(self, persistence: object) -> None:
        self._persistence = persistence
        self._held = AsyncExitStack()
        self.is_there = False

    async def begin(self, stack: AsyncExitStack, seconds: float, *, waits: bool) -> None:
        """Open it. One that is away is tried again for so many seconds, and then it raises; unless it `waits`, it is left to `finish`."""
        await stack.enter_async_context(self._held)
        until = anyio.current_time() + seconds
        while True:
            try:
                return await self._open()
            except AWAY:
                if not waits:
                    return None
                if anyio.current_time() >= until:
                    raise
            await anyio.sleep(PAUSE)

    async def finish(self) -> None:
        """Open it, if it is not open, however long it is away. What is wrong with it is told to the log."""
        logged = ""
        while not self.is_there:
            try:
                await self._open()
            except StorageError as error:
                if str(error) != logged:
                    logged = str(error)
                    logger.warning("the runner's storage is not there yet, and is tried again: %s", error)
                await anyio.sleep(PAUSE)

    async def _open(self) -> None:
        await self._held.enter_async_context(session(self._persistence))
        self.is_there = True
