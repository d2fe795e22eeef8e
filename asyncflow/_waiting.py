"""Waiting that cannot be cut short.

A shield alone is not enough: native asyncio cancellation (`Task.cancel`, `asyncio.timeout`) passes through it. This module
names asyncio because of that.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

__all__ = ["current_loop", "in_cancelled_scope", "in_trio", "is_closed", "outlast", "to_its_end"]

T = TypeVar("T")


def in_trio() -> bool:
    """Whether the caller is a trio task."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def current_loop() -> object:
    """What tells one running event loop from another."""
    return sys.modules["trio"].lowlevel.current_trio_token() if in_trio() else asyncio.get_running_loop()


def is_closed(loop: object) -> bool:
    """Whether an event loop has ended for good, as far as that can be told."""
    return bool(getattr(loop, "is_closed", bool)())


def in_cancelled_scope() -> bool:
    """Whether a scope around the current task was cancelled. A cancellation may also be its own work's, and of that task alone."""
    return anyio.current_effective_deadline() == -math.inf


async def outlast(event: anyio.Event) -> None:
    """Wait for the event however often the waiter is cancelled, and deliver the cancellation then."""
    cancelled: BaseException | None = None
    while not event.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await event.wait()
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def to_its_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it to its end and return what it returns, however often the caller is cancelled.

    A native cancellation is delivered then, and what the work returned or raised is dropped; that of a scope is
    delivered at the caller's next await.
    """
    if in_trio():
        with anyio.CancelScope(shield=True):
            return await work()
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
        task.exception()  # looked at, so that nobody reports it as forgotten
    raise cancelled
