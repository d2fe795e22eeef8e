"""`sleep` in a method: its end is stored, so that a method that runs again sleeps for the rest of the time."""

from __future__ import annotations

from datetime import datetime

from .._durations import Seconds, seconds
from .scope import current_invocation

__all__ = ["sleep"]


async def sleep(delay: Seconds | datetime, /, *, key: str | None = None) -> None:
    """Sleep in a method of a flow. The time at which it ends is stored, in one checkpoint.

    A method that runs again, after a crash or in its next attempt, sleeps only for the rest of that time. Once another method has
    failed, or when a runner shuts down, a method that sleeps is cancelled, and runs again when the run is resumed.

    - `delay`: seconds, a timedelta, or a datetime with a time zone.
    - `key`: a name of this sleep, unique in the method. Without one, the method's sleeps are known by their order; at most one of them
      may be in progress.

    Raises `LookupError` outside of a method, `ValueError` for another `delay`, `StepKeyError` if another sleep without a key is in
    progress, and `LimitExceededError` after 10,000 stored values of one invocation. Whatever ends the run reaches the method as a
    cancellation.
    """
    scope = current_invocation.get()
    if scope is None:
        raise LookupError("asyncflow.sleep() is available only inside a method of a flow; elsewhere, use anyio.sleep()")
    if isinstance(delay, datetime) and delay.tzinfo is not None:
        await scope.of_pass.sleep(scope, 0.0, delay.timestamp(), key)
        return
    duration = seconds(delay)
    if duration is None:
        raise ValueError(f"sleep() takes seconds, a timedelta, or a datetime with a time zone, not {delay!r}")
    await scope.of_pass.sleep(scope, duration, None, key)
