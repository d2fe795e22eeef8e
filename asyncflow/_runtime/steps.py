"""One step: call a method, record its end, commit it. What follows from it is returned as the scheduler's commands.

method ends -> merge state -> advance -> fold progress -> prepare checkpoint (one step, no await) -> commit
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, Literal

import anyio
import anyio.lowlevel

from .._scheduling.messages import (
    Command,
    EndAsked,
    Ending,
    Item,
    ItemReturned,
    MethodRaised,
    MethodReturned,
    RunLater,
    Settle,
    WaitDropped,
)
from .._waiting import calls_user_code, to_its_end
from ..errors import AsyncflowError
from ..events import MethodStarted
from .audience import Audience
from .contexts import fresh_context, is_same_context
from .crowd import Crowd
from .ending import Asked, asked_by
from .failures import limit_error
from .items import Items, name_of
from .journal import Happened, Journal
from .labels import label_returned
from .large_states import Encoded
from .outputs import Outputs
from .readers import live
from .recorder import Recorder
from .retries import Retries, failure_of
from .scope import LaterScope, Scope, current_invocation
from .services import Services
from .settings import Settings
from .starts import call_plain, confirm_ownership
from .state_version import Version
from .timeouts import within
from .timers import due_after
from .tracebacks import trimmed
from .turns import Turn
from .versions import StateVersions

__all__ = ["Steps"]

logger = logging.getLogger("asyncflow")

BREATHE: Final = 16
"""Without persistence and with a small state: methods that run before the engine yields to other tasks, about every 0.3 ms."""


class Steps(Services):
    """Makes the steps of one pass."""

    __slots__ = (
        "_asked",
        "_flow",
        "_has_more",
        "_items",
        "_outputs",
        "_run_id",
        "_unyielded",
        "_versions",
        "crowd",
        "late",
        "prefix",
        "requested",
        "retries",
    )

    def __init__(
        self,
        flow: Any,
        settings: Settings,
        run_id: str,
        pass_number: int,
        journal: Journal,
        versions: StateVersions,
        recorder: Recorder | None,
        outputs: Outputs,
        clock: Callable[[], float],
        turn: Turn | None,
    ) -> None:
        super().__init__(journal, turn, recorder, clock, settings)
        self._flow = flow
        self._run_id = run_id
        self._versions = versions
        self._outputs = outputs
        has_items = settings.definition.has_items
        self._has_more = has_items or settings.definition.has_timers
        """Whether the end of a method may start timers, or items."""
        self._items = Items(settings, journal, versions, recorder, outputs, clock) if has_items else None
        self._asked: dict[Scope, Asked] = {}
        """What running invocations have asked for."""
        self.late: tuple[Command, ...] = ()
        """Commands that are still to be executed: an invocation that waited has ended the pass."""
        self.requested: anyio.Event | None = None
        """Set once it is stored that the end was asked for from outside, and what follows was begun. The pass does not end before."""
        self.prefix = f"{run_id}/{pass_number}/"
        """The prefix of the ids of the invocations."""
        self._unyielded = 0
        self.crowd: Crowd[Scope] | None = None
        """Set when many invocations run at once: they take turns."""
        self.retries: Retries | None = None
        """Set once an attempt has failed that may be repeated."""

    async def step(self, scope: Scope, turn: int) -> tuple[Command, ...]:
        """Run one invocation, commit its end, and return the commands that follow from it."""
        try:
            result = await (self._call(scope) if self.audience is None else self._call_observed(scope, self.audience))
            draft = scope.close()
            if self.crowd is not None:
                await self.crowd.wait(turn, len(self._journal.progress.pending))
            encoded = None
            if self._versions.takes_long(draft) and self._may_wait(scope):
                encoded = await self._versions.encoded(draft)
            version, (commands, checkpoint, result) = self._returned(scope, draft, result, encoded)
            is_well = type(scope.invocation) is not Item
        except Exception as error:  # a user's method may raise anything
            if self._recorder is not None and error is self._recorder.refusal:
                raise  # the method has not started
            if self.crowd is not None:
                await self.crowd.wait(turn, len(self._journal.progress.pending))
            self._asked.pop(scope, None)
            if self._is_dropped(scope):
                return ()  # it continued after it was cancelled
            if await self._is_conflict(scope, error):
                return (RunLater(scope.invocation),)
            version, (commands, checkpoint, result) = self._raised(scope, error)
            is_well = False
        finally:
            if scope.is_open:
                scope.close()
        if checkpoint is not None and self._recorder is not None:
            commit = self._recorder.commit(checkpoint)
            await (commit if self.crowd is None else self.crowd.store(commit))
        if version.index > self._versions.committed.index:
            self._versions.committed = version
        if is_well:
            self._outputs[scope.method.name] = result
        return commands

    async def may_begin(self, scope: LaterScope) -> bool:
        """Wait until a further attempt is due. Return whether it begins, on the state of that time: not if the pass fails or ends."""
        progress, versions = self._journal.progress, self._versions
        if self._is_dropped(scope):
            return False
        if scope.key in progress.paused:
            self.pauses += 1
            try:
                if not (self.is_over or progress.failed):
                    await self._retries_of_pass().pause(scope)
                    await self.take_turn()
            finally:
                self.pauses -= 1
            if self.is_over or progress.failed or self._is_dropped(scope):
                return False  # it is stored: a resume continues here
        progress.wake(scope.key)
        is_alone = versions.committed is versions.newest and len(progress.pending) == 1
        failed = progress.attempts[scope.key].failed if scope.key in progress.attempts else 0
        scope.begin(versions.committed, is_alone, failed + 1)
        return True

    async def _is_conflict(self, scope: Scope, error: Exception) -> bool:
        """Whether the invocation is run again because of a merge conflict. Wait for the state that it is run on."""
        may_be = scope.method.retry is not None or scope.method.each
        return may_be and await self._retries_of_pass().is_conflict(scope, error)

    def _retries_of_pass(self) -> Retries:
        if self.retries is None:
            self.retries = Retries(self._journal.progress, self._versions, self._clock)
        return self.retries

    # ---- one invocation ----------------------------------------------------------------------------------------

    async def _call_observed(self, scope: Scope, audience: Audience) -> Any:
        is_whole = scope.method.each and type(scope.invocation) is not Item
        if is_whole or not audience.hears(self._run_id):
            return await self._call(scope)
        fields = {"attempt": scope.attempt, "triggers": tuple([key for _, key in scope.invocation.arguments])}
        started = live(MethodStarted, self._run_id, self._settings.name, self._clock(), invocation=scope.key, **fields)
        with audience.around(started):
            return await self._call(scope)

    @calls_user_code
    async def _call(self, scope: Scope) -> Any:
        method, invocation, flow, journal = scope.method, scope.invocation, self._flow, self._journal
        limit = self._settings.max_method_calls
        if limit is not None and invocation.occurrence > limit:
            raise limit_error(self._settings.name, self._run_id, method.name, limit)
        if method.each and type(invocation) is not Item:
            return None  # its list is empty
        given = invocation.arguments
        args, named = journal.results.arguments(invocation, journal.progress.results) if given else ((), {})
        recorder = self._recorder
        if recorder is None:
            self._unyielded += 1
            if self._versions.is_large or not self._unyielded % BREATHE:
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
            if self._memos is not None:
                self.leave(scope)
            current_invocation.reset(token)
        if is_changed:
            await fresh_context()
        return result

    # ---- the end of an invocation: one step, with no await -----------------------------------------------------

    def _may_wait(self, scope: Scope) -> bool:
        """Whether the end of an invocation may be encoded piece by piece: no other invocation can run in between."""
        return scope.is_alone and (self._recorder is None or self._settings.checkpoints(scope.method))

    def _returned(
        self, scope: Scope, draft: list[Any], result: Any, encoded: Encoded | None
    ) -> tuple[Version, Happened]:
        """Record the end of a method that returned: merge and encode first, and only then change anything.

        Raises the error that makes the invocation a failed one instead.
        """
        if self._asked or self._journal.progress.groups or self._journal.progress.ending:
            asked = self._asked.pop(scope, None)
            if asked is not None or self._journal.progress.ending:
                return self._returned_at_end(scope, draft, result, asked)
            if scope.method.each and self._items is not None:
                return self._items.returned(scope, draft, result, encoded)
        method, key, versions, journal = scope.method, scope.key, self._versions, self._journal
        label = label_returned(self._settings, self._run_id, method, result) if method.is_router else None
        is_recorded = self._settings.checkpoints_all or self._settings.checkpoints(method)
        state, version = versions.leave(scope.base, method.name, draft, encoded, is_recorded)
        is_alone = len(journal.progress.pending) == 1
        returned = self._with_more(scope, label, version, result) if self._has_more else MethodReturned(key, label)
        happened = journal.happened(returned, method.name, key, result, state, is_recorded)
        if version is not versions.newest:
            versions.publish(version, state, method.name, is_alone)
        return version, happened

    def _with_more(self, scope: Scope, label: str | None, version: Version, result: Any) -> MethodReturned:
        """Return the end of a method, with the timers and the items that it may start."""
        items = 0 if self._items is None else self._items.started_by(scope, result)
        due = due_after(self._settings.definition, scope.method.name, label, version.state, self._clock())
        return MethodReturned(scope.key, label, due, items=items)

    def _raised(self, scope: Scope, error: Exception) -> tuple[Version, Happened]:
        """Record the end of an attempt that raised: its draft is dropped. It is tried again, or has failed."""
        settings, versions, is_ending = self._settings, self._versions, bool(self._journal.progress.ending)
        failure = failure_of(scope, trimmed(error), self._journal.progress, self._clock())
        retry_at = None if scope.method.retry is None else self._retries_of_pass().next_at(scope, error)
        raised, version, state = MethodRaised(scope.key, retry_at), versions.newest, None
        is_recorded = is_ending or settings.checkpoints(scope.method)
        if is_recorded and not settings.checkpoints_all:  # the newest state may not be stored yet
            try:
                state, version = versions.leave(scope.base, scope.method.name, [], None, is_recorded)
            except AsyncflowError:  # a method without a checkpoint left a state that cannot be stored
                is_recorded = False
        if retry_at is None:
            happened = self._journal.happened(raised, "", scope.key, None, state, is_recorded, failure)
        else:
            happened = self._journal.attempt_failed(raised, failure, state, is_recorded)
            self._log_attempt(scope, failure.type, failure.number, retry_at, is_ending=is_ending)
        if state is not None:
            versions.publish(version, state, scope.method.name, is_alone=True)
        return version, happened

    def _log_attempt(self, scope: Scope, error: str, number: int, retry_at: float, *, is_ending: bool) -> None:
        """Log an attempt that raised, and is followed by another one: by its type only, as a message may hold values."""
        about = {**scope.logged, "attempt": number}
        if is_ending:
            where = scope.invocation_id
            logger.warning("attempt not repeated: %s raised %s while its pass ends", where, error, extra=about)
            return
        pause = max(0.0, retry_at - self._clock())
        logger.warning(
            "attempt failed: attempt %d of %s raised %s; the next one starts in %.1f s",
            *(number, scope.invocation_id, error, pause),
            extra=about,
        )

    # ---- the end of a pass before its time -----------------------------------------------------------------------

    def ask(self, scope: Scope, ending: Literal["finish", "continue"], inputs: Any) -> None:
        """Note what an invocation asks for. See `ending`. It may be called in a thread of the method."""
        is_running = scope.is_open and self.running.get(scope.key) is scope
        self._asked[scope] = asked_by(scope, ending, inputs, self._settings.state_type, is_running=is_running)

    async def finish(
        self, obey: Callable[[tuple[Command, ...]], object], stop: Callable[[BaseException], object]
    ) -> bool:
        """Store that the end of the pass was asked for from outside, and obey what follows. Return True. An error stops the run."""
        if self.requested is not None:
            await self.requested.wait()
        elif self._journal.progress.ending not in ("finish", "stop"):
            self.requested = anyio.Event()
            try:
                obey(await to_its_end(lambda: self.end_asked(EndAsked())))
            except Exception as error:  # a backend may raise anything
                stop(error)
                raise
            finally:
                self.requested.set()
        return True

    def _is_dropped(self, scope: Scope) -> bool:
        """Whether an invocation was dropped because the pass is ending."""
        progress = self._journal.progress
        return bool(progress.ending) and scope.key not in progress.pending

    def _returned_at_end(
        self, scope: Scope, draft: list[Any], result: Any, asked: Asked | None
    ) -> tuple[Version, Happened]:
        """Record the end of a method that asks for the end of the pass, or returns after that. It enables nothing."""
        method, versions, progress = scope.method, self._versions, self._journal.progress
        continues = "continue" in (progress.ending, "" if asked is None or progress.ending else asked.ending)
        is_recorded = continues or self._settings.checkpoints_all or self._settings.checkpoints(method)
        if asked is not None and asked.inputs and not progress.ending:
            draft = [self._settings.state_type.updated(draft.pop() if draft else scope.base.state, asked.inputs)]
        state, version = versions.leave(scope.base, method.name, draft, None, is_recorded)
        is_alone = len(progress.pending) == 1
        ending: Ending = "" if asked is None else asked.ending
        returned = ItemReturned(scope.key, (), ending) if method.each else MethodReturned(scope.key, ending=ending)
        happened = self._journal.happened(returned, name_of(scope), scope.key, result, state, is_recorded)
        if version is not versions.newest:
            versions.publish(version, state, method.name, is_alone)
        return version, happened

    async def end_asked(self, happening: EndAsked | WaitDropped) -> tuple[Command, ...]:
        """Record that the end of the pass was asked for from outside, or that it drops an invocation that waits. Return the commands."""
        versions, state = self._versions, None
        if not self._settings.checkpoints_all:  # the newest state may not be stored yet
            state, version = versions.leave(versions.newest, "", [], None, True)
            if state is not None:
                versions.publish(version, state, "", is_alone=True)
        commands, checkpoint = self._journal.noticed(happening, state=state)
        if checkpoint is not None and self._recorder is not None:
            await self._recorder.commit(checkpoint)
        return commands

    def end_late(self, commands: tuple[Command, ...]) -> None:
        """Take the commands that follow from dropping an invocation, whose body has yet to be cancelled."""
        self.late = commands or self.late  # the answers to commits may arrive in any order
        self.is_ended |= bool(commands) and type(commands[0]) is not Settle
        self.end_waits()
