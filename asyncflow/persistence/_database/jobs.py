"""The jobs that a writer executes, and their waiters."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple

import anyio

from ..checkpoint import Checkpoint
from ..inbox import NewSignal, StoredSignal

__all__ = [
    "Acquire",
    "Append",
    "AppendChild",
    "AppendLast",
    "AppendTaking",
    "Compact",
    "Confirm",
    "Delete",
    "Ended",
    "InboxJob",
    "Job",
    "Owning",
    "Park",
    "Prune",
    "Release",
    "Renew",
    "Send",
    "SetAside",
]


class Job:
    """A job to be done in a transaction, and its waiters."""

    size = 300
    is_dequeued = False
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
        self.run_id: str = checkpoint.run_id
        self.size: int = checkpoint.size
        self.checkpoint = checkpoint


class AppendTaking(Append):
    """Store a checkpoint, and take a signal from the inbox of its run."""

    def __init__(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        super().__init__(checkpoint)
        self.signal = signal


class AppendLast(Append):
    """Store the last checkpoint of a pass, if the inbox has no signal with a larger id than `newest`, and set aside what is left."""

    def __init__(self, checkpoint: Checkpoint, newest: int) -> None:
        super().__init__(checkpoint)
        self.newest = newest


class AppendChild(Append):
    """Store the first checkpoint of a child run, unless its parent is over or not stored."""

    def __init__(self, checkpoint: Checkpoint, parent: str) -> None:
        super().__init__(checkpoint)
        self.parent = parent


class Send(Job):
    """Store a signal for a run, if `seq` is None or the run's newest checkpoint. `is_new`: whether the run had not received it."""

    is_new = False

    def __init__(self, run_id: str, signal: NewSignal, seq: int | None) -> None:
        super().__init__(run_id)
        self.signal = signal
        self.seq = seq


class SetAside(Job):
    """Keep a signal out of the inbox of its run."""

    def __init__(self, signal: StoredSignal, problem: str) -> None:
        super().__init__(signal.run_id)
        self.signal = signal
        self.problem = problem


InboxJob = AppendTaking | AppendLast | AppendChild | Send | SetAside
"""A job about the inbox of a run, or about the parent of one: something is checked before its checkpoint is stored, or changed after it."""


class Acquire(Job):
    """Become the owner of a stored run.

    The job sets `epoch` to the new epoch, 0 if the run is not stored. `force`: also if its owner is alive.
    """

    def __init__(self, run_id: str, *, force: bool = False) -> None:
        super().__init__(run_id)
        self.force = force
        self.epoch = 0


class Release(Job):
    """Release a run."""

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


class Park(Release):
    """Release a run that only waits, and store when it is due: at once, if the inbox has a signal with a larger id than `newest`."""

    def __init__(self, run_id: str, epoch: int, wake_at: float, newest: int) -> None:
        super().__init__(run_id, epoch)
        self.wake_at = wake_at
        self.newest = newest


class Delete(Job):
    """Delete a run that has no living owner. `is_done`: whether the run existed."""

    is_done = False


class Confirm(Job):
    """Renew this owner's lease, and check whether it still owns a run under this epoch.

    `is_ours`: whether it does. `stretch`: the stretch of the lease in which that was true (`lease.Lease`).
    """

    is_ours = False
    stretch: object = None

    def __init__(self, run_id: str, epoch: int) -> None:
        super().__init__(run_id)
        self.epoch = epoch


Owning = Acquire | Release | Delete | Confirm
"""A job about the owner of one run."""


class Ended(NamedTuple):
    """A run that has ended, as it was listed."""

    id: int
    """Its position in the catalog."""
    head: int
    head_digest: bytes


class Prune(Job):
    """Delete those of the `listed` runs that ended more than `older_than` seconds ago, are unchanged, and have no living owner.

    The `keep_last` newest ended runs of each flow are kept; `kept` remembers them for the next batch. The job sets `gone` to the
    number of deleted runs, and `looked_at` to the number of listed runs that it has checked.
    """

    def __init__(
        self,
        listed: Sequence[Ended],
        older_than: float,
        keep_last: int,
        kept: dict[tuple[str, str], list[int]],
    ) -> None:
        super().__init__(" prune")  # not a run id: those do not begin with a space
        self.listed = listed
        self.older_than = older_than
        self.keep_last = keep_last
        self.kept = kept
        self.gone = self.looked_at = 0


class Compact(Job):
    """Delete a batch of the checkpoints of a run's earlier passes.

    The job sets `gone` to their number, `is_known` to whether the run is stored, and `is_done` to whether none are left.
    """

    gone = 0
    is_known = is_done = False


class Renew(Job):
    """Renew this owner's lease. Other jobs also do so when the lease is due."""

    def __init__(self) -> None:
        super().__init__("")
