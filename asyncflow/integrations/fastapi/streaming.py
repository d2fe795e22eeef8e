"""What happens in a run, as server-sent events: ids are `seq.n`, so that a client which comes back goes on after the last."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Header, HTTPException
from fastapi.sse import ServerSentEvent

from ...errors import AsyncflowError
from ...events import Event
from ...runner import RunHandle
from .models import Status

__all__ = ["LastEventId", "Position", "events_after", "position_of"]

logger = logging.getLogger("asyncflow")

Position = tuple[int, int]

LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,15}\.[0-9]{1,9}$", description="Go on after this event: `seq.n`.")
]


async def position_of(handle: RunHandle, status: Status, last: str | None) -> Position:
    """Where a stream begins. A client that has seen all of a run that has ended gets a 204, which ends its coming back."""
    if last is None:
        return -1, 0
    seq, n = map(int, last.split("."))
    if status != "running" and not await _has_more(handle, (seq, n)):
        raise HTTPException(204)
    return seq, n


async def _has_more(handle: RunHandle, after: Position) -> bool:
    async with aclosing(handle.events(after=after)) as events:
        async for _ in events:
            return True
    return False


async def events_after(handle: RunHandle, after: Position) -> AsyncGenerator[ServerSentEvent, None]:
    """The events of a run, until it has ended. Where the storage fails, the stream ends, and its client comes back."""
    try:
        async with aclosing(handle.events(after=after)) as events:
            async for event in events:
                yield _told(event)
    except AsyncflowError as error:
        logger.warning("events of run %s could not be told on: %s", handle.run_id, error)


def _told(event: Event) -> ServerSentEvent:
    data: dict[str, Any] = {**asdict(event), "at": datetime.fromtimestamp(event.at, UTC)}
    return ServerSentEvent(data=data, event=type(event).__name__, id=f"{event.seq}.{event.n}")
