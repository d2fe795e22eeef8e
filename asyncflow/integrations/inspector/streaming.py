"""The events of a run as server-sent events. The id of each is `seq.n`: a browser that reconnects continues after the last one.

A stream holds nothing but the event that it sends: the next one is read when the client has taken it. It ends when the run has ended,
when the client has gone, when the server ends, and after `LONGEST` seconds: then the browser reconnects. So a server that shuts down
without saying so waits no longer than that.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import fields
from typing import Any, Final

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ...errors import AsyncflowError, CapabilityMissingError, CheckpointCorruptError, RunNotFoundError
from ...events import Event
from ...inspection import Redact, follow, run_detail
from ...inspection.values import redacted
from ...persistence.protocol import session
from ...state import parse_run_id
from .access import Action
from .showing import safe, tree_of
from .site import Site

__all__ = ["stream_events"]

logger: Final = logging.getLogger("asyncflow")

LONGEST: Final = 30.0
"""Seconds until a stream ends, and the browser opens the next one."""

BEAT: Final = 10.0
"""Seconds between two comments: by them, proxies and servers notice a client that has gone without saying so."""

RETRY: Final = 1_000
"""Milliseconds until a browser reconnects."""

LASTING: Final = (CapabilityMissingError, CheckpointCorruptError, RunNotFoundError)
"""Errors that end a stream permanently: the next one would raise them again."""

LONGEST_TEXT: Final = 2_000
"""The longest text in an event, in characters."""


async def stream_events(site: Site, request: Request) -> Response:
    """Answer with the stream of a run's events, after the one that the browser has seen last."""
    run_id = parse_run_id(request.query_params.get("id", ""))
    await site.allow(request, Action("read", run_id))
    after = _position(request.headers.get("last-event-id") or request.query_params.get("after", ""))
    async with session(site.storage):
        await run_detail(site.storage, run_id)
    return _Stream(site, run_id, after)


def _position(text: str) -> tuple[int, int]:
    if not text:
        return -1, 0
    seq, dot, n = text.removeprefix("-").partition(".")
    if not (dot and len(text) < 25 and f"{seq}{n}".isascii() and f"{seq}{n}".isdecimal() and seq and n):
        raise HTTPException(400, "The id of the last event is none of a run's events.")
    return (-1 if text.startswith("-") else int(seq)), int(n)


class _Stream(Response):
    """A response that is written for as long as it takes."""

    def __init__(self, site: Site, run_id: str, after: tuple[int, int]) -> None:
        self._site, self._run_id, self._after = site, run_id, after
        super().__init__(headers={"X-Accel-Buffering": "no"}, media_type="text/event-stream")
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the run has ended, the client has gone, the server ends, or the time is over."""
        async with anyio.create_task_group() as group:

            async def deliver(message: Message) -> None:
                try:
                    await send(message)
                except OSError:  # the client has gone, as servers of ASGI 2.4 report it
                    group.cancel_scope.cancel()

            async def write(text: str, more: bool = True) -> None:
                await deliver({"type": "http.response.body", "body": text.encode(), "more_body": more})

            async def until_gone() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            async def beat() -> None:
                while True:
                    await anyio.sleep(BEAT)
                    await write(": the stream is open\n\n")

            group.start_soon(until_gone)
            await deliver({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with anyio.move_on_after(LONGEST) as limit, self._listed(limit):
                await write(f"retry: {RETRY}\n\n")
                async with anyio.create_task_group() as beating, aclosing(self._events()) as events:
                    beating.start_soon(beat)
                    async for text in events:
                        await write(text)
                    beating.cancel_scope.cancel()
            await write("", more=False)  # nothing may follow it
            group.cancel_scope.cancel()

    @contextmanager
    def _listed(self, scope: anyio.CancelScope) -> Iterator[None]:
        """Have a scope cancelled when the server ends."""
        if self._site.is_ending:
            scope.cancel()
        self._site.streams.add(scope)
        try:
            yield
        finally:
            self._site.streams.discard(scope)

    async def _events(self) -> AsyncGenerator[str, None]:
        try:
            async with aclosing(await self._source()) as events:
                async for event in events:
                    yield _sent(event, self._site.redact)
        except AsyncflowError as error:
            logger.warning("event stream stopped: run %s: %s", self._run_id, error)
            if not isinstance(error, LASTING):
                return  # the browser tries again
        yield "event: end\ndata: {}\n\n"

    async def _source(self) -> AsyncGenerator[Event, None]:
        """Return the events of the run: from the runner that may drive it, which also has the live ones, or from the storage."""
        site = self._site
        if site.runner.is_open:
            return (await site.runner.get(self._run_id)).events(after=self._after)
        return follow(site.storage, self._run_id, after=self._after)


def _sent(event: Event, redact: Redact | None) -> str:
    """Return an event as a block of the stream. Its data is one line of JSON."""
    name = type(event).__name__
    shown = {each.name: _shown(name, each.name, getattr(event, each.name), redact) for each in fields(event)}
    data = json.dumps({"event": name, **shown}, allow_nan=False)
    place = (
        "" if event.is_live else f"id: {event.seq}.{event.n}\n"
    )  # a live event is not stored: there is no way back to it
    return f"{place}data: {data}\n\n"


PLAIN: Final = frozenset({"run_id", "flow", "seq", "n", "at"})
"""What each event has: it is shown as it is."""


def _shown(event: str, name: str, value: Any, redact: Redact | None) -> Any:
    if redact is not None and name not in PLAIN:
        value = redacted(tree_of(value), redact, ("event", event, name))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return safe(value[:LONGEST_TEXT])
    if value is None or isinstance(value, bool | int):
        return value
    if event != "Streamed" and isinstance(value, list | tuple):  # of the ids of invocations, and the like
        return [_shown(event, name, each, None) for each in value]
    return safe(_text_of(value)[:LONGEST_TEXT])


def _text_of(value: Any) -> str:
    """Return a value that a method emitted as text: JSON, where it has that form."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return repr(value)
    except Exception:  # a user's object may raise anything
        return f"<{type(value).__name__}>"
