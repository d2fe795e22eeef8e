"""The inspector as a server of its own: `asyncflow inspector`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import Any, Final

from ...errors import ArgumentsError
from ...inspection import Redact
from ...persistence import FlowPersistence
from ...runner import MakeFlow
from .access import Authorize, is_loopback
from .app import application, make_site
from .site import Site

__all__ = ["serve"]

PATIENCE: Final = 5
"""Seconds that requests have to end when the server ends."""


def serve(
    storage: FlowPersistence | None = None,
    flows: Iterable[MakeFlow] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    actions: bool = False,
    authorize: Authorize | None = None,
    redact: Redact | None = None,
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve an inspector until the process gets SIGINT or SIGTERM. It needs uvicorn, which the extra `web` installs.

    - `storage`: where the runs are stored; None: the default SQLite file.
    - `flows`: the classes of the runs, as for `inspector`.
    - `host`: the address to listen at.
    - `port`: the port; 0: any free one.
    - `actions`: whether runs can be changed. Then the server also has a FlowRunner, which continues the runs that are resumed here, and
      parked runs of these flows when they are due.
    - `authorize`: as for `inspector`.
    - `redact`: as for `inspector`.
    - `on_ready`: called with the URL, once the server listens.

    Raises `ArgumentsError` for an address that is not loopback without `authorize`, and `OSError` for one that cannot be used.
    """
    if authorize is None and host != "localhost" and not is_loopback(host):
        raise ArgumentsError(
            f"the inspector cannot be served at {host} without authorize=: every client that reaches it could read all runs. Serve it at "
            "127.0.0.1, or mount inspector(storage, authorize=...) in an application"
        )
    site = make_site(storage, flows, actions=actions, authorize=authorize, redact=redact)
    asyncio.run(serve_site(site, host, port, on_ready))


async def serve_site(site: Site, host: str, port: int, on_ready: Callable[[str], object] | None = None) -> None:
    """Serve a site until the process gets SIGINT or SIGTERM. Raises `OSError` for an address that cannot be used."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if on_ready is not None and not self.should_exit:
                on_ready(url)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            site.end_streams()
            await super().shutdown(sockets)

    options: dict[str, Any] = {"log_level": "warning", "timeout_graceful_shutdown": PATIENCE, "proxy_headers": False}
    config = uvicorn.Config(application(site), host=host, port=port, **options)
    with _listening(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listening.getsockname()[1]}/"
        await Server(config).serve(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `OSError`."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
        return found
    except OSError:
        found.close()
        raise
