"""Who may ask the inspector for what: `authorize`, or a client on this machine; and what every response forbids the browser.

Without `authorize`, a request must come from a loopback address, through no proxy, and name a loopback host. The last condition stops
pages of other sites that have their name resolve to this machine (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Action", "Authorize", "Guarded", "authorized", "check_origin", "is_loopback"]


class Action(NamedTuple):
    """What a request asks for."""

    name: Literal["list", "read", "resume", "retry", "cancel", "fork", "edit", "signal"]
    """List runs, read one or its events, or change one."""
    run_id: str | None = None
    """The id of the run, if the request names one."""
    signal: str | None = None
    """The name of the signal, if the request sends one."""


Authorize = Callable[[Request, Action], bool | str | Awaitable[bool | str | None] | None]
"""Returns True, or the name of the client, to allow an action. Any other value refuses it."""

POLICY: Final = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'; img-src 'self'"
)

HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # "no-referrer" would have forms send `Origin: null`
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

PROXIED: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
"""Headers of a request that has passed a proxy, so that its client is not on this machine although its address is."""

ONLY_HERE: Final = (
    "The inspector has no authorize function, so it answers only clients on this machine, at 127.0.0.1 or localhost. To open it to "
    "others, pass authorize= to inspector()."
)


class Guarded:
    """An ASGI application that adds the security headers to every response of another one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                is_kept = any(name == b"cache-control" for name, _ in given)
                kept = () if is_kept else ((b"cache-control", b"no-store"),)
                message = {**message, "headers": [*given, *kept, *HEADERS]}
            await send(message)

        await self._app(scope, receive, guarded)


async def authorized(request: Request, authorize: Authorize | None, action: Action) -> str:
    """Return the name of the client, '' if it has none. Raises `HTTPException` 403 for an action that it may not do."""
    if authorize is None:
        if not _is_local(request):
            raise HTTPException(403, ONLY_HERE)
        return ""
    answer: Any = authorize(request, action)
    allowed = await answer if isawaitable(answer) else answer
    if allowed is True:
        return ""
    if isinstance(allowed, str) and allowed:
        return allowed
    raise HTTPException(403, f"You are not allowed to do this: {action.name}.")


def _is_local(request: Request) -> bool:
    client = request.client
    is_direct = not any(name in request.headers for name in PROXIED)
    return is_direct and client is not None and is_loopback(client.host) and _names_loopback(request)


def _names_loopback(request: Request) -> bool:
    hosts = request.headers.getlist("host")
    try:
        name = urlsplit(f"//{hosts[0]}").hostname if len(hosts) == 1 else None
    except ValueError:
        return False
    return name is not None and (name == "localhost" or is_loopback(name))


def is_loopback(host: str) -> bool:
    """Whether a host is an address of this machine that others cannot reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def check_origin(request: Request) -> None:
    """Check that a request that changes something comes from a page of the inspector. Raises `HTTPException` 403."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    origins, host = request.headers.getlist("origin"), request.headers.get("host", "")
    if site != "same-origin" or len(origins) != 1 or not host or _host_of(origins[0]) != host.lower():
        raise HTTPException(
            403,
            "The request does not come from a page of this inspector, so nothing was done. Behind a proxy, the proxy must keep the "
            "header Host.",
        )


def _host_of(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
