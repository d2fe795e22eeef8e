"""Drive one pass: report to the scheduler what happened, record its decisions, and run its commands in the task group.

    method ends -> merge state -> advance -> fold progress -> prepare checkpoint (one step, no await) -> commit -> act

When a method's completion enables exactly one listener, that listener runs in the same task. So a cycle neither nests calls nor
spawns tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, Final, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .._scheduling.messages import Command, Finish, MethodRaised, MethodReturned, RunLater, RunMethod
from .._scheduling.progress import Progress
from .._waiting import calls_user_code
from ..errors import CheckpointWithdrawnError, RunCancelledError, RunTimeoutError
from .codecs import Codecs
from .contexts import apart, fresh_context, is_same_context
from .crowd import CROWD, Crowd
from .failures import limit_error, method_error, run_timeout_error
from .journal import Happened, Journal
from .labels import label_returned
from .large_states import Encoded
from .outputs import Outputs
from .recorder import Recorder
from .results import Results, StoredResults
from .retries import Retries, failure_of
from .scope import LaterScope, Scope, current_invocation
from .settings import Settings
from .starts import call_plain, confirm_ownership
from .state_version import Version
from .timeouts import until, within
from .tracebacks import first_leaf, trimmed
from .versions import StateVersions

__all__ = ["Engine"]

NONE: Final[tuple[Sequence[Any], Mapping[str, Any]]] = (), {}
"""The arguments of a method that takes none."""

BREATHE: Final = 16
"""Without persistence and with a small state: methods that run before the engine yields to other tasks, about every 0.3 ms."""


class Engine:
    """Drives one pass of one run. `recorder` is None without persistence."""

    __slots__ = (
        *("_clock", "_concurrent", "_crowd", "_group", "_methods", "_prefix", "_retries", "_scope"),
        *("_steps", "_stopped", "flow", "is_cancelled", "is_finished", "journal", "output", "outputs", "pass_number"),
        *("recorder", "run_id", "running", "settings", "thread", "versions"),
    )

    def __init__(
        self,
        flow: Any,
        settings: Settings,
        codecs: Codecs,
        run_id: str,
        pass_number: int,
        recorder: Recorder | None,
        progress: Progress,
        first: Version,
        data: bytes | None,
        clock: Callable[[], float],
    ) -> None:
        """`first`: the state with which the pass starts or continues. `data`: its bytes, if the run is stored. `clock`: see `Chain`."""
        chain = None if recorder is None else recorder.chain
        self.flow = flow
        self.settings = settings
        self.run_id = run_id
        self.pass_number = pass_number
        self.recorder = recorder
        self.versions = StateVersions(settings, codecs, run_id, first, size=None if chain is None else len(data or b""))
        results = Results() if chain is None else StoredResults(codecs, run_id)
        fails_early = settings.on_error == "cancel"
        self.journal = Journal(settings.definition, progress, results, chain, fails_early=fails_early)
        self.outputs = Outputs()
        self.output: Any = None
        self.is_finished = False
        self.is_cancelled = False
        """Whether the run was cancelled permanently."""
        self.running: dict[str, Scope] = {}
        """The invocations whose methods are running, by invocation key."""
        self.thread = threading.get_ident()
        self._clock = clock
        self._retries: Retries | None = None
        """Set once an attempt has failed that may be followed by another one."""
        self._steps = 0
        self._stopped: BaseException | None = None
        self._scope: anyio.CancelScope | None = None
        self._group: TaskGroup | None = None
        self._concurrent: list[Scope] = []
        """Invocations that have to run concurrently with the first one, and wait until a task group is open."""
        self._crowd: Crowd[Scope] | None = None
        """Set when many invocations run at once: they take turns."""
        self._methods = settings.definition.methods
        self._prefix = f"{run_id}/{pass_number}/"

    # ---- driving -----------------------------------------------------------------------------------------------

    async def drive(self, commands: tuple[Command, ...]) -> Any:
        """Act on the commands, and on all that follow from them, until nothing is left to run. Return the pass's output.

        Raises `MethodError` when a method raised. Raises unchanged whatever else ends a run: a backend's error, a cancellation,
        KeyboardInterrupt. All tasks of the pass have ended by then.
        """
        with anyio.CancelScope() as self._scope:
            if self.journal.progress.deadline:
                await until(
                    self.journal.progress.deadline, self._clock, lambda: self._work_all(commands), self._time_out
                )
            else:
                await self._work_all(commands)
        if self._stopped is not None and not ((self.is_cancelled or self.is_timed_out) and self.is_finished):
            raise self._stopped
        if failures := self.journal.failures:
            raise method_error(type(self.flow).__name__, self.run_id, failures, self.recorder is not None)
        return self.output

    @property
    def stopped(self) -> BaseException | None:
        """The error that ended the run from outside, or a backend's error; None if its methods ended it."""
        return self._stopped

    @property
    def has_failed(self) -> bool:
        """Whether a method failed, and nothing from outside ended the run."""
        return bool(self.journal.failures) and self._stopped is None

    @property
    def pending(self) -> tuple[str, ...]:
        """The keys of the invocations that are to be completed."""
        return tuple(self.journal.progress.pending)

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
        if self._retries is not None:
            self._retries.end_pauses()

    def cancel(self, why: RunCancelledError) -> None:
        """Stop the run permanently: whatever else ends it meanwhile, it counts as cancelled, unless it has finished by then."""
        self.is_cancelled = True
        self.stop(why)

    def _time_out(self) -> None:
        self.stop(run_timeout_error(type(self.flow).__name__, self.run_id, self.journal.failures, self.recorder))

    @property
    def is_timed_out(self) -> bool:
        """Whether the pass ended because its time limit passed."""
        return isinstance(self._stopped, RunTimeoutError)

    async def _work_all(self, commands: tuple[Command, ...]) -> None:
        scope = await apart(self._work(self._next(commands)))
        if self._concurrent:
            await apart(self._work_together(scope))

    async def _work_together(self, first: Scope | None) -> None:
        """Continue in a task group once more than one invocation has to run. Opening a task group costs half a step."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                concurrent, self._concurrent = self._concurrent, []
                for scope in concurrent:
                    self._launch(group, scope)
                await self._work(first)
        except BaseExceptionGroup as raised:  # trio raises KeyboardInterrupt while it waits for the tasks
            crashes, others = raised.split((KeyboardInterrupt, SystemExit))
            if crashes is None or others is not None:
                raise
            self.stop(first_leaf(crashes))

    def _launch(self, group: TaskGroup, scope: Scope) -> None:
        """Start an invocation in a task of its own; if many invocations run, start it in its turn."""
        if self._crowd is None and len(self.journal.progress.pending) > CROWD:
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
            while scope is not None and self._stopped is None and not self._concurrent:
                if type(scope) is Scope:
                    scope = self._next(await self._step(scope, turn))
                else:
                    scope = self._next(await self._later_step(cast(LaterScope, scope), turn))
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
            if type(command) is RunMethod or type(command) is RunLater:  # `match` takes six times as long, at each step
                invocation = command.invocation
                method = self._methods[invocation.method]
                # A merged version shares values with older versions.
                is_alone = len(self.journal.progress.pending) == 1 and self.versions.committed is self.versions.newest
                given = self.flow, method, invocation, self._prefix, self.versions.committed, is_alone
                scope = Scope(*given) if type(command) is RunMethod else LaterScope(cast(RunLater, command).at, *given)
                if first is None:
                    first = scope
                elif self._group is None:
                    self._concurrent.append(scope)
                else:
                    self._launch(self._group, scope)
            elif type(command) is Finish:
                self.is_finished = True
                self.output = self.outputs[command.key.rpartition(":")[0]]  # before another end can replace it
            # else Fail: every task has ended, so the task group ends too, and `drive` raises
        return first

    async def _step(self, scope: Scope, turn: int) -> tuple[Command, ...]:
        """Run one invocation, commit its end, and return the commands that follow from it."""
        try:
            result = await self._call(scope)
            draft = scope.close()
            if self._crowd is not None:
                await self._crowd.wait(turn, len(self.journal.progress.pending))
            encoded = None
            if self.versions.takes_long(draft) and self._may_wait(scope):
                encoded = await self.versions.encoded(draft)
            version, (commands, checkpoint, result) = self._returned(scope, draft, result, encoded)
            is_well = True
        except Exception as error:  # a user's method may raise anything
            if self.recorder is not None and error is self.recorder.refusal:
                raise  # the method has not started
            await self._wait_turn(turn)
            if await self._is_conflict(scope, error):
                return (RunLater(scope.invocation),)
            version, (commands, checkpoint, result) = self._raised(scope, error)
            is_well = False
        finally:
            if scope.is_open:
                scope.close()
        if checkpoint is not None and self.recorder is not None:
            commit = self.recorder.commit(checkpoint)
            await (commit if self._crowd is None else self._crowd.store(commit))
        if version.index > self.versions.committed.index:
            self.versions.committed = version
        if is_well:
            self.outputs[scope.method.name] = result
        else:
            self._end_others(scope)  # not earlier: that could withdraw the commit that records this failure
        return commands

    async def _later_step(self, scope: LaterScope, turn: int) -> tuple[Command, ...]:
        """Wait for the next attempt of an invocation, and make it on the state of that time, unless the pass ends meanwhile."""
        progress, versions = self.journal.progress, self.versions
        is_begun = scope.key not in progress.paused or await self._retries_of_pass().pause(scope)
        if not is_begun or self._stopped is not None:
            return ()  # it is stored: a resume continues here
        progress.wake(scope.key)
        failed = progress.attempts[scope.key].failed if scope.key in progress.attempts else 0
        scope.begin(
            versions.committed, versions.committed is versions.newest and len(progress.pending) == 1, failed + 1
        )
        return await self._step(scope, turn)

    async def _is_conflict(self, scope: Scope, error: Exception) -> bool:
        """Whether the invocation is run again because of a merge conflict. Wait for the state that it is run on."""
        return scope.method.retry is not None and await self._retries_of_pass().is_conflict(scope, error)

    def _end_others(self, scope: Scope) -> None:
        """After a failure: let no further attempt start, and cancel the other methods if the flow says so."""
        if scope.key not in self.journal.progress.failed:
            return
        if self._retries is not None:
            self._retries.end_pauses()
        if self.settings.on_error == "cancel" and self._scope is not None:
            self._scope.cancel()

    def _retries_of_pass(self) -> Retries:
        if self._retries is None:
            self._retries = Retries(self.journal.progress, self.versions, self._clock)
        return self._retries

    async def _wait_turn(self, turn: int) -> None:
        if self._crowd is not None:
            await self._crowd.wait(turn, len(self.journal.progress.pending))

    # ---- one invocation ----------------------------------------------------------------------------------------

    @calls_user_code
    async def _call(self, scope: Scope) -> Any:
        method, invocation, flow = scope.method, scope.invocation, self.flow
        limit = self.settings.max_method_calls
        if limit is not None and invocation.occurrence > limit:
            raise limit_error(self.settings.name, self.run_id, method.name, limit)
        arguments = invocation.arguments
        args, named = self.journal.arguments(arguments) if arguments else NONE
        recorder = self.recorder
        if recorder is None:
            self._steps += 1
            if self.versions.is_large or not self._steps % BREATHE:
                await anyio.lowlevel.checkpoint()  # without commits to wait for, a cycle would starve the event loop
        token = current_invocation.set(scope)
        context = copy_context()
        self.running[scope.key] = scope
        try:
            if method.is_async:
                if recorder is not None and recorder.fence is not None and not recorder.fence.holds(recorder.stretch):
                    await confirm_ownership(recorder)
                body = method.function(flow, *args, **named)
                result = await (body if method.timeout is None else within(method.timeout, body, scope))
            else:
                result = await call_plain(recorder, scope, lambda: method.function(flow, *args, **named))
            is_changed = not is_same_context(copy_context(), context)
        finally:
            del self.running[scope.key]
            current_invocation.reset(token)
        if is_changed:
            await fresh_context()
        return result

    # ---- the end of an invocation: one step, with no await -----------------------------------------------------

    def _may_wait(self, scope: Scope) -> bool:
        """Whether the end of an invocation may be encoded piece by piece: no other invocation can run in between."""
        return scope.is_alone and (self.recorder is None or self.settings.checkpoints(scope.method))

    def _returned(
        self, scope: Scope, draft: list[Any], result: Any, encoded: Encoded | None
    ) -> tuple[Version, Happened]:
        """Record the end of a method that returned: merge and encode first, and only then change anything.

        Raises the error that makes the invocation a failed one instead.
        """
        method, key, versions, journal = scope.method, scope.key, self.versions, self.journal
        label = label_returned(self.settings, self.run_id, method, result) if method.is_router else None
        is_recorded = self.settings.checkpoints_all or self.settings.checkpoints(method)
        state, version = versions.leave(scope.base, method.name, draft, encoded, is_recorded)
        happened = journal.happened(MethodReturned(key, label), method.name, key, result, state, is_recorded)
        if version is not versions.newest:
            versions.publish(version, state, method.name, len(journal.progress.pending) <= len(happened[0]))
        return version, happened

    def _raised(self, scope: Scope, error: Exception) -> tuple[Version, Happened]:
        """Record the end of an attempt that raised: its draft is dropped. It is tried again, or has failed."""
        settings, versions = self.settings, self.versions
        failure = failure_of(scope, trimmed(error), self.journal.progress, self._clock())
        retry_at = None if scope.method.retry is None else self._retries_of_pass().next_at(scope, error)
        raised, version = MethodRaised(scope.key, retry_at), versions.newest
        if retry_at is None:
            is_recorded = settings.checkpoints_all
            return version, self.journal.happened(raised, key=scope.key, failure=failure, is_recorded=is_recorded)
        state, is_recorded = None, settings.checkpoints(scope.method)
        if is_recorded and not settings.checkpoints_all:  # the newest state may not be stored yet
            state, version = versions.leave(scope.base, scope.method.name, [], None, is_recorded)
        happened = self.journal.attempt_failed(raised, failure, state, is_recorded)
        if state is not None:
            versions.publish(version, state, scope.method.name, is_alone=True)
        return version, happened
