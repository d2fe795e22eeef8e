"""Where aiosqlite lives. It speaks asyncio only: on asyncio it is this loop, on trio a loop in a thread of its own.

This module names asyncio and trio because that is its purpose: work is started so that no cancellation of a waiter,
native or scoped, reaches the transaction.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..._waiting import in_trio, outlast, to_its_end

__all__ = ["Home", "Waiter", "home_here"]

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]


class Waiter(Protocol):
    """Something to be awaited once, and woken once. Lighter than an event: every checkpoint makes one."""

    def __await__(self) -> Generator[Any, None, None]: ...

    def wake(self) -> None:
        """Let whoever awaits it go on."""
        ...


class Home(Protocol):
    """Runs coroutines to their end, whatever becomes of those who wait."""

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        """Start it; `done` is called on the callers' loop with what became of it."""
        ...

    async def run(self, work: Work[T]) -> T:
        """Run it to its end and return what it returns; a cancellation is delivered after that."""
        ...

    def soon(self, call: Callable[[], None]) -> None:
        """Call it on the callers' loop, after what is ready there now."""
        ...

    def waiter(self) -> Waiter:
        """A new waiter on the callers' loop."""
        ...

    def close(self) -> None:
        """Free what the home holds; nothing is running any more."""
        ...


def home_here() -> Home:
    """The home for the event loop that is running."""
    return _Portal(sys.modules["trio"].lowlevel.current_trio_token()) if in_trio() else _ThisLoop()


class _FutureWaiter:
    __slots__ = ("_future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._future: asyncio.Future[None] = loop.create_future()

    def __await__(self) -> Generator[Any, None, None]:
        return self._future.__await__()

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class _EventWaiter:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        return self._event.wait().__await__()

    def wake(self) -> None:
        self._event.set()


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

    async def run(self, work: Work[T]) -> T:
        return await to_its_end(work)

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.call_soon(call)

    def waiter(self) -> Waiter:
        return _FutureWaiter(self.loop)

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

    async def run(self, work: Work[T]) -> T:
        ended = anyio.Event()
        outcome: list[Future[T] | asyncio.Future[T]] = []

        def done(future: Future[T] | asyncio.Future[T]) -> None:
            outcome.append(future)
            ended.set()

        self.spawn(work, done)
        await outlast(ended)
        return outcome[0].result()

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.run_sync_soon(call)

    def waiter(self) -> Waiter:
        return _EventWaiter()

    def close(self) -> None:
        """End the thread."""
        self._stack.close()
