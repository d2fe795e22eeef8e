"""What can be asked of a writer, and who waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

from ..errors import RunLockedError
from .checkpoint import Checkpoint

__all__ = ["Acquire", "Append", "Confirm", "Delete", "Ended", "Job", "Prune", "Release", "Renew", "locked"]


class Job:
    """Something to be done in a transaction, and those who wait for it."""

    size = 300
    is_taken = False
    is_settled = False
    error: BaseException | None = None
    waiter: Awaitable[None] | None = None
    late: anyio.Event | None = None
    """For one who was cancelled, and waits again."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id


class Append(Job):
    """Store a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.run_id = checkpoint.run_id
        self.size = checkpoint.size
        self.checkpoint = checkpoint


class Acquire(Job):
    """Become the owner of a run that is stored.

    `epoch` is then the new one, 0 for a run that is not stored. `may_replace` says whether an owner's runs are free;
    where it does not, its lease has to run out, unless the run is taken by `force`. `is_here`: whether an owner is of this
    process, so that it is not dead.
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
        """Whether the run, which had this owner and may be taken, is taken over from a dead one."""
        return owner is not None and not self.force and not self.is_here(owner)


class Release(Job):
    """Be the owner no longer."""

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Delete(Job):
    """Forget a run that nobody drives. `is_done`: whether there was one."""

    def __init__(self, run_id: str, may_replace: Callable[[str], bool]) -> None:
        super().__init__(run_id)
        self.may_replace = may_replace
        self.is_done = False


class Confirm(Job):
    """Renew this owner's lease, and see whether a run is still its own under this epoch.

    `is_ours`: whether it is; `stretch`: the stretch of the lease in which it was (`fencing.Lease`).
    """

    is_ours = False
    stretch: object = None

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Ended(NamedTuple):
    """A run that has ended, as it was listed."""

    id: int
    """Its place in the catalog."""
    head: int
    head_digest: bytes


class Prune(Job):
    """Forget those of the `listed` runs that ended `older_than` seconds ago, stand where they stood, and are driven by nobody.

    Of each flow, the `keep_last` newest that have ended are kept; `kept` remembers them for the next batch. `may_forget`: see `Delete`.
    Then `gone` were forgotten, and `looked_at` of the list were looked at.
    """

    def __init__(
        self,
        listed: Sequence[Ended],
        older_than: float,
        keep_last: int,
        kept: dict[tuple[str, str], list[int]],
        may_forget: Callable[[str], bool],
    ) -> None:
        super().__init__(" prune")  # no id of a run: those begin with no space
        self.listed = listed
        self.older_than = older_than
        self.keep_last = keep_last
        self.kept = kept
        self.may_forget = may_forget
        self.gone = self.looked_at = 0


class Renew(Job):
    """Renew this owner's lease; every other job does so as well, now and then."""

    def __init__(self) -> None:
        super().__init__("")


def locked(
    job: Acquire | Delete, owner: str, left: float | None, *, is_ours: bool, is_proven: bool = True
) -> RunLockedError:
    """The error for a run whose owner lives. `left`: seconds of its lease, as far as there is one.

    `is_proven`: whether it surely lives. Otherwise its lease alone says so: it may have died since it was renewed.
    """
    whose = "this" if is_ours else "another"
    until = "" if left is None else f" Unless it is renewed, its lease ends in {left:.1f} seconds."
    lives = (
        "which is alive; await that, or try again when it has ended."
        if is_proven or is_ours
        else "which may have died since: that is known when its lease ends. Await that, or try again then."
    )
    return RunLockedError(
        f"run {job.run_id} is being driven by {whose} process (owner {owner}), {lives}{until}",
        run_id=job.run_id,
        owner=owner,
        seconds=left,
    )
