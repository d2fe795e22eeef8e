"""An owner's lease as its own process can prove it, so that no method starts after another process may have taken over its run.

The clocks here only make a process more careful: they decide when it asks the database again, never what the database answers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final, Protocol

from ...errors import StaleCheckpoint
from .jobs import Confirm, Job

__all__ = ["Lease", "LeaseFence"]

logger = logging.getLogger("asyncflow")

BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""A clock of Linux, None elsewhere. Unlike the monotonic clock, it also counts the time while the machine is suspended."""

MARGIN: Final = 0.9
"""The fraction of a lease that the owner relies on: the database's clock may run a little faster than this process's clock."""

SHORTEST: Final = 0.05
"""In seconds. A shorter lease expires within the commit that renews it, so it proves nothing. It never delays the start of a method."""

Moment = tuple[float, float]
"""The time since boot and the time of day. A database file's leases use the second clock, which may be set forward."""


def now() -> Moment:
    """Return the current time of both clocks."""
    return (time.monotonic() if BOOTTIME is None else time.clock_gettime(BOOTTIME)), time.time()


class Lease:
    """The last renewal of this owner's lease. The writer's thread writes it, and any thread may read it.

    `stretch` counts how often the lease may have expired before it was renewed. An owner that owned a run at some moment of a
    stretch has owned it ever since, as long as that stretch lasts and the lease holds.
    """

    __slots__ = ("_renewed", "_until", "seconds", "stretch")

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds
        self.stretch: int = 0
        self._renewed: Moment | None = None
        self._until = (0.0, 0.0)

    @property
    def is_known(self) -> bool:
        """Whether the lease was ever renewed, so that other processes see it."""
        return self._renewed is not None

    def is_due(self, at: Moment) -> bool:
        """Whether a third of the lease has passed since its renewal, so that it is due for the next one."""
        before = self._renewed
        return before is None or at[0] - before[0] >= self.seconds / 3 or at[1] - before[1] >= self.seconds / 3

    def renewed(self, sent: Moment) -> None:
        """Record the renewal by a transaction that was sent at that moment and is committed now."""
        lasts, at, until = self.seconds * MARGIN, now(), self._until
        if self._renewed is not None and not (at[0] < until[0] and at[1] < until[1]):
            self.stretch += 1  # before the new end is set, because a reader in another thread reads the end first
            if self.seconds >= SHORTEST:
                logger.warning(
                    "lease lost: it was renewed %.1f s after its end; before a method starts here, the database is asked whether its run "
                    "is still owned",
                    max(at[0] - until[0], at[1] - until[1]),
                )
        self._renewed = sent
        self._until = sent[0] + lasts, sent[1] + lasts

    def renewed_for(self, batch: Sequence[Job], sent: Moment) -> None:
        """Record the renewal by the transaction of a batch, also in those of its jobs that asked for one."""
        self.renewed(sent)
        for job in batch:
            if isinstance(job, Confirm):
                job.stretch = self.stretch

    def holds(self, stretch: object) -> bool:
        """Whether the lease holds now, and has held without a gap since that stretch started. It costs two clock readings."""
        until = self._until  # no helper function, because this runs before each method
        uptime = time.monotonic() if BOOTTIME is None else time.clock_gettime(BOOTTIME)
        return (uptime < until[0] and time.time() < until[1] and stretch == self.stretch) or self.seconds < SHORTEST


class Submits(Protocol):
    """Accepts jobs for the writer."""

    async def submit(self, job: Job) -> None:
        """Wait until a job is done."""
        ...


class LeaseFence:
    """The `Fence` of an owner with a lease that a writer renews."""

    def __init__(self, lease: Lease, commits: Submits) -> None:
        self._lease = lease
        self._commits = commits
        self.holds = lease.holds

    @property
    def stretch(self) -> object:
        """The current stretch."""
        return self._lease.stretch

    async def confirm(self, run_id: str, epoch: int) -> object:
        """Ask the database whether this owner owns the run. See `Fence.confirm`."""
        job = Confirm(run_id, epoch)
        await self._commits.submit(job)
        if not job.is_ours:
            raise StaleCheckpoint(
                f"run {run_id} is no longer owned under epoch {epoch}: another owner has taken it over, or it has ended or was "
                "deleted",
                run_id=run_id,
            )
        return job.stretch
