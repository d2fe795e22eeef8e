"""Waiting that cannot be cut short."""

from __future__ import annotations

import anyio

__all__ = ["outlast"]


async def outlast(event: anyio.Event) -> None:
    """Wait for the event however often the waiter is cancelled, and deliver the cancellation then.

    A shield alone is not enough: native asyncio cancellation (`Task.cancel`, `asyncio.timeout`) passes through it.
    """
    cancelled: BaseException | None = None
    while not event.is_set():
        try:
            with anyio.CancelScope(shield=True):
                await event.wait()
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
