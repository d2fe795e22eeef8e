"""Cancels work at its n-th await: at once or a little later, by a scope or natively, once or again during its clean-up.

A sweep over all awaits finds cancellation bugs without depending on timing. Some bugs show only 2 ms later, when a worker thread has
answered. This module imports asyncio because only asyncio can cancel a single task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Final, Literal

import anyio

from .._waiting import in_trio

__all__ = ["MOMENTS", "Way", "cancel_everywhere", "cancelled_at", "ways"]

Way = Literal["scope", "task", "repeatedly"]
"""By an anyio scope; by `Task.cancel`, on asyncio only; or by `Task.cancel`, and again at each of the next three awaits."""

Work = Callable[[], Coroutine[Any, Any, Any]]

MOMENTS: Final = (0.0, 0.002)
"""Seconds after the await: at once, and when a worker thread has answered."""


def ways() -> tuple[Way, ...]:
    """Return the ways to cancel that the running event loop supports."""
    return ("scope",) if in_trio() else ("scope", "task", "repeatedly")


async def cancelled_at(work: Work, at: int, way: Way = "scope", *, later: float = 0.0) -> bool:
    """Await `work()`, and cancel it at its `at`-th await (from 1), or `later` seconds after. Return whether it reached that await.

    - `work`: creates the coroutine to await.
    - `at`: the number of the await, from 1. Raises `ValueError` if it is below 1.
    - `way`: "scope": by an anyio scope. "task": by `Task.cancel`, on asyncio only. "repeatedly": by `Task.cancel`, and again at each
      of the next three awaits.
    - `later`: seconds between the await and the cancellation.

    The cancellation ends here; any other exception of the work is raised.
    """
    if at < 1:
        raise ValueError(f"awaits are counted from 1, so at={at} would cancel nothing")
    if way == "scope":
        return await _by_scope(work, at, later)
    return await _by_task(work, at, later, times=4 if way == "repeatedly" else 1)


async def cancel_everywhere(
    work: Work,
    then: Callable[[], Awaitable[object]] | None = None,
    *,
    moments: tuple[float, ...] = MOMENTS,
    most: int = 1_000,
) -> int:
    """Cancel `work()` at each of its awaits, in each way and at each moment.

    - `work`: creates the coroutine to await; called once for each cancellation.
    - `then`: called after each cancellation, to check the effects.
    - `moments`: seconds between an await and its cancellation.
    - `most`: the maximum number of awaits.

    Work that swallows the cancellation, and does something else instead, passes unless `then` checks for that.
    Returns the number of cancellations. Raises `AssertionError` if the work has not ended after `most` awaits.
    """
    struck = 0
    for way in ways():
        for later in moments:
            at = 1
            while await cancelled_at(work, at, way, later=later):
                struck, at = struck + 1, at + 1
                if at > most:
                    raise AssertionError(f"the work has not ended after {most} awaits")
                if then is not None:
                    await then()
            if then is not None:
                await then()
    return struck


async def _by_scope(work: Work, at: int, later: float) -> bool:
    scope, reached = anyio.CancelScope(), anyio.Event()
    counted = _Counted(work(), at, reached.set if later else scope.cancel)
    if later:
        await _cut_later(counted, reached, later)
    else:
        with scope:
            await counted
    return counted.count >= at


async def _cut_later(counted: _Counted, reached: anyio.Event, later: float) -> None:
    """Cancel from another task: a delay needs a task."""

    async def strike() -> None:
        await reached.wait()
        await anyio.sleep(later)
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(strike)
        with anyio.CancelScope() as scope:
            await counted
        group.cancel_scope.cancel()


async def _by_task(work: Work, at: int, later: float, times: int) -> bool:
    loop = asyncio.get_running_loop()

    def strike() -> None:
        if later:
            loop.call_later(later, lambda: task.cancel())
        else:
            task.cancel()

    counted = _Counted(work(), at, strike, times)

    async def main() -> None:
        await counted

    task = loop.create_task(main())
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
    return counted.count >= at


class _Counted:
    """Awaits a coroutine, counts how often it yields to the event loop, and calls `strike` at some of those times."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], at: int, strike: Callable[[], object], times: int = 1
    ) -> None:
        self.coroutine = coroutine
        self.strikes = range(at, at + times)
        self.strike = strike
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        advance: Callable[[Any], Any] = self.coroutine.send
        what: Any = None
        while True:
            try:
                yielded = advance(what)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count in self.strikes:
                self.strike()
            try:
                what = yield yielded
                advance = self.coroutine.send
            except BaseException as error:  # any exception that is thrown in belongs to the coroutine
                advance, what = self.coroutine.throw, error
