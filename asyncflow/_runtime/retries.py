"""Retries: what follows when an attempt of a method raises, and the pause before the next attempt."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import anyio

from .._definition.retry import next_delay
from .._failure import Failure
from .._scheduling.progress import Attempts, Progress
from ..errors import StateConflictError
from .attempts import decode_attempt
from .scope import LaterScope, Scope
from .threads import thread_has_ended
from .timing import sleep_until
from .versions import StateVersions

__all__ = ["Retries", "failure_of"]

logger = logging.getLogger("asyncflow")

CONFLICTS: Final = 100
"""How often in a row an invocation is run again because of a merge conflict, before the conflict counts as a failed attempt."""

DURABLE: Final = 0.001
"""Seconds between two looks whether a version is durable."""


class Retries:
    """Decides for one pass what follows a failed attempt, and waits for the next attempts."""

    __slots__ = ("_clock", "_conflicts", "_progress", "_versions")

    def __init__(self, progress: Progress, versions: StateVersions, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._versions = versions
        self._clock = clock
        self._conflicts: dict[str, int] = {}
        """How often in a row an invocation has been run again because of a conflict, by its key."""

    def next_at(self, scope: Scope, error: Exception) -> float | None:
        """Return when the next attempt is due, or None if the invocation has failed permanently."""
        known = self._progress.attempts.get(scope.key, Attempts(0))
        self._conflicts.pop(scope.key, None)
        try:
            delay = next_delay(scope.method.retry, error, known.failed - known.before + 1, random.random())
        except Exception:  # a user's `on` may raise anything
            about = scope.method.name, scope.invocation_id
            logger.exception(
                "retry policy failed: `on` of %s raised; %s is not tried again", *about, extra=scope.logged
            )
            return None
        return None if delay is None else self._clock() + delay

    async def is_conflict(self, scope: Scope, error: Exception) -> bool:
        """Whether an invocation is run again at once, as its changes met those of another method. Nothing is stored of that.

        Waits until what it conflicts with is durable: the base of its next attempt.
        """
        is_own = isinstance(error, StateConflictError) and (error.run_id, error.method) == (
            scope.run_id,
            scope.method.name,
        )
        if not is_own or self._progress.failed or not _covers(scope, error):
            return False
        conflicts = self._conflicts[scope.key] = self._conflicts.get(scope.key, 0) + 1
        newest = self._versions.newest.index
        while self._versions.committed.index < newest:  # noqa: ASYNC110 - rare, and the usual path need not set an event
            await anyio.sleep(DURABLE)
        return conflicts <= CONFLICTS and not self._progress.failed

    async def pause(self, scope: LaterScope) -> None:
        """Wait until the next attempt of an invocation is due, and the thread of an earlier one has ended."""
        await sleep_until(scope.due, self._clock)
        await thread_has_ended(scope.invocation_id)


def _covers(scope: Scope, error: Exception) -> bool:
    policy = scope.method.retry
    try:
        return scope.method.each if policy is None else policy.covers(error)
    except Exception:  # a user's `on` may raise anything; it is logged when the next attempt is decided
        return False


# ---- failed attempts -------------------------------------------------------------------------------------------


def failure_of(scope: Scope, error: Exception, progress: Progress, at: float) -> Failure:
    """Return the failure of an attempt, with the failed attempts before it. `at`: the time."""
    known = progress.attempts.get(scope.key)
    if known is None:
        return Failure(scope.method.name, scope.invocation_id, error, at=at)
    earlier = tuple(map(decode_attempt, known.errors))
    return Failure(scope.method.name, scope.invocation_id, error, earlier, known.failed + 1, at)
