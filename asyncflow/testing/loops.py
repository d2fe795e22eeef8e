"""Deterministic event loops for tests: a seed decides the order of ready tasks, and the clock is virtual.

The same seed gives the same schedule. The clock advances at once when nothing is ready, so a flow that sleeps for an hour takes no
time. A plain method runs in a thread for which the event loop stops, with a virtual pause before and after: threads that run at the
same time are not reproducible.

While a database of asyncflow works, the clock runs like a real one. It does not see other sockets and threads: a test that waits for
them needs real time, on a real event loop.
This module imports asyncio and trio, because it controls their schedulers.
"""

from __future__ import annotations

import asyncio
import math
import random
import selectors
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, copy_context
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.to_thread

from .._pace import Simulation, simulation
from .._runtime.threads import awaited_instead, instead
from .._runtime.timing import virtual_clock
from .._waiting import in_trio

__all__ = ["EPOCH", "Loop", "pause", "running_loop", "simulated"]

T = TypeVar("T")

Loop = Literal["asyncio", "trio"]

PAUSE: Final = 0.01
"""The longest pause, in virtual seconds."""

EPOCH: Final = 1_767_225_600.0
"""The virtual wall-clock time at which a simulation starts: 2026-01-01, in seconds since the Unix epoch."""

_chance: ContextVar[random.Random | None] = ContextVar("asyncflow_chance", default=None)


def simulated(main: Callable[[], Awaitable[T]], *, seed: int, loop: Loop = "asyncio", start_at: float = EPOCH) -> T:
    """Run `main()` on an event loop of its own, scheduled by the seed, in virtual time. Return its result.

    Days of waiting pass at once, also under a `FlowRunner`. While SQLite or PostgreSQL works, the clock runs like a real one, so only
    what is stored in memory is repeatable.

    - `main`: creates the coroutine to await.
    - `seed`: decides the order of ready tasks; the same seed gives the same schedule.
    - `loop`: the kind of the event loop.
    - `start_at`: the wall-clock time at the start, in seconds since the Unix epoch: of checkpoints, pauses before retries, and time limits.

    Python's own `random` is seeded meanwhile. Do not call it inside a running event loop: call it there in a thread of its own, by
    `anyio.to_thread.run_sync`.
    """

    async def seeded(run_in_real_time: Callable[[bool], object]) -> T:
        _chance.set(random.Random(seed))
        instead.set(_in_turn)
        simulation.set(Simulation(run_in_real_time))
        began = anyio.current_time()
        virtual_clock.set(lambda: start_at + anyio.current_time() - began)
        return await main()

    state = random.getstate()
    random.seed(seed)
    try:
        if loop == "trio":
            return _on_trio(seeded, seed)
        clock = _Clock()
        return anyio.run(
            seeded, clock.run_in_real_time, backend_options={"loop_factory": lambda: SimulatedLoop(seed, clock)}
        )
    finally:
        random.setstate(state)


def running_loop() -> Loop:
    """Return the kind of the running event loop."""
    return "trio" if in_trio() else "asyncio"


async def pause() -> None:
    """Pause for a virtual time that the seed decides: none, or up to 10 ms."""
    chance = _chance.get()
    if chance is not None:
        await anyio.sleep(chance.choice((0.0, chance.uniform(0, PAUSE))))


async def _in_turn(function: Callable[[], Any]) -> Any:
    """Call a plain function in a thread, for which the event loop stops: only one of the two runs at a time."""
    await pause()
    result = await _Handing(function).run()
    await pause()
    return result


class _Handing:
    """A plain function in a thread, which hands over to the event loop when it ends, and when it awaits something there."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._to_loop: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._to_thread: SimpleQueue[Callable[[], Any]] = SimpleQueue()

    async def run(self) -> Any:
        context = copy_context()
        Thread(target=context.run, args=(self._in_thread,), daemon=True).start()
        while True:
            has_ended, what = self._to_loop.get()
            if has_ended:
                return what()
            self._to_thread.put(await _outcome(what))

    def _in_thread(self) -> None:
        awaited_instead.set(self._await)
        self._to_loop.put((True, _called(self._function)))

    def _await(self, work: Callable[[], Awaitable[Any]]) -> Any:
        self._to_loop.put((False, work))
        return self._to_thread.get()()


async def _outcome(work: Callable[[], Awaitable[Any]]) -> Callable[[], Any]:
    """Await something. Return what returns or raises the same."""
    try:
        result = await work()
    except BaseException as error:  # it is raised in the thread
        return partial(_raise, error)
    return lambda: result


def _called(function: Callable[[], Any]) -> Callable[[], Any]:
    try:
        result = function()
    except BaseException as error:  # it is raised on the event loop
        return partial(_raise, error)
    return lambda: result


def _raise(error: BaseException) -> None:
    raise error


# ---- asyncio -----------------------------------------------------------------------------------------------------


class SimulatedLoop(asyncio.SelectorEventLoop):
    """asyncio's own event loop, except that the seed decides the order of ready tasks, and time is virtual.

    Callbacks that are not steps of a task keep their order, as asyncio guarantees it.
    """

    _ready: deque[asyncio.Handle]

    def __init__(self, seed: int, clock: _Clock) -> None:
        self._clock = clock
        super().__init__(self._clock)
        self._order = random.Random(seed)

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._clock.now

    def _run_once(self) -> None:
        """Run one turn of the loop. (Private to asyncio, the same from Python 3.11 to 3.14.)"""
        ready = self._ready
        places = [n for n, handle in enumerate(ready) if _is_step(handle)]
        if len(places) > 1:
            steps = [ready[n] for n in places]
            self._order.shuffle(steps)
            for n, step in zip(places, steps, strict=True):
                ready[n] = step
        super()._run_once()  # type: ignore[misc]  # not in the stubs


class _Clock(selectors.DefaultSelector):
    """Advances the virtual time at once when asyncio waits for its next timer."""

    now: float = 0.0
    _is_real = False

    def run_in_real_time(self, is_real: bool) -> None:
        """Let the time pass as it does, or advance at once."""
        self._is_real = is_real

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._is_real:
            began = time.monotonic()
            events = super().select(timeout)
            self.now += time.monotonic() - began
            return events
        events = super().select(0 if timeout is not None else None)
        if not events and timeout is not None and timeout > 0:
            self.now += timeout
        return events


def _is_step(handle: asyncio.Handle) -> bool:
    callback = getattr(handle, "_callback", None)  # None if it was cancelled
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


# ---- trio --------------------------------------------------------------------------------------------------------


def _on_trio(main: Callable[[Callable[[bool], object]], Awaitable[T]], seed: int) -> T:
    """Run on trio with its own virtual clock. trio's scheduler draws its order from a module's random state: seed it, and restore it."""
    try:
        import trio
        import trio.testing
    except ImportError as error:
        raise ImportError(
            "a loop of trio needs trio; install the extra, in a checkout of asyncflow: pip install '.[trio]'"
        ) from error

    scheduler: Any = trio._core._run  # private to trio; hypothesis-trio sets the same attributes
    is_deterministic, state = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        clock = trio.testing.MockClock(autojump_threshold=0)

        def run_in_real_time(is_real: bool) -> None:
            clock.rate, clock.autojump_threshold = (1.0, math.inf) if is_real else (0.0, 0.0)

        return anyio.run(main, run_in_real_time, backend="trio", backend_options={"clock": clock})
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = is_deterministic
        scheduler._r.setstate(state)
