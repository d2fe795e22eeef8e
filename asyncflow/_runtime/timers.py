"""Timers: when they fire, and the wait for them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import anyio
import anyio.lowlevel

from .._definition.definition import FlowDefinition, MethodDefinition
from .._definition.triggers import TimerDefinition
from .._durations import seconds
from .._scheduling.messages import TimerKey
from .._scheduling.progress import Progress
from .._values.copying import copied
from .._waiting import calls_user_code
from ..errors import FlowDefinitionError
from .timing import sleep_until

__all__ = ["Timers", "due_after"]


class Timers:
    """Waits for the timers of one pass, always for the earliest one. They are part of the progress; this knows only the wait."""

    __slots__ = ("_clock", "_progress", "_wait", "is_working")

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._wait: anyio.CancelScope | None = None
        self.is_working = False
        """Whether a task waits for them, or will start soon."""

    async def work(self, fire: Callable[[TimerKey], Awaitable[None]], is_over: Callable[[], bool]) -> None:
        """Fire one timer after the other when its time comes, until none is left, or the pass fails or ends."""
        progress = self._progress
        try:
            while progress.timers and not progress.failed and not is_over():
                with anyio.CancelScope() as self._wait:
                    await sleep_until(min(timer.due for timer in progress.timers.values()), self._clock)
                now = self._clock()
                due = sorted((timer for timer in progress.timers.values() if timer.due <= now), key=lambda t: t.due)
                for timer in () if self._wait.cancelled_caught else due:
                    await anyio.lowlevel.checkpoint()  # many may be due at once
                    if progress.timers.get(timer.key) is timer and not progress.failed and not is_over():
                        await fire(timer.key)
        finally:
            self.is_working = False

    def first_due(self) -> TimerKey | None:
        """Return the timer that has been due for the longest time; None if none is due."""
        first = min(self._progress.timers.values(), key=lambda timer: timer.due, default=None)
        return None if first is None or first.due > self._clock() else first.key

    def are_left_out(self) -> bool:
        """Before a task waits for them: return whether none is left, so that no task has to."""
        self.is_working = bool(self._progress.timers)
        return not self.is_working

    def begins(self) -> bool:
        """Look at the timers again, because one has started. Return whether a task has to begin to wait for them."""
        self.changed()
        is_working, self.is_working = self.is_working, True
        return not is_working

    def changed(self) -> None:
        """Look at the timers again: one has started or was dropped, or the pass fails or ends."""
        if self._wait is not None:
            self._wait.cancel()


@calls_user_code
def due_after(definition: FlowDefinition, method: str, label: str | None, state: Any, now: float) -> tuple[float, ...]:
    """Return when the timers fire that the end of a method starts now, in seconds since the Unix epoch. A time that has passed is now.

    Raises what a delay's function raises, and `FlowDefinitionError` if that returns neither a duration nor a time.
    """
    timers = definition.reached_by((method,) if label is None else (method, label)).timers
    return tuple([_due(listener, timer, state, now) for listener, timer in timers])


@calls_user_code
def _due(listener: MethodDefinition, timer: TimerDefinition, state: Any, now: float) -> float:
    delay: Any = timer.delay
    if callable(delay):
        delay = delay(copied(state))
    if isinstance(delay, datetime) and delay.tzinfo is not None:
        return max(now, delay.timestamp())
    duration = seconds(delay)
    if duration is None:
        problem = (
            f"the delay of {timer.name} in the condition of {listener.name} returned a {type(delay).__name__}; it must return a finite "
            "number of seconds, a timedelta, or a datetime with a time zone"
        )
        raise FlowDefinitionError(problem, problems=[problem], method=listener.name)
    return now + max(0.0, duration)
