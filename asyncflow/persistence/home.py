"""Where a database driver lives. It speaks asyncio only: on asyncio it is this loop, on trio a loop in a thread of its own.

This module names asyncio and trio because that is its purpose: work is started so that no cancellation of a waiter,
native or scoped, reaches the transaction.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .._waiting import in_trio, outlast, protect_from_interrupts, to_its_end

__all__ = ["Home", "home_here"]

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]


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

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        """Call it on the callers' loop again and again, until what is returned is called."""
        ...

    def waiter(self) -> Awaitable[None]:
        """Something to be awaited once, on the callers' loop, and woken. Every checkpoint makes one."""
        ...

    def wake(self, waiter: Any) -> None:
        """Let whoever awaits it go on; on the callers' loop."""
        ...

    def close(self) -> None:
        """Free what the home holds; nothing is running any more."""
        ...


async def home_here() -> Home:
    """The home for the event loop that is running."""
    if not in_trio():
        return _ThisLoop()
    protect_from_interrupts()
    portal = _Portal(sys.modules["trio"].lowlevel.current_trio_token())
    await anyio.to_thread.run_sync(portal.open)  # where no Ctrl-C can cut it in two
    return portal


class _Flag:
    """An event that is awaited as it is."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        return self.event.wait().__await__()


class _ThisLoop:
    """asyncio: a task of its own for each piece of work, so that whoever waits is not who owns the transaction."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.waiter = self.loop.create_future
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        def ended(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            done(task)

        task = self.loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(ended)  # one callback: the loop makes a handle for each

    async def run(self, work: Work[T]) -> T:
        return await to_its_end(work)

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.call_soon(call)

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        def tick() -> None:
            timers[0] = self.loop.call_later(seconds, tick)
            call()

        timers = [self.loop.call_later(seconds, tick)]
        return lambda: timers[0].cancel()

    def wake(self, waiter: Any) -> None:
        try:  # noqa: SIM105 - called for each checkpoint
            waiter.set_result(None)
        except asyncio.InvalidStateError:  # cancelled; if that was asked before, a Ctrl-C could still come in between
            pass

    def close(self) -> None:
        """Nothing is held."""


class _Portal:
    """trio: an asyncio loop in a thread, one hop for each piece of work; trio is woken by its token."""

    def __init__(self, token: Any) -> None:
        self.loop = token
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def open(self) -> None:
        """Start the thread; not in trio's, which Ctrl-C may interrupt while it waits for the other to begin."""
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))

    def spawn(self, work: Work[T], done: Callable[[Future[T] | asyncio.Future[T]], None]) -> None:
        assert self._portal is not None, "opened by `home_here`"
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

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        async def tick() -> None:
            while True:
                await anyio.sleep(seconds)
                self.loop.run_sync_soon(call)

        assert self._portal is not None, "opened by `home_here`"
        return self._portal.start_task_soon(tick).cancel

    def waiter(self) -> Awaitable[None]:
        return _Flag()

    def wake(self, waiter: Any) -> None:
        waiter.event.set()

    def close(self) -> None:
        """End the thread."""
        self._stack.close()
