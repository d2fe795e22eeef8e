"""Something that is open while anybody uses it: opened by the first user on an event loop, closed by the last one there.

Each event loop has an opening of its own, so one object serves any number of loops and threads. A loop never touches the opening of
another, except to end what a closed loop has left behind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, TypeVar

import anyio

from .._waiting import current_loop, is_closed, to_its_end
from ..errors import ForkedProcessError, PersistenceLoopError, StorageBusyError, StorageUnreachableError

__all__ = ["AWAY", "PAUSE", "Shared"]

T = TypeVar("T")

AWAY: Final = (StorageUnreachableError, StorageBusyError)
"""What may be over in a moment: a server starts or is full, or another process holds a lock."""

PAUSE: Final = 0.05
"""Seconds between two tries."""

_process = object()
"""Stands for this process: another one in a child of it. Asking the system at each commit would cost a microsecond."""

_counting = threading.Lock()
"""Held while users are counted, which threads do at the same time. Never held over an await."""


def _forked() -> None:
    global _process, _counting
    _process, _counting = object(), threading.Lock()  # another thread of the parent may have held the lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


_IN_USE: Final[set[Any]] = set()
"""Keeps those in use from the garbage collector, which would end their connections' threads before their users do."""


class _Opening(Generic[T]):
    """What one event loop has open, and how many use it there."""

    __slots__ = ("held", "loop", "turn", "users")

    def __init__(self, loop: object) -> None:
        self.loop = loop
        self.turn = anyio.Lock()
        self.held: T | None = None
        self.users = 0


class Shared(Generic[T]):
    """Counts its users, for each event loop. `name` is what errors call it.

    `opened` makes what is shared, `closed` ends it, and `abandoned` ends what a closed event loop has left behind. `waits`: for how
    many seconds `opened` is tried again while it says that what it needs is away. A cancellation ends that wait at once.
    """

    def __init__(
        self,
        name: object,
        opened: Callable[[], Coroutine[Any, Any, T]],
        closed: Callable[[T], Coroutine[Any, Any, None]],
        abandoned: Callable[[T], None],
        waits: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._name = name
        self._opened = opened
        self._closed = closed
        self._abandoned = abandoned
        self._waits = waits
        self._openings: dict[object, _Opening[T]] = {}
        self._process = _process

    @property
    def held(self) -> T | None:
        """What the running event loop has open. Raises `ForkedProcessError` in a child of the process that opened it."""
        if self._process is not _process:
            self._check_fork()
        opening = self._openings.get(current_loop())
        return None if opening is None else opening.held

    @property
    def held_anywhere(self) -> T | None:
        """What some event loop has open. Only for what is the same in all openings; no loop has to be running."""
        return next((opening.held for opening in list(self._openings.values()) if opening.held is not None), None)

    def use(self) -> AbstractAsyncContextManager[T]:
        """What is shared, open on this event loop for as long as this lasts. Cancelled at any point, it leaves nothing open behind.

        Raises `PersistenceLoopError` when it is left on another event loop than it was entered on.
        """
        return _Use(self)

    async def enter(self, use: _Use[T]) -> T:
        """Count a user; what is shared is open then."""
        if self._process is not _process:
            self._check_fork()
        opening = use.opening = self._joined(current_loop())
        try:
            if opening.held is None:
                await self._open_in_time(opening)
            assert opening.held is not None, "opened by this user or by another, and this one has not left"
            return opening.held
        except BaseException:
            await self.leave(use)
            raise

    async def leave(self, use: _Use[T]) -> None:
        """Count a user no longer; the last one on its event loop closes what is shared."""
        opening = use.opening
        if opening is None or self._process is not _process:
            return  # what a parent has open is not its child's
        if self._openings.get(opening.loop) is not opening:
            return  # its loop was closed, and what it had open was ended
        if current_loop() is not opening.loop:
            if is_closed(opening.loop):
                return  # ended by whoever comes next
            raise PersistenceLoopError(
                f"{self._name!r} was opened on another event loop; leave it there. It is still open on that one"
            )
        use.opening = None
        with _counting:
            opening.users -= 1
        if not opening.users:
            await to_its_end(lambda: self._close(opening))

    async def _open_in_time(self, opening: _Opening[T]) -> None:
        until = anyio.current_time() + self._waits()
        while True:
            try:
                return await to_its_end(lambda: self._open(opening))
            except AWAY:
                if anyio.current_time() >= until:
                    raise
            await anyio.sleep(PAUSE)

    async def _open(self, opening: _Opening[T]) -> None:
        async with opening.turn:
            if opening.held is None:
                opening.held = await self._opened()

    async def _close(self, opening: _Opening[T]) -> None:
        async with opening.turn:
            try:
                if not opening.users and opening.held is not None:  # else somebody has come, or nothing was opened
                    held, opening.held = opening.held, None
                    await self._closed(held)
            finally:
                self._forget(opening)

    def _joined(self, loop: object) -> _Opening[T]:
        """The opening of an event loop, with one user more."""
        left: list[_Opening[T]] = []
        with _counting:
            opening = self._openings.get(loop)
            if opening is None:
                left = [each for each in self._openings.values() if is_closed(each.loop)]
                for each in left:
                    del self._openings[each.loop]
                opening = self._openings[loop] = _Opening(loop)
            opening.users += 1
            _IN_USE.add(self)
        for each in left:
            if each.held is not None:
                self._abandoned(each.held)
        return opening

    def _forget(self, opening: _Opening[T]) -> None:
        """Let go of an opening that nobody uses."""
        with _counting:
            if not opening.users and self._openings.get(opening.loop) is opening:
                del self._openings[opening.loop]
            if not self._openings:
                _IN_USE.discard(self)

    def _check_fork(self) -> None:
        """Begin anew in a child process. Raises `ForkedProcessError` if the parent had it open."""
        if any(opening.users for opening in self._openings.values()):
            raise ForkedProcessError(
                f"{self._name!r} was opened before this process was forked; open a new one after the fork"
            )
        self._openings, self._process = {}, _process


class _Use(Generic[T]):
    """One use. It lives as long as a run, in thousands: a generator would take ten times as much."""

    __slots__ = ("_shared", "opening")

    def __init__(self, shared: Shared[T]) -> None:
        self._shared = shared
        self.opening: _Opening[T] | None = None

    async def __aenter__(self) -> T:
        return await self._shared.enter(self)

    async def __aexit__(self, *error: object) -> None:
        await self._shared.leave(self)
