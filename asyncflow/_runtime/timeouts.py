"""The time limits of attempts and of passes. An async method is cancelled; a thread cannot be stopped, and is left running."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from .._waiting import calls_user_code
from ..errors import MethodTimeoutError
from .scope import Scope
from .timing import sleep_until

__all__ = ["timeout_error", "until", "within"]

T = TypeVar("T")

logger = logging.getLogger("asyncflow")


@calls_user_code
async def within(limit: float, body: Awaitable[T], scope: Scope) -> T:
    """Await the body of an async method, and cancel it after `limit` seconds. Raises `MethodTimeoutError`."""
    with anyio.CancelScope(deadline=anyio.current_time() + limit):
        return await body
    raise timeout_error(scope)


async def until(
    deadline: float, clock: Callable[[], float], work: Callable[[], Awaitable[None]], stop: Callable[[], None]
) -> None:
    """Do the work of a pass; call `stop` when its time limit passes, which must end the work. If it has passed, begin nothing."""

    async def watch() -> None:
        await sleep_until(deadline, clock)
        stop()

    async with anyio.create_task_group() as group:
        if clock() < deadline:
            group.start_soon(watch)
            await work()
        else:
            stop()
        group.cancel_scope.cancel()


def timeout_error(scope: Scope, *, is_running: bool = False) -> MethodTimeoutError:
    """Return the error of an attempt that took too long. `is_running`: its thread still runs, which is logged."""
    name = f"{type(scope.flow).__name__}.{scope.method.name}"
    what = "its thread still runs, and its changes to the state are dropped" if is_running else "it was cancelled"
    if is_running:
        logger.warning(
            "plain method timed out: %s (%s) still runs in its thread after %g s; it is not tried again before the thread ends",
            name,
            scope.invocation_id,
            scope.method.timeout,
            extra=scope.logged,
        )
    return MethodTimeoutError(
        f"{name} took longer than its timeout of {scope.method.timeout:g} s; {what}",
        run_id=scope.run_id,
        method=scope.method.name,
    )
