"""Opens a runner's storage, which may be unavailable: its server starts, restarts or is full, or another process holds its lock."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import Final, Self

import anyio

from ..errors import RunnerClosedError, StorageError
from ..persistence._database.shared_resource import AWAY, PAUSE
from ..persistence.protocol import session

__all__ = ["Opening"]

logger: Final = logging.getLogger("asyncflow")


class Opening:
    """A storage that is held open until an exit stack closes. It is opened now, or as soon as it is available."""

    def __init__(self, persistence: object) -> None:
        self._persistence = persistence
        self._storage = AsyncExitStack()
        self.is_there: bool = False

    async def begin(self, stack: AsyncExitStack, seconds: float, *, waits: bool) -> Self:
        """Open the storage. If it is unavailable, retry for `seconds` seconds, then raise; without `waits`, leave that to `finish`."""
        await stack.enter_async_context(self._storage)
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
        """Raise `RunnerClosedError` while the storage is not open."""
        if not self.is_there:
            raise RunnerClosedError("the runner's storage is unavailable; retry later. Nothing was started")

    async def finish(self) -> None:
        """Open the storage if it is not open, and retry for as long as it is unavailable. Log why it cannot be opened yet."""
        logged = ""
        while not self.is_there:
            try:
                await self._open()
            except StorageError as error:
                if str(error) != logged:
                    logged = str(error)
                    logger.warning("storage unavailable: the runner retries until it can open it: %s", error)
                await anyio.sleep(PAUSE)

    async def _open(self) -> None:
        await self._storage.enter_async_context(session(self._persistence))
        self.is_there = True
