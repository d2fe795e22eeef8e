"""The application: routes, and what answers when one of them fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ...errors import AsyncflowError
from ...inspection import Redact
from ...persistence import FlowPersistence
from ...persistence.checks import check_backend
from ...persistence.default import default_persistence
from ...runner import FlowRunner, MakeFlow
from .access import Authorize, Guarded
from .acting import act, retry_many
from .problems import Problem, problem_of
from .run_page import show_run
from .runs_page import show_runs
from .site import Site
from .state_file import send_state
from .streaming import stream_events
from .waiting_page import show_waiting

__all__ = ["application", "inspector"]

Page = Callable[[Site, Request], Awaitable[Response]]


def inspector(
    storage: FlowPersistence | None = None,
    flows: Iterable[MakeFlow] = (),
    *,
    runner: FlowRunner | None = None,
    actions: bool = False,
    authorize: Authorize | None = None,
    redact: Redact | None = None,
) -> ASGIApp:
    """Return an ASGI application that shows stored runs: `app.mount("/flows", inspector(storage, [MyFlow]))`.

    - `storage`: where the runs are stored; None: where those of `runner` are, or else in the default SQLite file.
    - `flows`: the classes of the runs. Runs of other flows are shown, too, without a graph.
    - `runner`: the runner of the application, which continues runs. The application enters it. Without one, an inspector that is served
      alone and may act has a runner of its own.
    - `actions`: whether runs can be resumed, retried, cancelled, forked, edited and sent signals.
    - `authorize`: called with the request and the `Action`, async or not; it returns True, or the name of the client, to allow the
      action. Without it, only clients on this machine are answered, at 127.0.0.1 or localhost.
    - `redact`: called with the path of each value and the value; it returns what is shown in its place. Paths begin with "state",
      "inputs", "result", "inbox", "errors", "error" or "event".

    Raises `TypeError` for a storage that is no backend, and `FlowDefinitionError` for two flows of one name.
    """
    return application(make_site(storage, flows, runner=runner, actions=actions, authorize=authorize, redact=redact))


def make_site(
    storage: FlowPersistence | None,
    flows: Iterable[MakeFlow],
    *,
    runner: FlowRunner | None = None,
    actions: bool = False,
    authorize: Authorize | None = None,
    redact: Redact | None = None,
) -> Site:
    """Return the site of an inspector. See `inspector`."""
    if storage is None:
        storage = default_persistence() if runner is None else runner.persistence
    check_backend(storage)
    return Site(storage, flows, runner, authorize, redact, may_act=actions)


def application(site: Site) -> ASGIApp:
    """Return the application of a site."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with site.open():
            yield

    def route(path: str, page: Page, method: str = "GET") -> Route:
        return Route(path, partial(_served, site, page), methods=[method])

    app = Starlette(
        routes=[
            route("/", show_runs),
            route("/run", show_run),
            route("/run/events", stream_events),
            route("/run/state", send_state),
            route("/waiting", show_waiting),
            route("/retry", retry_many, "POST"),
            route("/run/{action}", act, "POST"),
            Route("/static/{name}", site.assets.serve),
        ],
        exception_handlers={
            HTTPException: partial(_refused, site),
            AsyncflowError: partial(_failed, site),
            Exception: partial(_broken, site),
        },
        lifespan=lifespan,
    )
    return Guarded(app)


async def _served(site: Site, page: Page, request: Request) -> Response:
    return await page(site, request)


async def _refused(site: Site, request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    if error.status_code == 404:
        problem = Problem(404, "There is no such page", "The address is wrong.")
    else:
        problem = Problem(error.status_code, phrase, "", "" if error.detail == phrase else error.detail)
    response = site.page(request, "problem", error.status_code, problem=problem)
    response.headers.update(error.headers or {})
    return response


async def _failed(site: Site, request: Request, error: Exception) -> Response:
    assert isinstance(error, AsyncflowError)
    problem = problem_of(error)
    response = site.page(request, "problem", problem.status, problem=problem)
    if problem.status == 503:
        response.headers["Retry-After"] = "2"
    return response


async def _broken(site: Site, request: Request, error: Exception) -> Response:
    """Answer for any other exception. The server logs it."""
    problem = Problem(500, "The inspector failed", "See the log of its server.", type(error).__name__)
    return site.page(request, "problem", 500, problem=problem)
