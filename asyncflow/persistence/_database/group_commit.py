"""Group commit: jobs that arrive while a commit is running are committed together in the next one.

Each waiter returns after its own commit and not before. No waiter owns the transaction.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import anyio

from ..._waiting import interruptions, outlast
from ...errors import CheckpointWithdrawnError, StorageWriteError
from .commit_logs import log_commit
from .jobs import Append, Job
from .loop_host import LoopHost, WorkCancelledError

__all__ = ["GroupCommit"]

BATCH: Final = 512
"""The maximum of jobs in one transaction: larger batches gain nothing and delay all waiters."""

BATCH_BYTES: Final = 8 * 1024 * 1024
TURN: Final = 0.0003
"""Seconds for which waiters that are woken together may occupy the event loop: each continues with its next method, some 50 us."""

MOST: Final = 64
"""The maximum of waiters woken together."""


class GroupCommit:
    """The queue in front of one writer. `write` commits a batch on the loop host, and sets the `error` of each failed job."""

    def __init__(self, home: LoopHost, write: Callable[[Sequence[Job]], Coroutine[Any, Any, None]]) -> None:
        self._home = home
        self._write = write
        self._queue: deque[Job] = deque()
        self._busy = False
        self._batch: list[Job] | None = None
        """The jobs that are being committed."""
        self._idle = anyio.Event()
        self._idle.set()
        self._portion = 1.0

    async def submit(self, job: Job) -> None:
        """Queue a job immediately, and wait until it is committed.

        Raises the error of the job. If the caller is cancelled while the job is queued, the job is withdrawn; after that, the
        caller waits for the commit. A value that a method has stored is not withdrawn: the method may continue after a cancellation.
        """
        waiter = job.waiter = self._home.waiter()
        self._queue.append(job)
        if not self._busy:
            self._begin()
        try:
            await waiter
        except interruptions():
            if job.is_settled:
                pass  # settled just now, by its commit or by the withdrawal of an earlier job
            elif not job.is_dequeued and not (isinstance(job, Append) and job.checkpoint.kind == "step"):
                self._withdraw(job)
            else:
                job.late = anyio.Event()
                await outlast(job.late)
            raise
        if job.error is not None:
            raise job.error

    def put(self, job: Job) -> None:
        """Queue a job without waiting for it."""
        self._queue.append(job)
        if not self._busy:
            self._begin()

    async def drained(self) -> None:
        """Wait until no job is queued or being committed."""
        await outlast(self._idle)

    def _withdraw(self, job: Job) -> None:
        """Remove a job from the queue. If it is a checkpoint, also remove all later jobs of its run, which depend on it."""
        later = list(self._queue)[self._queue.index(job) :] if isinstance(job, Append) else [job]
        for other in later:
            if other.run_id == job.run_id:
                self._queue.remove(other)
                other.error = CheckpointWithdrawnError(
                    f"a checkpoint of run {other.run_id} was not saved, because a cancellation withdrew the one before "
                    "it; the run can be resumed",
                    outcome="not saved",
                    run_id=other.run_id,
                )
                self._settle((other,))

    def _settle(self, jobs: Iterable[Job]) -> None:
        """Mark jobs as settled, because their outcome is known, and wake their waiters."""
        wake = self._home.wake
        for job in jobs:
            job.is_settled = True
            if job.waiter is not None:
                wake(job.waiter)
            if job.late is not None:
                job.late.set()

    def _begin(self) -> None:
        """Start the next commit with the queued jobs."""
        batch: list[Job] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            job = self._queue.popleft()
            job.is_dequeued = True
            size += job.size
            batch.append(job)
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._busy, self._batch = True, batch
        began = time.perf_counter()
        self._home.spawn(lambda: self._write(batch), lambda error: self._ended(batch, error, began, size))

    def _ended(self, batch: list[Job], error: BaseException | None, began: float, size: int) -> None:
        if error is not None:
            for job in batch:
                job.error = job.error or _cut_off(job, error)
        log_commit(time.perf_counter() - began, batch, size)
        self._wake(batch, 0)

    def _wake(self, batch: list[Job], start: int) -> None:
        """Wake a portion of the waiters, and the next one after those have run. The portion adapts to the load of the event loop."""
        end = start + max(1, int(self._portion))
        try:
            self._settle(batch[start:end])
        except KeyboardInterrupt:
            # asyncio raises a second Ctrl-C in whatever runs, and then runs on, to cancel what is left.
            self._home.soon(lambda: self._wake(batch, start))
            raise
        began = time.perf_counter()

        def after() -> None:
            self._portion *= min(2.0, TURN / max(time.perf_counter() - began, 1e-6))
            self._portion = min(max(self._portion, 1.0), MOST)
            self._wake(batch, end)

        self._home.soon(after if end < len(batch) else lambda: self._commit_after(batch))

    def _commit_after(self, batch: list[Job]) -> None:
        """Start the next commit after all woken waiters have run, so that their next checkpoints are committed together."""
        if self._batch is not batch:
            return  # reported twice, because Ctrl-C interrupted the first time
        self._batch = None
        if self._queue:
            self._begin()
        else:
            self._busy = False
            self._idle.set()


def _cut_off(job: Job, cause: BaseException) -> StorageWriteError:
    why = "the event loop ended" if isinstance(cause, WorkCancelledError) else f"{type(cause).__name__} was raised"
    error = StorageWriteError(
        f"{why} during a commit of run {job.run_id}; the checkpoint may or may not have been saved; resume the run to find out",
        run_id=job.run_id,
    )
    error.__cause__ = cause
    return error
