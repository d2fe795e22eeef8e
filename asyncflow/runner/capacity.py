"""The capacity of a runner: it runs some runs, queues some more, and beyond that applies backpressure: callers wait or are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import anyio

from .._runtime.parking import PARK_AFTER
from ..errors import RunnerOverloadedError
from .parents import Parents
from .slots import Slots

__all__ = ["Limits", "Overload", "Places"]

Overload = Literal["wait", "raise"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of a runner that are numbers or words; see `FlowRunner`. Raises `ValueError` for one out of range."""

    max_running: int
    max_queued: int
    overload: Overload
    grace: float
    patience: float
    max_takeovers: int | None
    park_after: float = PARK_AFTER
    waiting_warning: float | None = None

    def __post_init__(self) -> None:
        if self.max_running < 1 or self.max_queued < 0:
            raise ValueError("max_running must be at least 1, and max_queued at least 0")
        if not (self.grace >= 0 and self.patience >= 0 and self.park_after >= 0):
            raise ValueError("grace, patience and park_after must be numbers of seconds, at least 0")
        if self.waiting_warning is not None and not self.waiting_warning > 0:
            raise ValueError("waiting_warning must be a duration above 0, or None")
        if self.max_takeovers is not None and self.max_takeovers < 1:
            raise ValueError("max_takeovers must be at least 1, or None for no limit")
        if self.overload not in ("wait", "raise"):
            raise ValueError(f"overload must be 'wait' or 'raise', not {self.overload!r}")


class Places:
    """The places of a runner that has been entered: one for each run, running or waiting."""

    def __init__(self, limits: Limits) -> None:
        self.slots: Slots = Slots(limits.max_running)
        """Limits the runs that are running."""
        self.parents: Parents = Parents(limits.max_running)
        self.park_after: float = limits.park_after
        self._most = limits.max_running + limits.max_queued
        self._places = Slots(self._most)
        self._overload = limits.overload

    @property
    def is_full(self) -> bool:
        """Whether no place is free, so that a caller who wants one waits, or is refused."""
        return self._places.free <= 0

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a place."""
        return self._places.waiting

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
                "Retry later"
                if self._overload == "wait"
                else "Retry later, or create the runner with overload='wait' so that start waits"
            )
            raise RunnerOverloadedError(
                f"the runner is at capacity: it has {self._most} runs (max_running + max_queued). {advice}. Nothing was started"
            ) from None

    def take_anyway(self) -> None:
        """Take a place for a run that was accepted before and released its place while it waited."""
        self._places.acquire_anyway()

    def release(self) -> None:
        """Release a place."""
        self._places.release()
