"""Parking: whether a pass that only waits leaves this process, and when it is due."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from .._scheduling.progress import Progress
from .waits import next_due

__all__ = ["PARK_AFTER", "Parked", "only_waits", "wakes_at"]

PARK_AFTER: Final = 10.0
"""Seconds from which on a wait leaves the process. To park a run and to wake it costs about as much as two steps."""


class Parked(NamedTuple):
    """How a run leaves the process that drove it."""

    wake_at: float
    """When it is due, in seconds since the Unix epoch; infinity: it waits for signals only."""
    newest: int = 0
    """The largest id of the signals that were read: a newer one makes it due at once."""


def only_waits(progress: Progress) -> bool:
    """Whether nothing of a pass runs, or can start before its time. A stored wait within a method belongs to a method that runs."""
    return not (progress.running or progress.failed or progress.held)


def wakes_at(progress: Progress, now: float) -> float:
    """Return when a pass that only waits is due, its time limit included; infinity if it waits for no time."""
    due = next_due(progress, now)
    times = [due] if due is not None else []
    return min([*times, progress.deadline] if progress.deadline else times, default=math.inf)
