"""An owner's lease as its own process can prove it, so that nothing starts after another process may have taken a run over.

The clocks here only ever make a process more careful: they decide when the database is asked again, never what it answers.
"""

from __future__ import annotations

import time
from typing import Final, Protocol

from ..errors import StaleCheckpoint
from .jobs import Confirm, Job

__all__ = ["Fence", "Lease", "LeaseFence"]

BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""Unlike the monotonic clock it also counts the time in which the machine is suspended. Linux has it."""

MARGIN: Final = 0.9
"""The part of a lease that is relied upon: the database's clock may run a little faster than this process's."""

SHORTEST: Final = 0.05
"""Seconds. A shorter lease runs out within the commit that renews it, so nothing can be proven by it; it does not hold a start up."""

Moment = tuple[float, float]
"""The time since boot and the time of day: a database file is compared with the second, which may be set forward."""


def now() -> Moment:
    """This moment, by both clocks."""
    return (time.monotonic() if BOOTTIME is None else time.clock_gettime(BOOTTIME)), time.time()


class Lease:
    """When this owner's lease was renewed last. Written where the writer lives, and read from any thread.

    `stretch` counts the times that the lease may have run out before it was renewed. Whoever owned a run at some moment of a
    stretch has owned it ever since, as long as that stretch lasts and the lease holds.
    """

    __slots__ = ("_renewed", "_until", "seconds", "stretch")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stretch = 0
        self._renewed: Moment | None = None
        self._until = (0.0, 0.0)

    @property
    def is_known(self) -> bool:
        """Whether it was ever renewed, so that others see it."""
        return self._renewed is not None

    def is_due(self, at: Moment) -> bool:
        """Whether a third of it has gone by since it was renewed."""
        before = self._renewed
        return before is None or at[0] - before[0] >= self.seconds / 3 or at[1] - before[1] >= self.seconds / 3

    def renewed(self, sent: Moment) -> None:
        """It was renewed by a transaction that was sent at that moment, and is committed now."""
        lasts, at, until = self.seconds * MARGIN, now(), self._until
        if self._renewed is not None and not (at[0] < until[0] and at[1] < until[1]):
            self.stretch += 1  # before the new end is set: a reader in another thread looks at that first
        self._renewed = sent
        self._until = sent[0] + lasts, sent[1] + lasts

    def holds(self, stretch: object) -> bool:
        """Whether it holds at this moment, and has held without a gap since that stretch began. It costs two looks at a clock."""
        until = self._until  # in one call: it is made before each method
        uptime = time.monotonic() if BOOTTIME is None else time.clock_gettime(BOOTTIME)
        return (uptime < until[0] and time.time() < until[1] and stretch == self.stretch) or self.seconds < SHORTEST


class Fence(Protocol):
    """Knows whether this process can still be the owner of its runs."""

    @property
    def stretch(self) -> object:
        """Names the time in which the lease has held without a gap. Read before a run is acquired or stored for the first time."""
        ...

    def holds(self, stretch: object) -> bool:
        """Whether the lease is proven to hold now, and has held without a gap in this stretch. No I/O; called from any thread.

        Asked right before each method starts.
        """
        ...

    async def confirm(self, run_id: str, epoch: int) -> object:
        """Renew the lease and see, in the same transaction, that the run is still owned under this epoch; the stretch of that.

        Its process lives: that it was taken over from dead ones counts no more.
        Raises `StaleCheckpoint` if it is not: another owner has it, or it has ended or was deleted.
        """
        ...


class Submits(Protocol):
    """Takes jobs for the writer."""

    async def submit(self, job: Job) -> None:
        """See it done."""
        ...


class LeaseFence:
    """The `Fence` of an owner whose lease a writer renews."""

    def __init__(self, lease: Lease, commits: Submits) -> None:
        self._lease = lease
        self._commits = commits
        self.holds = lease.holds

    @property
    def stretch(self) -> object:
        """The present one."""
        return self._lease.stretch

    async def confirm(self, run_id: str, epoch: int) -> object:
        """Ask the database. See `Fence`."""
        job = Confirm(run_id, epoch)
        await self._commits.submit(job)
        if not job.is_ours:
            raise StaleCheckpoint(
                f"run {run_id} is not owned under epoch {epoch} any more: another owner has taken it over, or it has ended or was "
                "deleted",
                run_id=run_id,
            )
        return job.stretch
