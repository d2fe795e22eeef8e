"""Streams the events of a run as server-sent events. The ids of stored ones are `seq.n`, so a client that reconnects continues after the
last one; live events have no id.

The data names each event, as `event`. The SSE field `event:` names it only if the client asks for that: a browser's `onmessage`
receives only events without this field.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import fields
from typing import Annotated, Any, Final, NamedTuple

import anyio.lowlevel
from fastapi import Header, HTTPException, Query
from fastapi.sse import ServerSentEvent
from pydantic_core import to_json

from ..._runs.reading import reading, rows_between
from ..._runtime.observe import events_from
from ...errors import AsyncflowError
from ...events import Event
from ...persistence import Checkpoint, FlowPersistence
from ...persistence.status import Status, has_ended
from ...runner import RunHandle
from .as_json import json_of
from .models import time_of
from .redaction import Shown

__all__ = ["Begin", "LastEventId", "Live", "Named", "begin_of", "streamed"]

logger: Final = logging.getLogger("asyncflow")

LARGEST: Final = 16 * 1024
"""The largest value of a field, in characters of JSON. Of a larger one only the beginning is sent, with a note."""

_COMMON: Final = frozenset(field.name for field in fields(Event))

Position = tuple[int, int]

Live = Annotated[
    bool,
    Query(
        description="Whether to send live events, too, such as the progress that methods report, where this process drives the run."
    ),
]

Named = Annotated[
    bool, Query(description="Also set `event:` to the name of each event, for clients that listen to single events.")
]

LastEventId = Annotated[
    str | None, Header(pattern=r"^[0-9]{1,15}\.[0-9]{1,9}$", description="Continue after this event: `seq.n`.")
]


class Begin(NamedTuple):
    """Where a stream begins."""

    past: list[Event]
    """The stored events that the client has not seen."""
    after: Position
    """The position after which it continues."""


async def begin_of(storage: FlowPersistence, newest: Checkpoint, status: Status, last: str | None) -> Begin:
    """Return the events with which a stream begins. `newest`: the newest checkpoint. `last`: the id that the client has seen last.

    They are read before the stream begins: if they cannot be read, the answer says why, and a browser does not reconnect. Raises
    `HTTPException` 204 for a client that has seen all events of a run that has ended, for the same reason.
    """
    seq, n = (-1, 0) if last is None else map(int, last.split("."))
    rows = await rows_between(storage, newest.run_id, after=max(-1, seq - 1), until=newest.seq)
    with reading(newest.run_id):
        past = [event for row in rows for event in events_from(row) if event.position > (seq, n)]
    if last is not None and not past and has_ended(status):
        raise HTTPException(204)
    return Begin(past, past[-1].position if past else (seq, n))


async def streamed(
    handle: RunHandle, begin: Begin, shown: Shown, *, live: bool, are_named: bool
) -> AsyncGenerator[ServerSentEvent, None]:
    """Stream the events of a run until it has ended. If the storage fails, the stream ends, and the client reconnects."""
    for event in begin.past:
        await anyio.lowlevel.checkpoint()  # there may be thousands
        yield _sent_event(event, shown, are_named)
    try:
        async with aclosing(handle.events(after=begin.after, live=live)) as events:
            async for event in events:
                yield _sent_event(event, shown, are_named)
    except AsyncflowError as error:
        logger.warning("event stream stopped: run %s: %s", handle.run_id, error, extra={"run_id": handle.run_id})


def _sent_event(event: Event, shown: Shown, is_named: bool) -> ServerSentEvent:
    name = type(event).__name__
    values: dict[str, Any] = {
        field.name: shown.tree(getattr(event, field.name), "event", field.name)
        for field in fields(event)
        if field.name not in _COMMON
    }
    common = {field: getattr(event, field) for field in ("run_id", "flow", "seq", "n")}
    data = {"event": name, **common, "at": time_of(event.at), **_cut(values)}
    known_as = None if event.is_live else f"{event.seq}.{event.n}"
    return ServerSentEvent(raw_data=json_of(data).decode(), event=name if is_named else None, id=known_as)


def _cut(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an event with the beginning of each that is too large, as a text, and with a note that says so."""
    cut: dict[str, Any] = {}
    for name, value in values.items():
        text = value if isinstance(value, str) else to_json(value).decode()
        if len(text) > LARGEST:
            note = f"{name} is cut: the first {LARGEST} of {len(text)} characters"
            cut |= {name: text[:LARGEST], "note": note if isinstance(value, str) else f"{note} of its JSON"}
    return values | cut
