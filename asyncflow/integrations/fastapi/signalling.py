"""The route that sends signals to runs."""

import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from ..._definition.signals import Signal
from ...errors import UnknownSignalError
from ...runner import FlowInfo, JsonPayload, RunHandle
from .answers import documented
from .models import Sent
from .starting import KEYS, Key, Principal

__all__ = ["add_signals", "served_signals"]

LARGEST: Final = 64 * 1024
"""The largest payload, in bytes."""


class FoundRun(Protocol):
    """The run of a request."""

    @property
    def handle(self) -> RunHandle: ...


def served_signals(signals: Iterable[Signal[Any] | str], flows: Iterable[FlowInfo]) -> frozenset[str]:
    """Return the names of the signals that a router serves. Raises `ValueError` for one that none of its flows declares."""
    declared = {signal for flow in flows for signal in flow.signals}
    known = sorted({signal.name for signal in declared})
    names: set[str] = set()
    for signal in signals:
        name = signal.name if isinstance(signal, Signal) else signal
        problem = ""
        if name not in known:
            problem = "none of its flows declares it"
        elif isinstance(signal, Signal) and signal not in declared:
            problem = "its flows declare it with another payload, or another `early`"
        if problem:
            raise ValueError(
                f"flow_router() cannot serve the signal {name!r}: {problem}. Known: {', '.join(known) or 'none'}"
            )
        names.add(name)
    return frozenset(names)


def add_signals(
    router: APIRouter,
    names: frozenset[str],
    found: Callable[..., Awaitable[FoundRun]],
    authorize: Callable[..., Any],
) -> None:
    """Add the route that sends signals: only those that are named, to runs whose flow declares them."""
    if not names:
        return

    async def send_signal(
        *,
        name: str,
        request: Request,
        response: Response,
        run: Any,
        principal: Any,
        idempotency_key: Key = None,
    ) -> Sent:
        """Send a signal to a run. The body is its payload."""
        if name not in names:
            raise UnknownSignalError("the router does not serve this signal", signal=name, run_id=run.handle.run_id)
        payload = JsonPayload(await _body_of(request))
        sender = _sender(principal)
        key = None if idempotency_key is None else str(uuid.uuid5(KEYS, f"{idempotency_key}\0{sender}"))
        is_new = await run.handle.signal(name, payload, key=key, sender=sender)
        response.status_code = 202 if is_new else 200
        return Sent(run_id=run.handle.run_id, signal=name, is_new=is_new)

    known = {"model": Sent, "description": "The run had received the signal before, under the same Idempotency-Key."}
    send_signal.__annotations__["run"] = Annotated[Any, Depends(found)]
    send_signal.__annotations__["principal"] = Annotated[Any, Depends(authorize)]
    router.add_api_route(
        "/runs/{run_id:path}/signals/{name}",
        send_signal,
        methods=["POST"],
        status_code=202,
        response_description="The signal is stored.",
        responses={200: known, **documented(404, 409, 413, 429, 501, 503)},
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {}}}}},
    )


async def _body_of(request: Request) -> bytes:
    """Return the body of a request. Raises `HTTPException` 413 if it is too large; then it is not read to its end."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > LARGEST:
        raise _too_large()
    data = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            data += part
            if len(data) > LARGEST:
                raise _too_large()
    return bytes(data)


def _too_large() -> HTTPException:
    return HTTPException(413, f"The payload of a signal has at most {LARGEST} bytes.")


def _sender(principal: object) -> str:
    if not isinstance(principal, Principal) or isinstance(principal, bool):
        raise TypeError(
            f"authorize must return the client as a str, int or UUID, or None; not a {type(principal).__name__}"
        )
    return "" if principal is None else str(principal)
