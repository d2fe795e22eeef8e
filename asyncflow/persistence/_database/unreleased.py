"""Runs that this owner could not release: the release is retried."""

from __future__ import annotations

from .group_commit import GroupCommit
from .jobs import Release

__all__ = ["Unreleased"]


class Unreleased:
    """Runs whose release failed. The release is retried at each renewal of the lease, because other processes may wait for these runs."""

    def __init__(self, commits: GroupCommit) -> None:
        self._commits = commits
        self._jobs: list[Release] = []

    def add(self, run_id: str, epoch: int) -> None:
        """Remember a failed release. If another owner has taken the run over since, it keeps the run."""
        self._jobs.append(Release(run_id, epoch))

    def forget(self, run_id: str) -> None:
        """Forget the failed release of a run, because the run is started again or resumed and must not be released."""
        self._jobs = [job for job in self._jobs if job.run_id != run_id]

    def try_again(self) -> None:
        """Queue the failed releases again. Runs on the event loop of the backend's users."""
        left = [job for job in self._jobs if not job.is_settled or job.error is not None]
        self._jobs = [job if job.is_dequeued and not job.is_settled else self._queued(job) for job in left]

    def _queued(self, job: Release) -> Release:
        again = Release(job.run_id, job.epoch)
        self._commits.put(again)
        return again
