"""Drive one pass: make its steps, and execute the scheduler's commands in a task group, until nothing is left.

When a method's completion enables exactly one listener, that listener runs in the same task. So a cycle neither nests calls nor
spawns tasks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .._scheduling.messages import (
    Command,
    Continue,
    Drain,
    Fail,
    Finish,
    RunLater,
    RunMethod,
    Settle,
    StartTimer,
    TimerFired,
    TimerKey,
)
from .._scheduling.progress import Progress
from ..errors import CheckpointWithdrawnError
from .codecs import Codecs
from .contexts import apart
from .controls import Controls
from .crowd import CROWD, Crowd
from .failures import method_error
from .journal import Journal
from .outputs import Outputs
from .owner_check import OwnedClock, OwnerCheck
from .parking import Parked
from .recorder import Recorder
from .results import Results, StoredResults
from .scope import LaterScope, Scope
from .settings import Settings
from .signals import Signals, Source
from .state_version import Version
from .steps import Steps
from .timeouts import until
from .timers import Timers
from .tracebacks import crash_in
from .turns import Turn
from .versions import StateVersions

__all__ = ["Engine"]


class Engine(Controls):
    """Drives one pass of one run. `recorder` is None without persistence."""

    __slots__ = (
        "_concurrent",
        "_group",
        "_may_idle",
        "_methods",
        "_timers",
        "output",
        "outputs",
        "settings",
        "thread",
        "versions",
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
        inbox: Source | None,
        turn: Turn | None,
        park_after: float | None = None,
    ) -> None:
        """`first`: the state with which the pass starts or continues. `data`: its bytes, if the run is stored. `clock`: see `Chain`.

        `inbox`: where its signals come from, if the flow declares any. `turn`: set if a runner drives the run. `park_after`:
        seconds from which on the run is parked while it only waits; None: never.
        """
        chain = None if recorder is None else recorder.chain
        self.flow = flow
        self.settings = settings
        self.run_id = run_id
        self.pass_number = pass_number
        self.recorder = recorder
        self.versions = StateVersions(settings, codecs, run_id, first, size=None if chain is None else len(data or b""))
        results = Results() if chain is None else StoredResults(codecs, run_id)
        self.outputs = Outputs()
        self.output: Any = None
        self.is_finished = self.continues = self.is_cancelled = False
        """Whether the run has finished; its next pass begins (see `journal.following`); it was cancelled permanently."""
        self.parked: Parked | None = None
        """Set if the pass stopped here because it only waits."""
        self._park_after = park_after
        self._may_idle = park_after is not None or turn is not None
        self.thread = threading.get_ident()
        check = None if recorder is None or (turn is not None and turn.is_watched) else OwnerCheck(recorder, self.stop)
        self._clock = clock = clock if check is None else OwnedClock(clock, check)
        self.journal = Journal(settings, progress, results, chain, clock)
        self._steps = Steps(
            *(flow, settings, run_id, pass_number, self.journal, self.versions, recorder, self.outputs, clock, turn)
        )
        self._step = self._steps.step
        self._stopped: BaseException | None = None
        self._scope: anyio.CancelScope | None = None
        self._group: TaskGroup | None = None
        self._timers: Timers | None = None
        """Set once a timer has started."""
        self._signals: Signals | None = None
        if inbox is not None:
            self._signals = Signals(settings, self.journal, codecs, recorder, run_id, inbox, check, clock)
            self._steps.signals = self._signals
            self._step = self._signals.notified_by(self._step)
        self._concurrent: list[Scope | Timers | Signals] = []
        """What has to run concurrently with the first invocation, and waits until a task group is open."""
        self._methods = settings.definition.methods

    # ---- driving -----------------------------------------------------------------------------------------------

    async def drive(self, commands: tuple[Command, ...]) -> Any:
        """Act on the commands, and on all that follow from them, until nothing is left to run. Return the pass's output.

        Raises `MethodError` when a method raised. Raises unchanged whatever else ends a run: a backend's error, a cancellation,
        KeyboardInterrupt. All tasks of the pass have ended by then.
        """
        self._steps.stopped_by = self.stop
        try:
            with anyio.CancelScope() as self._scope:
                await self._drive(commands, self._scope)
        finally:
            self._steps.stopped_by = None  # a cycle: thousands of ended runs would wait for garbage collection
        if self._steps.late:
            self._next(self._steps.late)
        if self._stopped is not None:
            self.parked = None
        if self._stopped is not None and not self._has_ended_anyway:
            raise self._stopped
        if failures := self.journal.failures:
            raise method_error(type(self.flow).__name__, self.run_id, failures, self.recorder is not None)
        return self.output

    async def _drive(self, commands: tuple[Command, ...], scope: anyio.CancelScope) -> None:
        self._steps.of_pass = scope
        if self._stopped is not None:
            scope.cancel()
        if self.journal.progress.deadline:
            end = self.journal.progress.deadline
            await until(end, self._clock, lambda: self._work_with_signals(commands), self._time_out)
        elif self._signals is not None:
            await self._work_with_signals(commands)
        else:
            await self._work_all(commands)

    async def _work_with_signals(self, commands: tuple[Command, ...]) -> None:
        if self._signals is None:
            await self._work_all(commands)
            return
        with self._signals.watching():
            self._together(self._signals)
            await self._work_all(commands)

    async def _work_all(self, commands: tuple[Command, ...]) -> None:
        scope = self._next(commands)
        scope = await apart(self._work(scope) if self._timers is None else self._begin(scope, self._timers))
        if self._concurrent and self.parked is None:
            await apart(self._work_together(scope))
        if self._steps.requested is not None:
            await self._steps.requested.wait()

    async def _begin(self, scope: Scope | None, timers: Timers) -> Scope | None:
        """Fire the timer that became due while nothing drove the run, which needs no task here if no signal came; and work."""
        is_free = scope is None and not self._is_over and not self.journal.progress.failed
        timer = timers.first_due() if is_free else None
        if timer is not None:
            try:
                if self._signals is None or await self._signals.is_empty():
                    scope = self._next(await self._fire(timer))
            except BaseException as error:
                self._ended_by(error)
            if timers.are_left_out():
                self._concurrent.remove(timers)
        return await self._work(scope)

    async def _work_together(self, first: Scope | None) -> None:
        """Continue in a task group once more than one invocation has to run. Opening a task group costs half a step."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                concurrent, self._concurrent = self._concurrent, []
                for work in concurrent:
                    self._launch(group, work)
                await self._work(first)
        except BaseExceptionGroup as raised:  # trio raises KeyboardInterrupt while it waits for the tasks
            crash = crash_in(raised)
            if crash is None:
                raise
            if isinstance(self._stopped, anyio.get_cancelled_exc_class()):  # that only follows from the crash
                self._stopped = None
            self.stop(crash)

    def _together(self, work: Scope | Timers | Signals) -> None:
        """Let this run concurrently with the other tasks of the pass."""
        if self._group is None:
            self._concurrent.append(work)
        else:
            self._launch(self._group, work)

    def _launch(self, group: TaskGroup, work: Scope | Timers | Signals) -> None:
        """Start an invocation or a wait in a task of its own; if many invocations run, start it in its turn."""
        if isinstance(work, Timers):
            group.start_soon(self._work_concurrently, lambda: work.work(self._fire_and_obey, lambda: self._is_over))
            return
        if isinstance(work, Signals):
            group.start_soon(
                self._work_concurrently,
                lambda: work.work(self._obey, lambda: self._is_over, self._park_if_idle, self._steps),
            )
            return
        if isinstance(work, LaterScope):
            group.start_soon(self._work_later, work)
            return
        if self._steps.crowd is None and len(self.journal.progress.pending) > CROWD:
            self._steps.crowd = Crowd(group, self._work_apart)
        if self._steps.crowd is None:
            group.start_soon(self._work_apart, work)
        else:
            self._steps.crowd.start(work)

    async def _work_later(self, scope: LaterScope) -> None:
        """Make a further attempt when its time comes, unless the pass fails or ends meanwhile; then continue from there."""
        try:
            is_begun = await self._steps.may_begin(scope)
        except BaseException as error:
            self._ended_by(error)
            return
        if is_begun:
            await apart(self._work(scope))

    async def _work_apart(self, scope: Scope, turn: int = 0) -> None:
        await apart(self._work(scope, turn))

    async def _work(self, scope: Scope | None, turn: int = 0) -> Scope | None:
        """Run an invocation, then, one after another, those that its completion leads to. `turn`: the turn in which it was started.

        Return early when the first invocations that have to run concurrently with it appear and no task group is open. The return
        value is the invocation that has to run next in this task.
        """
        steps = self._steps
        steps.tasks += 1
        try:
            while scope is not None and self._stopped is None and not self._concurrent:
                scope = self._next(await self._step(scope, turn))
                turn = 0
        except BaseException as error:
            self._ended_by(error)
        finally:
            steps.tasks -= 1
            if steps.is_over:
                steps.end_if_all_wait()
            elif self._may_idle:
                self._check_idle()
        return scope

    def _ended_by(self, error: BaseException) -> None:
        """End the run because of what ended one of its tasks. A cancellation is raised again."""
        is_cut = self._scope is None or self._scope.cancel_called
        if isinstance(error, anyio.get_cancelled_exc_class()):
            if not is_cut:
                self.stop(error)  # a method raised it, or it is meant for this task alone: end the run with it
            raise
        if not is_cut or not isinstance(error, CheckpointWithdrawnError):  # that only follows from what ended the run
            self.stop(error)  # backend errors, KeyboardInterrupt, SystemExit: `drive` raises them unchanged

    async def _work_concurrently(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await apart(work())
        except BaseException as error:
            self._ended_by(error)

    async def _fire(self, timer: TimerKey) -> tuple[Command, ...]:
        """Record that the time of a timer has come. Return the commands that follow."""
        steps = self._steps
        await steps.take_turn()
        if not self._may_fire(timer):
            return ()
        steps.tasks += 1
        try:
            commands, checkpoint = self.journal.noticed(TimerFired(timer), is_recorded=self.settings.checkpoints_all)
            if checkpoint is not None and self.recorder is not None:
                await self.recorder.commit(checkpoint)
        finally:
            steps.tasks -= 1
        return commands

    def _may_fire(self, timer: TimerKey) -> bool:
        """Whether a timer is still due: what has happened since it was chosen may have dropped or restarted it."""
        progress = self.journal.progress
        is_due = timer in progress.timers and progress.timers[timer].due <= self._clock()
        return is_due and not progress.failed and not self._is_over

    async def _fire_and_obey(self, timer: TimerKey) -> None:
        """Record that the time of a timer has come, after the signals that came before that, and start what it enables."""
        if self._signals is None:
            self._obey(await self._fire(timer))
        else:
            async with self._signals.earlier(self.journal.progress.timers[timer].due):
                self._obey(await self._fire(timer))
        self._check_idle()

    def _obey(self, commands: tuple[Command, ...]) -> None:
        """Execute commands outside of a step."""
        scope = self._next(commands)
        if scope is not None and self._group is not None:
            self._launch(self._group, scope)
        if self._signals is not None:
            self._signals.changed()

    def _wait_for_timers(self) -> None:
        """Wait for the timers of the pass in a task of its own, at most one at a time."""
        timers = self._timers = self._timers or Timers(self.journal.progress, self._clock)
        if timers.begins():
            self._together(timers)

    def _next(self, commands: tuple[Command, ...]) -> Scope | None:
        """Launch the invocations that the commands start, in order. Return the first one instead, to run it in this task."""
        first: Scope | None = None
        for command in commands:
            if type(command) is RunMethod:  # `match` takes six times as long, at each step
                invocation = command.invocation
                method = self._methods[invocation.method]
                # A merged version shares values with older versions.
                is_alone = len(self.journal.progress.pending) == 1 and self.versions.committed is self.versions.newest
                scope = Scope(self.flow, method, invocation, self._steps, self.versions.committed, is_alone)
                if first is None:
                    first = scope
                elif self._group is None:
                    self._concurrent.append(scope)
                else:
                    self._launch(self._group, scope)
            elif type(command) is RunLater:
                invocation = command.invocation
                method, base = self._methods[invocation.method], self.versions.committed
                self._together(LaterScope(command.at, self.flow, method, invocation, self._steps, base, False))
            elif type(command) is StartTimer:
                self._wait_for_timers()
            elif type(command) in (Finish, Continue, Drain):
                self._end(command)
            elif type(command) is not Settle:  # Hold or Fail: once all tasks have ended, `drive` raises
                self._steps.is_ended = type(command) is Fail
                self._end_others()
        return first

    def _end(self, command: Command) -> None:
        """End the pass, or its waits if methods still run."""
        if isinstance(command, Finish):
            self.is_finished = True
            self.output = self.outputs.output_of(command.key, self.journal.progress, self.journal.results)
        self.continues |= isinstance(command, Continue)
        self._steps.is_ended |= self.is_finished or self.continues  # the answer to an earlier commit may arrive later
        if self._timers is not None:
            self._timers.changed()
        if self.journal.progress.ending:
            self._steps.end_waits()

    def _end_others(self) -> None:
        """After a failure: end the waits, and cancel the other methods if the flow says so.

        Not before the failure is durable: that could withdraw the commit that records it.
        """
        if self._timers is not None:
            self._timers.changed()
        self._steps.end_waits()
        if self.settings.on_error == "cancel" and self._scope is not None:
            self._scope.cancel()
