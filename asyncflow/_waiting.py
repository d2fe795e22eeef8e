"""Waits that a cancellation cannot cut short.

A shield alone is not enough: native asyncio cancellation (`Task.cancel`, `asyncio.timeout`) passes through it. This is why the
module uses asyncio directly. On trio, Ctrl-C is raised between any two lines of any task, and ends every wait of the main task,
even a shielded one. So this package's code on trio is protected from Ctrl-C between lines, and treats Ctrl-C in a wait as a
cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import anyio

__all__ = [
    "call_on",
    "calls_user_code",
    "current_loop",
    "in_cancelled_scope",
    "in_trio",
    "interruptions",
    "is_closed",
    "outlast",
    "protect_from_interrupts",
    "to_its_end",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_PACKAGE: Final = __name__.rpartition(".")[0]
_protected: Final[set[str]] = set()
"""The modules whose functions are protected on trio."""
_calling_users: Final[list[Any]] = []


def in_trio() -> bool:
    """Whether the caller is a trio task. While another thread imports trio, the module exists, but does not have all its names yet."""
    trio = sys.modules.get("trio")
    if trio is None:  # this runs at each commit
        return False
    asked = getattr(getattr(trio, "lowlevel", None), "in_trio_task", None)
    return asked is not None and bool(asked())


def calls_user_code(function: F) -> F:
    """Mark a function that calls methods of flows: on trio, Ctrl-C interrupts them between two lines, as it does elsewhere."""
    _calling_users.append(function)
    return function


def protect_from_interrupts() -> None:
    """Keep KeyboardInterrupt on trio out of this package's functions, except where they wait or call a flow's methods.

    Raised between two lines it would break invariants: a queue that is never emptied, a run that is never released. It is
    delivered at the main task's next wait. Outside trio this does nothing.
    """
    if not in_trio():
        return
    lowlevel = sys.modules["trio"].lowlevel
    new = {name for name in list(sys.modules) if name.startswith(_PACKAGE + ".")} - _protected
    for name in new:
        for function in _functions_of(sys.modules[name]):
            lowlevel.enable_ki_protection(function)
    for function in _calling_users:
        lowlevel.disable_ki_protection(function)
    _protected.update(new)


def _functions_of(module: Any) -> Iterator[Any]:
    """Yield the functions that a module defines, those of its classes included."""
    for defined in list(vars(module).values()):
        if getattr(defined, "__module__", None) != module.__name__:
            continue
        for found in vars(defined).values() if inspect.isclass(defined) else (defined,):
            parts = (found.fget, found.fset) if isinstance(found, property) else (getattr(found, "__func__", found),)
            for part in parts:
                function = inspect.unwrap(part) if callable(part) else part
                if inspect.isfunction(function):
                    yield function


def interruptions() -> tuple[type[BaseException], ...]:
    """Return the exceptions that end a wait from outside: a cancellation, and, in trio's main task, Ctrl-C."""
    return anyio.get_cancelled_exc_class(), KeyboardInterrupt


def current_loop() -> object:
    """Return an object that identifies the running event loop."""
    if "trio" in sys.modules and in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def call_on(loop: Any, call: Callable[[], object]) -> None:
    """Call a function on an event loop of this process, from any thread: at once if it is the running one. A closed loop is left out."""
    with contextlib.suppress(RuntimeError):  # trio's RunFinishedError is one; so is asyncio's for a closed loop
        try:
            is_here = current_loop() is loop
        except RuntimeError:
            is_here = False
        if is_here:
            call()
        else:
            (getattr(loop, "run_sync_soon", None) or loop.call_soon_threadsafe)(call)


def is_closed(loop: object) -> bool:
    """Whether an event loop has closed permanently, as far as that can be known."""
    return bool(getattr(loop, "is_closed", bool)())


def in_cancelled_scope() -> bool:
    """Whether a scope around the current task was cancelled. A cancellation may also come from its own work and affect that task alone."""
    return anyio.current_effective_deadline() == -math.inf


async def outlast(event: anyio.Event) -> None:
    """Wait for the event even if the waiter is cancelled, however often, and deliver the cancellation afterwards."""
    cancelled: BaseException | None = None
    while not event.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await event.wait()
        except interruptions() as error:
            cancelled = cancelled if isinstance(cancelled, KeyboardInterrupt) else error
    if cancelled is not None:
        raise cancelled


async def _in_system_task(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the work in its own task on trio, where neither the caller's cancellation nor Ctrl-C ends its waits."""
    ended = anyio.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    async def run() -> None:
        try:
            results.append(await work())
        except BaseException as error:  # whatever it is, it is raised in the caller
            errors.append(error)
        finally:
            ended.set()

    try:
        sys.modules["trio"].lowlevel.spawn_system_task(run, context=contextvars.copy_context())
    except RuntimeError:  # the loop is shutting down, and closes what was left open: no interrupt arrives any more
        with anyio.CancelScope(shield=True):
            return await work()
    await outlast(ended)
    if errors:
        raise errors[0]
    return results[0]


async def to_its_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the work to completion and return its result, however often the caller is cancelled.

    A native cancellation is delivered afterwards, and the work's result or exception is dropped; the cancellation of a scope is
    delivered at the caller's next await.
    """
    if in_trio():
        return await _in_system_task(work)
    task = asyncio.get_running_loop().create_task(work())
    cancelled: BaseException | None = None
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not log it as never retrieved
    raise cancelled
