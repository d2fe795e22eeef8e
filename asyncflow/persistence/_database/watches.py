"""Notice what happens to stored runs, such as that a signal has arrived: one query for all that are watched, while any is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .loop_host import LoopHost

__all__ = ["Watches"]


class Watches:
    """Calls those who watch a run. Belongs to one opening of a database, and so to one event loop.

    `look`: gets the ids of the watched runs; returns the runs to which something has happened, with a number. A run with the same number
    as before is not reported again.
    """

    def __init__(
        self,
        home: LoopHost,
        look: Callable[[list[str]], Coroutine[Any, Any, Sequence[tuple[str, int]]]],
        seconds: float,
    ) -> None:
        self._home = home
        self._look = look
        self._seconds = seconds
        self._watches: dict[str, dict[object, Callable[[], object]]] = {}
        self._newest: dict[str, int] = {}
        self._is_looking = False
        self._stop: Callable[[], object] | None = None

    @contextmanager
    def watch(self, run_id: str, call: Callable[[], object]) -> Iterator[None]:
        """Call a function whenever something may have happened to a run."""
        watch = object()
        self._watches.setdefault(run_id, {})[watch] = call
        self._newest.pop(run_id, None)
        if self._stop is None:
            self._stop = self._home.every(self._seconds, self._tick)
        try:
            yield
        finally:
            watches = self._watches[run_id]
            del watches[watch]
            if not watches:
                del self._watches[run_id]
                self._newest.pop(run_id, None)
            if not self._watches:
                self.close()

    def happened(self, run_id: str) -> None:
        """Call those who watch a run. What was done through this opening is noticed at once."""
        for call in list(self._watches.get(run_id, {}).values()):
            call()

    def close(self) -> None:
        """Stop looking."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _tick(self) -> None:
        if not self._is_looking and self._watches:
            self._is_looking = True
            self._home.spawn(self._look_once, self._looked)

    async def _look_once(self) -> None:
        self._found = await self._look(list(self._watches))

    def _looked(self, error: BaseException | None) -> None:
        self._is_looking = False
        if error is not None:
            return  # the next look tries again, and the run meets a lasting error at its next commit
        for run_id, newest in self._found:
            if self._newest.get(run_id) != newest and run_id in self._watches:
                self._newest[run_id] = newest
                self.happened(run_id)
