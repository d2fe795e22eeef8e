"""Turns for the many invocations of one pass: each turn starts a few, or records their ends, and the event loop runs in between.

Without turns, a fan-out of thousands blocks the event loop for as long as all of them take together. A pass with few invocations
at once has no crowd.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

__all__ = ["CROWD", "Crowd"]

T = TypeVar("T")

CROWD: Final = 16
"""The number of concurrent invocations above which they take turns."""

HOLD: Final = 0.004
"""About how many seconds one turn may hold the event loop."""

MOST: Final = 64
"""The maximum number of invocations in one turn."""


STORING: Final = 128
"""The maximum number of ends that are being stored before others get a turn: each holds a version of the state."""


class Crowd(Generic[T]):
    """The invocations that wait for a turn, in order. Ends are first, as they free what their methods hold.

    One task of the pass's task group gives the turns, and ends when none waits. It measures each turn and adapts the next.
    """

    def __init__(self, group: TaskGroup, work: Callable[[T, int], Coroutine[Any, Any, object]]) -> None:
        self._group = group
        self._work = work
        self._ends: deque[Callable[[], None]] = deque()
        self._starts: deque[Callable[[], None]] = deque()
        self._portion = 8.0
        self._gives_turns = False
        self._storing = 0
        self._has_room = anyio.Event()
        self.turn = 1
        """The number of the current turn."""

    def start(self, invocation: T) -> None:
        """Start an invocation's work in the task group when its turn arrives. The work receives the number of that turn."""
        self._starts.append(partial(self._started, invocation))
        self._wanted()

    def _started(self, invocation: T) -> None:
        self._group.start_soon(self._work, invocation, self.turn)

    async def wait(self, turn: int, many: int) -> None:
        """Wait until an end may be recorded, while `many` invocations run. One that started in the current turn need not wait."""
        if turn == self.turn or many <= CROWD:
            return
        given = anyio.Event()
        self._ends.append(given.set)
        self._wanted()
        await given.wait()

    async def store(self, commit: Awaitable[None]) -> None:
        """Await this commit, and count it as being stored meanwhile."""
        self._storing += 1
        try:
            await commit
        finally:
            self._storing -= 1
            if self._storing < STORING:
                self._has_room.set()

    def _wanted(self) -> None:
        if not self._gives_turns:
            self._gives_turns = True
            self._group.start_soon(self._give_turns)

    async def _give_turns(self) -> None:
        try:
            while self._ends or self._starts:
                if self._storing >= STORING:
                    self._has_room = anyio.Event()
                    await self._has_room.wait()
                began = anyio.current_time()  # virtual time if the schedule has to be repeatable
                for _ in range(min(int(self._portion), len(self._ends) + len(self._starts))):
                    (self._ends or self._starts).popleft()()
                await anyio.lowlevel.checkpoint()  # they run, and so do all other ready tasks
                took = anyio.current_time() - began
                self._portion = min(max(1.0, self._portion * min(2.0, HOLD / max(took, 1e-6))), MOST)
                self.turn += 1
        finally:
            self._gives_turns = False
