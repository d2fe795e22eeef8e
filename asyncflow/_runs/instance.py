"""One flow instance: decide from the status of a run what each call does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypedDict

import anyio

from .._pace import Pace
from ..errors import RunLockedError, StorageReadOnlyError
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import session
from ..state import new_run_id, reconcile_run_ids
from . import call_errors as refusals
from .driving import DrivenRun, Prepared
from .inputs import JsonInputs, materialized
from .json_inputs import state_from_json
from .loading import Stored, load, load_owned
from .matching import are_its_inputs, check_flow, check_resumable
from .ownership import Claim, can_create, catalog_entry, is_driven, owned, owned_by_creating, owned_within
from .parked import Waiting, followed, halt_of, until_woken, waiting_of

__all__ = ["Instance", "KickoffOptions", "Stop", "Until"]

Until = Literal["end", "waiting"]
Stop = str | int
"""The name of a method, or a number of methods."""


class KickoffOptions(TypedDict, total=False):
    """The keywords of `kickoff` that do not change the type of what it returns, for a type checker."""

    restore_from_state_id: object
    wait: float
    once: bool


_AT_ITS_END = nullcontext()
"""A call that stops its run nowhere: most calls, so it costs next to nothing."""

SOON, LATE = 0.01, 1.0
"""Seconds between two looks at a run that another owner has woken: the first pause, and the longest."""


class Instance(DrivenRun):
    """The run that one `Flow` object is about: what each call does with it."""

    # ---- kickoff and resume ------------------------------------------------------------------------------------

    async def kickoff(
        self,
        inputs: Any,
        from_run: str | None,
        wait: float = 0.0,
        *,
        once: bool = False,
        until: Until | Stop = "end",
    ) -> Any:
        """Start a new run or a new pass, or resume an interrupted run, depending on the run's status.

        `once`: return the result of a finished run instead of starting a new pass. `until`: see `_stopping_at`.
        """
        given = self._given(inputs)
        given_id = reconcile_run_ids(*self.state_type.ids_taken(given))
        with self.driving(), self._stopping_at(until):
            run_id = self._id_of(given_id, from_run)
            begin_with = self._own_state(run_id)
            if self.setup.persistence is None:
                if from_run is not None:
                    raise refusals.not_stored(self._class, "restore_from_state_id")
                return await self._kickoff_unstored(run_id, given, begin_with, once)
            async with session(self.setup.persistence):
                self._origin = None
                if from_run is not None:
                    source = await self.found(from_run)
                    begin_with, self._origin = source.state, (from_run, source.checkpoint.seq)
                is_new = self._is_new(run_id, given_id)
                if not is_new and (waiting := await self._attached(run_id, given)) is not None:
                    if from_run is not None:
                        raise refusals.already_stored(run_id)
                    return await self._followed(waiting, until)
                async with owned_within(wait, self.setup.persistence, run_id, is_new=is_new) as claim:
                    stored = None if is_new else await load_owned(self.setup, run_id, claim, creates=True)
                    if once and stored is not None and stored.checkpoint.status == "finished":
                        return self._finished(stored, given)
                    if stored is not None and from_run is not None:
                        raise refusals.already_stored(run_id)
                    driven = await self._drive(*await self._pass_for(run_id, stored, given, claim, begin_with), claim)
                return await self._followed(driven, until)

    def _stopping_at(self, until: Until | Stop) -> AbstractContextManager[None]:
        """Let a call stop the run where `until` says. "waiting" returns a `Waiting` once the run is parked, and so does a method.

        Raises `ValueError`, and `CapabilityMissingError` if the run could not continue from there.
        """
        return _AT_ITS_END if until == "end" else self._stopping_before(until)

    @contextmanager
    def _stopping_before(self, until: Until | Stop) -> Iterator[None]:
        setup, halt = self.setup, halt_of(until, self.setup.settings.definition)
        if until == "waiting" and (why := setup.parks_not()):
            raise refusals.parks_not(self._class, why)
        if halt is not None and (setup.persistence is None or setup.whole):
            why = "they are not stored" if setup.persistence is None else "only some of its methods have @persist"
            raise refusals.stops_not(self._class, why)
        self._halt = halt
        try:
            yield
        finally:
            self._halt = None

    def _id_of(self, given_id: str | None, from_run: str | None) -> str:
        """Return the run id of a kickoff: the id in its inputs, else this run's id.

        An instance that has already had a run, and starts from another run's state without an id in the inputs, gets a new own id.
        """
        if given_id is None and from_run is not None and self.status != "new":
            self.own_id = new_run_id()
            self._may_be_stored = False
            return self.own_id
        return self.run_id if given_id is None else given_id

    def _own_state(self, run_id: str) -> Any:
        """Return the state that this instance has for a run that it starts; None if it has none."""
        return self._state if self.status == "new" or run_id == self._run_id else None

    def _is_new(self, run_id: str, given_id: str | None) -> bool:
        """Whether no other process can know the id of a run yet, so that there is nothing to look up."""
        return given_id is None and run_id == self.own_id and not self._may_be_stored

    async def _kickoff_unstored(self, run_id: str, given: dict[str, Any], begin_with: Any, once: bool) -> Any:
        if once and self.status == "finished" and run_id == self._run_id:
            return self.result
        claim = Claim()
        return await self._drive(*await self._pass_for(run_id, None, given, claim, begin_with), claim)

    def _finished(self, stored: Stored, given: dict[str, Any]) -> Any:
        """Show a finished run, and return its stored result. Raises `RunInputsError` if it was started with other inputs."""
        self.check_same(stored.checkpoint, given)
        self.show(stored)
        return self.result

    async def _pass_for(
        self, run_id: str, stored: Stored | None, given: dict[str, Any], claim: Claim, begin_with: Any
    ) -> Prepared:
        """Return the pass to drive: a new one, or the rest of an interrupted one."""
        if self.status == "new":
            self._run_id = run_id  # even if this fails: the instance has no other run yet
        if stored is None:
            return await self._start_pass(run_id, claim, [self._fresh_state(run_id, given, begin_with)], given)
        if stored.checkpoint.status == "cancelled":
            raise refusals.cancelled(run_id)
        if stored.checkpoint.status == "finished":
            same_as_here = self._digest == stored.checkpoint.digest and self._state is not None
            before = self._state if same_as_here else self.state_to_continue(stored)
            return await self._start_pass(run_id, claim, [self.state_type.updated(before, given)], given, after=stored)
        if not are_its_inputs(self.state_type, self.initial, stored.checkpoint, given):
            raise refusals.other_inputs(self._class, stored.checkpoint)
        self.check_edits(stored)
        return await self._resume_pass(stored, claim)

    async def start(self, run_id: str, inputs: Mapping[str, Any] | None) -> Any:
        """Start a new run, resume an interrupted one, or return the outcome of one that has ended. Idempotent.

        `inputs` is None if the run is stored already. Raises `RunNotFoundError` if it no longer is.
        """
        persistence, given = self.storage("start"), self._given(inputs)
        creates = inputs is not None and can_create(persistence)
        ownership = owned_by_creating(persistence, run_id) if creates else owned(persistence, run_id, is_new=False)
        with self.driving():
            try:
                async with session(persistence):
                    if inputs is not None and not creates:
                        await self._checked(run_id, given)
                    async with ownership as claim:
                        self._run_id = run_id
                        found: Prepared | Stored | None = await self._created(run_id, given, claim) if creates else None
                        found = found or await self._found(run_id, None if inputs is None else given, claim)
                        if not isinstance(found, Stored):
                            return await self._drive(*found, claim)
            except StorageReadOnlyError:
                found = await self._ended_if_read_only(run_id)
                if found is None:
                    raise
                self.check_same(found.checkpoint, given)
            self.show(found)
            return self.outcome(found)

    async def _found(self, run_id: str, given: dict[str, Any] | None, claim: Claim) -> Prepared | Stored:
        """Return the pass to drive for an id, or the stored run if it has ended. `given`: None if the run has to be stored."""
        stored = await load_owned(self.setup, run_id, claim)
        if stored is None:
            if given is None:
                raise refusals.unknown_run(self.setup.persistence, run_id, None)
            return await self._pass_for(run_id, None, given, claim, None)
        self.check_same(stored.checkpoint, given or {})
        return await self._resume_pass(stored, claim) if stored.checkpoint.status == "running" else stored

    async def _created(self, run_id: str, given: dict[str, Any], claim: Claim) -> Prepared | Stored | None:
        """Create a run by its first checkpoint: one trip to the storage. Return it as it is stored if it has ended already.

        Return None, with the run acquired, if it was not created: either it is stored already, or its inputs are refused. The caller
        then loads it, also in the second case: today's class may refuse inputs with which the run was once started.
        """
        try:
            return await self._pass_for(run_id, None, given, claim, None)
        except RunLockedError:
            claim.epoch = 0
        except Exception:  # the flow's own code may raise anything; if it does so again, the caller gets it
            if claim.epoch:
                raise  # by the commit, whose outcome may be unknown
        stored = await self._checked(run_id, given)
        if stored is not None and stored.checkpoint.status != "running":
            return stored
        await claim.acquire(run_id)
        return None

    async def _checked(self, run_id: str, given: dict[str, Any]) -> Stored | None:
        """Check the inputs before a stored run is owned: owned and released again, a parked run would no longer be parked."""
        if (stored := await load(self.setup, run_id)) is not None:
            self.check_same(stored.checkpoint, given)
        return stored

    async def resume(
        self, run_id: str, wait: float = 0.0, *, has_new_limit: bool = False, until: Until | Stop = "end"
    ) -> Any:
        """Resume a run, or return the stored result of a finished one. `has_new_limit`: whether a new time limit begins now."""
        persistence = self.storage("resume")
        with self.driving(), self._stopping_at(until):
            try:
                async with session(persistence):
                    deadline = self.new_deadline() if has_new_limit else None
                    if deadline is None and (waiting := await self._attached(run_id, {})) is not None:
                        return await self._followed(waiting, until)
                    async with owned_within(wait, persistence, run_id) as claim:
                        stored = await load_owned(self.setup, run_id, claim)
                        if stored is None:
                            raise refusals.unknown_run(self.setup.persistence, run_id, None)
                        self.show(stored)
                        driven: Any = None
                        if self.status not in ("cancelled", "finished"):
                            driven = await self._drive(*await self._resume_pass(stored, claim, deadline), claim)
                    if self.status not in ("cancelled", "finished"):
                        return await self._followed(driven, until)
            except StorageReadOnlyError:
                stored = await self._ended_if_read_only(run_id)
                if stored is None or stored.checkpoint.status == "failed":
                    raise
                self.show(stored)
            if self.status == "cancelled":
                raise refusals.cancelled(self._run_id)
            return self.result

    async def _ended_if_read_only(self, run_id: str) -> Stored | None:
        """After the backend (such as a standby) refused a write: return the run if it finished, failed or was cancelled, else None."""
        assert self.setup.persistence is not None, "called only if the runs are stored"
        async with session(self.setup.persistence):
            stored = await load(self.setup, run_id)
        return None if stored is None or stored.checkpoint.status == "running" else stored

    # ---- parked runs -------------------------------------------------------------------------------------------

    async def _attached(self, run_id: str, given: dict[str, Any]) -> Waiting | None:
        """Show a run that is parked and not due, and return what it waits for, without owning it. Return None for any other run.

        A parked run that the call does not fit is refused here: owned and released again, it would no longer be parked. Raises
        `RunInputsError` if inputs are given, and it was started with others, and `FlowDefinitionError` (see `check_resumable`).
        """
        persistence = self.setup.persistence
        if persistence is None or not self.setup.parks or self.is_served:
            return None
        entry = await catalog_entry(persistence, run_id)
        if entry is None or entry.wake_at is None:
            return None
        stored = await self.found(run_id)
        if not are_its_inputs(self.state_type, self.initial, stored.checkpoint, given):
            raise refusals.other_inputs_waiting(self._class, stored.checkpoint)
        self.check_edits(stored)
        check_resumable(self.setup.settings, stored.checkpoint, stored.progress)
        if entry.wake_at <= self.setup.clock():
            return None
        self.show(stored)
        self.status = "waiting"
        return waiting_of(self.setup.settings.definition, run_id, stored.progress, entry.wake_at, self.setup.clock())

    async def _followed(self, driven: Any, until: Until | Stop = "end") -> Any:
        """Return what a call has driven. If that is parked, wait until it is woken, and drive it on, or follow the owner that does."""
        if not isinstance(driven, Waiting) or until != "end" or self.is_served:
            return driven
        pause, pace = SOON, Pace()
        with followed(self.storage("kickoff"), self._run_id):
            while isinstance(driven, Waiting):
                driven, is_elsewhere = await self._woken_once(driven, pause, pace)
                pause = min(1.5 * pause, LATE) if is_elsewhere else SOON
        return driven

    async def _woken_once(self, waiting: Waiting, pause: float, pace: Pace) -> tuple[Any, bool]:
        """Wait until a parked run is woken, and drive it on. Return its result or `waiting`, and whether another owner drives it."""
        run_id, persistence = self._run_id, self.storage("kickoff")
        self._woken = woken = anyio.Event()
        try:
            await until_woken(persistence, run_id, self.setup.clock, woken)
            stored = await self.found(run_id)
            if stored.checkpoint.status != "running":
                self.show(stored)
                return self.outcome(stored), False
            if await is_driven(persistence, run_id):
                await pace.pause(pause, woken)
                return waiting, True
        finally:
            self._woken = None
        with contextlib.suppress(RunLockedError):  # another owner has just taken it
            async with owned(persistence, run_id, is_new=False) as claim:
                stored = await self.found(run_id)
                if stored.checkpoint.status == "running":
                    engine, commands = await self._resume_pass(stored, claim)
                    engine.outputs.update(self.outputs)
                    return await self._drive(engine, commands, claim), False
        return waiting, False

    # ---- helpers -----------------------------------------------------------------------------------------------

    def _fresh_state(self, run_id: str, given: Mapping[str, Any], begin_with: Any) -> Any:
        """Return the state of a first pass: a given state or the flow's initial one, with the inputs applied, under the run's id."""
        if isinstance(given, JsonInputs):
            return state_from_json(self.state_type, self.initial, given, run_id)
        if begin_with is None:
            return self.state_type.create(self.initial, given, run_id)
        return self.state_type.updated(self.with_id(begin_with, run_id), given)

    def check_same(self, c: Checkpoint, given: dict[str, Any]) -> None:
        """Check that a stored run belongs to this flow and was started with these inputs. If none are given, any inputs match."""
        check_flow(self.setup.settings.identity, c)
        if not are_its_inputs(self.state_type, self.initial, c, given):
            raise refusals.started_with_other_inputs(c)

    def _given(self, inputs: Any) -> dict[str, Any]:
        return materialized(inputs, lambda: self.state_type)
