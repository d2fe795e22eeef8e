"""Drive the passes of one run: commit the first checkpoint, drive the engine to its end, and show what it left of the run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any, cast

import anyio

from .._runtime.audience import Audience
from .._runtime.engine import Engine
from .._runtime.failures import run_timed_out
from .._runtime.halting import HaltedError
from .._runtime.outputs import Outputs
from .._runtime.parking import Parked
from .._runtime.state_version import detached_copy
from .._runtime.unstored import UNSTORED
from .._scheduling.messages import Command
from .._waiting import to_its_end
from ..errors import RunCancelledError, RunTimeoutError
from ..events import Event, RunCancelled, RunFailed, RunInterrupted, RunWaiting
from ..persistence.outcome import Cancelled
from ..persistence.status import is_over
from . import call_errors as refusals
from .cancelling import cancel_children
from .inputs import inputs_bytes
from .loading import Stored
from .logged import log_begin, log_end
from .matching import by_field
from .ownership import Claim, catalog_entry
from .parked import Stopped, Waiting, waiting_of
from .passes import begin, commit_end, commit_resumed, commit_start, next_pass, resume_pass, status_after
from .stopping import StoppableRun

__all__ = ["DrivenRun", "Prepared"]

logger = logging.getLogger("asyncflow")

Prepared = tuple[Engine, tuple[Command, ...]]
"""A pass to drive, and its first commands."""


class DrivenRun(StoppableRun):
    """The run of one `Flow` object, which this object drives. Which pass that is, its callers decide."""

    async def _resume_pass(self, stored: Stored, claim: Claim, deadline: float | None = None) -> Prepared:
        """Commit a resume. Continue with this instance's own state, copied, if it equals the stored one: it may have values not stored."""
        if stored.progress.parent is not None and self.setup.parent is None:
            await self._check_parent(stored, claim)
        state = self.state_to_continue(stored)
        mine = stored if state is stored.state else replace(stored, state=detached_copy(state))
        self.reported = stored.checkpoint.run_id
        engine, commands, checkpoint = resume_pass(self.setup, self.flow, mine, claim, deadline)
        self._switch_to(stored.checkpoint.run_id)
        await self._committed(commit_resumed(engine, checkpoint), stored)
        if logger.isEnabledFor(logging.INFO):
            log_begin(self, engine.pass_number, is_resumed=True)
        return engine, commands

    async def _start_pass(
        self, run_id: str, claim: Claim, held: list[Any], given: dict[str, Any], *, after: Stored | None = None
    ) -> Prepared:
        """Start a new pass over the state, the only item of `held` (see `begin`), and commit its first checkpoint if the run is stored."""
        setup = self.setup
        is_stored, before = setup.persistence is not None, 0 if after is None else after.checkpoint.pass_number
        if not is_stored and run_id == self._run_id:
            before = self._pass_number
        inputs = inputs_bytes(by_field(self.state_type, given)) if is_stored else None
        parent = setup.parent if after is None else after.progress.parent
        origin = self._origin if after is None else after.progress.origin
        self.reported = run_id
        engine, commands, checkpoint = await begin(
            *(setup, self.flow, run_id, held),
            claim=claim,
            after=None if after is None else after.checkpoint,
            pass_number=1 + before,
            inputs=inputs,
            parent=parent,
            origin=origin,
            trace="" if after is None else after.progress.trace,
        )
        self._switch_to(run_id)
        self._may_be_stored, claim.epoch = is_stored, claim.epoch or 1
        first_of = parent[0] if parent is not None and after is None else ""
        await self._committed(commit_start(engine, checkpoint, first_of))
        if logger.isEnabledFor(logging.INFO):
            log_begin(self, engine.pass_number)
        return engine, commands

    async def _committed(self, commit: Awaitable[None], stored: Stored | None = None) -> None:
        """Commit a first checkpoint. If that is cancelled, show what is stored: the checkpoint may or may not have been committed."""
        try:
            await commit
        except Exception:  # a backend may raise anything
            if stored is not None:
                self.show(stored)
            raise
        except anyio.get_cancelled_exc_class():
            with contextlib.suppress(Exception):  # a backend may raise anything
                await to_its_end(self._reload)
            raise

    async def _drive(self, engine: Engine, commands: tuple[Command, ...], claim: Claim) -> Any:
        """Drive a pass, and those that follow it, until the run has ended, waits or is stopped. Return what the call returns."""
        self._engine, self._ended, self.status, self.error = engine, None, "running", None
        self.outputs = engine.outputs
        ended: RunCancelledError | RunTimeoutError | None
        try:
            if self.on_started is not None:
                await self.on_started()
            if self._halt is not None:
                engine.halt(self._halt)
            result = await engine.drive(commands)
            while engine.continues:
                engine, commands = await next_pass(self.setup, self.flow, before := engine)
                await self._continue_with(engine, before)
                result = await engine.drive(commands)
            if engine.parked is None:
                self.result = result
                return result
            claim.parked = engine.parked
            return self._waiting(engine, engine.parked)
        except HaltedError:
            ended = None
        except (RunCancelledError, RunTimeoutError) as error:
            if not (engine.is_cancelled or engine.is_timed_out) or error is not engine.stopped:
                raise  # a method raised it, about another run
            ended = error
        finally:
            try:
                await self._sync_after_run(engine, claim)
                self._report_end(engine)
                if self.open_children and cast(str, self.status) == "finished" and engine.recorder is not None:
                    await to_its_end(self._end_children)
            finally:
                self._engine = None
                UNSTORED.close(self._run_id)
                claim.is_over = claim.is_over or self.status in ("finished", "cancelled")
                if self._ended is not None:
                    self._ended.set()
        return self._outcome_of_stop(ended)

    async def _continue_with(self, engine: Engine, before: Engine) -> None:
        """Drive the next pass from now on, and stop it where the one before it was to stop."""
        engine.stop_as(before)
        if self.is_asked_to_finish:
            await engine.finish()
        self._engine, self.outputs = engine, engine.outputs
        if self._halt is not None:
            engine.halt(self._halt)

    def _outcome_of_stop(self, ended: RunCancelledError | RunTimeoutError | None) -> Any:
        """Return what a call returns whose run was stopped. `ended`: what ended the run, which is raised; None: it halts."""
        if ended is None and self._halt is not None:
            return Stopped(run_id=self._run_id, after=self._halt.last, pending=self._pending)
        if ended is not None and self.status != "finished":
            raise ended
        return self.result  # its last checkpoint was being committed when it was ended: it had finished

    def _waiting(self, engine: Engine, parked: Parked) -> Waiting:
        """Return what a run that is parked waits for."""
        definition, progress = self.setup.settings.definition, engine.journal.progress
        return waiting_of(definition, engine.run_id, progress, parked.wake_at, self.setup.clock())

    def _report_end(self, engine: Engine) -> None:
        """Log how the run ended here, and report it to observers."""
        if logger.isEnabledFor(logging.INFO) or engine.stopped is not None:
            log_end(self, self.status, engine.stopped)
        if self.setup.audience is not None:
            self._emit_end(engine, self.setup.audience)

    def _emit_end(self, engine: Engine, audience: Audience) -> None:
        """Emit an event of how the run ended here, where no checkpoint says it."""
        event: tuple[type[Event], dict[str, Any]] | None = None
        if engine.parked is not None and self.status == "waiting":
            waiting = self._waiting(engine, engine.parked)
            event = RunWaiting, {"waits_for": waiting.waits_for, "due": waiting.due_at}
        elif self.status == "interrupted" and engine.stopped is not None:
            event = RunInterrupted, {"reason": type(engine.stopped).__name__}
        elif engine.recorder is None and engine.stopped is not None and self.status in ("cancelled", "failed"):
            event = (RunCancelled if self.status == "cancelled" else RunFailed), {}
        if event is not None:
            audience.emit_live(event[0], engine.run_id, self.flow_name, self.setup.clock(), **event[1])

    async def _sync_after_run(self, engine: Engine, claim: Claim) -> None:
        """Update what this instance shows of the run. If the run was stopped, load it: a commit may have been in progress."""
        # If only some methods have a checkpoint, an unfinished run goes back to the state of the last one.
        goes_back = self.setup.whole and engine.recorder is not None and not engine.is_finished
        self._state = engine.versions.saved.state if goes_back else engine.versions.committed.state
        self._digest = None if engine.recorder is None else engine.recorder.chain.digest
        self._pass_number = engine.pass_number
        self._pending, self._progress = engine.pending, engine.journal.progress
        self.status = status_after(engine)
        if engine.recorder is None or not (engine.stopped is not None or engine.is_cut_short or goes_back):
            return
        if engine.is_cancelled:
            await to_its_end(lambda: self._cancelled_durably(claim))
        elif isinstance(late := engine.stopped, RunTimeoutError):
            await to_its_end(lambda: self._record_end(claim, run_timed_out(late, engine.pass_number)))
        if self.is_read or engine.is_cancelled or engine.is_timed_out:
            with contextlib.suppress(Exception):  # a backend may raise anything; report what ended the run
                await to_its_end(self._reload)

    async def _cancelled_durably(self, claim: Claim) -> None:
        """Record that the run was cancelled. If that fails, report the error to the caller of `cancel()`."""
        try:
            await self._record_end(claim, Cancelled())
            await cancel_children(self.storage("cancel"), self._run_id, self.setup.audience)
        except Exception as error:  # a backend may raise anything; no caller may believe that the run is cancelled
            self._cancel_error = error
            raise

    async def _end_children(self) -> None:
        """Cancel the children that have not ended, because the run has finished. If that fails, a runner does it later."""
        self.open_children.clear()
        try:
            await cancel_children(self.storage("run_child"), self._run_id, self.setup.audience)
        except Exception as error:  # a backend may raise anything; the run has finished all the same
            logger.warning(
                "children not cancelled: those of %s, which has finished; a runner does that within a minute: %s",
                self._run_id,
                error,
                extra={"run_id": self._run_id, "flow": self.flow_name},
            )

    async def _check_parent(self, stored: Stored, claim: Claim) -> None:
        """Cancel a child that no method waits for any more, because its parent is over or deleted. Raises `RunCancelledError`."""
        assert stored.progress.parent is not None, "called only for a child"
        persistence, run_id = self.storage("resume"), stored.checkpoint.run_id
        entry = await catalog_entry(persistence, stored.progress.parent[0])
        if entry is None or is_over(entry.status):
            await commit_end(self.setup, stored, claim, Cancelled())
            claim.is_over = True
            await cancel_children(persistence, run_id, self.setup.audience)
            raise refusals.cancelled(run_id)

    async def _reload(self) -> None:
        outputs = self.outputs
        self.show(await self.found(self._run_id))
        self.outputs = Outputs(outputs | self.outputs)
