"""Run plain methods in worker threads, under asyncflow's own capacity limiters, and always wait for them.

A plain method may wait, in its thread, for other flows of the same event loop. Those flows' plain methods have a limiter of their
own. Otherwise methods that wait for a thread could hold all threads. Where the context does not show that a flow is waited for, a
limiter whose threads are all blocked grows.

Native asyncio cancellation leaves `anyio.to_thread.run_sync` while the thread is still running, so the caller waits for it again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from .._waiting import outlast
from .scope import current_invocation

__all__ = ["ThreadTimeoutError", "awaited_instead", "in_thread", "instead", "on_loop", "thread_has_ended"]

T = TypeVar("T")

logger = logging.getLogger("asyncflow")

THREADS: Final = 40
"""The maximum number of plain methods that run at once in one event loop, at each depth of flows within plain methods.

It is the size of anyio's own default limiter, which a web framework's handlers share.
"""

LOOK: Final = 0.05
"""Seconds between two looks whether a thread has ended that was left running after a timeout."""

STALL: Final = 1.0
"""Seconds after which one more thread is allowed, if methods wait for a thread and none has ended."""

instead: ContextVar[Callable[[Callable[[], Any]], Awaitable[Any]] | None] = ContextVar(
    "asyncflow_instead", default=None
)
"""If set, calls a plain function in place of a worker thread, to make schedules repeatable."""


awaited_instead: ContextVar[Callable[[Callable[[], Awaitable[Any]]], Any] | None] = ContextVar(
    "asyncflow_awaited_instead", default=None
)
"""If set, awaits something on the event loop for such a function, in place of `anyio.from_thread.run`."""


def on_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await something on the event loop, in the thread of a plain method. Raises `RuntimeError` in any other thread."""
    simulated = awaited_instead.get()
    return anyio.from_thread.run(work) if simulated is None else cast(T, simulated(work))


class ThreadTimeoutError(Exception):
    """Raised if a plain function takes too long. `is_running`: it still runs; otherwise it has not started, and never will."""

    def __init__(self, is_running: bool) -> None:
        super().__init__()
        self.is_running = is_running


class _Threads:
    """The threads of the plain methods of one depth. Waiting for one cannot deadlock: their number grows while none of them ends."""

    def __init__(self) -> None:
        self._left: list[tuple[_Call, object]] = []
        """The calls that were left running after a timeout, and the tokens that they hold."""
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._last_end = -math.inf
        self._waiting = 0

    async def acquire(self) -> object:
        """Wait for a free thread. Return the token to release."""
        token = object()
        if self._left:
            self._release_left()
        if not self._waiting and self._limiter.available_tokens > 0:  # then it cannot raise WouldBlock
            self._limiter.acquire_on_behalf_of_nowait(token)
            return token
        self._waiting += 1
        try:
            return await self._wait()
        finally:
            self._waiting -= 1

    async def _wait(self) -> object:
        while True:
            token = object()
            began = anyio.current_time()
            with anyio.move_on_after(STALL):
                await self._limiter.acquire_on_behalf_of(token)
                return token
            self._release_left()
            if len(self._left) < THREADS and anyio.current_time() - max(self._last_end, began) >= STALL:
                self._grow()

    def _grow(self) -> None:
        self._last_end = anyio.current_time()  # one more thread for all that wait
        if self._limiter.total_tokens == THREADS:
            logger.warning(
                "worker threads blocked: %d plain methods run and none ended for %.0f s, while others wait for a thread; more threads "
                "are started, one each %.0f s. If the methods wait for other flows, make them async",
                THREADS,
                STALL,
                STALL,
            )
        self._limiter.total_tokens += 1

    def leave(self, call: _Call, token: object) -> None:
        """Release a thread once it has ended, whenever that is, without a wait."""
        self._left.append((call, token))

    def _release_left(self) -> None:
        left, self._left = self._left, []
        for call, token in left:
            if call.has_ended:
                self.release(token)
            else:
                self._left.append((call, token))

    def release(self, token: object) -> None:
        """Release a thread that has ended."""
        self._last_end = anyio.current_time()
        self._limiter.release_on_behalf_of(token)
        if self._limiter.total_tokens > THREADS and not self._waiting:
            self._limiter.total_tokens = THREADS


_threads: RunVar[list[_Threads]] = RunVar("asyncflow_threads")
_unlimited: RunVar[anyio.CapacityLimiter] = RunVar("asyncflow_unlimited")


def _threads_of_depth() -> _Threads:
    """Return this event loop's threads for a plain method, by how many plain methods wait for its flow."""
    try:
        threads = _threads.get()
    except LookupError:
        _threads.set(threads := [])
        _unlimited.set(anyio.CapacityLimiter(math.inf))
    depth = _depth()
    while len(threads) <= depth:
        threads.append(_Threads())
    return threads[depth]


def _depth() -> int:
    """Return how many plain methods are running around the one that is about to start."""
    scope, depth = current_invocation.get(), 0
    while scope is not None and scope.parent is not None:
        scope = scope.parent
        depth += scope.is_open and not scope.method.is_async
    return depth


_left: dict[str, _Call] = {}
"""The calls that still run after their timeout, by what they are for."""


class _Call:
    """One call on its way to a worker thread. Either it starts, and is then waited for, or it is withdrawn and never starts."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._lock = Lock()
        self._has_started = False
        self._is_withdrawn = False
        self.has_ended = False
        """Whether the function has returned or raised; read in any thread."""
        self._left_as: str | None = None
        self.ended = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        with self._lock:
            if self._is_withdrawn:
                return
            self._has_started = True
        try:
            self.result = self._function()  # kept here: trio treats a returned coroutine as a mistake
        except BaseException as error:
            # Kept here: GeneratorExit cannot be thrown into the waiter, and a frozen exception cannot be passed on.
            self.error = error
        finally:
            with self._lock:
                self.has_ended = True
                is_left = self._left_as is not None
                if _left.get(self._left_as or "") is self:
                    del _left[self._left_as or ""]
            if not is_left:
                anyio.from_thread.run_sync(self.ended.set)

    def take_error(self) -> BaseException:
        """Return what the function raised, and drop the reference to it: the error holds the frame that holds this object."""
        error, self.error = self.error, None
        assert error is not None, "called only if the function has raised"
        return error

    @property
    def is_left(self) -> bool:
        """Whether it was left running after a timeout."""
        return self._left_as is not None

    def withdraw(self) -> bool:
        """Prevent the call from starting. Return False if it has started."""
        with self._lock:
            self._is_withdrawn = not self._has_started
            return self._is_withdrawn

    def is_left_running(self, what: str) -> bool:
        """Leave the call running under this name, without a waiter. Return False if it never starts, or has just ended."""
        with self._lock:
            self._is_withdrawn = not self._has_started
            if not self._has_started or self.has_ended:
                return False
            self._left_as, _left[what] = what, self
            return True


async def thread_has_ended(what: str) -> None:
    """Wait until no thread runs any more that was left running after a timeout, on any event loop of this process."""
    while what in _left:  # noqa: ASYNC110 - it may belong to another event loop
        await anyio.sleep(LOOK)


async def _ends_within(limit: float, call: _Call) -> bool:
    """Run a call in a thread for at most `limit` seconds. Return whether it has ended by then."""
    with anyio.CancelScope(deadline=anyio.current_time() + limit, shield=True):
        await anyio.to_thread.run_sync(call, limiter=_unlimited.get(), abandon_on_cancel=True)
    return call.has_ended


async def in_thread(function: Callable[..., T], limit: float | None = None, what: str = "") -> T:
    """Call a plain function in a worker thread. Deliver a cancellation once the thread has returned.

    `limit`: the seconds that the function may take; then `ThreadTimeoutError` is raised, or the cancellation, and the function runs
    on, known as `what`: see `thread_has_ended`.
    """
    simulated = instead.get()
    if simulated is not None:
        return cast(T, await simulated(function))
    call, threads = _Call(function), _threads_of_depth()
    token: object | None = await threads.acquire()
    try:
        if limit is None:
            await anyio.to_thread.run_sync(call, limiter=_unlimited.get())
        elif not await _ends_within(limit, call):
            is_running = call.is_left_running(what)
            if is_running:
                threads.leave(call, token)
                token = None
            await anyio.lowlevel.checkpoint_if_cancelled()  # then it counts as cancelled: the attempt is not used
            raise ThreadTimeoutError(is_running)
        if call.error is not None:
            raise call.take_error()
        # The thread was shielded: a cancellation that arrived meanwhile also meant this call.
        await anyio.lowlevel.checkpoint_if_cancelled()
        return cast(T, call.result)
    except anyio.get_cancelled_exc_class():
        if not call.withdraw() and not call.is_left:
            scope = current_invocation.get()
            if scope is not None:
                scope.of_pass.cut(scope)
            await outlast(call.ended)
        raise
    finally:
        if token is not None:
            threads.release(token)
