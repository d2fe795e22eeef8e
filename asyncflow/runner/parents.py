"""Detects a deadlock: runs that await other runs of the same runner, which wait for a slot. If all running runs do that, none continues."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from .._runtime.scope import current_invocation
from .driver import driver_of

__all__ = ["Parents"]

logger: Final = logging.getLogger("asyncflow")


class Parents:
    """The runs that await a run which waits for a slot. Logs once when every running run waits like this."""

    __slots__ = ("_awaited", "_is_logged", "_most")

    def __init__(self, most: int) -> None:
        """`most`: the maximum number of runs that run at once."""
        self._most = most
        self._awaited: dict[int, Callable[[], bool]] = {}
        self._is_logged = False

    @contextmanager
    def awaiting(self, is_queued: Callable[[], bool]) -> Iterator[None]:
        """Record that the caller awaits a run that may be queued. Only a method of a run that a runner owns counts as a caller."""
        scope = current_invocation.get()
        if scope is None or driver_of(scope.flow).setup.turn is None or not is_queued():
            yield
            return
        parent = id(scope.flow)
        self._awaited[parent] = is_queued
        self._log_deadlock()
        try:
            yield
        finally:
            self._awaited.pop(parent, None)

    def _log_deadlock(self) -> None:
        if (
            self._is_logged
            or len(self._awaited) < self._most
            or not all(is_queued() for is_queued in self._awaited.values())
        ):
            return
        self._is_logged = True
        logger.warning(
            "runner deadlocked: all its %d running runs await queued runs, so none of them can continue. Raise max_running above the "
            "number of runs that await others, or let a method run the flow that it awaits by run_child()",
            self._most,
        )
