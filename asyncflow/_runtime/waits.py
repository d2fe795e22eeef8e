"""The waits of methods, in `sleep` and `wait_for`: what they store, and what ends them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import anyio
from pydantic_core import from_json, to_json

from .._definition.signals import Signal
from .._scheduling.messages import Command, EndAsked, WaitDropped
from .._scheduling.progress import Progress
from ..errors import SignalTimeoutError, StateError, UnknownSignalError
from .memos import Memos, kind_in
from .scope import Scope
from .signals import OpenWait, Signals
from .timing import sleep_until

__all__ = ["OfPass", "Waits", "awaited_signals", "next_due", "open_memos"]

T = TypeVar("T")

RECEIVED: Final = "received "
TIMED_OUT: Final = "timed out "
"""What the names of a wait's outcome begin with; the name of the wait follows."""


def open_waits(progress: Progress, now: float) -> Iterator[tuple[str, bytes]]:
    """Yield the waits that methods have begun, as `open_memos` does. An invocation whose next attempt is due after `now` is in none."""
    for attempts in progress.attempts.values():
        if attempts.due is None or attempts.due <= now:
            yield from open_memos(attempts.memos)


def open_memos(memos: Mapping[str, bytes] | None) -> Iterator[tuple[str, bytes]]:
    """Yield the names of the waits that a method has begun, as far as that is stored, and what is stored of each: when it ends.

    A wait in `wait_for` that is over is left out. Of a sleep, and of the pause before the next attempt of a step, only the time shows
    whether it is over.
    """
    known = memos or {}
    for name, value in known.items():
        if name.startswith("step ") and type(value) is bytes and value[1:2] != b'"':
            yield name, to_json(from_json(value)[1])
        elif name.startswith(("sleep ", "wait_for ")) and not {RECEIVED + name, TIMED_OUT + name} & known.keys():
            yield name, value


def awaited_signals(progress: Progress, now: float) -> frozenset[str]:
    """Return the names of the signals that methods wait for, in `wait_for`, as far as that is stored."""
    waits = (name.split(" ") for name, _ in open_waits(progress, now))
    return frozenset(signal for call, signal, *_ in waits if call == "wait_for")


def next_due(progress: Progress, now: float) -> float | None:
    """Return when the next timer, sleep, further attempt or time limit of a wait is due, as far as that is stored; None if none is.

    `now`: a sleep or a pause whose end has passed by then is over.
    """
    times = [timer.due for timer in progress.timers.values()]
    times += [attempts.due for attempts in progress.attempts.values() if attempts.due is not None]
    for name, value in open_waits(progress, now):
        due = from_json(value)
        if due is not None and (due > now or name.startswith("wait_for ")):
            times.append(float(due))
    return min(times, default=None)


class OfPass(Protocol):
    """What waits need of the pass that they belong to."""

    is_over: bool
    signals: Signals | None
    running: dict[str, Scope]

    async def end_asked(self, happening: EndAsked | WaitDropped) -> tuple[Command, ...]: ...

    def end_late(self, commands: tuple[Command, ...]) -> None: ...

    def end_if_all_wait(self) -> None: ...
    def let_others_run(self) -> None: ...
    async def take_turn(self) -> bool: ...


class Waiting(NamedTuple):
    """A wait that is in progress."""

    scope: anyio.CancelScope
    wait: OpenWait | None
    """None for a sleep."""


class Waits:
    """The waits of the invocations of one pass, and which ones are in progress."""

    __slots__ = ("_busy", "_clock", "_memos", "_pass", "_progress", "waiting")

    def __init__(self, memos: Memos, progress: Progress, clock: Callable[[], float], of_pass: OfPass) -> None:
        self._memos = memos
        self._progress = progress
        self._clock = clock
        self._pass = of_pass
        self.waiting: dict[Scope, list[Waiting]] = {}
        """The invocations that wait, with their waits."""
        self._busy: dict[Scope, int] = {}
        """How many steps each invocation runs: one that does counts as running, also while it waits elsewhere."""

    async def sleep(self, scope: Scope, delay: float, at: float | None, key: str | None) -> None:
        """See `sleeping.sleep`. `at`: the time at which it ends; None: after `delay` seconds."""
        with self._memos.named(scope, "sleep", "sleep", key) as name:
            scope = scope.whole
            stored = self._memos.of(scope).get(name)
            due = self._clock() + max(0.0, delay) if at is None else at
            due = due if stored is None else float(stored)
            if self._progress.ending and stored is not None and due <= self._clock():
                return
            await self.note(scope, name, to_json(due), is_stored=stored is not None)
            await self.wait(scope, lambda: sleep_until(due, self._clock))

    async def wait_for(self, scope: Scope, signal: Signal[Any], limit: float | None, key: str | None) -> Any:
        """See `receiving.wait_for`. Return the payload as it is kept. `limit`: seconds."""
        signals = self._pass.signals
        if signals is None or not signals.is_declared(signal):
            raise UnknownSignalError(
                f"{scope.method.name} waits for {signal!r}, which its flow does not declare, or not in this way; declare it in the class",
                signal=signal.name,
                run_id=scope.run_id,
                method=scope.method.name,
            )
        kind = f"wait_for {signal.name}"
        abandoned = self._memos.abandoned.get((scope.key, kind_in(scope, kind)), [])
        for name in abandoned:
            await signals.is_durable(scope.key, RECEIVED + name)
            if RECEIVED + name in self._memos.of(scope):
                abandoned.remove(name)
                return self._memos.of(scope)[RECEIVED + name]
        with self._memos.named(scope, "wait_for", kind, key) as name:
            scope = scope.whole
            received, late = RECEIVED + name, TIMED_OUT + name
            memos = self._memos.of(scope)
            if received not in memos and late not in memos:
                is_stored = name in memos and name not in abandoned
                until = from_json(memos[name]) if is_stored else None
                if not is_stored and limit is not None:
                    until = self._clock() + max(0.0, limit)
                await self.note(scope, name, to_json(until), is_stored=is_stored)
                wait = OpenWait(scope.key, received, signal.name, until)
                await self.wait(scope, lambda: self._received(signals, wait), wait)
                await signals.is_durable(scope.key, received)
                memos = self._memos.of(scope)
                if received not in memos:
                    await self.note(scope, late, b"true", is_stored=False)
            if received in memos:
                return memos[received]
        raise SignalTimeoutError(
            f"the signal {signal.name} did not come within the time that {scope.method.name} waits for it",
            run_id=scope.run_id,
            method=scope.method.name,
        )

    async def _received(self, signals: Signals, wait: OpenWait) -> None:
        """Wait until a signal was taken, and its checkpoint is durable, or the wait ends before any was."""
        until = wait.until
        with signals.waited_for(wait):
            if until is None:
                await wait.is_received.wait()
                return
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await sleep_until(until, self._clock)
                    async with signals.earlier(until):
                        await signals.is_durable(wait.key, wait.step)
                        group.cancel_scope.cancel()

                group.start_soon(give_up)
                await wait.is_received.wait()
                group.cancel_scope.cancel()

    async def note(self, scope: Scope, name: str, value: bytes, *, is_stored: bool) -> None:
        """Store a value under the name of a wait, unless it is stored. A pass that fails ends with a checkpoint that says so."""
        progress = self._progress
        is_last = self._is_last_running() and scope not in self._busy and scope.key not in progress.paused
        if progress.ending:
            return
        if is_stored and not is_last:
            await self._memos.show_progress()
            return
        await self._memos.note(scope, name, value, is_last=is_last)

    # ---- waiting -------------------------------------------------------------------------------------------------

    async def wait(self, scope: Scope, wait: Callable[[], Any], open_wait: OpenWait | None = None) -> None:
        """Wait in a method. Once the pass fails or ends, wait to be cancelled, when nothing else runs."""
        progress = self._progress
        dropped: tuple[Command, ...] | None = None
        if progress.ending and scope.key in progress.pending:
            dropped = await self._pass.end_asked(WaitDropped(scope.key))
        if self._pass.running.get(scope.key) is not scope:  # it has ended while the wait was stored
            raise _left(scope)
        waiting = Waiting(anyio.CancelScope(), open_wait)
        if scope not in self._busy:
            progress.paused.add(scope.key)
        self.waiting.setdefault(scope, []).append(waiting)
        if dropped is not None:
            self._pass.end_late(dropped)
        self._pass.end_if_all_wait()
        self._pass.let_others_run()
        try:
            with waiting.scope:
                if not progress.ending:
                    await wait()
                    await self._pass.take_turn()
                if self._pass.is_over or progress.failed or progress.ending:
                    await anyio.sleep_forever()
        finally:
            others = self.waiting.get(scope)
            if others is not None:
                others.remove(waiting)
                if not others:
                    del self.waiting[scope]
                    progress.paused.discard(scope.key)
                elif not self._pass.is_over:
                    self._pass.let_others_run()  # the method still counts as waiting, and nothing else would release the turn
        if waiting.scope.cancelled_caught:
            raise _left(scope)

    # ---- steps that run ------------------------------------------------------------------------------------------

    @property
    def asleep(self) -> int:
        """The number of invocations that only wait."""
        return len(self.waiting) - (len(self.waiting.keys() & self._busy.keys()) if self._busy else 0)

    async def work(self, scope: Scope) -> None:
        """Let an invocation count as running, because a step of it begins."""
        try:
            if scope in self.waiting:
                await self._pass.take_turn()
        finally:
            self._busy[scope] = self._busy.get(scope, 0) + 1
            self._progress.paused.discard(scope.key)

    def rest(self, scope: Scope) -> None:
        """Let an invocation no longer count as running if all that is left of it waits, because a step of it has ended or waits."""
        left = self._busy.pop(scope, 0) - 1
        if left > 0:
            self._busy[scope] = left
        elif scope in self.waiting and scope.key in self._progress.pending:
            self._progress.paused.add(scope.key)
            self._pass.end_if_all_wait()
            self._pass.let_others_run()

    async def within_step(self, scope: Scope, wait: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Wait in the function of a step, which does not count as running meanwhile."""
        self.rest(scope.whole)
        try:
            return await wait()
        finally:
            await self.work(scope.whole)

    def ends_failing(self, scope: Scope) -> bool:
        """Whether the end of this step is the last thing that happens in a pass that fails, because all else waits."""
        return self._is_last_running() and scope in self.waiting and self._busy.get(scope) == 1

    def _is_last_running(self) -> bool:
        return bool(self._progress.failed) and self._progress.running == 1

    def leave(self, scope: Scope) -> None:
        """End the waits of a method that has ended without them."""
        self._busy.pop(scope, None)
        for scope_of_wait, wait in self.waiting.pop(scope, ()):
            if wait is not None:
                wait.is_left = True
            scope_of_wait.cancel()
        self._progress.paused.discard(scope.key)


def _left(scope: Scope) -> StateError:
    """Return the error for a wait that its method has left."""
    return StateError(
        f"{scope.method.name} has ended, and code that it did not await still waited",
        run_id=scope.run_id,
        method=scope.method.name,
    )
