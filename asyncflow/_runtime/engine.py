"""The engine of one pass: happenings to the scheduler, what it decides to the recorder, its commands to the task group.

    method ends -> advance -> state merged, checkpoint prepared, progress folded (one step, no await) -> committed -> act

A method whose completion enables one listener goes on in the same task, so a cycle neither nests nor spawns.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
import anyio.lowlevel

from .._definition.definition import FlowDefinition, MethodDefinition, label_of
from .._scheduling.advance import advance
from .._scheduling.messages import (
    Command,
    Fail,
    Finish,
    Happening,
    Invocation,
    MethodRaised,
    MethodReturned,
    RunMethod,
    Transition,
)
from .._scheduling.progress import Progress
from .._values import copied
from ..errors import Failure, LimitExceededError, RunCancelledError, StateError, UnknownLabelError
from ..merge import Conflict
from ..persistence.checkpoint import Checkpoint, Status
from ..state import StateType
from .failures import conflict_error, method_error
from .recorder import Recorder
from .scope import Scope, Version, entered
from .threads import in_thread

__all__ = ["Engine", "Settings"]

BREATHE: Final = 16
"""Methods that are run, where nothing is stored, before other tasks get a turn: some 0.3 ms."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a flow says about how it is run."""

    name: str
    definition: FlowDefinition
    state_type: StateType
    on_error: Literal["finish", "cancel"] = "finish"
    max_method_calls: int | None = 10_000
    checkpoints: Callable[[MethodDefinition], bool] = lambda method: True
    """Whether a method's end is a checkpoint."""


@dataclass(slots=True)
class _Ended:
    """What the end of one invocation amounts to, before it is durable."""

    commands: tuple[Command, ...]
    version: Version
    checkpoint: Checkpoint | None


@dataclass(slots=True)
class Engine:
    """Drives one pass of one run. `recorder` is None where nothing is stored."""

    flow: Any
    settings: Settings
    run_id: str
    number: int
    recorder: Recorder | None
    progress: Progress
    newest: Version
    committed: Version = field(init=False)
    """The newest version that is known to be durable: the base of what is launched, and what others see."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """The latest result of each method."""
    output: Any = None
    failures: list[Failure] = field(default_factory=list)
    observe: Callable[[Checkpoint, Transition], None] | None = None
    is_finished: bool = False
    _steps: int = 0
    _stopped: BaseException | None = None
    _scope: anyio.CancelScope | None = None
    _spawn: Callable[..., object] = field(init=False)
    _writers: deque[tuple[int, str]] = field(default_factory=lambda: deque(maxlen=64))
    """Who committed the newest versions, to name them in a conflict."""

    def __post_init__(self) -> None:
        self.committed = self.newest

    # ---- driving -----------------------------------------------------------------------------------------------

    async def drive(self, commands: tuple[Command, ...]) -> Any:
        """Act on the commands and on all that follow from them, until nothing is left to run; the pass's output.

        Raises `MethodError` when a method raised, and, as itself, whatever else ends a run: a storage's error, a
        cancellation, KeyboardInterrupt. All its tasks have ended then.
        """
        async with anyio.create_task_group() as group:
            self._spawn = group.start_soon
            self._scope = group.cancel_scope
            await self._work(self._next(commands))
        if self._stopped is not None:
            raise self._stopped
        if self.failures:
            raise method_error(self.settings.name, self.run_id, self.failures, self.recorder is not None)
        return self.output

    @property
    def is_stopped(self) -> bool:
        """Whether the run was ended from outside, or by its storage, rather than by its methods."""
        return self._stopped is not None

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled for good."""
        return isinstance(self._stopped, RunCancelledError)

    def stop(self, why: BaseException) -> None:
        """End the run here with this error; what runs is cancelled, and nothing more is started or stored."""
        if self._stopped is None:
            self._stopped = why
        if self._scope is not None:
            self._scope.cancel()

    async def _work(self, scope: Scope | None) -> None:
        """Run an invocation and, one after the other, those that its completion leads to."""
        try:
            while scope is not None and self._stopped is None:
                scope = self._next(await self._step(scope))
        except anyio.get_cancelled_exc_class() as cancelled:
            if self._scope is not None and not self._scope.cancel_called:
                self.stop(cancelled)  # raised by the method itself, or meant for this task alone: the run ends with it
            raise
        except (
            BaseException
        ) as error:  # storage errors, KeyboardInterrupt, SystemExit: they leave `drive` as themselves
            self.stop(error)

    def _next(self, commands: tuple[Command, ...]) -> Scope | None:
        """Launch what is to be started, in order; the first is given back, to go on with in this task."""
        first: Scope | None = None
        for command in commands:
            match command:
                case RunMethod(invocation):
                    scope = Scope(self.flow, invocation, self.invocation_id(invocation.key), self.committed)
                    if first is None:
                        first = scope
                    else:
                        self._spawn(self._work, scope)
                case Finish():
                    self.is_finished = True
                case Fail():
                    pass  # every task has ended, so the task group does; `drive` raises
        return first

    async def _step(self, scope: Scope) -> tuple[Command, ...]:
        """Run one invocation, and see its end committed; what to do next."""
        try:
            ended = self._returned(scope, await self._call(scope))
        except Exception as error:
            scope.close()
            ended = self._raised(scope.invocation, error)
        except BaseException:
            scope.close()
            raise
        if ended.checkpoint is not None and self.recorder is not None:
            await self.recorder.commit(ended.checkpoint)
        if ended.version.number > self.committed.number:
            self.committed = ended.version
        if self.failures and self.settings.on_error == "cancel" and self._scope is not None:
            self._scope.cancel()
        return ended.commands

    def invocation_id(self, key: str) -> str:
        """The name of an invocation, stable over retries and resumes: run, pass, method, occurrence."""
        return f"{self.run_id}/{self.number}/{key}"

    # ---- one invocation ----------------------------------------------------------------------------------------

    async def _call(self, scope: Scope) -> Any:
        invocation = scope.invocation
        method = self.settings.definition.methods[invocation.method]
        limit = self.settings.max_method_calls
        if limit is not None and invocation.occurrence > limit:
            raise LimitExceededError(
                f"{self.settings.name}.{method.name} was about to be called more than {limit} times in one pass; if the cycle "
                "is meant to go on, raise max_method_calls (None: no limit) and resume",
                run_id=self.run_id,
                method=method.name,
            )
        args, named = self._arguments(invocation)
        self._steps += 1
        if self.recorder is None and not self._steps % BREATHE:
            await anyio.lowlevel.checkpoint()  # without commits to wait for, a cycle would starve the event loop
        token = entered.set(scope)
        try:
            if method.is_async:
                return await method.function(self.flow, *args, **named)
            return await in_thread(lambda: method.function(self.flow, *args, **named))
        finally:
            entered.reset(token)

    def _arguments(self, invocation: Invocation) -> tuple[list[Any], dict[str, Any]]:
        """Each receiver gets a value of its own, the same whether the run was resumed or not."""
        args: list[Any] = []
        named: dict[str, Any] = {}
        for name, source in invocation.arguments:
            kept = self.progress.results.get(source)
            if self.recorder is None:
                value = copied(kept)
            else:
                value = None if kept is None else self.recorder.result(source.rpartition(":")[0], kept)
            if name:
                named[name] = value
            else:
                args.append(value)
        return args, named

    # ---- its end: one step, with no await ----------------------------------------------------------------------

    def _returned(self, scope: Scope, result: Any) -> _Ended:
        """Merge, encode, and only then change anything. Raises what makes the invocation a failed one instead."""
        invocation = scope.invocation
        method = self.settings.definition.methods[invocation.method]
        draft = scope.close()
        transition, commands = self._decide(MethodReturned(invocation.key, self._label(method, result)))
        is_last, ends_failing = _says(commands, Finish), _says(commands, Fail)
        version = self.newest if draft is None else self._merged(scope, draft)
        kept: Any = None
        if self.recorder is not None:
            if transition.keeps_result or is_last:
                kept, result = self.recorder.result_bytes(method.name, result)
        elif transition.keeps_result:
            kept = _own(result)
        is_stored = self.recorder is not None and (is_last or ends_failing or self.settings.checkpoints(method))
        state: bytes | None = None
        if self.recorder is not None and is_stored and self.settings.checkpoints(method):
            state, kept_state = self.recorder.state_bytes(version.state, method.name)
            version = Version(version.number, kept_state)
        self._fold(invocation, transition, kept, version)
        self.outputs[method.name] = self.output = _own(result)
        checkpoint: Checkpoint | None = None
        if self.recorder is not None and is_stored:
            outcome = {"method": method.name, "result": kept.decode()} if is_last else None
            checkpoint = self.recorder.prepare(
                "finished" if is_last else "method",
                self._status(commands),
                self.progress,
                transition=transition,
                state=state,
                method=invocation.key,
                result=kept if transition.keeps_result else None,
                outcome=outcome,
                outcome_only=not self.settings.checkpoints(method),
            )
            self._tell(checkpoint, transition)
        return _Ended(commands, version, checkpoint)

    def _raised(self, invocation: Invocation, error: Exception) -> _Ended:
        transition, commands = self._decide(MethodRaised(invocation.key))
        self.progress.fold(transition)
        self.failures.append(Failure(invocation.method, self.invocation_id(invocation.key), error))
        if self.recorder is None:
            return _Ended(commands, self.newest, None)
        checkpoint = self.recorder.prepare(
            "failed",
            self._status(commands),
            self.progress,
            transition=transition,
            method=invocation.key,
            outcome={
                "method": invocation.method,
                "type": f"{type(error).__module__}.{type(error).__qualname__}",
                "message": _text(error),
                "traceback": "".join(traceback.format_exception(error)).encode("utf-8", "replace").decode(),
            },
            outcome_only=not all(map(self.settings.checkpoints, self.settings.definition.methods.values())),
        )
        self._tell(checkpoint, transition)
        return _Ended(commands, self.newest, checkpoint)

    def _status(self, commands: tuple[Command, ...]) -> Status:
        """What the run is once this end is stored. Where siblings are cancelled, it has failed with the first failure."""
        if _says(commands, Finish):
            return "finished"
        has_failed = _says(commands, Fail) or (self.failures and self.settings.on_error == "cancel")
        return "failed" if has_failed else "running"

    def _decide(self, happening: Happening) -> tuple[Transition, tuple[Command, ...]]:
        return advance(self.settings.definition, self.progress, happening)

    def _label(self, method: MethodDefinition, result: Any) -> str | None:
        label = label_of(result) if method.is_router else None
        if label is None:
            return None
        if method.labels is not None and label not in method.labels:
            known = ", ".join(sorted(method.labels)) or "none"
            raise UnknownLabelError(
                f"the router {self.settings.name}.{method.name} returned a label that it does not declare; declared: {known}. "
                "Add it to the return annotation or to emit=. Nothing of this call was saved",
                run_id=self.run_id,
                method=method.name,
            )
        if label in self.settings.definition.methods:
            raise UnknownLabelError(
                f"the router {self.settings.name}.{method.name} returned a label that is the name of a method; rename the label. "
                "Nothing of this call was saved",
                run_id=self.run_id,
                method=method.name,
            )
        return label

    def _merged(self, scope: Scope, draft: Any) -> Version:
        """The next version: the draft itself if nobody has committed since the launch, else the three-way merge.

        The draft is copied: whoever still holds it cannot reach a committed version.
        """
        state_type, base, newest, method = self.settings.state_type, scope.base, self.newest, scope.invocation.method
        if state_type.id_of(draft) != self.run_id:
            raise StateError(
                f"{self.settings.name}.{method} changed the id of the state, which is the run's; its changes were dropped. "
                "Keep `id` as it is",
                run_id=self.run_id,
                method=method,
            )
        if base.number == newest.number:
            return Version(newest.number + 1, _own(draft))
        try:
            return Version(newest.number + 1, state_type.merged(base.state, draft, newest.state))
        except Conflict as conflict:
            others = [method for number, method in self._writers if number > base.number]
            raise conflict_error(self.settings.name, self.run_id, method, others, conflict) from None

    def _fold(self, invocation: Invocation, transition: Transition, kept: Any, version: Version) -> None:
        self.progress.fold(transition, kept)
        if version.number > self.newest.number:
            self.newest = version
            self._writers.append((version.number, invocation.method))

    def _tell(self, checkpoint: Checkpoint, transition: Transition) -> None:
        if self.observe is not None:
            self.observe(checkpoint, transition)


def _own(value: Any) -> Any:
    """A copy of what a method leaves behind, which nobody else can reach."""
    try:
        return copied(value)
    except RecursionError:
        raise LimitExceededError(
            f"a {type(value).__name__} is nested too deeply to be kept, or contains itself; flatten it. Nothing of this call was "
            "saved"
        ) from None


def _says(commands: tuple[Command, ...], kind: type[Finish | Fail]) -> bool:
    """Whether the pass is over in this way: then it is the only command."""
    return len(commands) == 1 and type(commands[0]) is kind


def _text(error: Exception) -> str:
    """An exception's message, whatever its `__str__` does, as text that can be stored."""
    try:
        return str(error).encode("utf-8", "replace").decode()
    except Exception:  # a foreign __str__ may raise anything; the failure is recorded all the same
        return ""
