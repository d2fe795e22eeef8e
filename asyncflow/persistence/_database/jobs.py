"""The jobs that a writer executes, and their waiters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

from ...errors import RunLockedError
from ..checkpoint import Checkpoint

__all__ = ["Acquire", "Append", "Confirm", "Delete", "Ended", "Job", "Prune", "Release", "Renew", "locked"]


class Job:
    """A job to be done in a transaction, and its waiters."""

    size = 300
    is_taken = False
    is_settled = False
    error: BaseException | None = None
    waiter: Awaitable[None] | None = None
    late: anyio.Event | None = None
    """Set when the job is settled, for a waiter that was cancelled and waits for the outcome."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


class Append(Job):
    """Store a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.run_id = checkpoint.run_id
        self.size = checkpoint.size
        self.checkpoint = checkpoint


class Acquire(Job):
    """Become the owner of a stored run.

    The job sets `epoch` to the new epoch, 0 if the run is not stored. `may_replace`: whether the runs of an owner are free; if they
    are not, its lease must expire first, unless `force` is set. `is_here`: whether an owner belongs to this process, so that it is
    not dead.
    """

    def __init__(
        self,
        run_id: str,
        may_replace: Callable[[str], bool],
        is_here: Callable[[str], bool],
        *,
        force: bool = False,
    ) -> None:
        super().__init__(run_id)
        self.may_replace = may_replace
        self.is_here = is_here
        self.force = force
        self.epoch = 0

    def is_takeover(self, owner: str | None) -> bool:
        """Whether acquiring the run from this owner is a take-over from a dead owner."""
        return owner is not None and not self.force and not self.is_here(owner)


class Release(Job):
    """Release a run."""

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Delete(Job):
    """Delete a run that has no living owner. `is_done`: whether the run existed."""

    def __init__(self, run_id: str, may_replace: Callable[[str], bool]) -> None:
        super().__init__(run_id)
        self.may_replace = may_replace
        self.is_done = False


class Confirm(Job):
    """Renew this owner's lease, and check whether it still owns a run under this epoch.

    `is_ours`: whether it does. `stretch`: the stretch of the lease in which that was true (`lease.Lease`).
    """

    is_ours = False
    stretch: object = None

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Ended(NamedTuple):
    """A run that has ended, as it was listed."""

    id: int
    """Its position in the catalog."""
    head: int
    head_digest: bytes


class Prune(Job):
    """Delete those of the `listed` runs that ended more than `older_than` seconds ago, are unchanged, and have no living owner.

    The `keep_last` newest ended runs of each flow are kept; `kept` remembers them for the next batch. `may_forget`: whether the
    runs of an owner may be deleted, whatever its lease says. The job sets `gone` to the number of deleted runs, and `looked_at` to
    the number of listed runs that it has checked.
    """

    def __init__(
        self,
        listed: Sequence[Ended],
        older_than: float,
        keep_last: int,
        kept: dict[tuple[str, str], list[int]],
        may_forget: Callable[[str], bool],
    ) -> None:
        super().__init__(" prune")  # not a run id: those do not begin with a space
        self.listed = listed
        self.older_than = older_than
        self.keep_last = keep_last
        self.kept = kept
        self.may_forget = may_forget
        self.gone = self.looked_at = 0


class Renew(Job):
    """Renew this owner's lease. Other jobs also do so when the lease is due."""

    def __init__(self) -> None:
        super().__init__("")


def locked(
    job: Acquire | Delete, owner: str, left: float | None, *, is_ours: bool, is_proven: bool = True
) -> RunLockedError:
    """Return the error for a run with a living owner. `left`: the remaining seconds of its lease, if it has one.

    `is_proven`: whether the owner is certainly alive. Otherwise only its lease indicates that, and it may have died since the last
    renewal.
    """
    process = "this" if is_ours else "another"
    until = "" if left is None else f" Unless it is renewed, its lease expires in {left:.1f} seconds."
    lives = (
        "which is alive; wait for the run, or try again when it has ended."
        if is_proven or is_ours
        else "which may have died since: that is certain once its lease has expired. Wait until then, and try again."
    )
    return RunLockedError(
        f"run {job.run_id} is owned by {process} process (owner {owner}), {lives}{until}",
        run_id=job.run_id,
        owner=owner,
        seconds=left,
    )
