"""One flow instance: what each call means for its run, by where that stands. It drives one run at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import anyio

from .._scheduling.messages import Command
from .._values import same
from .._waiting import protect_from_interrupts, to_its_end
from ..errors import RunCancelledError, StorageReadOnlyError
from ..persistence.checkpoint import Checkpoint
from ..state import new_run_id, one_run_id
from . import refusals
from .engine import Engine
from .inputs import JsonInputs, are_inputs, inputs_bytes, told_once
from .json_inputs import named, state_from_json, values_of
from .matching import check_flow
from .outputs import Outputs
from .runs import (
    Claim,
    Stored,
    begin,
    commit_start,
    load,
    load_owned,
    owned,
    owned_within,
    recorder_of,
    session,
    take_up,
)
from .scope import current_scope
from .shown import RunStatus, Shown
from .versions import own

__all__ = ["Instance", "RunStatus"]

Begun = tuple[Engine, tuple[Command, ...]]
"""A pass that is to be driven, and what it does first."""


class Instance(Shown):
    """Drives the run that one `Flow` object is about."""

    # ---- kickoff and resume ------------------------------------------------------------------------------------

    async def kickoff(
        self, inputs: Mapping[str, Any] | None, from_run: str | None, wait: float = 0.0, *, once: bool = False
    ) -> Any:
        """A new run, a new pass, or the rest of an interrupted one: by where the run stands. `once`: no new pass, but the result."""
        given = self._given(inputs)
        brought = one_run_id(*self.state_type.ids_taken(given))
        with self.driving():
            run_id = self._id_of(brought, from_run)
            begin_with = self._state if self.status == "new" or run_id == self._run_id else None
            if self.setup.persistence is None:
                if from_run is not None:
                    raise refusals.not_stored(self._class, "restore_from_state_id")
                return await self._kickoff_unstored(run_id, given, begin_with, once)
            async with session(self.setup.persistence):
                if from_run is not None:
                    begin_with = (await self.found(from_run)).state
                is_new = brought is None and run_id == self.own_id and not self._may_be_stored
                async with owned_within(wait, self.setup.persistence, run_id, is_new=is_new) as claim:
                    stored = None if is_new else await load_owned(self.setup, run_id, claim)
                    if once and stored is not None and stored.checkpoint.status == "finished":
                        return self._finished(stored, given)
                    if stored is not None and from_run is not None:
                        raise refusals.stored_already(run_id)
                    return await self._drive(*await self._by_standing(run_id, stored, given, claim, begin_with), claim)

    def _id_of(self, brought: str | None, from_run: str | None) -> str:
        """The id of the run that a kickoff is about: the one that it brings, a new one for another's state, or this one's."""
        if brought is None and from_run is not None and self.status != "new":
            self.own_id = new_run_id()
            self._may_be_stored = False
            return self.own_id
        return self.run_id if brought is None else brought

    async def _kickoff_unstored(self, run_id: str, given: dict[str, Any], begin_with: Any, once: bool) -> Any:
        if once and self.status == "finished" and run_id == self._run_id:
            return self.result
        claim = Claim()
        return await self._drive(*await self._by_standing(run_id, None, given, claim, begin_with), claim)

    def _finished(self, stored: Stored, given: dict[str, Any]) -> Any:
        """The stored result of a finished run. Raises `RunInputsError` if it was started with other inputs."""
        self.check_same(stored.checkpoint, given)
        self.show(stored)
        return self.result

    async def _by_standing(
        self, run_id: str, stored: Stored | None, given: dict[str, Any], claim: Claim, begin_with: Any
    ) -> Begun:
        """A pass to be driven: a new one, or the rest of one that was interrupted."""
        if self.status == "new":
            self._run_id = run_id  # whatever comes of it: this instance is about no other yet
        if stored is None:
            return await self._begun(run_id, claim, [self._fresh_state(run_id, given, begin_with)], given)
        if stored.checkpoint.status == "cancelled":
            raise refusals.cancelled(run_id)
        if stored.checkpoint.status == "finished":
            same_as_here = self._digest == stored.checkpoint.digest and self._state is not None
            before = self._state if same_as_here else self.going_on(stored)
            return await self._begun(
                run_id, claim, [self.state_type.updated(before, given)], given, after=stored.checkpoint
            )
        self._check_inputs(stored.checkpoint, given)
        self._check_edits(stored)
        begun = self._taken_up(stored, claim)
        self._turn_to(run_id)
        return begun

    async def start(self, run_id: str, inputs: Mapping[str, Any] | None) -> Any:
        """The same however often it is called: a new run, the rest of an interrupted one, or the outcome of one that has ended.

        No inputs: the run is stored. Raises `RunNotFoundError` if it is not any more.
        """
        persistence = self.storage("start")
        with self.driving():
            try:
                async with session(persistence), owned(persistence, run_id, is_new=False) as claim:
                    stored = await load_owned(self.setup, run_id, claim)
                    self._run_id = run_id
                    if stored is None:
                        if inputs is None:
                            raise refusals.unknown_run(persistence, run_id, None)
                        begun = await self._by_standing(run_id, None, self._given(inputs), claim, None)
                        return await self._drive(*begun, claim)
                    self.check_same(stored.checkpoint, self._given(inputs))
                    if stored.checkpoint.status == "running":
                        return await self._drive(*self._taken_up(stored, claim), claim)
            except StorageReadOnlyError:
                stored = await self._ended_for_readers(run_id)
                if stored is None:
                    raise
                self.check_same(stored.checkpoint, self._given(inputs))
            self.show(stored)
            return self.outcome(stored)

    async def resume(self, run_id: str, wait: float = 0.0) -> Any:
        """Go on with a run; a finished one gives its stored result."""
        persistence = self.storage("resume")
        with self.driving():
            try:
                async with session(persistence), owned_within(wait, persistence, run_id) as claim:
                    stored = await load_owned(self.setup, run_id, claim)
                    if stored is None:
                        raise refusals.unknown_run(self.setup.persistence, run_id, None)
                    self.show(stored)
                    if self.status not in ("cancelled", "finished"):
                        return await self._drive(*self._taken_up(stored, claim), claim)
            except StorageReadOnlyError:
                stored = await self._ended_for_readers(run_id)
                if stored is None or stored.checkpoint.status == "failed":
                    raise
                self.show(stored)
            if self.status == "cancelled":
                raise refusals.cancelled(self._run_id)
            return self.result

    async def _ended_for_readers(self, run_id: str) -> Stored | None:
        """A run that has ended, where the storage can only be read, such as a standby server; None for any other."""
        assert self.setup.persistence is not None, "asked only where there is a storage"
        async with session(self.setup.persistence):
            stored = await load(self.setup, run_id)
        return None if stored is None or stored.checkpoint.status == "running" else stored

    def _taken_up(self, stored: Stored, claim: Claim) -> Begun:
        """The rest of a pass, with the state that is shown here where that is equal; a copy, as its caller may hold that."""
        state = self.going_on(stored)
        mine = stored if state is stored.state else replace(stored, state=own(state))
        return take_up(self.setup, self.flow, mine, claim)

    async def _begun(
        self, run_id: str, claim: Claim, held: list[Any], given: dict[str, Any], *, after: Checkpoint | None = None
    ) -> Begun:
        """A new pass over the state in a list, and its first checkpoint committed, where it is stored."""
        is_stored, before = self.setup.persistence is not None, 0 if after is None else after.number
        if not is_stored and run_id == self._run_id:
            before = self._number
        engine, commands, checkpoint = await begin(
            self.setup,
            self.flow,
            run_id,
            held,
            claim=claim,
            after=after,
            number=1 + before,
            inputs=inputs_bytes(self._named(given)) if is_stored else None,
        )
        self._turn_to(run_id)
        self._may_be_stored, claim.epoch = is_stored, claim.epoch or 1
        try:
            await commit_start(engine, checkpoint)
        except anyio.get_cancelled_exc_class():
            with contextlib.suppress(Exception):  # of any backend: it may or may not have been committed
                await to_its_end(self._look_up)
            raise
        return engine, commands

    async def _drive(self, engine: Engine, commands: tuple[Command, ...], claim: Claim) -> Any:
        self._engine, self._ended, self.status, self.error = engine, None, "running", None
        self.outputs = engine.outputs
        try:
            if self.gate is not None:
                await self.gate()
            self.result = await engine.drive(commands)
            return self.result
        except RunCancelledError as error:
            if not engine.is_cancelled or error is not engine.stopped:
                raise  # a method's own, of another run
            cancelled = error
        finally:
            try:
                await self._look_back(engine, claim)
            finally:
                self._engine = None
                claim.is_over = claim.is_over or self.status in ("finished", "cancelled")
                if self._ended is not None:
                    self._ended.set()
        if cast(RunStatus, self.status) != "finished":
            raise cancelled
        return self.result  # its last checkpoint was under way when it was cancelled: it had finished

    async def _look_back(self, engine: Engine, claim: Claim) -> None:
        """Know where the run stands now. Where it was stopped, that is looked up: a commit may have been under way."""
        goes_back = (
            self.setup.whole and engine.recorder is not None and not engine.is_finished
        )  # to its last checkpoint
        self._state = engine.saved.state if goes_back else engine.committed.state
        self._digest = None if engine.recorder is None else engine.recorder.digest
        self._number = engine.number
        self._pending = tuple(engine.progress.pending)
        if engine.is_finished:
            self.status = "finished"
        elif engine.is_cancelled:
            self.status = "cancelled" if engine.recorder is None else "interrupted"
        else:
            self.status = "failed" if engine.failures and engine.stopped is None else "interrupted"
        if engine.recorder is None or not (engine.stopped is not None or engine.is_cut_short or goes_back):
            return
        if engine.is_cancelled:
            await to_its_end(lambda: self._cancelled_durably(claim))
        if self.is_asked or engine.is_cancelled:
            with contextlib.suppress(Exception):  # of any backend: what ended the run is on its way, and is told
                await to_its_end(self._look_up)

    async def _cancelled_durably(self, claim: Claim) -> None:
        """Record that the run was cancelled; whoever awaits `cancel()` is told if that fails."""
        try:
            await self._record_cancel(claim)
        except Exception as error:  # whatever a backend raises: nobody may take the run for cancelled
            self._cancel_error = error
            raise

    async def _look_up(self) -> None:
        outputs = self.outputs
        self.show(await self.found(self._run_id))
        self.outputs = Outputs(outputs | self.outputs)

    # ---- cancel ------------------------------------------------------------------------------------------------

    async def cancel(self) -> None:
        """End the run for good, durably. One that has finished stays so: an ending is final.

        Inside one of its own methods it returns at once, and the method is cancelled.
        """
        while self.is_busy and self._engine is None:  # noqa: ASYNC110 - it is about to begin, or to end: nobody tells
            await anyio.sleep(0.001)
        if self._engine is not None:
            await self._cancel_running(self._engine)
            return
        persistence = self.storage("cancel")
        with self.driving():
            async with session(persistence), owned(persistence, self.run_id, is_new=False) as claim:
                await self._record_cancel(claim)
                self.show(await self.found(self.run_id))

    def wind_down(self) -> None:
        """Stop the run at its next checkpoints, if it runs; it can be resumed."""
        if self._engine is not None:
            self._engine.wind_down(refusals.interrupted(self._run_id))

    def stop(self) -> None:
        """Stop the run at once, if it runs: what is under way is cancelled, and can be resumed."""
        if self._engine is not None:
            self._engine.stop(refusals.interrupted(self._run_id))

    @property
    def epoch(self) -> int:
        """Of this owner of the run that is driven; 0 where there is none."""
        recorder = None if self._engine is None else self._engine.recorder
        return 0 if recorder is None else recorder.epoch

    def lose(self) -> None:
        """Stop the run at once, if it runs: it is another owner's, who goes on with it, or has ended it."""
        if self._engine is not None:
            self._engine.stop(refusals.lost(self._run_id))

    async def _cancel_running(self, engine: Engine) -> None:
        ended = self._ended = self._ended or anyio.Event()
        self._cancel_error = None
        engine.cancel(refusals.cancelled(self._run_id))
        if current_scope(self.flow) is None:
            await ended.wait()
            if self._cancel_error is not None:
                raise self._cancel_error

    async def _record_cancel(self, claim: Claim) -> None:
        """Store that the run was cancelled, after what is stored now, unless it has ended: of two endings the first one counts.

        What was on its way when it was cancelled may have been withdrawn, or stored: it may have been the last method's end.
        """
        if self.setup.persistence is None:
            return
        stored = await self.found(self._run_id)
        if stored.checkpoint.status not in ("finished", "cancelled"):
            recorder = recorder_of(self.setup, self._run_id, claim, stored.checkpoint)
            end = recorder.prepare("cancelled", "cancelled", stored.progress, outcome={}, outcome_only=True)
            await recorder.commit(end)
            claim.is_over = True

    # ---- helpers -----------------------------------------------------------------------------------------------

    def _fresh_state(self, run_id: str, given: Mapping[str, Any], begin_with: Any) -> Any:
        """The state that a first pass begins with: a given one or the initial one, the inputs applied, under the run's id."""
        if isinstance(given, JsonInputs):
            return state_from_json(self.state_type, self.initial, given, run_id)
        if begin_with is None:
            return self.state_type.create(self.initial, given, run_id)
        return self.state_type.updated(self.with_id(begin_with, run_id), given)

    def _check_edits(self, stored: Stored) -> None:
        """Whether the state was changed here since the run stopped: going on, it would be passed over silently."""
        c = stored.checkpoint
        is_as_shown = self._digest == c.digest and self._state is not None and not self.setup.whole
        if is_as_shown and not same(self._state, stored.state):
            raise refusals.edited_here(c)

    def check_same(self, c: Checkpoint, given: dict[str, Any]) -> None:
        """Whether a stored run is of this flow, and was begun with these inputs. None given: whichever they were."""
        check_flow(self.setup.settings.identity, c)
        if not self._are_its_inputs(c, given):
            raise refusals.begun_otherwise(c)

    def _check_inputs(self, c: Checkpoint, given: dict[str, Any]) -> None:
        if not self._are_its_inputs(c, given):
            raise refusals.other_inputs(self._class, c)

    def _are_its_inputs(self, c: Checkpoint, given: dict[str, Any]) -> bool:
        if not given or are_inputs(c.inputs, self._named(given)):
            return True
        if not isinstance(given, JsonInputs):
            return False
        state = state_from_json(self.state_type, self.initial, given, c.run_id)
        return are_inputs(c.inputs, values_of(state, self._named(given)))  # 0.1 stored what JSON was read as

    def _given(self, inputs: Mapping[str, Any] | None) -> dict[str, Any]:
        return told_once(inputs, lambda: self.state_type)

    def _named(self, given: dict[str, Any]) -> dict[str, Any]:
        """Inputs by the names of the state's fields."""
        if isinstance(given, JsonInputs):
            return named(self.state_type, given)
        return dict(zip(self.state_type.names_of(given), given.values(), strict=True))

    def driving(self) -> AbstractContextManager[None]:
        """Nobody else drives this instance for as long as this lasts. Raises `FlowBusyError`."""
        return _Driving(self)


class _Driving:
    """An instance that is driven. It lives as long as the run, in thousands, as `_Owned` does."""

    __slots__ = ("_instance",)

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def __enter__(self) -> None:
        instance = self._instance
        protect_from_interrupts()
        if instance.is_busy:
            raise refusals.busy(instance._class, instance._run_id)
        instance.is_busy = True

    def __exit__(self, *error: object) -> None:
        self._instance.is_busy = False
