"""The clock of runs, and waits until a time. Due times are wall-clock times, because they are stored and outlive the process.

Processes whose clocks differ share a storage, so its clock counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import anyio

from ..persistence.protocol import Clocked, offers

__all__ = ["clock_of", "now", "sleep_until", "virtual_clock", "wait_until"]

LONGEST: Final = 30.0
"""Seconds that a wait sleeps at most before it compares its time with the clock again: the machine may have been suspended."""

virtual_clock: ContextVar[Callable[[], float] | None] = ContextVar("asyncflow_virtual_clock", default=None)
"""If set, returns the time in place of the machine's clock, to make tests repeatable."""


def now() -> float:
    """Return the time in seconds since the Unix epoch."""
    virtual = virtual_clock.get()
    return time.time() if virtual is None else virtual()


def clock_of(storage: object) -> Callable[[], float]:
    """Return the clock of the runs in a storage: `now`, corrected to the clock of the storage if that is another one."""
    if not offers(storage, Clocked):
        return now
    clocked: Clocked = storage

    def corrected() -> float:
        virtual = virtual_clock.get()
        return time.time() + clocked.clock_offset if virtual is None else virtual()

    return corrected


async def sleep_until(at: float, clock: Callable[[], float]) -> None:
    """Sleep until `clock` has reached a time. A clock that is set back meanwhile does not make the wait longer.

    A clock with a `check`, such as `owner_check.OwnedClock`, has it awaited after each part of a long wait.
    """
    check = getattr(clock, "check", None)
    longest = LONGEST if virtual_clock.get() is None else math.inf  # days of virtual time pass in one step
    end = anyio.current_time() + at - clock()
    while (left := min(end - anyio.current_time(), at - clock())) > 0:
        await anyio.sleep(min(left, longest))
        if check is not None and left > longest:
            await check()


async def wait_until(at: float, clock: Callable[[], float], event: anyio.Event) -> None:
    """Wait until an event is set, or `clock` has reached a time; infinity: only for the event."""
    longest = LONGEST if virtual_clock.get() is None else math.inf
    while not event.is_set() and (left := at - clock()) > 0:
        with anyio.move_on_after(min(left, longest)):
            await event.wait()
