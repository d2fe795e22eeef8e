"""The runs that a runner drives at this moment, and how it ends them when it is left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from .._runtime.audience import Audience, checked_observers
from ..events import Observer
from .live import Live

__all__ = ["OwnedRuns"]

LOOK: Final = 0.2
"""Seconds between two looks for runs that only wait, while the runner drains."""

LEAVING: Final = 30.0
"""Seconds that stopped runs have to end one by one, before the runner cancels all of them together."""


class OwnedRuns(dict[str, Live]):
    """The runs by their ids, including those that wait for a slot."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        super().__init__()
        self.audience: Audience = Audience(checked_observers(observers, "a runner"))
        """Who observes them."""
        self._empty: anyio.Event | None = None
        self.is_closed: bool = False
        """Whether the runner has ended: it wakes no run any more."""
        self._waits: dict[anyio.Event, str] = {}
        """Of each wait for a parked run: the id of the run."""

    @contextmanager
    def waiting(self, run_id: str) -> Iterator[anyio.Event]:
        """Await a parked run. Yield an event that is set when the runner ends, at the latest."""
        event = anyio.Event()
        self._waits[event] = run_id
        if self.is_closed:
            event.set()
        try:
            yield event
        finally:
            del self._waits[event]

    def is_awaited(self, run_id: str) -> bool:
        """Whether a caller awaits a run that was parked when it was last seen."""
        return run_id in self._waits.values()

    def close(self) -> None:
        """End the waits for parked runs, and the streams of events, because the runner ends."""
        self.is_closed = True
        self.audience.end()
        for event in list(self._waits):
            event.set()

    def remove(self, run: Live) -> None:
        """Remove a run that has ended."""
        del self[run.run_id]
        self.audience.wake(run.run_id)
        if not self and self._empty is not None:
            self._empty.set()

    async def drain(self, grace: float, patience: float) -> None:
        """Let the runs finish for `grace` seconds, then let them stop at their next checkpoint for `patience` seconds.

        A run that only waits, for nothing that is due within `grace`, stops at once.
        """
        deadline = anyio.current_time() + grace
        while self and (left := deadline - anyio.current_time()) > 0:
            for run in self.values():
                if not run.winds_down and run.driver.only_waits_for(left):
                    run.wind_down()
            with anyio.move_on_after(min(left, LOOK)):
                await self._until_empty()
        for run in self.values():
            run.wind_down()
        with anyio.move_on_after(patience):
            await self._until_empty()

    async def stop(self) -> None:
        """Stop each run by itself. One cancel scope for all would visit all of them again whenever one of them makes progress."""
        for run in self.values():
            run.stop()
        with anyio.move_on_after(LEAVING):
            await self._until_empty()

    async def _until_empty(self) -> None:
        while self:
            self._empty = anyio.Event()
            await self._empty.wait()
