"""The pauses of periodic tasks, and what they and a simulation report to each other.

A simulation's clock advances at once to the next time that anything waits for. It must not step through the periods of tasks that only
look for what has happened, so there they look once something has happened. And it must not advance while a database works.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import anyio

from ._waiting import call_on, current_loop

__all__ = ["Pace", "Simulation", "simulation", "stored_runs_changed"]

LONGEST: Final = 3600.0
"""Maximum seconds of virtual time between two looks: some of what they look for is due at a time."""


class Simulation:
    """An event loop in virtual time."""

    def __init__(self, run_in_real_time: Callable[[bool], object]) -> None:
        """Create it on its event loop. `run_in_real_time`: makes the loop's clock run like a real one, or in jumps again."""
        self._run_in_real_time = run_in_real_time
        self._loop = current_loop()
        self._working = 0
        self._watches: dict[object, Callable[[], object]] = {}
        self.changes = 0
        """How often stored runs have changed."""

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work outside the event loop, such as in a database, which takes real time."""
        self._working += 1
        self._run_in_real_time(True)
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._run_in_real_time(False)

    def watch(self, call: Callable[[], object]) -> Callable[[], object]:
        """Call a function after each change of stored runs, until the returned function is called."""
        watch = object()
        self._watches[watch] = call
        return lambda: self._watches.pop(watch, None)

    def change(self) -> None:
        """Note that stored runs have changed."""
        self.changes += 1
        for call in list(self._watches.values()):
            call_on(self._loop, call)


simulation: ContextVar[Simulation | None] = ContextVar("asyncflow_simulation", default=None)


def stored_runs_changed() -> None:
    """Note for a simulation that a run has been sent something, or released: the tasks that look for that look soon."""
    current = simulation.get()
    if current is not None:
        current.change()


class Pace:
    """The pauses of a task that looks for something again and again.

    In a simulation, a pause lasts until stored runs have changed since the last look. While they do not, pauses double, up to an hour.
    """

    __slots__ = ("_changes", "_quiet")

    def __init__(self) -> None:
        self._changes = -1
        self._quiet = 0.0

    async def pause(self, seconds: float, nudge: anyio.Event | None = None, *, at_most: float = math.inf) -> None:
        """Pause for some seconds, or until an event is set. `at_most`: the longest pause in a simulation."""
        nudge, current = nudge or anyio.Event(), simulation.get()
        with anyio.move_on_after(min(seconds, at_most)):
            await nudge.wait()
        if current is None or nudge.is_set():
            return
        if current.changes == self._changes:
            self._quiet = min(max(2 * self._quiet, seconds), LONGEST)
            stop = current.watch(nudge.set)
            with anyio.move_on_after(min(self._quiet, at_most - seconds)):
                await nudge.wait()
            stop()
        if current.changes != self._changes:
            self._changes, self._quiet = current.changes, 0.0
