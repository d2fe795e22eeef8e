"""Runs of a runner that await other runs of it, while those wait for a turn: once all at work do that, none of them gets one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .scope import entered

__all__ = ["Parents"]

logger = logging.getLogger("asyncflow")


class Parents:
    """Who awaits a run that waits for its turn. Logs once when every run at work waits."""

    __slots__ = ("_awaited", "_has_told", "_most")

    def __init__(self, most: int) -> None:
        """`most`: how many runs are at work at once."""
        self._most = most
        self._awaited: dict[int, Callable[[], bool]] = {}
        self._has_told = False

    @contextmanager
    def awaiting(self, is_queued: Callable[[], bool]) -> Iterator[None]:
        """The caller awaits a run that is, or is not, queued. It counts where it is a method of a run that a runner owns."""
        scope = entered.get()
        if scope is None or scope.flow._instance.gate is None or not is_queued():  # type: ignore[attr-defined]  # of any flow
            yield
            return
        parent = id(scope.flow)
        self._awaited[parent] = is_queued
        self._tell()
        try:
            yield
        finally:
            self._awaited.pop(parent, None)

    def _tell(self) -> None:
        if self._has_told or len(self._awaited) < self._most or not all(asked() for asked in self._awaited.values()):
            return
        self._has_told = True
        logger.warning(
            "all %d runs at work of a runner await runs that wait for their turn, so none of them can continue. Raise max_running "
            "above the number of runs that await others, or let a method kickoff() the flow that it awaits",
            self._most,
        )
