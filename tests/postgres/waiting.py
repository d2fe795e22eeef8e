"""Waiting for conditions that have no event."""

from collections.abc import Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def until(found: Callable[[], T]) -> T:
    """Ask again and again until there is something."""
    with anyio.fail_after(60):
        while True:
            if something := found():
                return something
            await anyio.sleep(0.005)
