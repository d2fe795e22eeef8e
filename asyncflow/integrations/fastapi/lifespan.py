"""Ties the runner's lifetime to that of the application."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ...runner import FlowRunner

__all__ = ["lifespan"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
PlainLifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan(runner: FlowRunner, inner: Lifespan | PlainLifespan | None = None) -> Lifespan:
    """Return a lifespan for `FastAPI(lifespan=...)` that enters the runner; the runner drains when the application shuts down.

    If the storage is unavailable at the start (`StorageUnreachableError`, `StorageBusyError`), the application starts nevertheless: the
    storage is opened as soon as it is available, and until then `/readyz` and every route that needs the runner answer 503. So a
    database that restarts prevents no worker from starting. Any other error of the storage aborts the start.

    - `runner`: the runner to enter; it must not have been entered yet.
    - `inner`: the application's own lifespan, which encloses the runner: its resources stay
      open until the last run has ended.
    """

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[Any]:  # None without a lifespan state: not every server accepts one
        async with AsyncExitStack() as stack:
            state = None if inner is None else await stack.enter_async_context(inner(app))
            await runner.enter(waits=False)
            stack.push_async_exit(runner)
            yield state

    return both
