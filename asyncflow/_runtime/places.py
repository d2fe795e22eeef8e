"""How many runs a runner takes: so many are at work, so many more wait for their turn, and beyond that one waits or is refused."""

from __future__ import annotations

from typing import Literal

import anyio

from ..errors import RunnerOverloadedError
from .parents import Parents

__all__ = ["Overload", "Places"]

Overload = Literal["wait", "raise"]


class Places:
    """The places of a runner that has been entered."""

    def __init__(self, running: int, waiting: int, overload: Overload) -> None:
        self.turns = anyio.Semaphore(running)
        """For those at work."""
        self.parents = Parents(running)
        self._places = anyio.Semaphore(running + waiting)
        self._most = running + waiting
        self._overload = overload

    @property
    def is_full(self) -> bool:
        """Whether there is none, so that whoever wants one waits, or is refused."""
        return not self._places.value

    def statistics(self) -> anyio.SemaphoreStatistics:
        """Who waits for one."""
        return self._places.statistics()

    async def take(self) -> None:
        """Take one, as soon as there is one."""
        await self._places.acquire()

    async def ask(self, patience: float | None) -> None:
        """Take one. Raises `RunnerOverloadedError`, after so many seconds where one waits."""
        try:
            if self.is_full and self._overload == "wait":
                with anyio.fail_after(patience):
                    await self._places.acquire()
            else:
                self._places.acquire_nowait()
        except (anyio.WouldBlock, TimeoutError):
            raise RunnerOverloadedError(
                f"the runner has {self._most} runs, as many as it takes; try again in a while. Nothing was started"
            ) from None

    def release(self) -> None:
        """Give one back."""
        self._places.release()
