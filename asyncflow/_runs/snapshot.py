"""What one `Flow` object knows and shows of its run: state, status, outputs. This module runs no methods."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal, NoReturn

import anyio

from .._runtime.audience import Audience, joined
from .._runtime.engine import Engine
from .._runtime.failures import stored_failure
from .._runtime.halting import Halt
from .._runtime.outputs import Outputs
from .._runtime.readers import Reader
from .._runtime.scope import Scope, current_scope, scope_of_thread
from .._runtime.timing import clock_of
from .._runtime.turns import Turn
from .._scheduling.progress import Progress
from .._values.copying import copied, same
from ..errors import FlowDefinitionError, InvalidRunIdError, MethodError, RunInputsError, StateError
from ..events import Event
from ..persistence.checkpoint import Checkpoint
from ..persistence.outcome import Finished
from ..persistence.protocol import FlowPersistence
from ..persistence.status import Status, status_of
from ..state import StateType, new_run_id, parse_run_id
from . import call_errors as refusals
from .loading import Stored, decoded, load
from .setup import Setup

__all__ = ["MissingInstance", "RunSnapshot"]


class MissingInstance:
    """Placeholder for the instance of a flow until its constructor has created one. Raises `FlowDefinitionError` on access."""

    def __get__(self, flow: object, cls: type) -> NoReturn:
        raise FlowDefinitionError(
            f"{cls.__name__}.__init__ does not call super().__init__(); call it first", problems=["no super"]
        )


class RunSnapshot:
    """The run of one `Flow` object, as that object shows it."""

    reported = ""
    """The id of the run whose begin was reported to observers; empty for none."""

    _progress: Progress | None = None

    def __init__(self, flow: Any, state_type: StateType, initial: Any, setup: Callable[[], Setup]) -> None:
        self._flow = weakref.ref(flow)  # its awaiting caller holds it; a cycle would wait for garbage collection
        self._class = type(flow).__name__
        self.state_type = state_type
        self.initial = initial
        self.outputs = Outputs()
        self.result: Any = None
        self.error: MethodError | None = None
        """The error with which a loaded run has failed."""
        self.status: Status | Literal["new"] = "new"
        """"new" until it has started or loaded a run."""
        self._pending: tuple[str, ...] = ()
        self._make_setup = setup
        self._setup: Setup | None = None
        self.own_id = new_run_id()
        self._run_id = self.own_id
        self._state: Any = None
        self._pass_number = 0
        self._origin: tuple[str, int] | None = None
        """(id, seq) of the run whose state the next run begins with, in place of its own."""
        self._digest: bytes | None = None
        self._may_be_stored = False
        self.is_busy = False
        self._engine: Engine | None = None
        self._woken: anyio.Event | None = None
        """Set while a call waits here for a parked run. To set the event ends the wait."""
        self._ended: anyio.Event | None = None
        self._cancel_error: BaseException | None = None
        self.open_children = set[str]()
        """The ids of the children that methods of this run have begun here, and that are not over, as far as this object knows."""
        self.on_started: Callable[[], Awaitable[None]] | None = None
        """Awaited once the run is known to be stored, before any of its methods starts."""
        self.is_asked_to_finish = False
        """Whether a caller waits for the next pass, to end it: a pass may never wait for anything but its commits."""
        self._halt: Halt | None = None
        """Where the call that drives the run stops it; None: at its end."""
        self.is_read = True
        """Whether callers ask this instance for the run's status. A runner's handles ask the backend instead."""

    def __repr__(self) -> str:
        try:
            run_id = self.run_id
        except InvalidRunIdError:  # the id is from the state, and was not validated yet
            run_id = self._run_id
        return f"{self._class} {run_id}: {self.status}"

    # ---- what Flow shows ---------------------------------------------------------------------------------------

    @property
    def pending(self) -> tuple[str, ...]:
        return self._pending if self._engine is None else self._engine.pending

    @property
    def progress(self) -> Progress | None:
        """What the scheduler knows of the newest pass, for pictures; None if there was none."""
        return self._progress if self._engine is None else self._engine.journal.progress

    async def finish(self) -> bool:
        """Ask for the end of the run, in order, if it is running. Return whether it is."""
        self.is_asked_to_finish = False
        while self.is_busy:
            if self._engine is not None and await self._engine.finish():
                return True
            self.is_asked_to_finish = True
            await anyio.sleep(0.001)  # the run is about to start, to end, or to begin its next pass
        return False

    def only_waits_for(self, seconds: float) -> bool:
        """Whether the run only waits, for nothing that is due within some seconds. See `runner.driver.Driver`."""
        return self._engine is not None and self._engine.only_waits_for(seconds)

    @property
    def flow(self) -> Any:
        """The `Flow` object that this belongs to."""
        return self._flow()

    @property
    def setup(self) -> Setup:
        """The flow's setup, made at the first kickoff and not before: the place of the default backend is read then."""
        if self._setup is None:
            self._setup = self._make_setup()
        return self._setup

    def new_deadline(self) -> float:
        """Return when a time limit passes that begins now, in seconds since the Unix epoch; 0 if the flow has none."""
        limit = self.setup.settings.run_timeout
        return 0.0 if limit is None else self.setup.clock() + limit

    def store_in(self, persistence: FlowPersistence) -> None:
        """Store in this backend, whatever the class declares."""
        self._setup = replace(self.setup, persistence=persistence, clock=clock_of(persistence))

    def watch(self, observe: Callable[[Checkpoint], object]) -> None:
        """Notify this observer, too, of every stored checkpoint."""
        known = self.setup.observe
        both = observe if known is None else lambda checkpoint: (observe(checkpoint), known(checkpoint))
        self._setup = replace(self.setup, observe=both)

    def events(self) -> Reader:
        """Return a reader of the events of the run, from now on, until the call ends that drives it, or the next one."""
        audience = self.setup.audience
        if audience is None or not audience.is_of_one:
            audience = Audience(outer=audience, is_of_one=True)
            self._setup = replace(self.setup, audience=audience)
            if self._engine is not None:
                self._engine.hear(audience)
        return audience.reader(reports=self.reports())

    def reports(self) -> list[Event]:
        """Return the newest report of each invocation that runs here."""
        return [] if self._engine is None else self._engine.reports()

    def serve(
        self,
        on_started: Callable[[], Awaitable[None]],
        on_checkpoint: Callable[[Checkpoint], object],
        turn: Turn,
        park_after: float,
        audience: Audience,
    ) -> None:
        """Serve a runner. See `runner.driver.Driver`."""
        self.on_started, self.is_read = on_started, False
        self.watch(on_checkpoint)
        heard = joined(self.setup.audience, audience)
        self._setup = replace(self.setup, turn=turn, park_after=park_after, audience=heard)

    @property
    def is_served(self) -> bool:
        """Whether a runner drives the run."""
        return self.on_started is not None

    @property
    def flow_name(self) -> str:
        """The flow's name, as shown to people."""
        return self.setup.settings.name

    @property
    def run_id(self) -> str:
        """The run's id. Before the first kickoff, the id that the run will have, unless the inputs bring another."""
        if self.status != "new":
            return self._run_id
        state = self._state
        given_id = self.state_type.given_id(self.initial if state is None else state)
        return self._run_id if given_id is None or given_id == self._run_id else parse_run_id(given_id)

    def scope(self) -> Scope | None:
        """Return the invocation that the caller belongs to: by the caller's context, or as a thread of the one method that is running."""
        scope = current_scope(self._flow())
        engine = self._engine
        return scope if scope is not None or engine is None else scope_of_thread(engine.running, engine.thread)

    def state(self) -> Any:
        """Return the caller's draft inside a method; a copy of the committed state during a run; otherwise the state itself."""
        scope = current_scope(self._flow()) or self.scope()  # most calls come from a method: the first is enough
        if scope is not None:
            return scope.draft()
        if self._engine is not None:
            return copied(self._engine.versions.committed.state)
        if self._state is None:
            try:
                self._state = self.state_type.create(self.initial, {}, self.run_id)
            except RunInputsError as error:
                raise StateError(f"there is no state yet: {error}; pass them to kickoff(inputs=...)") from None
        return self._state

    def set_state(self, value: Any) -> None:
        """Replace the state: of the calling method or, between runs, of the instance."""
        scope = self.scope()
        if scope is not None:
            scope.replace(self.state_type.replacement(value, self._run_id))
        elif self._engine is not None:
            raise StateError("only its methods can set the state of a running flow; nothing was changed")
        else:
            self._state = self.state_type.replacement(value, self.run_id)

    def committed_state(self) -> Any:
        """Return a copy of the newest committed state, also inside a method."""
        return copied(self._engine.versions.committed.state) if self._engine is not None else copied(self.state())

    # ---- stored runs -------------------------------------------------------------------------------------------

    def outcome(self, stored: Stored) -> Any:
        """Return the result of the shown run if it finished. Otherwise raise what ended it: `MethodError`, `RunCancelledError`."""
        if self.status == "cancelled":
            raise refusals.cancelled(self._run_id)
        if self.status == "failed":
            raise stored_failure(self._class, stored.checkpoint)
        return self.result

    def show_checkpoint(self, checkpoint: Checkpoint) -> Stored:
        """Show a run as of this checkpoint, which must be a snapshot."""
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

    def _switch_to(self, run_id: str) -> None:
        """Switch to this run. Forget everything about another one, so that this run does not start with any of it."""
        if run_id != self._run_id and self.status != "new":
            self.status, self._state, self._pass_number, self._digest = "new", None, 0, None
            self.outputs, self.result, self._pending, self.error = Outputs(), None, (), None
            self._progress = None
        self._run_id = run_id

    def show(self, stored: Stored, written: Any = None) -> None:
        """Switch to this run, and show it as it is stored. `written`: the state that was stored last, if this instance stored it."""
        c = stored.checkpoint
        self._state = self._state if written is None else written
        state = self.state_to_continue(stored)
        self._run_id, self._state, self._pass_number, self._digest = c.run_id, state, c.pass_number, c.digest
        self._may_be_stored = True
        self.status = status_of(c.status, is_driven=False)
        self._pending, self._progress = tuple(stored.progress.pending), stored.progress
        self.outputs, self.result = Outputs(), None
        self.error = stored_failure(self._class, c) if c.status == "failed" else None
        outcome = stored.outcome
        if c.status == "finished" and isinstance(outcome, Finished):
            self.result = self.setup.codecs.decode_result(outcome.result, c.run_id, outcome.method)
            self.outputs = Outputs({outcome.method.removesuffix("[]"): self.result})

    def state_to_continue(self, stored: Stored) -> Any:
        """Return the state with which a stored run continues here: the instance's state if it equals the stored one, else the stored one.

        The instance's state may contain values that are not stored (private attributes, excluded fields). They would be lost silently.
        """
        state = self._state
        return state if state is not None and same(state, stored.state) else stored.state

    def check_edits(self, stored: Stored) -> None:
        """Raise `StateError` if the state was changed here since the run stopped: resuming would silently ignore the change."""
        c = stored.checkpoint
        is_as_shown = self._digest == c.digest and self._state is not None and not self.setup.whole
        if is_as_shown and not same(self._state, stored.state):
            raise refusals.edited_here(c)

    def storage(self, what: str) -> Any:
        persistence = self.setup.persistence
        if persistence is None:
            raise refusals.not_stored(self._class, what)
        return persistence
