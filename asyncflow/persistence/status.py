"""The statuses of a run and the kinds of its checkpoints: the same words in Python, in storage and over HTTP."""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = ["KINDS", "STORED", "Kind", "Status", "has_ended", "is_over", "status_of"]

Status = Literal["running", "waiting", "interrupted", "failed", "finished", "cancelled"]
"""The status of a run.

    running       a live owner drives it
    waiting       it is parked: it waits for a time or a signal, no method of it runs, and it has no owner
    interrupted   it has not ended, waits for nothing, and has no live owner: it can be resumed
    failed        a method raised; it can be resumed
    finished      nothing is left to run
    cancelled     it was ended permanently
"""

STORED: Final = frozenset(get_args(Status)) - {"interrupted", "waiting"}
"""The statuses that checkpoints store. A process that dies stores nothing, and a run is parked after its checkpoint: see `status_of`."""

Kind = Literal[
    "started",
    "method",
    "failed",
    "cancelled",
    "finished",
    "edited",
    "resumed",
    "retrying",
    "timer",
    "step",
    "signal",
    "ending",
]
"""What a checkpoint stores.

    started     a pass was started
    method      a method ended
    failed      a method raised
    cancelled   the run was cancelled
    finished    the last method ended, or nothing was left to wait for
    edited      the state was edited from outside
    resumed     the pass was resumed; since format 3
    retrying    an attempt of a method failed, and the method is tried again; since format 4
    timer       the time of a timer came; since format 4
    step        a running method stored a value, such as the end of a sleep; since format 4
    signal      a signal was taken from the inbox; since format 4
    ending      the end of the pass was asked for from outside; since format 5
"""

KINDS: Final = frozenset(get_args(Kind))


def status_of(stored: Status, is_driven: bool, *, is_parked: bool = False) -> Status:
    """Return the status of a run from its stored status, whether a live owner drives it, and whether it is parked.

    A run that is stored as running is interrupted without a live owner, unless it is parked. Any other status is as it is stored.
    """
    if stored in ("running", "waiting", "interrupted"):
        return "running" if is_driven else "waiting" if is_parked else "interrupted"
    return stored


def is_over(status: Status) -> bool:
    """Whether a run has ended permanently: finished or cancelled."""
    return status in ("finished", "cancelled")


def has_ended(status: Status) -> bool:
    """Whether a run has ended: finished, cancelled or failed. A failed run can be resumed."""
    return status in ("finished", "cancelled", "failed")
