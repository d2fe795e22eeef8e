"""The outcome of a job after its commit failed: derived from the stored head, and reported as an error."""

from __future__ import annotations

from ...errors import StorageWriteError
from .jobs import Acquire, Append, Compact, Delete, Job, Prune, Release
from .run_head import Head

__all__ = ["not_written", "shows"]


def shows(head: Head | None, job: Job, owner: str) -> bool:
    """Whether a run's head (None: it has none) proves that a job of this owner is done. Not used for an `Append`."""
    if isinstance(job, Acquire):
        return head is None or (head.owner, head.epoch) == (owner, job.epoch)
    if isinstance(job, Delete):
        return head is None
    return isinstance(job, Release) and (head is None or head.owner != owner)


def not_written(error: Exception, job: Job, outcome: str, *, where: object, cure: str) -> StorageWriteError:
    """Return the error for a job with outcome "not saved" or "unknown"."""
    if isinstance(job, Prune):
        failure = StorageWriteError(
            f"writing {where} failed ({error}): a batch of the runs to be pruned may still be stored. Prune again {cure}",
            outcome=outcome,
        )
        failure.__cause__ = error
        return failure
    if isinstance(job, Compact):
        failure = StorageWriteError(
            f"writing {where} failed ({error}): a batch of the checkpoints to be deleted may still be stored. Compact again {cure}",
            outcome=outcome,
            run_id=job.run_id,
        )
        failure.__cause__ = error
        return failure
    seq = job.checkpoint.seq if isinstance(job, Append) else None
    what = f"run {job.run_id}" if seq is None else f"checkpoint {seq} of run {job.run_id}"
    is_known = outcome == "not saved"
    fate = "was not saved" if is_known else "may or may not have been saved; a resume finds out"
    failure = StorageWriteError(
        f"writing {where} failed ({error}): {what} {fate}. No further method was started; resume the run {cure}",
        outcome=outcome,
        run_id=job.run_id,
        seq=seq,
    )
    failure.__cause__ = error
    return failure
