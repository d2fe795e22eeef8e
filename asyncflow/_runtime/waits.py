"""The waits of methods, in `sleep` and `wait_for`: what they store, and what ends them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

import anyio
from pydantic_core import from_json, to_json

from .._scheduling.progress import Progress
from ..errors import LimitExceededError, SignalTimeoutError, StateError, StepKeyError, UnknownSignalError
from .journal import Journal
from .recorder import Recorder
from .scope import Scope
from .signals import OpenWait, Signals
from .timing import sleep_until

__all__ = ["OfPass", "Waits", "awaited_signals", "next_due"]

MEMOS: Final = 10_000
"""How many values an invocation can store."""


RECEIVED: Final = " received"
TIMED_OUT: Final = " timed out"
"""What the names of a wait's outcome end with."""


def awaited_signals(progress: Progress) -> frozenset[str]:
    """Return the names of the signals that methods wait for, in `wait_for`, as far as that is stored."""
    names: set[str] = set()
    for attempts in progress.attempts.values():
        memos = attempts.memos or {}
        for name in memos:
            call, _, rest = name.partition(" ")
            is_over = any(name.endswith(end) or name + end in memos for end in (RECEIVED, TIMED_OUT))
            if call == "wait_for" and not is_over:
                names.add(rest.partition(" ")[0])
    return frozenset(names)


def next_due(progress: Progress, now: float) -> float | None:
    """Return when the next timer, sleep, further attempt or time limit of a wait is due, as far as that is stored; None if none is.

    `now`: a sleep whose end has passed by then is over.
    """
    times = [timer.due for timer in progress.timers.values()]
    for attempts in progress.attempts.values():
        if attempts.due is not None:
            times.append(attempts.due)
        memos = attempts.memos or {}
        for name, value in memos.items():
            is_wait = name.startswith(("sleep ", "wait_for ")) and not name.endswith((RECEIVED, TIMED_OUT))
            is_over = any(name + end in memos for end in (RECEIVED, TIMED_OUT))
            due = from_json(value) if is_wait and not is_over else None
            if due is not None and (due > now or not name.startswith("sleep ")):
                times.append(float(due))
    return min(times, default=None)


class OfPass(Protocol):
    """What waits need of the pass that they belong to."""

    is_over: bool
    signals: Signals | None
    running: dict[str, Scope]

    def end_if_all_wait(self) -> None: ...


class Waits:
    """The waits of the invocations of one pass: how many each has begun, and which ones are in progress."""

    __slots__ = (
        *("_begun", "_checkpoints_all", "_clock", "_journal", "_pass", "_progress", "_recorder", "_thread", "_unnamed"),
        "waiting",
    )

    def __init__(
        self,
        journal: Journal,
        recorder: Recorder | None,
        clock: Callable[[], float],
        of_pass: OfPass,
        checkpoints_all: bool,
    ) -> None:
        self._journal = journal
        self._progress: Progress = journal.progress
        self._recorder = recorder
        self._clock = clock
        self._pass = of_pass
        self._checkpoints_all = checkpoints_all
        self._thread = threading.get_ident()
        self._begun: dict[tuple[str, str], tuple[Scope, int]] = {}
        self._unnamed: set[tuple[str, str]] = set()
        self.waiting: Counter[Scope] = Counter()
        """The invocations that wait, and how many waits of each are in progress."""

    async def sleep(self, scope: Scope, delay: float, at: float | None, key: str | None) -> None:
        """See `sleeping.sleep`. `at`: the time at which it ends; None: after `delay` seconds."""
        name = self._begin(scope, "sleep", key)
        try:
            stored = self._memos(scope).get(name)
            due = float(stored) if stored is not None else self._clock() + max(0.0, delay) if at is None else at
            await self._note(scope, name, to_json(due), is_stored=stored is not None)
            await self._wait(scope, lambda: sleep_until(due, self._clock))
        finally:
            self._end(scope, "sleep", key)

    async def wait_for(self, scope: Scope, signal: str, limit: float | None, key: str | None) -> Any:
        """See `receiving.wait_for`. Return the payload as it is kept. `limit`: seconds."""
        signals = self._pass.signals
        if signals is None or not signals.is_declared(signal):
            raise UnknownSignalError(
                f"{scope.method.name} waits for the signal {signal!r}, which its flow does not declare; declare it in the class",
                signal=signal,
                run_id=scope.run_id,
                method=scope.method.name,
            )
        kind = f"wait_for {signal}"
        name = self._begin(scope, kind, key)
        wait, late = OpenWait(scope.key, name + RECEIVED, signal), name + TIMED_OUT
        try:
            memos = self._memos(scope)
            if wait.step not in memos and late not in memos:
                until = (
                    from_json(memos[name])
                    if name in memos
                    else None
                    if limit is None
                    else self._clock() + max(0.0, limit)
                )
                await self._note(scope, name, to_json(until), is_stored=name in memos)
                await self._wait(scope, lambda: self._received(signals, wait, until))
                memos = self._memos(scope)
                if wait.step not in memos:
                    await self._note(scope, late, b"true", is_stored=False)
        finally:
            self._end(scope, kind, key)
        if wait.step in memos:
            return memos[wait.step]
        raise SignalTimeoutError(
            f"the signal {signal} did not come within the time that {scope.method.name} waits for it",
            run_id=scope.run_id,
            method=scope.method.name,
        )

    async def _received(self, signals: Signals, wait: OpenWait, until: float | None) -> None:
        """Wait until a signal was taken, and its checkpoint is durable, or a time has come before any was."""
        with signals.waited_for(wait):
            if until is None:
                await wait.is_received.wait()
                return
            async with anyio.create_task_group() as group:

                async def give_up() -> None:
                    await sleep_until(until, self._clock)
                    while wait.is_taken:  # noqa: ASYNC110 - its commit is in progress, or its payload does not fit
                        await anyio.sleep(0.001)
                    group.cancel_scope.cancel()

                group.start_soon(give_up)
                await wait.is_received.wait()
                group.cancel_scope.cancel()

    # ---- names and stored values ---------------------------------------------------------------------------------

    def _begin(self, scope: Scope, kind: str, key: str | None) -> str:
        """Return the name of the wait that begins now. Raises `StateError`, `StepKeyError`."""
        call, method = kind.partition(" ")[0], scope.method.name
        if not scope.is_open or self._pass.running.get(scope.key) is not scope or threading.get_ident() != self._thread:
            raise StateError(
                f"asyncflow.{call}() was called in code that {method} does not await on the run's event loop",
                run_id=scope.run_id,
                method=method,
            )
        if key is not None:
            return f"{kind} {key}"
        place = scope.key, kind
        if place in self._unnamed:
            raise StepKeyError(
                f"{method} began a {call} while another one was in progress; give each a key: {call}(..., key=...)",
                run_id=scope.run_id,
                method=method,
            )
        of, number = self._begun.get(place, (scope, 0))
        number = number + 1 if of is scope else 1
        self._begun = {known: begun for known, begun in self._begun.items() if known[0] in self._pass.running}
        self._begun[place] = (scope, number)
        self._unnamed.add(place)
        return f"{kind} {number}"

    def _end(self, scope: Scope, kind: str, key: str | None) -> None:
        if key is None:
            self._unnamed.discard((scope.key, kind))

    def _memos(self, scope: Scope) -> dict[str, Any]:
        known = self._progress.attempts.get(scope.key)
        return (known.memos if known is not None else None) or {}

    async def _note(self, scope: Scope, name: str, value: bytes, *, is_stored: bool) -> None:
        """Store a value under the name of a wait, unless it is stored. A pass that fails ends with a checkpoint that says so."""
        progress = self._progress
        is_last = bool(progress.failed) and progress.running == 1 and scope.key not in progress.paused
        if is_stored and not is_last:
            return
        if not is_stored and len(self._memos(scope)) >= MEMOS:
            raise LimitExceededError(
                f"{scope.method.name} has stored {MEMOS} values in one invocation, the maximum; split the method",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        checkpoint = self._journal.step_stored(scope.key, name, value, is_last, is_recorded=self._checkpoints_all)
        if checkpoint is not None and self._recorder is not None:
            await self._recorder.commit(checkpoint)

    # ---- waiting -------------------------------------------------------------------------------------------------

    async def _wait(self, scope: Scope, wait: Callable[[], Any]) -> None:
        """Wait in a method. Once the pass fails or ends, wait to be cancelled, when nothing else runs."""
        progress = self._progress
        progress.paused.add(scope.key)
        self.waiting[scope] += 1
        self._pass.end_if_all_wait()
        try:
            await wait()
            if self._pass.is_over or progress.failed:
                await anyio.sleep_forever()
        finally:
            self.waiting[scope] -= 1
            if not self.waiting[scope]:
                del self.waiting[scope]
                progress.paused.discard(scope.key)
