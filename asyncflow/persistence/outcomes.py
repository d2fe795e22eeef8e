"""What became of a job whose commit has failed: told from what is stored, and told to whoever waits."""

from __future__ import annotations

from ..errors import StorageWriteError
from .head import Head
from .jobs import Acquire, Append, Delete, Job, Prune, Release

__all__ = ["not_written", "shows"]


def shows(head: Head | None, job: Job, owner: str) -> bool:
    """Whether a run's head, or that it has none, shows that a job of this owner's is done. Not asked of an `Append`."""
    if isinstance(job, Acquire):
        return head is None or (head.owner, head.epoch) == (owner, job.epoch)
    if isinstance(job, Delete):
        return head is None
    return isinstance(job, Release) and (head is None or head.owner != owner)


def not_written(error: Exception, job: Job, outcome: str, *, where: object, cure: str) -> StorageWriteError:
    """The error for a job that was "not saved", or of which the outcome is "unknown"."""
    if isinstance(job, Prune):
        told = StorageWriteError(
            f"writing {where} failed ({error}): a batch of the runs that were to be forgotten may still be there. Prune again {cure}",
            outcome=outcome,
        )
        told.__cause__ = error
        return told
    seq = job.checkpoint.seq if isinstance(job, Append) else None
    what = f"run {job.run_id}" if seq is None else f"checkpoint {seq} of run {job.run_id}"
    is_known = outcome == "not saved"
    fate = "was not saved" if is_known else "may or may not have been saved; that is found out on resuming"
    told = StorageWriteError(
        f"writing {where} failed ({error}): {what} {fate}. Nothing more was started; resume the run {cure}",
        outcome=outcome,
        run_id=job.run_id,
        seq=seq,
    )
    told.__cause__ = error
    return told
