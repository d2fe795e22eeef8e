"""Whether a run is free, and for which owner. The rules of every database: pure, without I/O and without a clock.

They decide from three facts: the head of the run, what this process knows of the run's owner, and the rest of that owner's lease.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Literal, NamedTuple

from ...errors import RunLockedError
from .jobs import Acquire, Confirm, Delete, Owning, Release
from .run_head import Head

__all__ = ["Change", "Liveness", "Verdict", "effect_of", "is_driving", "locked", "to_acquire", "to_delete"]


class Liveness(Enum):
    """What this process knows of an owner, apart from its lease."""

    HERE = auto()
    """It belongs to this process, which knows for itself which runs it drives."""
    ALIAS = auto()
    """It belongs to this process, under another name of the same place: only its lease keeps the two apart."""
    ALIVE = auto()
    """It is proven to be alive, such as by a lock that it holds."""
    DEAD = auto()
    """It is proven to be dead."""
    UNPROVEN = auto()
    """Only its lease indicates whether it is alive. It may have died since the last renewal."""


class Verdict(Enum):
    """Whether a run is free."""

    FREE = auto()
    """It has no owner, or one of this process."""
    TAKEOVER = auto()
    """Its owner is dead, or let its lease expire."""
    LOCKED = auto()
    """Its owner is alive."""


def is_driving(owner: Liveness, left: float | None) -> bool:
    """Whether an owner still owns its runs: it is not proven to be dead, and its lease has not expired.

    `left`: the remaining seconds of the lease. None: the owner has not stored one yet. An owner that deletes its lease when it leaves
    has 0 afterwards.
    """
    return owner is not Liveness.DEAD and (left is None or left > 0)


def to_acquire(owner: Liveness | None, left: float | None) -> Verdict:
    """Whether a run is free for this process to drive. `owner`: None if the run has none."""
    if owner in (None, Liveness.HERE):
        return Verdict.FREE
    if is_driving(owner, left):
        return Verdict.LOCKED
    return Verdict.FREE if owner is Liveness.ALIAS else Verdict.TAKEOVER


def to_delete(owner: Liveness | None, left: float | None) -> Verdict:
    """Whether a run is free to be deleted: also an owner of this process must have released it."""
    return Verdict.FREE if owner is None or not is_driving(owner, left) else Verdict.LOCKED


class Change(NamedTuple):
    """The effect of a job on a run."""

    head: Head | None
    """The run's new head; None if the run is to be deleted."""
    takeovers: Literal["kept", "counted", "reset"] = "kept"
    """What becomes of the count of the run's takeovers."""


def effect_of(job: Owning, head: Head, me: str, liveness: Callable[[str], Liveness], left: float | None) -> Change:
    """Return the effect of a job of the owner `me` on a stored run, and set the job's result. Raises `RunLockedError`.

    `liveness`: what is known of another owner; asked only where it matters. `left`: the remaining seconds of the lease of the run's owner.
    """
    is_mine = head.owner == me
    match job:
        case Acquire():
            verdict = Verdict.FREE if job.force else _free(to_acquire, job, head, liveness, left)
            job.epoch = head.epoch + 1
            counted: Literal["counted", "kept"] = "counted" if verdict is Verdict.TAKEOVER else "kept"
            return Change(head._replace(owner=me, epoch=job.epoch), counted)
        case Delete():
            _free(to_delete, job, head, liveness, left)
            job.is_done = True
            return Change(None)
        case Confirm():
            job.is_ours = is_mine and head.epoch == job.epoch
            return Change(head, "reset" if job.is_ours else "kept")
        case Release() if is_mine and head.epoch == job.epoch:
            return Change(head._replace(owner=None), "reset")
    return Change(head)


def _free(
    rule: Callable[[Liveness | None, float | None], Verdict],
    job: Acquire | Delete,
    head: Head,
    liveness: Callable[[str], Liveness],
    left: float | None,
) -> Verdict:
    """Return the verdict of a rule. Raises `RunLockedError` if the run is not free."""
    if head.owner is None:
        return rule(None, left)
    owner = liveness(head.owner)
    verdict = rule(owner, left)
    if verdict is Verdict.LOCKED:
        raise locked(job.run_id, head.owner, owner, left)
    return verdict


def locked(run_id: str, owner: str, liveness: Liveness, left: float | None) -> RunLockedError:
    """Return the error for a run with a living owner."""
    process = "this" if liveness in (Liveness.HERE, Liveness.ALIAS) else "another"
    until = "" if left is None else f" Unless it is renewed, its lease expires in {left:.1f} seconds."
    lives = (
        "which may have died since: that is certain once its lease has expired. Wait until then, and try again."
        if liveness is Liveness.UNPROVEN
        else "which is alive; wait for the run, or try again when it has ended."
    )
    return RunLockedError(
        f"run {run_id} is owned by {process} process (owner {owner}), {lives}{until}",
        run_id=run_id,
        owner=owner,
        seconds=left,
    )
