"""What one `Flow` object knows of its run, and shows: state, status, outputs. Nothing is run here."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

import anyio

from .._values import copied, same
from ..errors import InvalidRunIdError, MethodError, RunInputsError, StateError
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence
from ..state import StateType, new_run_id, parse_run_id
from . import refusals
from .engine import Engine
from .failures import stored_failure
from .outputs import Outputs
from .runs import Claim, Setup, Stored, decoded, load, outcome_of, recorder_of
from .scope import Scope, current_scope, scope_of_thread

__all__ = ["RunStatus", "Shown"]

RunStatus = Literal["new", "running", "interrupted", "failed", "finished", "cancelled"]


class Shown:
    """The run that one `Flow` object is about."""

    def __init__(self, flow: Any, state_type: StateType, initial: Any, setup: Callable[[], Setup]) -> None:
        self._flow = weakref.ref(flow)  # held by whoever awaits a call on it; a circle would wait for the collector
        self._class = type(flow).__name__
        self.state_type = state_type
        self.initial = initial
        self.outputs = Outputs()
        self.result: Any = None
        self.error: MethodError | None = None
        """What a loaded run has failed with."""
        self.status: RunStatus = "new"
        self._pending: tuple[str, ...] = ()
        self._make_setup = setup
        self._setup: Setup | None = None
        self.own_id = new_run_id()
        self._run_id = self.own_id
        self._state: Any = None
        self._number = 0
        self._digest: bytes | None = None
        self._may_be_stored = False
        self.is_busy = False
        self._engine: Engine | None = None
        self._ended: anyio.Event | None = None
        self._cancel_error: BaseException | None = None
        self.gate: Callable[[], Awaitable[None]] | None = None
        """Awaited when the run is known to be stored, and before any of its methods starts."""
        self.is_asked = True
        """Whether anybody asks this instance where its run stands: a runner's handles ask the storage."""

    def __repr__(self) -> str:
        try:
            run_id = self.run_id
        except InvalidRunIdError:  # brought by the state, and not looked at yet
            run_id = self._run_id
        return f"{self._class} {run_id}: {self.status}"

    # ---- what Flow shows ---------------------------------------------------------------------------------------

    @property
    def pending(self) -> tuple[str, ...]:
        return self._pending if self._engine is None else tuple(self._engine.progress.pending)

    @property
    def flow(self) -> Any:
        """The object that this is about."""
        return self._flow()

    @property
    def setup(self) -> Setup:
        """Made at the first kickoff, not before: the default storage's place is read then."""
        if self._setup is None:
            self._setup = self._make_setup()
        return self._setup

    def store_in(self, persistence: FlowPersistence) -> None:
        """Store in this backend, whatever the class says."""
        self._setup = replace(self.setup, persistence=persistence)

    def watch(self, observe: Callable[[Checkpoint], object]) -> None:
        """Tell also this observer of every checkpoint that is stored."""
        known = self.setup.observe
        both = observe if known is None else lambda checkpoint: (observe(checkpoint), known(checkpoint))
        self._setup = replace(self.setup, observe=both)

    @property
    def run_id(self) -> str:
        """The run's id; before the first kickoff the one that it will have, unless the inputs bring another."""
        if self.status != "new":
            return self._run_id
        state = self._state
        brought = self.state_type.given_id(self.initial if state is None else state)
        return self._run_id if brought is None or brought == self._run_id else parse_run_id(brought)

    def scope(self) -> Scope | None:
        """The invocation that the caller belongs to: by its context, or as a thread of the one method that runs."""
        scope = current_scope(self._flow())
        engine = self._engine
        return scope if scope is not None or engine is None else scope_of_thread(engine.running, engine.thread)

    def state(self) -> Any:
        """The caller's draft inside a method; a copy of the committed state while it runs; else the state itself."""
        scope = current_scope(self._flow()) or self.scope()  # in a method, where it is asked most, the first is enough
        if scope is not None:
            return scope.draft()
        if self._engine is not None:
            return copied(self._engine.committed.state)
        if self._state is None:
            try:
                self._state = self.state_type.create(self.initial, {}, self.run_id)
            except RunInputsError as error:
                raise StateError(f"there is no state yet: {error}; pass them to kickoff(inputs=...)") from None
        return self._state

    def set_state(self, value: Any) -> None:
        """Replace the state: of the calling method, or, between runs, of the instance."""
        scope = self.scope()
        if scope is not None:
            scope.replace(self.state_type.replacement(value, self._run_id))
        elif self._engine is not None:
            raise StateError("the state of a running flow is set by its methods; nothing was changed")
        else:
            self._state = self.state_type.replacement(value, self.run_id)

    def committed_state(self) -> Any:
        """A copy of the newest committed state, also inside a method."""
        return copied(self._engine.committed.state) if self._engine is not None else copied(self.state())

    # ---- stored runs -------------------------------------------------------------------------------------------

    def outcome(self, stored: Stored) -> Any:
        """The result of a finished run that is shown. Raises what ended another: `MethodError`, `RunCancelledError`."""
        if self.status == "cancelled":
            raise refusals.cancelled(self._run_id)
        if self.status == "failed":
            raise stored_failure(self._class, stored.checkpoint)
        return self.result

    def show_checkpoint(self, checkpoint: Checkpoint) -> Stored:
        """Show a run as of this checkpoint, a complete one."""
        stored = decoded(self.setup, checkpoint)
        self.show(stored)
        return stored

    def with_id(self, state: Any, run_id: str) -> Any:
        return self.state_type.with_id(copied(state), run_id)

    async def found(self, run_id: str, seq: int | None = None) -> Stored:
        stored = await load(self.setup, run_id, seq)
        if stored is None:
            raise refusals.unknown_run(self.setup.persistence, run_id, seq)
        return stored

    def _turn_to(self, run_id: str) -> None:
        """Be about this run. What is known of another one is not its own, and nothing of it begins with that."""
        if run_id != self._run_id and self.status != "new":
            self.status, self._state, self._number, self._digest = "new", None, 0, None
            self.outputs, self.result, self._pending, self.error = Outputs(), None, (), None
        self._run_id = run_id

    def show(self, stored: Stored, written: Any = None) -> None:
        """Be about this run, as it is stored. `written`: the state that was stored last, if that was here."""
        c = stored.checkpoint
        self._state = self._state if written is None else written
        state = self.going_on(stored)
        self._run_id, self._state, self._number, self._digest = c.run_id, state, c.number, c.digest
        self._may_be_stored = True
        self.status = "interrupted" if c.status == "running" else c.status
        self._pending = tuple(stored.progress.pending)
        self.outputs, self.result = Outputs(), None
        self.error = stored_failure(self._class, c) if c.status == "failed" else None
        outcome = outcome_of(c)
        if c.status == "finished" and outcome:
            recorder = recorder_of(self.setup, c.run_id, Claim(), c)
            self.result = recorder.result(outcome["method"], str(outcome["result"]).encode())
            self.outputs = Outputs({outcome["method"]: self.result})

    def going_on(self, stored: Stored) -> Any:
        """The state that a stored run goes on with here: the one that is shown, if that is equal.

        It may hold what is not stored (private attributes, excluded fields), which would be lost without a word.
        """
        state = self._state
        return state if state is not None and same(state, stored.state) else stored.state

    def storage(self, what: str) -> Any:
        persistence = self.setup.persistence
        if persistence is None:
            raise refusals.not_stored(self._class, what)
        return persistence
