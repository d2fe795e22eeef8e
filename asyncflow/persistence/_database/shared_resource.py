"""A shared resource with a use count: the first user on an event loop opens it, the last one there closes it.

Each event loop has its own opening, so one object serves any number of loops and threads. A loop never touches the opening of
another loop, except to end what a closed loop has left open.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, TypeVar

import anyio

from ..._waiting import current_loop, is_closed, to_its_end
from ...errors import ForkedProcessError, PersistenceLoopError, StorageBusyError, StorageUnreachableError

__all__ = ["AWAY", "PAUSE", "SharedResource"]

T = TypeVar("T")

AWAY: Final = (StorageUnreachableError, StorageBusyError)
"""Errors that may be temporary: a server is starting or full, or another process holds a lock."""

PAUSE: Final = 0.05
"""Seconds between two attempts."""

_process = object()
"""An object that identifies this process; a forked child gets another one. Asking the system for the pid at each commit would cost 1 us."""

_counting = threading.Lock()
"""A lock held while users are counted, which several threads can do at the same time. Never held over an await."""


def _forked() -> None:
    global _process, _counting
    _process, _counting = object(), threading.Lock()  # another thread of the parent may have held the lock


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


_IN_USE: Final[set[Any]] = set()
"""Protects resources in use from the garbage collector, which would end their connections' threads before their users do."""


class _Opening(Generic[T]):
    """The opening of one event loop, and the number of its users."""

    __slots__ = ("loop", "resource", "turn", "users")

    def __init__(self, loop: object) -> None:
        self.loop = loop
        self.turn = anyio.Lock()
        self.resource: T | None = None
        self.users = 0


class SharedResource(Generic[T]):
    """Counts its users for each event loop. `name` is its name in error messages.

    `opened` opens the resource, `closed` closes it, and `abandoned` ends what a closed event loop has left open. `waits`: for how
    many seconds `opened` is retried while it reports that the storage is unreachable or busy. A cancellation ends that wait at
    once.
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
    def current(self) -> T | None:
        """The resource that the running event loop has open, else None.

        Raises `ForkedProcessError` in a child of the process that opened it.
        """
        if self._process is not _process:
            self._check_fork()
        opening = self._openings.get(current_loop())
        return None if opening is None else opening.resource

    @property
    def any_current(self) -> T | None:
        """The resource that any event loop has open, else None. No loop has to be running.

        Use it only for attributes that are equal in all openings.
        """
        return next(
            (opening.resource for opening in list(self._openings.values()) if opening.resource is not None), None
        )

    def use(self) -> AbstractAsyncContextManager[T]:
        """Return a context manager that keeps the resource open on this event loop. Cancelled at any point, it leaves nothing open.

        Raises `PersistenceLoopError` if it is exited on another event loop than it was entered on.
        """
        return _Use(self)

    async def enter(self, use: _Use[T]) -> T:
        """Add a user, and open the resource if it is not open."""
        if self._process is not _process:
            self._check_fork()
        opening = use.opening = self._joined(current_loop())
        try:
            if opening.resource is None:
                await self._open_in_time(opening)
            assert opening.resource is not None, "opened by this user or by another, and this one has not left"
            return opening.resource
        except BaseException:
            await self.leave(use)
            raise

    async def leave(self, use: _Use[T]) -> None:
        """Remove a user. The last one on its event loop closes the resource."""
        opening = use.opening
        if opening is None or self._process is not _process:
            return  # a forked child does not own what its parent has open
        if self._openings.get(opening.loop) is not opening:
            return  # its loop was closed, and its opening was ended
        if current_loop() is not opening.loop:
            if is_closed(opening.loop):
                return  # the next user ends it
            raise PersistenceLoopError(
                f"{self._name!r} was opened on another event loop; close it there. It is still open on that loop"
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
            if opening.resource is None:
                opening.resource = await self._opened()

    async def _close(self, opening: _Opening[T]) -> None:
        async with opening.turn:
            try:
                if not opening.users and opening.resource is not None:  # else another user came, or nothing was opened
                    resource, opening.resource = opening.resource, None
                    await self._closed(resource)
            finally:
                self._forget(opening)

    def _joined(self, loop: object) -> _Opening[T]:
        """Return the opening of an event loop after adding a user. End the openings of closed loops."""
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
            if each.resource is not None:
                self._abandoned(each.resource)
        return opening

    def _forget(self, opening: _Opening[T]) -> None:
        """Forget an opening that has no users."""
        with _counting:
            if not opening.users and self._openings.get(opening.loop) is opening:
                del self._openings[opening.loop]
            if not self._openings:
                _IN_USE.discard(self)

    def _check_fork(self) -> None:
        """Reset the object in a forked child process. Raises `ForkedProcessError` if the parent had it open."""
        if any(opening.users for opening in self._openings.values()):
            raise ForkedProcessError(
                f"{self._name!r} was opened before this process was forked; open a new one after the fork"
            )
        self._openings, self._process = {}, _process


class _Use(Generic[T]):
    """One use. It lives as long as a run, and there are thousands of them: a generator would take ten times as much memory."""

    __slots__ = ("_shared", "opening")

    def __init__(self, shared: SharedResource[T]) -> None:
        self._shared = shared
        self.opening: _Opening[T] | None = None

    async def __aenter__(self) -> T:
        return await self._shared.enter(self)

    async def __aexit__(self, *error: object) -> None:
        await self._shared.leave(self)
