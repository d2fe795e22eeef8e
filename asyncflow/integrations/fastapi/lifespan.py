"""The runner's life as the application's."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ...runner import FlowRunner

__all__ = ["lifespan"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
PlainLifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan(runner: FlowRunner, inner: Lifespan | PlainLifespan | None = None) -> Lifespan:
    """A lifespan for `FastAPI(lifespan=...)` in which the runner is entered; it drains when the application shuts down.

    Where the storage is away at the start (`StorageUnreachableError`, `StorageBusyError`), the application begins all the same: the
    storage is opened as soon as it is there, and until then `/readyz` and whatever needs the runner answer 503. So a database that
    restarts keeps no worker from starting. Any other error of the storage ends the start.

    `inner`: the application's own one, within which the runner lives: what it opens is there until the last run has ended.
    """

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[Any]:  # None where there is no state: not each server takes one
        async with AsyncExitStack() as stack:
            state = None if inner is None else await stack.enter_async_context(inner(app))
            await runner.enter(waits=False)
            stack.push_async_exit(runner)
            yield state

    return both
