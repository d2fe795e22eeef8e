"""One inspector: its storage, the flows that it knows, what it may do and hide; and how it writes a page."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import anyio
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ...flow import Flow
from ...inspection import Redact
from ...persistence import FlowPersistence
from ...persistence.protocol import RunEntry, session
from ...runner import FlowInfo, FlowRunner, MakeFlow
from . import showing
from .access import Action, Authorize, authorized
from .assets import Assets

__all__ = ["KnownFlow", "Site"]

logger: Final = logging.getLogger("asyncflow")

FOLDER: Final = Path(__file__).parent
PICTURES: Final = FOLDER.parent.parent / "_pictures"

HIDDEN: Final = "[not shown: redact raised an exception]"


@dataclass(frozen=True, slots=True)
class KnownFlow:
    """A flow whose class is at hand."""

    info: FlowInfo
    cls: type[Flow[Any]]
    make: MakeFlow
    """Creates a flow: its class may need arguments."""


class Site:
    """What all pages of one inspector share."""

    def __init__(
        self,
        storage: FlowPersistence,
        flows: Iterable[MakeFlow],
        runner: FlowRunner | None,
        authorize: Authorize | None,
        redact: Redact | None,
        *,
        may_act: bool,
    ) -> None:
        self.storage = storage
        self.may_act = may_act
        self.streams: set[anyio.CancelScope] = set()
        """Of the streams of events that are open."""
        self.is_ending: bool = False
        self.redact: Redact | None = None if redact is None else partial(_redacted, redact)
        self.has_runner: bool = runner is not None
        """Whether the application has a runner of its own, which it enters itself."""
        self.runner: FlowRunner = runner or FlowRunner(storage, recover_every=None)
        made = [(self.runner.add(make), make) for make in flows]
        self._known = {info.name: KnownFlow(info, _class_of(make), make) for info, make in made}
        self._authorize = authorize
        self.assets: Assets = Assets(FOLDER / "static", PICTURES, PICTURES / "vendor")
        self._pages = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_plain,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._pages.filters |= {
            "moment": showing.moment,
            "clock": showing.clock_time,
            "duration": showing.seconds_text,
            "shown": showing.shown,
            "line": showing.one_line,
            "path": showing.path_text,
            "trace": showing.shown_end,
            "exact": _exact,
        }

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hold the storage open and, if the inspector may act and has no runner of the application, a runner of its own."""
        async with AsyncExitStack() as stack:
            if self.may_act and not self.has_runner:
                await stack.enter_async_context(self.runner)
            else:
                await stack.enter_async_context(session(self.storage))
            yield

    def end_streams(self) -> None:
        """End all streams of events, because the server ends. Call it on the event loop of the server."""
        self.is_ending = True
        for scope in self.streams:
            scope.cancel()

    @property
    def flows(self) -> list[str]:
        """The names of the known flows."""
        return sorted(self._known)

    def flow_of(self, entry: RunEntry) -> KnownFlow | None:
        """Return the flow of a stored run; None if its class is not known."""
        return self._known.get(self.runner.names.get(entry.identity, ""))

    def can_drive(self, entry: RunEntry) -> bool:
        """Whether the runner knows the flow of a stored run, so that it can continue it."""
        return entry.identity in self.runner.names

    async def allow(self, request: Request, action: Action) -> str:
        """Return the name of a client that may do something, '' if it has none. Raises `HTTPException` 403."""
        return await authorized(request, self._authorize, action)

    def url(self, request: Request, page: str = "", /, **query: object) -> str:
        """Return the path of a page, below the path at which the inspector is mounted."""
        given = {name: str(value) for name, value in query.items() if value not in (None, "")}
        return f"{request.scope.get('root_path', '')}/{page}" + (f"?{urlencode(given)}" if given else "")

    def page(self, request: Request, name: str, status: int = 200, /, **values: Any) -> HTMLResponse:
        """Write a page."""
        now = time.time()
        text = self._pages.get_template(f"{name}.html").render(
            url=lambda page="", /, **query: Markup(Markup.escape(self.url(request, page, **query))),
            asset=lambda file: self.url(request, f"static/{file}", v=self.assets.version(file)),
            ago=lambda at: showing.ago(at, now),
            now=now,
            may_act=self.may_act,
            here=name,
            followed=len(self.streams),
            **values,
        )
        return HTMLResponse(text, status)


def _plain(value: Any) -> Any:
    """Return what a template writes, without odd characters. Markup is made by the inspector itself."""
    return showing.safe(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: str) -> Markup:
    """Return what a form sends back: with odd characters as they are, because it is compared or stored."""
    return Markup.escape(value.encode(errors="replace").decode())


def _redacted(redact: Redact, path: tuple[str | int, ...], value: Any) -> Any:
    """Return what the user's function shows in place of a value. If it fails, the value is not shown: it may exist to hide it."""
    try:
        return redact(path, value)
    except Exception as error:  # the user's function may raise anything
        logger.warning("value not shown: redact raised %s at %s", type(error).__name__, path[:1])
        return HIDDEN


def _class_of(make: MakeFlow) -> type[Flow[Any]]:
    return make if isinstance(make, type) else type(make())
