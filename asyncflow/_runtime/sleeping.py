"""`sleep` in a method: its end is stored, so that a method that runs again sleeps for the rest of the time."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any, Final

from .._durations import Seconds, seconds
from ..errors import LimitExceededError, StepKeyError
from .scope import Scope, current_invocation

__all__ = ["Sleeping", "check_room", "sleep"]

MEMOS: Final = 10_000
"""How many values an invocation can store."""


async def sleep(delay: Seconds | datetime, /, *, key: str | None = None) -> None:
    """Sleep in a method of a flow. The time at which it ends is stored, in one checkpoint.

    A method that runs again, after a crash or in its next attempt, sleeps only for the rest of that time. Once another method has
    failed, or when a runner shuts down, a method that sleeps is cancelled, and runs again when the run is resumed.

    - `delay`: seconds, a timedelta, or a datetime with a time zone.
    - `key`: a name of this sleep, unique in the method. Without one, the method's sleeps are known by their order; at most one of them
      may be in progress.

    Raises `LookupError` outside of a method, `ValueError` for another `delay`, `StepKeyError` if another sleep without a key is in
    progress, `LimitExceededError` after 10,000 sleeps of one invocation, and `StorageError`s.
    """
    scope = current_invocation.get()
    if scope is None:
        raise LookupError("asyncflow.sleep() is available only inside a method of a flow; elsewhere, use anyio.sleep()")
    if isinstance(delay, datetime) and delay.tzinfo is not None:
        await scope.of_pass.sleep(scope, 0.0, delay.timestamp(), key)
        return
    duration = seconds(delay)
    if duration is None:
        raise ValueError(f"sleep() takes seconds, a timedelta, or a datetime with a time zone, not {delay!r}")
    await scope.of_pass.sleep(scope, duration, None, key)


class Sleeping:
    """The sleeps of the invocations that run: how many each has begun, and which one is in progress."""

    def __init__(self) -> None:
        self._begun: dict[str, tuple[Scope, int]] = {}
        self._unnamed: set[str] = set()
        self.waiting: Counter[Scope] = Counter()
        """The invocations that sleep, and how many sleeps of each are in progress."""

    def begin(self, scope: Scope, key: str | None, running: Any) -> str:
        """Return the name of the sleep that begins now. Raises `StepKeyError`."""
        if key is not None:
            return f"sleep {key}"
        if scope.key in self._unnamed:
            raise StepKeyError(
                f"{scope.method.name} began a sleep while another one was in progress; give each a key: sleep(delay, key=...)",
                run_id=scope.run_id,
                method=scope.method.name,
            )
        of, number = self._begun.get(scope.key, (scope, 0))
        number = number + 1 if of is scope else 1
        self._begun = {known: begun for known, begun in self._begun.items() if known in running}
        self._begun[scope.key] = (scope, number)
        self._unnamed.add(scope.key)
        return f"sleep {number}"

    def end(self, scope: Scope, key: str | None) -> None:
        """Record that a sleep is over."""
        if key is None:
            self._unnamed.discard(scope.key)


def check_room(scope: Scope, memos: int) -> None:
    """Raise `LimitExceededError` if an invocation has stored as many values as it can."""
    if memos >= MEMOS:
        raise LimitExceededError(
            f"{scope.method.name} has stored {MEMOS} values in one invocation, the maximum; split the method",
            run_id=scope.run_id,
            method=scope.method.name,
        )
