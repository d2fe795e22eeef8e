"""The runner's life as the application's."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI

from ...runner import FlowRunner

__all__ = ["lifespan"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]
PlainLifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan(runner: FlowRunner, inner: Lifespan | PlainLifespan | None = None) -> Lifespan:
    """A lifespan for `FastAPI(lifespan=...)` in which the runner is entered; it drains when the application shuts down.

    `inner`: the application's own one, within which the runner lives: what it opens is there until the last run has ended.
    """

    @asynccontextmanager
    async def both(app: FastAPI) -> AsyncIterator[Any]:  # None where there is no state: not each server takes one
        if inner is None:
            async with runner:
                yield None
        else:
            async with inner(app) as state, runner:
                yield state

    return both
