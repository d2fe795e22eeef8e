"""The engine of one pass: happenings to the scheduler, what it decides to the recorder, its commands to the task group.

    method ends -> advance -> state merged, checkpoint prepared, progress folded (one step, no await) -> committed -> act

A method whose completion enables one listener goes on in the same task, so a cycle neither nests nor spawns.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .._definition.definition import MethodDefinition
from .._failure import Failure
from .._scheduling.advance import advance
from .._scheduling.messages import Command, Fail, Finish, MethodRaised, MethodReturned, RunMethod
from .._scheduling.progress import Progress
from .._values import ATOMS, copied, is_long
from .._waiting import calls_user_code
from ..errors import CheckpointWithdrawnError, RunCancelledError
from ..persistence.checkpoint import Status
from .contexts import apart, fresh_context, is_same_context
from .crowd import CROWD, Crowd
from .ended import Ended, first_leaf, label_returned, merged, says
from .failures import changed_id_error, failure_record, limit_error, method_error
from .outputs import Outputs
from .recorder import Codecs, Recorder
from .scope import Scope, entered
from .settings import Settings
from .starts import begun, proven, started_in_thread
from .tracebacks import trimmed
from .versions import Encoded, Version, encoded_in_pieces, own, recorded

__all__ = ["Engine"]

BREATHE: Final = 16
"""Methods that are run, where nothing is stored and the state is no large one, before other tasks get a turn: some 0.3 ms."""

WRITERS: Final = 32
"""Methods whose names are remembered for a conflict."""


@dataclass(slots=True)
class Engine:
    """Drives one pass of one run. `recorder` is None where nothing is stored."""

    flow: Any
    settings: Settings
    codecs: Codecs
    run_id: str
    number: int
    recorder: Recorder | None
    progress: Progress
    newest: Version
    committed: Version = field(init=False)
    """The newest version that is known to be durable: the base of what is launched, and what others see."""
    outputs: Outputs = field(default_factory=Outputs)
    """The latest result of each method."""
    output: Any = None
    failures: list[Failure] = field(default_factory=list)
    is_finished: bool = False
    is_cancelled: bool = False
    """Whether it was cancelled for good."""
    running: dict[str, Scope] = field(default_factory=dict)
    """The invocations whose methods are under way."""
    thread: int = field(default_factory=threading.get_ident)
    _steps: int = 0
    _is_large: bool = field(init=False)
    """Whether the state is one that takes long to copy: asked of each draft, where nothing is stored."""
    _stopped: BaseException | None = None
    _scope: anyio.CancelScope | None = None
    _group: TaskGroup | None = None
    _beside: list[Scope] = field(default_factory=list)
    """What is to run beside the first, until there is a task group for it."""
    _crowd: Crowd[Scope] | None = None
    """Where many run at once: they take turns."""
    _methods: Mapping[str, MethodDefinition] = field(init=False)
    saved: Version = field(init=False)
    """The version whose state was recorded last: some methods have no checkpoint."""
    _prefix: str = field(init=False)
    """What the names of its invocations begin with."""
    _writers: tuple[tuple[int, str], ...] = ()
    """Who committed the newest versions while others ran, to name them in a conflict."""

    def __post_init__(self) -> None:
        self.committed = self.newest
        self._is_large = self.recorder is None and is_long(self.newest.state)
        self.saved = self.newest
        self._methods = self.settings.definition.methods
        self._prefix = f"{self.run_id}/{self.number}/"

    # ---- driving -----------------------------------------------------------------------------------------------

    async def drive(self, commands: tuple[Command, ...]) -> Any:
        """Act on the commands and on all that follow from them, until nothing is left to run; the pass's output.

        Raises `MethodError` when a method raised, and, as itself, whatever else ends a run: a storage's error, a
        cancellation, KeyboardInterrupt. All its tasks have ended then.
        """
        with anyio.CancelScope() as self._scope:
            scope = await apart(self._work(self._next(commands)))
            if self._beside:
                await apart(self._work_together(scope))
        if self._stopped is not None and not (self.is_cancelled and self.is_finished):
            raise self._stopped
        if self.failures:
            raise method_error(type(self.flow).__name__, self.run_id, self.failures, self.recorder is not None)
        return self.output

    @property
    def stopped(self) -> BaseException | None:
        """What ended the run from outside, or its storage's error; None where its methods have."""
        return self._stopped

    @property
    def is_cut_short(self) -> bool:
        """Whether what ran was cancelled: a commit may have been withdrawn then, after it was folded."""
        return self._scope is not None and self._scope.cancel_called

    def stop(self, why: BaseException) -> None:
        """End the run here with this error; what runs is cancelled, and nothing more is started or stored."""
        if self._stopped is None:
            self._stopped = why
        if self._scope is not None:
            self._scope.cancel()

    def wind_down(self, why: BaseException) -> None:
        """End the run at its next checkpoints: what runs goes on to its end and is stored, and nothing more is started."""
        if self._stopped is None:
            self._stopped = why

    def cancel(self, why: RunCancelledError) -> None:
        """Stop, for good: whatever else ends the run meanwhile, it was cancelled, unless it has finished by then."""
        self.is_cancelled = True
        self.stop(why)

    async def _work_together(self, first: Scope | None) -> None:
        """Go on in a task group, from where there is more than one invocation to run. It costs half a step to open one."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                beside, self._beside = self._beside, []
                for scope in beside:
                    self._launch(group, scope)
                await self._work(first)
        except BaseExceptionGroup as raised:  # trio raises KeyboardInterrupt where it waits for the tasks
            crashes, others = raised.split((KeyboardInterrupt, SystemExit))
            if crashes is None or others is not None:
                raise
            self.stop(first_leaf(crashes))

    def _launch(self, group: TaskGroup, scope: Scope) -> None:
        """Start an invocation in a task of its own; where there are many, in its turn."""
        if self._crowd is None and len(self.progress.pending) > CROWD:
            self._crowd = Crowd(group, self._work_apart)
        if self._crowd is None:
            group.start_soon(self._work_apart, scope)
        else:
            self._crowd.start(scope)

    async def _work_apart(self, scope: Scope, turn: int = 0) -> None:
        await apart(self._work(scope, turn))

    async def _work(self, scope: Scope | None, turn: int = 0) -> Scope | None:
        """Run an invocation and, one after the other, those that its completion leads to. `turn`: the one that it was started in.

        Ends early where the first of others that are to run beside it have come, and gives back what is to be run in this task.
        """
        try:
            while scope is not None and self._stopped is None and not self._beside:
                scope = self._next(await self._step(scope, turn))
                turn = 0
        except anyio.get_cancelled_exc_class() as cancelled:
            if self._scope is not None and not self._scope.cancel_called:
                self.stop(cancelled)  # raised by the method itself, or meant for this task alone: the run ends with it
            raise
        except CheckpointWithdrawnError as error:
            if (
                self._scope is not None and not self._scope.cancel_called
            ):  # else it is a consequence of what ended the run
                self.stop(error)
        except BaseException as error:
            self.stop(error)  # storage errors, KeyboardInterrupt, SystemExit: they leave `drive` as themselves
        return scope

    def _next(self, commands: tuple[Command, ...]) -> Scope | None:
        """Launch what is to be started, in order; the first is given back, to go on with in this task."""
        first: Scope | None = None
        for command in commands:
            if type(command) is RunMethod:  # a pattern takes six times as long, for each step
                invocation = command.invocation
                method = self._methods[invocation.method]
                is_alone = (
                    len(self.progress.pending) == 1 and self.committed is self.newest
                )  # a merge shares with older ones
                scope = Scope(self.flow, method, invocation, self._prefix, self.committed, is_alone=is_alone)
                if first is None:
                    first = scope
                elif self._group is None:
                    self._beside.append(scope)
                else:
                    self._launch(self._group, scope)
            elif type(command) is Finish:
                self.is_finished = True
            # else Fail: every task has ended, so the task group does, and `drive` raises
        return first

    async def _step(self, scope: Scope, turn: int) -> tuple[Command, ...]:
        """Run one invocation, and see its end committed; what to do next."""
        try:
            result = await self._call(scope)
            held = [scope.close()]  # the draft, and no other reference to it
            if self._crowd is not None:
                await self._crowd.wait(turn, len(self.progress.pending))
            is_cut = held[0] is not None and self._can_be_cut(scope, held[0])
            is_stored = self.recorder is not None
            encoded = await encoded_in_pieces(held, self.codecs, is_stored=is_stored) if is_cut else None
            ended = self._returned(scope, held, result, encoded)
        except Exception as error:  # whatever a user's method may raise
            if self.recorder is not None and error is self.recorder.refusal:
                raise  # it has not begun
            if self._crowd is not None:
                await self._crowd.wait(turn, len(self.progress.pending))
            ended = self._raised(scope, error)
        finally:
            if scope.is_open:
                scope.close()
        if ended.checkpoint is not None and self.recorder is not None:
            commit = self.recorder.commit(ended.checkpoint)
            await (commit if self._crowd is None else self._crowd.store(commit))
        if ended.version.number > self.committed.number:
            self.committed = ended.version
        if ended.is_well:
            self.outputs[scope.method.name] = ended.result
            if ended.is_last:  # not simply the last to come here: a storage may answer in any order
                self.output = ended.result
        if not ended.is_well and self.settings.on_error == "cancel" and self._scope is not None:
            self._scope.cancel()  # not before: what it would withdraw might be the record of this failure
        return ended.commands

    # ---- one invocation ----------------------------------------------------------------------------------------

    @calls_user_code
    async def _call(self, scope: Scope) -> Any:
        method, invocation, flow = scope.method, scope.invocation, self.flow
        limit = self.settings.max_method_calls
        if limit is not None and invocation.occurrence > limit:
            raise limit_error(self.settings.name, self.run_id, method.name, limit)
        args: list[Any] = []
        named: dict[str, Any] = {}
        for name, source in invocation.arguments:
            if name:
                named[name] = self._received(source)
            else:
                args.append(self._received(source))
        self._steps += 1
        if self.recorder is None and (self._is_large or not self._steps % BREATHE):
            await anyio.lowlevel.checkpoint()  # without commits to wait for, a cycle would starve the event loop
        token = entered.set(scope)
        context = copy_context()
        self.running[scope.key] = scope
        try:
            if method.is_async:
                recorder = self.recorder
                if recorder is not None and recorder.fence is not None and not recorder.fence.holds(recorder.stretch):
                    await proven(recorder)
                result = await method.function(flow, *args, **named)
            else:
                result = await started_in_thread(self.recorder, lambda: method.function(flow, *args, **named))
                if inspect.iscoroutine(result):  # a plain wrapper around an async function
                    result = await begun(self.recorder, result)
            is_changed = not is_same_context(copy_context(), context)
        finally:
            del self.running[scope.key]
            entered.reset(token)
        if is_changed:
            await fresh_context()
        return result

    def _received(self, source: str) -> Any:
        """The result of an invocation, for one that receives it: a value of its own, the same whether the run was resumed or not."""
        kept = self.progress.results.get(source)
        if self.recorder is None:
            return copied(kept)
        return None if kept is None else self.recorder.result(source.rpartition(":")[0], kept)

    # ---- its end: one step, with no await ----------------------------------------------------------------------

    def _can_be_cut(self, scope: Scope, draft: Any) -> bool:
        """Whether a draft is to be encoded piece by piece: a large one, while nobody else can come in between."""
        if self.recorder is None:
            self._is_large = is_long(draft)
            return self._is_large and scope.is_alone
        return self.recorder.is_large and scope.is_alone and self.settings.checkpoints(scope.method)

    def _returned(self, scope: Scope, held: list[Any], result: Any, encoded: Encoded | None) -> Ended:
        """Merge, encode, and only then change anything. Raises what makes the invocation a failed one instead."""
        method, key, recorder = scope.method, scope.key, self.recorder
        label = label_returned(self.settings, self.run_id, method, result) if method.is_router else None
        transition, commands = advance(self.settings.definition, self.progress, MethodReturned(key, label))
        is_last = len(commands) == 1 and type(commands[0]) is Finish
        has_checkpoint = self.settings.checkpoints_all or self.settings.checkpoints(method)
        state, version = self._version(scope, held, recorder if has_checkpoint else None, encoded)
        is_waited_for = transition.keeps_result
        kept, result = self._kept(method, result, is_waited_for or is_last)
        self.progress.fold(transition, kept)
        if version is not self.newest:
            self.newest = version
            if len(self.progress.pending) > len(transition.enabled):
                self._writers = (*self._writers[-WRITERS:], (version.number, method.name))
        mine = result if type(result) in ATOMS else own(result)
        if recorder is None or not (has_checkpoint or is_last or says(commands, Fail)):
            return Ended(commands, version, None, True, is_last, mine)
        if has_checkpoint:
            self.saved = version
        checkpoint = recorder.prepare(
            "finished" if is_last else "method",
            "finished" if is_last else self._status(commands) if self.failures else "running",
            self.progress,
            transition=transition,
            state=state,
            method=key,
            result=kept if is_waited_for else None,
            outcome={"method": method.name, "result": kept.decode()} if is_last else None,
            outcome_only=not has_checkpoint,
        )
        return Ended(commands, version, checkpoint, True, is_last, mine)

    def _kept(self, method: MethodDefinition, result: Any, is_kept: bool) -> tuple[Any, Any]:
        """What is kept of a result for those who wait for it, if anybody does, and the result as they will get it."""
        if not is_kept:
            return None, result
        if self.recorder is None:
            return own(result), result
        return self.recorder.result_bytes(method.name, result)

    def _raised(self, scope: Scope, error: Exception) -> Ended:
        transition, commands = advance(self.settings.definition, self.progress, MethodRaised(scope.key))
        self.progress.fold(transition)
        self.failures.append(Failure(scope.method.name, scope.invocation_id, trimmed(error)))
        if self.recorder is None:
            return Ended(commands, self.newest, None)
        checkpoint = self.recorder.prepare(
            "failed",
            self._status(commands),
            self.progress,
            transition=transition,
            method=scope.key,
            outcome=failure_record(self.failures, is_over=says(commands, Fail)),
            outcome_only=not self.settings.checkpoints_all,
        )
        return Ended(commands, self.newest, checkpoint)

    def _status(self, commands: tuple[Command, ...]) -> Status:
        """What a run that goes on is once this end is stored. Where siblings are cancelled, it has failed with the first failure."""
        if not self.failures:
            return "running"
        return "failed" if says(commands, Fail) or self.settings.on_error == "cancel" else "running"

    def _version(
        self, scope: Scope, held: list[Any], recorder: Recorder | None, encoded: Encoded | None
    ) -> tuple[bytes | None, Version]:
        """The version that an invocation leaves, and its bytes, if it is to be recorded."""
        name, base, newest = scope.method.name, scope.base, self.newest
        if held[0] is None:
            version = newest
        elif self.settings.state_type.id_of(held[0]) != self.run_id:
            raise changed_id_error(self.settings.name, self.run_id, name)
        elif base.number != newest.number:
            version = merged(self.settings, self.run_id, scope, held[0], newest, self._writers)
        elif encoded is not None:
            return encoded.data, encoded.version(newest.number + 1, held[0], self.codecs)
        elif recorder is not None and recorder.is_large:
            return recorded(newest.number + 1, held, recorder, name)
        else:
            version = Version(newest.number + 1, own(held[0]))  # whoever still holds the draft cannot reach the version
        if recorder is None or version.number == self.saved.number:
            return None, version
        data, kept = recorder.state_bytes(version.state, name)
        return data, Version(version.number, kept)
