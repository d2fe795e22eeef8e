"""Drive one pass: report to the scheduler what happened, record its decisions, and run its commands in the task group.

    method ends -> advance -> merge state, prepare checkpoint, fold progress (one step, no await) -> commit -> act

When a method's completion enables exactly one listener, that listener runs in the same task. So a cycle neither nests calls nor
spawns tasks.
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
from .._values.copying import ATOMS, copied, is_long
from .._waiting import calls_user_code
from ..errors import CheckpointWithdrawnError, RunCancelledError
from ..persistence.outcome import Finished
from ..persistence.status import Status
from .contexts import apart, fresh_context, is_same_context
from .crowd import CROWD, Crowd
from .ended import Ended, first_leaf, label_returned, merged, says
from .failures import changed_id_error, failed_with, limit_error, method_error
from .outputs import Outputs
from .recorder import Codecs, Recorder
from .scope import Scope, entered
from .settings import Settings
from .starts import begun, proven, started_in_thread
from .tracebacks import trimmed
from .versions import Encoded, Version, encoded_in_pieces, own, recorded

__all__ = ["Engine"]

BREATHE: Final = 16
"""Without persistence and with a small state: methods that run before the engine yields to other tasks, about every 0.3 ms."""

WRITERS: Final = 32
"""How many earlier writers the engine remembers, to name them in a conflict error."""


@dataclass(slots=True)
class Engine:
    """Drives one pass of one run. `recorder` is None without persistence."""

    flow: Any
    settings: Settings
    codecs: Codecs
    run_id: str
    pass_number: int
    recorder: Recorder | None
    progress: Progress
    newest: Version
    committed: Version = field(init=False)
    """The newest version that is known to be durable: the base of new invocations, and the state that readers outside the methods see."""
    outputs: Outputs = field(default_factory=Outputs)
    """The latest result of each method."""
    output: Any = None
    failures: list[Failure] = field(default_factory=list)
    is_finished: bool = False
    is_cancelled: bool = False
    """Whether the run was cancelled permanently."""
    running: dict[str, Scope] = field(default_factory=dict)
    """The invocations whose methods are running, by invocation key."""
    thread: int = field(default_factory=threading.get_ident)
    _steps: int = 0
    _is_large: bool = field(init=False)
    """Whether the state takes long to copy. Without persistence, the engine checks this on each draft."""
    _stopped: BaseException | None = None
    _scope: anyio.CancelScope | None = None
    _group: TaskGroup | None = None
    _beside: list[Scope] = field(default_factory=list)
    """Invocations that have to run concurrently with the first one, and wait until a task group is open."""
    _crowd: Crowd[Scope] | None = None
    """Set when many invocations run at once: they take turns."""
    _methods: Mapping[str, MethodDefinition] = field(init=False)
    saved: Version = field(init=False)
    """The version whose state was recorded last. It may be older than `newest`, as some methods have no checkpoint."""
    _prefix: str = field(init=False)
    """The prefix of the ids of this pass's invocations: run id and pass number."""
    _writers: tuple[tuple[int, str], ...] = ()
    """Version index and method of the newest commits that were made while other invocations ran, to name them in a conflict error."""

    def __post_init__(self) -> None:
        self.committed = self.newest
        self._is_large = self.recorder is None and is_long(self.newest.state)
        self.saved = self.newest
        self._methods = self.settings.definition.methods
        self._prefix = f"{self.run_id}/{self.pass_number}/"

    # ---- driving -----------------------------------------------------------------------------------------------

    async def drive(self, commands: tuple[Command, ...]) -> Any:
        """Act on the commands, and on all that follow from them, until nothing is left to run. Return the pass's output.

        Raises `MethodError` when a method raised. Raises unchanged whatever else ends a run: a backend's error, a cancellation,
        KeyboardInterrupt. All tasks of the pass have ended by then.
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
        """The error that ended the run from outside, or a backend's error; None if its methods ended it."""
        return self._stopped

    @property
    def is_cut_short(self) -> bool:
        """Whether the engine cancelled its running tasks: a commit may then have been withdrawn after it was folded into the progress."""
        return self._scope is not None and self._scope.cancel_called

    def stop(self, why: BaseException) -> None:
        """End the run now with this error: cancel everything that runs, and start and store nothing more."""
        if self._stopped is None:
            self._stopped = why
        if self._scope is not None:
            self._scope.cancel()

    def wind_down(self, why: BaseException) -> None:
        """End the run at its next checkpoints: let running methods finish and store their ends, but start nothing more."""
        if self._stopped is None:
            self._stopped = why

    def cancel(self, why: RunCancelledError) -> None:
        """Stop the run permanently: whatever else ends it meanwhile, it counts as cancelled, unless it has finished by then."""
        self.is_cancelled = True
        self.stop(why)

    async def _work_together(self, first: Scope | None) -> None:
        """Continue in a task group once more than one invocation has to run. Opening a task group costs half a step."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                beside, self._beside = self._beside, []
                for scope in beside:
                    self._launch(group, scope)
                await self._work(first)
        except BaseExceptionGroup as raised:  # trio raises KeyboardInterrupt while it waits for the tasks
            crashes, others = raised.split((KeyboardInterrupt, SystemExit))
            if crashes is None or others is not None:
                raise
            self.stop(first_leaf(crashes))

    def _launch(self, group: TaskGroup, scope: Scope) -> None:
        """Start an invocation in a task of its own; if many invocations run, start it in its turn."""
        if self._crowd is None and len(self.progress.pending) > CROWD:
            self._crowd = Crowd(group, self._work_apart)
        if self._crowd is None:
            group.start_soon(self._work_apart, scope)
        else:
            self._crowd.start(scope)

    async def _work_apart(self, scope: Scope, turn: int = 0) -> None:
        await apart(self._work(scope, turn))

    async def _work(self, scope: Scope | None, turn: int = 0) -> Scope | None:
        """Run an invocation, then, one after another, those that its completion leads to. `turn`: the turn in which it was started.

        Return early when the first invocations that have to run concurrently with it appear and no task group is open. The return
        value is the invocation that has to run next in this task.
        """
        try:
            while scope is not None and self._stopped is None and not self._beside:
                scope = self._next(await self._step(scope, turn))
                turn = 0
        except anyio.get_cancelled_exc_class() as cancelled:
            if self._scope is not None and not self._scope.cancel_called:
                self.stop(cancelled)  # the method raised it, or it is meant for this task alone: end the run with it
            raise
        except CheckpointWithdrawnError as error:
            # If the scope is cancelled, the error only follows from what ended the run.
            if self._scope is not None and not self._scope.cancel_called:
                self.stop(error)
        except BaseException as error:
            self.stop(error)  # backend errors, KeyboardInterrupt, SystemExit: `drive` raises them unchanged
        return scope

    def _next(self, commands: tuple[Command, ...]) -> Scope | None:
        """Launch the invocations that the commands start, in order. Return the first one instead, to run it in this task."""
        first: Scope | None = None
        for command in commands:
            if type(command) is RunMethod:  # `match` takes six times as long, at each step
                invocation = command.invocation
                method = self._methods[invocation.method]
                # A merged version shares values with older versions.
                is_alone = len(self.progress.pending) == 1 and self.committed is self.newest
                scope = Scope(self.flow, method, invocation, self._prefix, self.committed, is_alone=is_alone)
                if first is None:
                    first = scope
                elif self._group is None:
                    self._beside.append(scope)
                else:
                    self._launch(self._group, scope)
            elif type(command) is Finish:
                self.is_finished = True
            # else Fail: every task has ended, so the task group ends too, and `drive` raises
        return first

    async def _step(self, scope: Scope, turn: int) -> tuple[Command, ...]:
        """Run one invocation, commit its end, and return the commands that follow from it."""
        try:
            result = await self._call(scope)
            held = [scope.close()]  # the list holds the only reference to the draft
            if self._crowd is not None:
                await self._crowd.wait(turn, len(self.progress.pending))
            is_cut = held[0] is not None and self._should_chunk(scope, held[0])
            is_stored = self.recorder is not None
            encoded = await encoded_in_pieces(held, self.codecs, is_stored=is_stored) if is_cut else None
            ended = self._returned(scope, held, result, encoded)
        except Exception as error:  # a user's method may raise anything
            if self.recorder is not None and error is self.recorder.refusal:
                raise  # the method has not started
            if self._crowd is not None:
                await self._crowd.wait(turn, len(self.progress.pending))
            ended = self._raised(scope, error)
        finally:
            if scope.is_open:
                scope.close()
        if ended.checkpoint is not None and self.recorder is not None:
            commit = self.recorder.commit(ended.checkpoint)
            await (commit if self._crowd is None else self._crowd.store(commit))
        if ended.version.index > self.committed.index:
            self.committed = ended.version
        if ended.is_well:
            self.outputs[scope.method.name] = ended.result
            if ended.is_last:  # not simply the last to get here: a backend may answer in any order
                self.output = ended.result
        if not ended.is_well and self.settings.on_error == "cancel" and self._scope is not None:
            self._scope.cancel()  # not earlier: that could withdraw the commit that records this failure
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
        """Return an invocation's result for one that receives it: a separate value, the same whether the run was resumed or not."""
        kept = self.progress.results.get(source)
        if self.recorder is None:
            return copied(kept)
        return None if kept is None else self.recorder.result(source.rpartition(":")[0], kept)

    # ---- the end of an invocation: one step, with no await -----------------------------------------------------

    def _should_chunk(self, scope: Scope, draft: Any) -> bool:
        """Whether to encode a draft piece by piece: it is large, and no other invocation can run in between."""
        if self.recorder is None:
            self._is_large = is_long(draft)
            return self._is_large and scope.is_alone
        return self.recorder.is_large and scope.is_alone and self.settings.checkpoints(scope.method)

    def _returned(self, scope: Scope, held: list[Any], result: Any, encoded: Encoded | None) -> Ended:
        """Record the end of a method that returned: merge and encode first, and only then change anything.

        Raises the error that makes the invocation a failed one instead.
        """
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
                self._writers = (*self._writers[-WRITERS:], (version.index, method.name))
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
            outcome=Finished(method.name, kept) if is_last else None,
            outcome_only=not has_checkpoint,
        )
        return Ended(commands, version, checkpoint, True, is_last, mine)

    def _kept(self, method: MethodDefinition, result: Any, is_kept: bool) -> tuple[Any, Any]:
        """Return what to keep of a result for the invocations that wait for it, if any, and the result as they will receive it."""
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
            outcome=failed_with(self.failures, is_over=says(commands, Fail)),
            outcome_only=not self.settings.checkpoints_all,
        )
        return Ended(commands, self.newest, checkpoint)

    def _status(self, commands: tuple[Command, ...]) -> Status:
        """Return the status of an unfinished run once this end is stored. If siblings are cancelled, the first failure fails the run."""
        if not self.failures:
            return "running"
        return "failed" if says(commands, Fail) or self.settings.on_error == "cancel" else "running"

    def _version(
        self, scope: Scope, held: list[Any], recorder: Recorder | None, encoded: Encoded | None
    ) -> tuple[bytes | None, Version]:
        """Return the version that an invocation leaves, and its bytes if it has to be recorded."""
        name, base, newest = scope.method.name, scope.base, self.newest
        if held[0] is None:
            version = newest
        elif self.settings.state_type.id_of(held[0]) != self.run_id:
            raise changed_id_error(self.settings.name, self.run_id, name)
        elif base.index != newest.index:
            version = merged(self.settings, self.run_id, scope, held[0], newest, self._writers)
        elif encoded is not None:
            return encoded.data, encoded.version(newest.index + 1, held[0], self.codecs)
        elif recorder is not None and recorder.is_large:
            return recorded(newest.index + 1, held, recorder, name)
        else:
            # A copy: code that still holds the draft cannot reach the version.
            version = Version(newest.index + 1, own(held[0]))
        if recorder is None or version.index == self.saved.index:
            return None, version
        data, kept = recorder.state_bytes(version.state, name)
        return data, Version(version.index, kept)
