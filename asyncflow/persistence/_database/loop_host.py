"""The host of a database driver's event loop. The drivers need asyncio: on asyncio it is the running loop, on trio a loop in a thread.

This module names asyncio and trio because that is its purpose: it starts work such that no cancellation of a waiter, native or by a
cancel scope, reaches the transaction.
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

from ..._pace import Simulation, simulation
from ..._waiting import in_cancelled_scope, in_trio, outlast, protect_from_interrupts, to_its_end

__all__ = ["LoopHost", "WorkCancelledError", "current_loop_host"]

T = TypeVar("T")
Work = Callable[[], Coroutine[Any, Any, T]]
Done = Callable[[BaseException | None], None]
"""Called when work has ended: with None, or with the exception that it raised."""


class WorkCancelledError(Exception):
    """Work was cancelled, because its event loop ends."""


class LoopHost(Protocol):
    """Runs coroutines to their end, shielded from the cancellation of their waiters."""

    def spawn(self, work: Work[None], done: Done) -> None:
        """Start the work. Call `done` on the callers' loop when it has ended, and once more if Ctrl-C interrupts that call."""
        ...

    async def run(self, work: Work[T]) -> T:
        """Run the work to its end and return its result. A cancellation is delivered after that."""
        ...

    async def read(self, work: Work[T]) -> T:
        """Run work that may be cancelled at any await, and return its result. In a cancelled scope, it runs to its end."""
        ...

    def soon(self, call: Callable[[], None]) -> None:
        """Call a function on the callers' loop, after the callbacks that are ready there now."""
        ...

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        """Call a function on the callers' loop every `seconds`, until the returned function is called."""
        ...

    def waiter(self) -> Awaitable[None]:
        """Return an awaitable that `wake` completes. It is awaited once, on the callers' loop. Every checkpoint creates one."""
        ...

    def wake(self, waiter: Any) -> None:
        """Complete a waiter, so that its task continues. Call it on the callers' loop."""
        ...

    def close(self) -> None:
        """Release the resources of the host. Nothing is running any more."""
        ...


async def current_loop_host() -> LoopHost:
    """Return the loop host for the running event loop."""
    simulated = simulation.get()
    if simulated is None:
        return await _loop_host()
    with simulated.work():
        return _InSimulation(await _loop_host(), simulated)


async def _loop_host() -> LoopHost:
    if not in_trio():
        return _ThisLoop()
    protect_from_interrupts()
    portal = _Portal(sys.modules["trio"].lowlevel.current_trio_token())
    await anyio.to_thread.run_sync(portal.open)  # in a worker thread, where no Ctrl-C can interrupt it halfway
    return portal


class _Flag:
    """An event that can be awaited directly."""

    __slots__ = ("event",)

    def __init__(self) -> None:
        self.event = anyio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        return self.event.wait().__await__()


class _ThisLoop:
    """The host on asyncio: each piece of work is a separate task, so that the waiting task does not own the transaction."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.waiter = self.loop.create_future
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Work[None], done: Done) -> None:
        has_ended = is_reported = False

        async def run() -> None:
            nonlocal has_ended, is_reported
            await work()
            has_ended = True
            done(None)  # here, because a callback of the task costs one more turn of the event loop
            is_reported = True

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = _error_of(task)
            if not is_reported:  # the work raised or was cancelled; or Ctrl-C interrupted `done`
                done(None if has_ended else error)

        task = self.loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(ended)  # a single callback, because the loop creates a handle for each

    async def run(self, work: Work[T]) -> T:
        return await to_its_end(work)

    async def read(self, work: Work[T]) -> T:
        return await (self.run(work) if in_cancelled_scope() else work())

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
        except asyncio.InvalidStateError:  # cancelled; checking this beforehand would leave a gap for Ctrl-C
            pass

    def close(self) -> None:
        """Do nothing: this host holds no resources."""


class _Portal:
    """The host on trio: an asyncio loop in a thread, one hop for each piece of work. It wakes trio through its token."""

    def __init__(self, token: Any) -> None:
        self.loop = token
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def open(self) -> None:
        """Start the thread. Do not call it in trio's thread, where Ctrl-C could interrupt the wait for the new thread's start."""
        self._portal = self._stack.enter_context(start_blocking_portal("asyncio"))

    def spawn(self, work: Work[None], done: Done) -> None:
        self._start(work, lambda ended: done(_error_of(ended)))

    async def run(self, work: Work[T]) -> T:
        ended = anyio.Event()
        future = self._start(work, lambda _: ended.set())
        await outlast(ended)
        return future.result()

    async def read(self, work: Work[T]) -> T:
        return await self.run(work)

    def _start(self, work: Work[T], done: Callable[[Future[T]], None]) -> Future[T]:
        """Start the work. Call `done` with its future, on the callers' loop, when it has ended."""
        assert self._portal is not None, "opened by `current_loop_host`"
        future: Future[T] = self._portal.start_task_soon(work)
        future.add_done_callback(lambda ended: self.loop.run_sync_soon(done, ended))
        return future

    def soon(self, call: Callable[[], None]) -> None:
        self.loop.run_sync_soon(call)

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        async def tick() -> None:
            while True:
                await anyio.sleep(seconds)
                self.loop.run_sync_soon(call)

        assert self._portal is not None, "opened by `current_loop_host`"
        return self._portal.start_task_soon(tick).cancel

    def waiter(self) -> Awaitable[None]:
        return _Flag()

    def wake(self, waiter: Any) -> None:
        waiter.event.set()

    def close(self) -> None:
        """End the thread."""
        self._stack.close()


class _InSimulation:
    """A host in virtual time, which must not jump while a database works. What is called periodically is called after changes."""

    def __init__(self, host: LoopHost, simulated: Simulation) -> None:
        self._host = host
        self._simulated = simulated
        self.soon, self.waiter, self.wake, self.close = host.soon, host.waiter, host.wake, host.close

    def spawn(self, work: Work[None], done: Done) -> None:
        working = ExitStack()
        working.enter_context(self._simulated.work())

        def ended(error: BaseException | None) -> None:
            working.close()
            done(error)

        self._host.spawn(work, ended)

    async def run(self, work: Work[T]) -> T:
        with self._simulated.work():
            return await self._host.run(work)

    async def read(self, work: Work[T]) -> T:
        with self._simulated.work():
            return await self._host.read(work)

    def every(self, seconds: float, call: Callable[[], None]) -> Callable[[], object]:
        return self._simulated.watch(call)


def _error_of(ended: Future[None] | asyncio.Future[None]) -> BaseException | None:
    return WorkCancelledError() if ended.cancelled() else ended.exception()
