"""The single code path for every happening of a pass: decide what it changes, apply that, and prepare its checkpoint.

A method's return, its failure, a start and a resume use this path. Whatever can raise comes first: until then nothing has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .._failure import Failure
from .._scheduling.advance import advance
from .._scheduling.messages import (
    Command,
    Continue,
    EndAsked,
    Fail,
    Finish,
    Happening,
    ItemReturned,
    MethodRaised,
    MethodReturned,
    PassEnded,
    Resumed,
    SignalTaken,
    Started,
    StepStored,
    TimerFired,
    Transition,
    WaitDropped,
    name_in,
)
from .._scheduling.progress import Progress
from .._values.copying import ATOMS
from ..persistence.checkpoint import Checkpoint
from ..persistence.outcome import Finished, Outcome
from ..persistence.status import Kind, Status
from .attempts import encode_attempt
from .chain import Chain
from .failures import failed_with
from .results import Results
from .settings import Settings
from .state_version import detached_copy
from .unstored_events import Unstored

__all__ = ["Happened", "Journal"]

KINDS: Final[dict[type[Happening], Kind]] = {
    Started: "started",
    Resumed: "resumed",
    MethodReturned: "method",
    ItemReturned: "method",
    MethodRaised: "failed",
    TimerFired: "timer",
    SignalTaken: "signal",
    PassEnded: "finished",
    EndAsked: "ending",
    WaitDropped: "step",
}
"""The kind of each happening's checkpoint. The last one of a pass is "finished"."""

Happened = tuple[tuple[Command, ...], Checkpoint | None, Any]
"""The commands to execute once the checkpoint is durable, the checkpoint, and a copy of the method's result."""


class Journal:
    """Records the happenings of one pass in its progress and, if the run is stored, in its chain of checkpoints."""

    __slots__ = (
        *(
            "_chain",
            "_clock",
            "_definition",
            "_fails_early",
            "_settings",
            "failures",
            "following",
            "progress",
            "results",
            "unstored",
        ),
    )

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        results: Results,
        chain: Chain | None,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._definition = settings.definition
        self._chain = chain
        self._clock = clock
        self._fails_early = settings.on_error == "cancel"
        """Whether the first failure fails the run, as it cancels all other methods."""
        self.progress = progress
        self.results = results
        self.failures: list[Failure] = []
        self.unstored: Unstored | None = None
        """Emits the events that are not stored; None if nothing observes the run."""
        self.following: tuple[Progress, tuple[Command, ...]] | None = None
        """The progress of the next pass and its first commands, once a method's `continue_as` has ended this one."""

    def happened(
        self,
        happening: Happening,
        method: str = "",
        key: str = "",
        result: Any = None,
        state: bytes | None = None,
        is_recorded: bool = True,
        failure: Failure | None = None,
        is_snapshot: bool = False,
    ) -> Happened:
        """Record a happening. Raises `ResultNotStorableError` or `LimitExceededError`, and has changed nothing then.

        `method`, `key`: of the invocation that ended. `state`: the bytes of the state that it left, if it changed. `is_recorded`: the
        checkpoint holds state and progress, and not only how the method or the pass ended. `is_snapshot`: it is a snapshot in any case.
        """
        transition, commands = advance(self._definition, self.progress, happening)
        ends = type(commands[0]) if commands else None
        kept: Any
        is_last, is_waited_for, kept = ends is Finish, transition.keeps_result, None
        if is_waited_for or is_last:
            kept, result = self.results.keep(method, result)
        if type(result) not in ATOMS:
            result = detached_copy(result)
        self.progress.fold(transition, kept)  # from here on, nothing raises
        if failure is not None:
            self.failures.append(failure)
        if ends is Continue:
            return commands, self._next_pass(key, state), result
        if self._chain is None or not (is_recorded or ends in (Finish, Fail) or failure is not None):
            if self.unstored is not None:
                self._emit(happening, transition, ends, key, error="" if failure is None else failure.type)
            return commands, None, result
        kind: Kind
        status: Status
        outcome: Outcome | None
        kind, status, outcome = KINDS[type(happening)], "running", None
        if is_last:
            kind, status, outcome = "finished", "finished", self._output(commands[0], method, kept)
        elif self.failures:
            status, outcome = self._failed(ends, failure)
        changes = None if kind == "started" else transition  # a start holds its progress as a whole
        needed = kept if is_waited_for else None
        checkpoint = self._chain.prepare(
            kind, status, self.progress, changes, state, key, needed, outcome, is_snapshot, not is_recorded
        )
        return commands, checkpoint, result

    def _output(self, finish: Command, method: str, kept: Any) -> Finished | None:
        """Return the output of a pass that ends: of this method, unless the output is that of another one."""
        if method and not (self._definition.keeps_output or self.progress.ending):
            return Finished(method, kept)
        output = self.progress.output
        if output is None or not isinstance(finish, Finish) or finish.key != output[0]:
            return None
        name = name_in(output[0])
        return Finished(name, self.results.output(name, output[1]))

    def _next_pass(self, method: str, state: bytes | None) -> Checkpoint | None:
        """Begin the next pass. Return its first checkpoint, which also stores the end of the invocation that was the last of this pass."""
        limit, parent = self._settings.run_timeout, self.progress.parent
        inherited = 0.0 if parent is None else self.progress.deadline
        progress = Progress(parent=parent, origin=self.progress.origin, trace=self.progress.trace)
        started = Started(inherited if limit is None else self._clock() + limit)
        transition, commands = advance(self._definition, progress, started)
        progress.fold(transition)
        self.following = progress, commands
        if self._chain is None and self.unstored is not None:
            self.unstored = self.unstored.next_pass(method)
        return None if self._chain is None else self._chain.next_pass(progress, method, state)

    def noticed(
        self,
        happening: TimerFired | SignalTaken | PassEnded | EndAsked | WaitDropped,
        payload: Any = None,
        *,
        is_recorded: bool = True,
        state: bytes | None = None,
    ) -> tuple[tuple[Command, ...], Checkpoint | None]:
        """Record what no method has done: the time of a timer, a signal, the end. Return the commands and the checkpoint.

        `payload`: of a signal, as it is kept. `state`: see `happened`.
        """
        transition, commands = advance(self._definition, self.progress, happening)
        ends = type(commands[0]) if commands else None
        is_last = ends is Finish
        self.progress.fold(transition, payload)
        if ends is Continue:
            return commands, self._next_pass("", state)
        if self._chain is None or not (is_recorded or ends in (Finish, Fail)):
            if self.unstored is not None:
                self._emit(happening, transition, ends)
            return commands, None
        timing, kind = transition.timing, KINDS[type(happening)]
        status, outcome = self._status(ends)
        if is_last:
            status, outcome = "finished", self._output(commands[0], "", None)
        needed = payload if transition.keeps_result or (timing is not None and timing.memo is not None) else None
        checkpoint = self._chain.prepare(
            *("finished" if is_last else kind, status, self.progress, transition, state),
            method="" if timing is None else timing.signal,
            result=needed,
            outcome=outcome,
            outcome_only=not is_recorded,
        )
        return commands, checkpoint

    def step_stored(self, key: str, step: str, value: bytes, is_last: bool, *, is_recorded: bool) -> Checkpoint | None:
        """Record a value that a running invocation stores under the name of one of its steps. Return the checkpoint.

        `is_last`: the pass fails, and from here on nothing but waits is left of it.
        """
        transition, _ = advance(self._definition, self.progress, StepStored(key, step))
        self.progress.fold(transition, value)
        if self._chain is None or not (is_recorded or is_last):
            if self.unstored is not None:
                self.unstored.emit("step", self._status(Fail if is_last else None)[0], key, transition, value=value)
            return None
        status, outcome = self._status(Fail if is_last else None)
        return self._chain.prepare(
            *("step", status, self.progress, transition, None, key, value, outcome, False, not is_recorded)
        )

    def attempt_failed(
        self, raised: MethodRaised, failure: Failure, state: bytes | None, is_recorded: bool
    ) -> Happened:
        """Record an attempt that failed, and is followed by another one: after a resume, if the pass is failing.

        If the pass is ending, the invocation is dropped instead.
        """
        transition, commands = advance(self._definition, self.progress, raised)
        ends = type(commands[0]) if commands else None
        error = encode_attempt(failure.attempts[-1])
        self.progress.fold(transition, error)
        if ends is Continue:
            return commands, self._next_pass("", state), None
        if self._chain is None or not (is_recorded or ends in (Fail, Finish)):
            if self.unstored is not None:
                more = {"attempt": failure.attempts[-1], "due": raised.retry_at}
                status = "finished" if ends is Finish else self._status(ends)[0]
                self.unstored.emit("retrying", status, raised.key, transition, **more)
            return commands, None, None
        if ends is Finish:
            end = self._output(commands[0], "", None)
            checkpoint = self._chain.prepare("finished", "finished", self.progress, transition, state, outcome=end)
            return commands, checkpoint, None
        status, outcome = self._status(ends)
        checkpoint = self._chain.prepare(
            *("retrying", status, self.progress, transition, state, raised.key, error, outcome, False, not is_recorded)
        )
        return commands, checkpoint, None

    def _emit(
        self, happening: Happening, transition: Transition, ends: type[Command] | None, key: str = "", error: str = ""
    ) -> None:
        """Emit the events of a happening that is not stored."""
        assert self.unstored is not None, "called only if something observes the run"
        kind, status = KINDS[type(happening)], self._status(ends)[0]
        if ends is Finish:
            kind, status = "finished", "finished"
        timing = transition.timing
        self.unstored.emit(kind, status, key or ("" if timing is None else timing.signal), transition, error=error)

    def _failed(self, ends: type[Command] | None, failure: Failure | None) -> tuple[Status, Outcome | None]:
        """Return the status of a run in which a method has failed, and the outcome.

        The end of another method stores none: a fork or an edit of it would show it as its own failure.
        """
        status: Status = "failed" if ends is Fail or self._fails_early else "running"
        return status, None if failure is None else failed_with(self.failures, is_over=status == "failed")

    def _status(self, ends: type[Command] | None) -> tuple[Status, Outcome | None]:
        """Return the status of a run after what ends no method, and the outcome, if the pass has failed with it."""
        if self.failures and (ends is Fail or self._fails_early):
            return "failed", failed_with(self.failures, is_over=True)
        return "running", None
