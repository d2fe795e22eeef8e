"""The capacity of a runner: it runs some runs, queues some more, and beyond that applies backpressure: callers wait or are refused."""

from __future__ import annotations

from typing import Literal

import anyio

from ..errors import RunnerOverloadedError
from .parents import Parents

__all__ = ["Overload", "Places"]

Overload = Literal["wait", "raise"]


class Places:
    """The places of a runner that has been entered: one for each run, running or waiting."""

    def __init__(self, running: int, waiting: int, overload: Overload) -> None:
        self.slots = anyio.Semaphore(running)
        """Limits the runs that are running."""
        self.parents = Parents(running)
        self._places = anyio.Semaphore(running + waiting)
        self._most = running + waiting
        self._overload = overload

    @property
    def is_full(self) -> bool:
        """Whether no place is free, so that a caller who wants one waits, or is refused."""
        return not self._places.value

    def statistics(self) -> anyio.SemaphoreStatistics:
        """Return statistics about the callers that wait for a place."""
        return self._places.statistics()

    async def take_when_free(self) -> None:
        """Take a place, as soon as one is free."""
        await self._places.acquire()

    async def take_or_refuse(self, patience: float | None) -> None:
        """Take a place. Raises `RunnerOverloadedError` if none is free; where callers wait, after `patience` seconds."""
        try:
            if self.is_full and self._overload == "wait":
                with anyio.fail_after(patience):
                    await self._places.acquire()
            else:
                self._places.acquire_nowait()
        except (anyio.WouldBlock, TimeoutError):
            advice = (
                "Retry later" if self._overload == "wait" else "Retry later, or wait for a place with overload='wait'"
            )
            raise RunnerOverloadedError(
                f"the runner is at capacity: it has {self._most} runs (max_running + max_waiting). {advice}. Nothing was started"
            ) from None

    def release(self) -> None:
        """Release a place."""
        self._places.release()
