"""Something that is open while anybody uses it: opened by the first, closed by the last to leave, on one loop at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, TypeVar

import anyio

from .._waiting import current_loop, is_closed, to_its_end
from ..errors import ForkedProcessError, PersistenceLoopError

__all__ = ["Shared"]

T = TypeVar("T")

_process = object()
"""Stands for this process: another one in a child of it. Asking the system at each commit would cost a microsecond."""


def _forked() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


_IN_USE: set[Any] = set()
"""Keeps those in use from the garbage collector, which would end their connections' threads before their users do."""


class Shared(Generic[T]):
    """Counts its users. `name` is what errors call it.

    `opened` makes what is shared, `closed` ends it, and `abandoned` ends what was left behind by a loop that was closed.
    """

    def __init__(
        self,
        name: object,
        opened: Callable[[], Coroutine[Any, Any, T]],
        closed: Callable[[T], Coroutine[Any, Any, None]],
        abandoned: Callable[[T], None],
    ) -> None:
        self._name = name
        self._opened = opened
        self._closed = closed
        self._abandoned = abandoned
        self._counting = threading.Lock()
        self._held: T | None = None
        self._users = 0
        self._loop: object = None
        self._turn: anyio.Lock | None = None
        self._process = _process

    @property
    def held(self) -> T | None:
        """What is shared, while it is open. Raises `ForkedProcessError` in a child of the process that opened it."""
        if self._process is not _process:
            self._refuse_fork()
        return self._held

    def use(self) -> AbstractAsyncContextManager[T]:
        """What is shared, open for as long as this lasts. Cancelled at any point, it leaves nothing open behind.

        Raises `PersistenceLoopError` while it is used on another event loop.
        """
        return _Use(self)

    async def enter(self, use: _Use[T]) -> T:
        """Count a user; what is shared is open then."""
        self._refuse_fork()  # before the lock, which a thread of the parent may have held at the fork
        with self._counting:  # threads may come at the same time: one of them is refused
            turn = use.turn = self._bound()
            self._users += 1
            _IN_USE.add(self)
        try:
            if self._held is None:
                await to_its_end(lambda: self._open(turn))
            assert self._held is not None, "opened by this user or by another, and this one has not left"
            return self._held
        except BaseException:
            await self.leave(use)
            raise

    async def leave(self, use: _Use[T]) -> None:
        """Count a user no longer; the last one closes what is shared."""
        turn = use.turn
        if turn is None or turn is not self._turn or self._process is not _process:
            return  # a user of a loop that was closed is not counted; and what a parent has open is not its child's
        self._users -= 1
        if not self._users:
            _IN_USE.discard(self)
            await to_its_end(lambda: self._close(turn))

    async def _open(self, turn: anyio.Lock) -> None:
        async with turn:
            if self._held is None:
                self._held = await self._opened()

    async def _close(self, turn: anyio.Lock) -> None:
        async with turn:
            if self._users or self._held is None:
                return  # somebody has come meanwhile, or nothing was opened
            held, self._held = self._held, None
            await self._closed(held)

    def _bound(self) -> anyio.Lock:
        """The lock of the running loop, which this is bound to from now on."""
        loop = current_loop()
        if self._turn is not None and self._loop is loop:
            return self._turn
        if self._users and not is_closed(self._loop):
            raise PersistenceLoopError(
                f"{self._name!r} is in use on another event loop; give each loop a persistence of its own. Nothing was written"
            )
        if self._held is not None:
            self._abandoned(self._held)
        self._users, self._held = 0, None  # nothing is left of a loop that ended without its tasks
        self._loop, self._turn, self._process = loop, anyio.Lock(), _process
        return self._turn

    def _refuse_fork(self) -> None:
        if self._users and self._process is not _process:
            raise ForkedProcessError(
                f"{self._name!r} was opened before this process was forked; open a new one after the fork"
            )


class _Use(Generic[T]):
    """One use. It lives as long as a run, in thousands: a generator would take ten times as much."""

    __slots__ = ("_shared", "turn")

    def __init__(self, shared: Shared[T]) -> None:
        self._shared = shared
        self.turn: anyio.Lock | None = None

    async def __aenter__(self) -> T:
        return await self._shared.enter(self)

    async def __aexit__(self, *error: object) -> None:
        await self._shared.leave(self)
