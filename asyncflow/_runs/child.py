"""A child run, in `run_child`: begun once, attached to again, and driven by the method of its parent that waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from pydantic_core import from_json, to_json

from .._codec.digests import digest_of
from .._codec.errors import Refused
from .._pace import Pace
from .._run_ids import child_id
from .._runtime.engine import Engine
from .._runtime.failures import stored_failure
from .._runtime.scope import Scope
from .._runtime.state_version import detached_copy
from .._scheduling.messages import Command
from .._scheduling.progress import Progress
from ..errors import (
    CheckpointCorruptError,
    ChildCancelledError,
    ChildFailedError,
    LimitExceededError,
    MethodError,
    ParentEndedError,
    RunCancelledError,
    RunFencedError,
    RunInputsError,
    RunLockedError,
    RunTimeoutError,
    StepMismatchError,
    StorageError,
)
from ..persistence.checkpoint import Checkpoint
from ..persistence.outcome import Finished, decode_outcome
from ..persistence.protocol import FlowPersistence, session
from . import call_errors as refusals
from .inputs import inputs_match
from .instance import Instance
from .loading import Stored, load
from .matching import are_its_inputs, by_field
from .ownership import Claim, can_create, driven_as_child, driven_no_more, is_driven, owned, owned_by_creating
from .parked import Waiting

__all__ = ["DEEPEST", "ChildRun"]

DEEPEST: Final = 32
"""How many runs can be above a run, each a child of the one before."""

SOON, LATE = 0.05, 1.0
"""Seconds between two looks at a child that another owner drives: the first pause, and the longest."""

_OTHER_INPUTS: Final = "it was started with other inputs. Pass the same inputs whenever the method runs, or give each call a key of its own"


class ChildRun(Instance):
    """The run of one child. See `_runtime.children.Child`."""

    def __init__(self, flow: Any, parent: Instance, scope: Scope, inputs: Any) -> None:
        """`flow`: an object of the child's flow, which this takes over. `scope`: the invocation that runs the child."""
        own: Instance = flow._instance
        vars(self).update(vars(own))  # much less work than `super().__init__`, and `own` is not used any more
        flow._instance = self
        self.is_read = False
        self._inputs = self._given(inputs)
        if self.state_type.ids_taken(self._inputs):
            raise RunInputsError(
                f"{scope.method.name} passes an id to a child, whose id follows from its parent; pass key= instead. Nothing was started",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        self._scope = scope
        self._parent = parent
        self._parent_engine = engine = parent._engine
        self._known: Any = None
        self._of_inputs = ""
        self.memo: Any = None
        self._status = ""
        """How it has ended, if it has ended here."""
        self._error: BaseException | None = None
        """What the child failed with, or why it was refused."""
        self._seen = deque[Checkpoint](maxlen=1)
        """The newest checkpoint, as far as it is known here."""
        self._queue: anyio.CancelScope | None = None
        """Set while it waits for its turn."""
        self._is_elsewhere = False
        """Whether it is parked, or another owner drives it."""
        self._fails_again = False
        """Whether its failure was reported in this attempt of the method, by a process that has died since."""
        above = Progress() if engine is None else engine.journal.progress
        depth = 1 if above.parent is None else above.parent[1] + 1
        if depth > DEEPEST:
            raise LimitExceededError(
                f"{scope.method.name} runs a child of depth {depth}, and the maximum is {DEEPEST}; nothing was started. Check whether the "
                "flow runs itself",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        self._setup = parent.setup.for_child(own.setup, (scope.run_id, depth), above.deadline, self._seen.append)

    # ---- what its parent asks of it --------------------------------------------------------------------------------

    @property
    def known_id(self) -> str:
        return self._run_id

    @property
    def kind(self) -> str:
        return f"run_child {self.flow_name}"

    def known_as(self, name: str, memo: Any, *, is_of_this_call: bool) -> bool:
        self._run_id, self._known = child_id(self._scope.invocation_id, name), memo
        self._of_inputs = self._digest_of_inputs()
        if memo is None:
            return False
        status, _, attempt, before, _ = _read(memo)
        if before != self._of_inputs and before and self._of_inputs:
            raise self._mismatch(_OTHER_INPUTS)
        self._fails_again = attempt == self._scope.attempt and not is_of_this_call
        return status != "failed"

    async def drive(self, is_found: Callable[[], Awaitable[None]]) -> None:
        status, children = "finished", self._parent.open_children
        children.add(self._run_id)
        try:
            await self._reach_end(is_found)
        except RunCancelledError:
            status = "cancelled"
        except MethodError as error:
            status, self._error = "failed", error
            if isinstance(error, RunTimeoutError) and self._inherits_limit:
                await anyio.sleep_forever()  # until the limit of the parent passes, too
        except (StorageError, ParentEndedError) as error:
            self._error = error
            if not isinstance(error, CheckpointCorruptError):
                is_over = isinstance(
                    error, ParentEndedError
                )  # its parent was ended elsewhere, and is not known here yet
                self.stop_parent(refusals.fenced(self._scope.run_id) if is_over else error)
                await anyio.sleep_forever()
            return
        except Exception as error:  # the flow's own code may raise anything, such as a validator of its state
            self._error = error
            return
        if status != "failed":
            children.discard(self._run_id)
        self._status, newest = status, self._seen[0] if self._seen else None
        if newest is None:
            self.memo = status, 0, self._scope.attempt, self._of_inputs, detached_copy(self.result)
        else:
            known = status.encode(), newest.seq, self._scope.attempt, self._of_inputs.encode(), newest.outcome or b"{}"
            self.memo = b'["%s",%d,%d,"%s",%s]' % known

    @property
    def has_failed(self) -> bool:
        return self._status == "failed"

    def result_of(self, memo: Any) -> Any:
        if memo is None:
            assert self._error is not None, "else there is a memo"
            raise self._error
        if self._status == "finished":
            return self.result
        status, _, _, _, outcome = _read(memo)
        if status == "finished":
            return self._result_of(outcome)
        scope, name, run_id = self._scope, self.flow_name, self._run_id
        where: dict[str, Any] = {"run_id": scope.run_id, "method": scope.method.name, "child_id": run_id, "flow": name}
        if status == "cancelled":
            raise ChildCancelledError(
                f"the child run {run_id} of {name}, which {scope.method.name} waits for, was cancelled permanently",
                **where,
            )
        raise ChildFailedError(
            f"the child run {run_id} of {name}, which {scope.method.name} waits for, has failed. The next attempt of {scope.method.name}, "
            "or its resume, resumes it",
            **where,
        ) from self._error

    def stop_parent(self, error: BaseException) -> None:
        if self._parent_engine is not None:
            self._parent_engine.stop(error)

    def stop_soon(self) -> bool:
        self.wind_down()
        if self._queue is not None:
            self._queue.cancel()
        return self._queue is not None or self._engine is not None

    def only_waits_for(self, seconds: float) -> bool:
        return self._is_elsewhere if self._engine is None else super().only_waits_for(seconds)

    # ---- driving ---------------------------------------------------------------------------------------------------

    async def _reach_end(self, is_found: Callable[[], Awaitable[None]]) -> Any:
        """Begin the run, or attach to it, and return its result. Raises what ended it otherwise, and what refused it."""
        if self.setup.persistence is None:
            claim = Claim()
            return await self._drive(*await self._new_pass(claim), claim)
        async with session(self.setup.persistence):
            may_be_new = self._known is None and await self._may_be_new(self.setup.persistence)
            while True:
                try:
                    if may_be_new:
                        return await self._begin()
                    await is_found()
                    return await self._attach()
                except (RunLockedError, RunFencedError):
                    if not may_be_new:
                        await self._until_free()
                may_be_new = False

    async def _may_be_new(self, persistence: FlowPersistence) -> bool:
        """Whether to create the run, which the backend refuses if it is stored. Until the backend can, ask it for the run."""
        return can_create(persistence) or (await load(self.setup, self._run_id) is None and can_create(persistence))

    async def _begin(self) -> Any:
        """Create the run by its first checkpoint, and drive it. Raises `RunLockedError` if it is stored already."""
        persistence = self.storage("run_child")
        with self.driving():
            async with owned_by_creating(persistence, self._run_id) as claim:
                try:
                    prepared = await self._new_pass(claim)
                except RunLockedError:
                    claim.epoch = 0
                    raise
                except Exception:  # the flow's own code may raise anything, also for inputs that it once took
                    if claim.epoch or await load(self.setup, self._run_id) is None:
                        raise
                    raise RunLockedError("the run is stored", run_id=self._run_id) from None
                driven = await self._drive(*prepared, claim)
            return await self._followed(driven)

    async def _new_pass(self, claim: Claim) -> tuple[Engine, tuple[Command, ...]]:
        state = self._fresh_state(self._run_id, self._inputs, None)
        return await self._start_pass(self._run_id, claim, [state], self._inputs)

    async def _attach(self) -> Any:
        """Drive a stored run on, or return its result. Raises `RunLockedError` if another owner drives it."""
        persistence, run_id = self.storage("run_child"), self._run_id
        with self.driving():
            if self._is_over(await load(self.setup, run_id)):
                return self.result
            waiting = await self._attached(run_id, {})
            if waiting is not None:
                return await self._followed(waiting)
            async with owned(persistence, run_id, is_new=False) as claim:
                stored = await load(self.setup, run_id)
                if stored is None:
                    prepared = await self._new_pass(claim)
                elif self._is_over(stored):
                    return self.result
                else:
                    prepared = await self._resume_pass(stored, claim, self._new_limit(stored.progress))
                driven = await self._drive(*prepared, claim)
            return await self._followed(driven)

    def _is_over(self, stored: Stored | None) -> bool:
        """Whether a stored run has finished, with its result. Raises what ended it otherwise, unless it is to be resumed.

        A failure that was reported to the method is resumed, because the method runs again: in its next attempt. In the same attempt,
        after a crash, it gets the same error again, and so takes the same way.
        """
        if stored is None:
            return False
        self._check_same(stored)
        status, seq = stored.checkpoint.status, stored.checkpoint.seq
        if status == "running":
            return False
        is_edited = stored.checkpoint.kind == "edited"  # since it has failed, so that it can continue
        is_reported = self._known is not None and (is_edited or _read(self._known)[1] == seq)
        if status == "failed" and is_reported and not self._fails_again:
            return False
        if status == "failed" and self._is_out_of_time(stored):
            return False
        self.show(stored)
        self.outcome(stored)
        return True

    def _check_same(self, stored: Stored) -> None:
        """Check that a stored run is this child. Raises `StepMismatchError`."""
        c, parent = stored.checkpoint, stored.progress.parent
        if parent is None or parent[0] != self._scope.run_id:
            what = "it is no child of this run"
        elif not self._has_inputs_of(c):
            what = _OTHER_INPUTS
        else:
            return
        raise self._mismatch(what)

    def _mismatch(self, what: str) -> StepMismatchError:
        return StepMismatchError(
            f"{self._scope.method.name} runs a child whose run {self._run_id} is stored already, and is another one: {what}",
            run_id=self._scope.run_id,
            method=self._scope.method.name,
        )

    def _digest_of_inputs(self) -> str:
        """Return the digest of the inputs, or '' if they cannot be compared with a stored outcome."""
        try:
            return digest_of((by_field(self.state_type, self._inputs),))
        except Refused:
            return ""

    def _has_inputs_of(self, c: Checkpoint) -> bool:
        if not self._inputs:
            return inputs_match(c.inputs, {})
        return are_its_inputs(self.state_type, self.initial, c, self._inputs)

    @property
    def _inherits_limit(self) -> bool:
        """Whether its only time limit is that of its parent."""
        return self.setup.settings.run_timeout is None

    def _is_out_of_time(self, stored: Stored) -> bool:
        """Whether it failed by the time limit of its parent, which has another one now: then a resume continues it."""
        until = self.setup.until
        is_late = isinstance(stored_failure(self._class, stored.checkpoint), RunTimeoutError)
        return is_late and self._inherits_limit and (not until or until > self.setup.clock())

    def _new_limit(self, progress: Progress) -> float | None:
        """Return the time limit that a resume sets; None: the present one stays."""
        until = self.setup.until
        return None if progress.deadline == until or not self._inherits_limit else until

    async def _until_free(self) -> None:
        """Wait until no other owner drives the run."""
        persistence, pause, pace = self.storage("run_child"), SOON, Pace()
        while await is_driven(persistence, self._run_id):
            self._is_elsewhere = True
            await pace.pause(pause)
            pause = min(1.5 * pause, LATE)
        self._is_elsewhere = False

    async def _drive(self, engine: Engine, commands: tuple[Command, ...], claim: Claim) -> Any:
        if self.setup.persistence is None:
            return await self._take_turn_and_drive(engine, commands, claim)
        key = driven_as_child(self.setup.persistence, self._run_id, self.fence)
        try:
            return await self._take_turn_and_drive(engine, commands, claim)
        finally:
            driven_no_more(key)

    async def _take_turn_and_drive(self, engine: Engine, commands: tuple[Command, ...], claim: Claim) -> Any:
        turn = self.setup.turn
        if turn is None:
            return await super()._drive(engine, commands, claim)
        try:
            with anyio.CancelScope() as self._queue:
                await turn.take()
            if self._queue.cancelled_caught:
                raise refusals.interrupted(self._run_id)
            self._queue = None
            return await super()._drive(engine, commands, claim)
        finally:
            self._queue = None
            turn.release()

    async def _woken_once(self, waiting: Waiting, pause: float, pace: Pace) -> tuple[Any, bool]:
        self._is_elsewhere = True
        try:
            return await super()._woken_once(waiting, pause, pace)
        finally:
            self._is_elsewhere = False

    def show(self, stored: Stored, written: Any = None) -> None:
        self._seen.append(stored.checkpoint)
        super().show(stored, written)

    def _result_of(self, outcome: Any) -> Any:
        """Return the result of a finished run from its memo."""
        if not isinstance(outcome, dict):
            return detached_copy(outcome)
        ended = decode_outcome(to_json(outcome))
        if not isinstance(ended, Finished):
            return None
        return self.setup.codecs.decode_result(ended.result, self._run_id, ended.method)


def _read(memo: Any) -> tuple[str, int, int, str, Any]:
    """Return what a memo says: how the run has ended, the seq of its last checkpoint, in which attempt of the method, the digest of its
    inputs, and its outcome; of an unstored run, its result in place of the outcome.
    """
    if isinstance(memo, tuple):
        return memo
    status, seq, attempt, digest, outcome = from_json(memo)
    return status, seq, attempt, digest, outcome
