"""Moments that do not depend on how fast a machine is: a run is interrupted once something holds, and time passes without waiting."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from asyncflow._runtime.timing import virtual_clock


async def interrupted_once(call: Callable[[], Awaitable[object]], holds: Callable[[], Awaitable[bool]]) -> None:
    """Make a call, and cancel it once a condition holds."""
    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await until(holds)
        group.cancel_scope.cancel()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    with anyio.fail_after(60):
        while not await holds():  # noqa: ASYNC110 - no event reports what is stored
            await anyio.sleep(0.002)


def stored(store: Any, run_id: str, seq: int) -> Callable[[], Awaitable[bool]]:
    """Whether a run has a checkpoint with this seq."""

    async def holds() -> bool:
        newest = await store.load(run_id)
        return newest is not None and newest.seq >= seq

    return holds


@contextmanager
def later(seconds: float) -> Iterator[None]:
    """Let some time have passed, for the runs that are driven within."""
    token = virtual_clock.set(lambda: time.time() + seconds)
    try:
        yield
    finally:
        virtual_clock.reset(token)
