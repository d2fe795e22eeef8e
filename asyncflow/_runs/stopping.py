"""Stop the run of one flow instance: cancel it permanently, or let it stop so that it can be resumed."""

from __future__ import annotations

from contextlib import AbstractContextManager

import anyio

from .._runtime.engine import Engine
from .._runtime.scope import current_scope
from .._waiting import protect_from_interrupts
from ..persistence.outcome import Cancelled, Failed
from ..persistence.protocol import session
from . import call_errors as refusals
from .cancelling import cancel_children, cancel_stored
from .logged import log_end
from .ownership import Claim, owned
from .passes import commit_end
from .snapshot import RunSnapshot

__all__ = ["StoppableRun"]


class StoppableRun(RunSnapshot):
    """The run of one `Flow` object, which can be stopped."""

    async def cancel(self) -> None:
        """End the run permanently and durably. A finished run stays finished: an ending is final.

        Inside one of the run's own methods it returns at once, and the method is cancelled.
        """
        while self.is_busy and self._engine is None and self._woken is None:  # noqa: ASYNC110 - it is about to start or to end
            await anyio.sleep(0.001)
        if self._engine is not None:
            await self._cancel_running(self._engine)
            return
        persistence = self.storage("cancel")
        if (woken := self._woken) is not None:  # its kickoff waits here while it is parked
            await cancel_stored(persistence, self._run_id, self.setup.audience)
            woken.set()
            return
        with self.driving():
            self._run_id = self.run_id  # that of a given state
            async with session(persistence), owned(persistence, self._run_id, is_new=False) as claim:
                await self._record_end(claim, Cancelled())
                if claim.is_over:
                    log_end(self, "cancelled")
                await cancel_children(persistence, self._run_id, self.setup.audience)
                self.show(await self.found(self._run_id))

    def wind_down(self) -> None:
        """Stop the run at its next checkpoints, if it is running. It can be resumed."""
        if self._engine is not None:
            self._engine.wind_down(refusals.interrupted(self._run_id))

    def stop(self) -> None:
        """Stop the run at once, if it is running: cancel the running methods. It can be resumed."""
        if self._engine is not None:
            self._engine.stop(refusals.interrupted(self._run_id))

    @property
    def epoch(self) -> int:
        """The fencing epoch under which this owner drives the run; 0 if there is none."""
        recorder = None if self._engine is None else self._engine.recorder
        return 0 if recorder is None else recorder.chain.epoch

    def fence(self) -> None:
        """Stop the run at once, if it is running: another owner has it, and resumes it or has ended it."""
        if self._engine is not None:
            self._engine.stop(refusals.fenced(self._run_id))

    async def _cancel_running(self, engine: Engine) -> None:
        ended = self._ended = self._ended or anyio.Event()
        self._cancel_error = None
        engine.cancel(refusals.cancelled(self._run_id))
        if current_scope(self.flow) is None:
            await ended.wait()
            if self._cancel_error is not None:
                raise self._cancel_error

    async def _record_end(self, claim: Claim, end: Cancelled | Failed) -> None:
        """Store a cancellation, or that the time limit passed, after the newest checkpoint, which may have been the last method's end."""
        if self.setup.persistence is None:
            return
        stored, is_cancelled = await self.found(self._run_id), isinstance(end, Cancelled)
        if stored.checkpoint.status == "running" or (is_cancelled and stored.checkpoint.status == "failed"):
            await commit_end(self.setup, stored, claim, end)
            claim.is_over = is_cancelled

    def driving(self) -> AbstractContextManager[None]:
        """Return a context manager under which no other call drives this instance. Entering it raises `FlowBusyError` if one does."""
        return _Driving(self)


class _Driving:
    """Marks an instance as driven. Like `_Owned`, with slots and no generator: it lives as long as its run, and there can be thousands."""

    __slots__ = ("_instance",)

    def __init__(self, instance: StoppableRun) -> None:
        self._instance = instance

    def __enter__(self) -> None:
        instance = self._instance
        protect_from_interrupts()
        if instance.is_busy:
            raise refusals.busy(instance._class, instance._run_id)
        instance.is_busy = True

    def __exit__(self, *error: object) -> None:
        instance = self._instance
        instance.is_busy = False
        audience = None if instance._setup is None else instance._setup.audience
        if audience is not None:
            if instance.reported:
                audience.leave(instance.reported)
                instance.reported = ""
            if audience.is_of_one:
                audience.end()
