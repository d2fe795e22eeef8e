"""Commit the checkpoints of one run, in the order in which its chain makes them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from time import perf_counter

import anyio

from .._waiting import to_its_end
from ..errors import RunFencedError, StaleCheckpoint, StorageWriteError
from ..persistence.checkpoint import Checkpoint
from ..persistence.checks import to_be_awaited
from ..persistence.fence import Fence
from ..persistence.protocol import CheckpointLog, FlowPersistence, offers
from .audience import Audience
from .chain import Chain

__all__ = ["Recorder"]

logger = logging.getLogger("asyncflow")


class Recorder:
    """Commits the checkpoints of a run, and knows whether this process may still start its methods."""

    def __init__(
        self,
        persistence: FlowPersistence,
        chain: Chain,
        *,
        observe: Callable[[Checkpoint], object] | None = None,
        fence: Fence | None = None,
        stretch: object = None,
    ) -> None:
        self.persistence = persistence
        self.chain = chain
        self._append = persistence.append if offers(persistence, CheckpointLog) else None
        self._observe = observe
        self.audience: Audience | None = None
        self.fence = fence
        self.stretch = stretch
        """The period of the owner's lease (see `Fence.stretch`) in which the run was last known to be this owner's."""
        self.refusal: Exception | None = None
        """The error because of which nothing more may start."""
        self._newest: anyio.Event | None = None
        """Set once the attempt to save the newest checkpoint has ended."""
        self._saved = chain.digest

    async def commit(
        self, checkpoint: Checkpoint, store: Callable[[Checkpoint], Awaitable[None]] | None = None
    ) -> None:
        """Commit a prepared checkpoint. Call it in the order of `prepare`, with no await in between.

        `store`: stores it in another way than `append`.

        Raises `RunFencedError` if another owner has taken the run over, and what the backend raises.
        """
        store, audience = store or self._append, self.audience
        began = perf_counter() if audience is not None and audience.is_measuring else 0.0
        try:
            if store is not None:
                await store(checkpoint)
            else:
                await self._save(checkpoint)
        except StaleCheckpoint as stale:
            raise RunFencedError(
                f"run {checkpoint.run_id} was fenced: another owner has taken it over. Checkpoint {checkpoint.seq} was not saved, and "
                "nothing more is started here. The other owner resumes the run",
                run_id=checkpoint.run_id,
                seq=checkpoint.seq,
            ) from stale
        if self._observe is not None:
            self._notify(checkpoint)
        if audience is not None:
            if began:
                taken = perf_counter() - began
                about = checkpoint.run_id, checkpoint.flow, taken
                audience.measured(lambda observer: observer.on_commit(*about), checkpoint.run_id)
            audience.emit_stored(checkpoint)

    def _notify(self, checkpoint: Checkpoint) -> None:
        """Notify the observer of a stored checkpoint. An observer that raises is not notified again, and cannot harm the run."""
        assert self._observe is not None, "called only if there is an observer"
        try:
            self._observe(checkpoint)
        except Exception:  # a user's observer may raise anything
            self._observe = None
            logger.exception(
                "observer disabled: it raised at a checkpoint of run %s, and is not called again",
                checkpoint.run_id,
                extra={"run_id": checkpoint.run_id, "flow": checkpoint.flow, "seq": checkpoint.seq},
            )

    async def _save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint after the one before: a backend with only `save` and `load` gets one call at a time."""
        before, self._newest = self._newest, anyio.Event()
        saved = self._save_after(before, self._newest, checkpoint)
        # The method of a step may continue after a cancellation, so that is stored.
        await (to_its_end(lambda: saved) if checkpoint.kind == "step" else saved)

    async def _save_after(self, before: anyio.Event | None, ended: anyio.Event, checkpoint: Checkpoint) -> None:
        """Save a checkpoint once the attempt to save the one before has ended."""

        try:
            if before is not None:
                await before.wait()
            if self._saved != checkpoint.previous:
                raise StorageWriteError(
                    f"checkpoint {checkpoint.seq} of run {checkpoint.run_id} was not saved, because the one before it was not. The "
                    "run can be resumed",
                    outcome="not saved",
                    run_id=checkpoint.run_id,
                    seq=checkpoint.seq,
                )
            await to_its_end(lambda: self._save_now(checkpoint))
        finally:
            ended.set()

    async def _save_now(self, checkpoint: Checkpoint) -> None:
        await to_be_awaited(self.persistence.save(checkpoint), self.persistence, "save")
        self._saved = checkpoint.digest
