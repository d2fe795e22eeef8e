"""Plain methods in worker threads: under capacity limiters of our own, and always waited for.

A plain method may wait, in its thread, for other flows of the same event loop. Their plain methods have a limiter of their own, or all
threads could be held by methods that wait for a thread.

Native asyncio cancellation leaves `anyio.to_thread.run_sync` while the thread goes on, so the waiter waits again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from threading import Lock
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
from anyio.lowlevel import RunVar

from .._waiting import outlast
from .scope import entered

__all__ = ["in_thread", "instead"]

T = TypeVar("T")

THREADS: Final = 40
"""Plain methods that run at once in one event loop, at each depth of flows within plain methods.

It is anyio's own default, which a web framework's handlers share.
"""

instead: ContextVar[Callable[[Callable[[], Any]], Awaitable[Any]] | None] = ContextVar(
    "asyncflow_instead", default=None
)
"""What calls a plain function instead of a thread, where schedules are to be repeated."""

_limiters: RunVar[list[anyio.CapacityLimiter]] = RunVar("asyncflow_limiters")


def _own_limiter() -> anyio.CapacityLimiter:
    """The limiter of this event loop for a plain method, by how many plain methods wait for the flow that it is one of."""
    try:
        limiters = _limiters.get()
    except LookupError:
        _limiters.set(limiters := [])
    depth = _depth()
    while len(limiters) <= depth:
        limiters.append(anyio.CapacityLimiter(THREADS))
    return limiters[depth]


def _depth() -> int:
    """How many plain methods are under way around the one that is about to start."""
    scope, depth = entered.get(), 0
    while scope is not None and scope.parent is not None:
        scope = scope.parent
        depth += scope.is_open and not scope.method.is_async
    return depth


class _Call:
    """One call on its way to a thread: either it is begun, and then waited for, or it is given up and never begins."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self._lock = Lock()
        self._begun = False
        self._given_up = False
        self.ended = anyio.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def __call__(self) -> None:
        with self._lock:
            if self._given_up:
                return
            self._begun = True
        try:
            self.result = self._function(*self._args)  # kept here: trio takes a returned coroutine for a mistake
        except (
            BaseException
        ) as error:  # kept here: GeneratorExit cannot be thrown into who waits, nor a frozen one be given on
            self.error = error
        finally:
            anyio.from_thread.run_sync(self.ended.set)

    def take_error(self) -> BaseException:
        """What the function raised, kept no longer: it holds the frame that holds this."""
        error, self.error = self.error, None
        assert error is not None, "asked only where there is one"
        return error

    def give_up(self) -> bool:
        """Keep it from beginning. False if it has begun."""
        with self._lock:
            self._given_up = not self._begun
            return self._given_up


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call a plain function in a worker thread. A cancellation is delivered when the thread has returned."""
    simulated = instead.get()
    if simulated is not None:
        return cast(T, await simulated(lambda: function(*args)))
    call = _Call(function, args)
    try:
        await anyio.to_thread.run_sync(call, limiter=_own_limiter())
        if call.error is not None:
            raise call.take_error()
        await anyio.lowlevel.checkpoint_if_cancelled()  # the thread was shielded: whoever cancelled meant this call too
        return cast(T, call.result)
    except anyio.get_cancelled_exc_class():
        if not call.give_up():
            await outlast(call.ended)
        raise
