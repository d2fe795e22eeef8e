"""Opening a runner's storage, which may be away: its server is starting, restarting or full, or another process holds its lock."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import Self

import anyio

from ..errors import RunnerClosedError, StorageError
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

    async def begin(self, stack: AsyncExitStack, seconds: float, *, waits: bool) -> Self:
        """Open it. One that is away is tried again for so many seconds, and then it raises; unless it `waits`, it is left to `finish`."""
        await stack.enter_async_context(self._held)
        until = anyio.current_time() + seconds
        while True:
            try:
                await self._open()
                return self
            except AWAY:
                if not waits:
                    return self
                if anyio.current_time() >= until:
                    raise
            await anyio.sleep(PAUSE)

    def check(self) -> None:
        """Raise `RunnerClosedError` while it is not there."""
        if not self.is_there:
            raise RunnerClosedError("the runner's storage is away; try again in a while. Nothing was started")

    async def finish(self) -> None:
        """Open it, if it is not open, however long it is away. Logs why it cannot be opened yet."""
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
