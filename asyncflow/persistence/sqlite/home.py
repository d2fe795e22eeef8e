"""Where aiosqlite lives. It speaks asyncio only: on asyncio it is this loop, on trio a loop in a thread of its own.

This module names asyncio and trio because that is its purpose: work is started so that no cancellation of a waiter,
native or scoped, reaches the transaction.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..._waiting import outlast

__all__ = ["Home", "current_loop", "home_here", "run"]

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]


class Home(Protocol):
    """Runs coroutines to their end, whatever becomes of those who wait."""

    loop: object
    """The event loop, or trio's token, that the callers are on."""

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        """Start it; `done` is called on the callers' loop with what became of it."""
        ...

    def soon(self, call: Callable[[], None]) -> None:
        """Call it on the callers' loop, after what is ready there now."""
        ...

    def close(self) -> None:
        """Free what the home holds; nothing is running any more."""
        ...


async def run(home: Home, work: Work[T]) -> T:
    """Run a coroutine function to its end and return what it returns; a cancellation is delivered after the end."""
    ended = anyio.Event()
    outcome: list[Future[T] | asyncio.Future[T]] = []

    def done(future: Future[T] | asyncio.Future[T]) -> None:
        outcome.append(future)
        ended.set()

    home.spawn(work, done)
    await outlast(ended)
    return outcome[0].result()


def home_here() -> Home:
    """The home for the event loop that is running."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return _Portal(trio.lowlevel.current_trio_token())
    return _ThisLoop()


def current_loop() -> object:
    """What tells one running event loop from another."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


class _ThisLoop:
    """asyncio: a task of its own for each piece of work, so that whoever waits is not who owns the transaction."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        task = self.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(done)

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.call_soon(call)

    def close(self) -> None:
        """Nothing is held."""


class _Portal:
    """trio: an asyncio loop in a thread, one hop for each piece of work; trio is woken by its token."""

    def __init__(self, token: Any) -> None:
        self.loop = token
        self._stack = ExitStack()
        self._portal: BlockingPortal = self._stack.enter_context(start_blocking_portal("asyncio"))

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        future: Future[T] = self._portal.start_task_soon(work)
        future.add_done_callback(lambda ended: self.loop.run_sync_soon(done, ended))

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.run_sync_soon(call)

    def close(self) -> None:
        """End the thread."""
        self._stack.close()


