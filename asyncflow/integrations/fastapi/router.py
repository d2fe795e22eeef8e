"""Builds the router: one route per flow that starts runs, and the routes that list, show, stream, resume and cancel runs."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Final, NamedTuple, Union
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import Field

from ..._definition.signals import Signal
from ...errors import RunNotFoundError
from ...inspection import Redact
from ...persistence import Checkpoint
from ...persistence.status import Status
from ...runner import FlowRunner, MakeFlow, RunHandle
from .answers import FlowRoute, documented, documented_of_stream, unavailable
from .describing import run_type
from .event_models import documented_events
from .listing import LARGEST, PAGE, add_catalog
from .models import Accepted, HistoryPage, Ready, Run
from .redaction import Shown
from .showing import RunsShown
from .signalling import add_signals, served_signals
from .starting import PATIENCE, add_start, answered, no_client, placed
from .streaming import Begin, LastEventId, Live, Named, begin_of, streamed

__all__ = ["flow_router"]

SOON: Final = 5.0
"""Timeout in seconds for an answer of the storage, and for the end of a run that is cancelled."""


class Found(NamedTuple):
    """The run of a request, with its status at that time. Only routes that show its state decode it."""

    handle: RunHandle
    stored: Checkpoint
    status: Status
    flow: str


def flow_router(
    runner: FlowRunner,
    flows: Iterable[MakeFlow],
    *,
    authorize: Callable[..., Any] | None = None,
    prefix: str = "",
    longest_wait: float = 60.0,
    signals: Iterable[Signal[Any] | str] = (),
    redact: Redact | None = None,
) -> APIRouter:
    """Return an `APIRouter` with routes for these flows, to include in an application.

    - `runner`: owns the runs, and stores them.
    - `flows`: classes, or functions that return a flow; at least one, with different names.
    - `authorize`: a dependency of every route but `/readyz`; it raises an `HTTPException` to refuse a request. Its return value, if
      not None, identifies the client: a str, int or UUID. Each client has Idempotency-Keys of its own. With `Depends(action_of)` it
      gets the `Action` that is requested.
    - `prefix`: the path before each route, such as "/api".
    - `longest_wait`: maximum seconds that a request may ask to wait for the end of its run; if the runner is full and its `overload`
      is "wait", a request waits as long for a place, or for 5 seconds.
    - `signals`: the signals that clients may send, or their names; none, unless given. The sender that is stored with a signal is the
      client that `authorize` returned.
    - `redact`: called for every value that a response shows, with its path, such as `("state", "user", "password")`, and each of its
      parts; returns what is shown in its place, or the value itself. Paths begin with "state", "result", "error", "event", "waits" or
      "driver", and have the names of fields as in Python. If it raises an exception, null is shown.

    Runs of other flows in the same storage are not shown. Raises `ValueError` for no flow, for two flows of one name, for a name
    that cannot be part of a path, and for a signal that none of the flows declares.
    """
    known = [(flow, runner.add(flow)) for flow in flows]
    names = frozenset(flow.name for _, flow in known)
    if not names or len(names) != len(known):
        raise ValueError("flow_router() takes at least one flow, and each name only once")
    for name in names:
        if {"{", "}"} & {*name}:
            raise ValueError(
                f"the flow {name!r} cannot have a route: its name contains braces, which mark path parameters; use a name without braces"
            )
    served = served_signals(signals, [flow for _, flow in known])
    runs = [run_type(flow) for _, flow in known]
    guards = [] if authorize is None else [Depends(authorize)]
    refusals = documented(401, 403) if guards else {}
    shown = RunsShown(runner, Shown(redact), served)
    guarded = APIRouter(route_class=FlowRoute, dependencies=guards, tags=["flows"], responses=refusals)
    for (flow, info), run in zip(known, runs, strict=True):
        add_start(guarded, runner, flow, info, run, longest_wait, authorize or no_client, shown)
    add_catalog(guarded, runner, [info for _, info in known])

    async def found(run_id: str) -> Found:
        return await _found(runner, names, run_id)

    add_signals(guarded, served, found, authorize or no_client)
    _add_runs(guarded, found, runs, longest_wait, shown)
    router = APIRouter(prefix=prefix)
    router.include_router(guarded)
    _add_ready(router, runner)
    return router


_OF_STREAMS: Final[dict[int | str, dict[str, Any]]] = {
    200: documented_events(),
    204: {"description": "The run has ended, and `Last-Event-ID` was its last event: do not reconnect."},
}


def _add_runs(
    router: APIRouter,
    found: Callable[[str], Awaitable[Found]],
    runs: list[type[Run]],
    longest_wait: float,
    shown: RunsShown,
) -> None:
    """Add the routes of one run. Its id may be any text, even with a slash, so routes with a suffix after the id are added first."""
    runner = shown.runner

    async def begin(run: Annotated[Found, Depends(found)], last_event_id: LastEventId = None) -> Begin:
        return await begin_of(runner.persistence, run.stored, run.status, last_event_id)

    async def stream_events(
        run: Annotated[Found, Depends(found)],
        begin: Annotated[Begin, Depends(begin)],
        named: Named = False,
        live: Live = True,
    ) -> AsyncIterator[ServerSentEvent]:
        """Send the past and future events of a run, as server-sent events, until it has ended."""
        async with aclosing(streamed(run.handle, begin, shown.values, live=live, are_named=named)) as events:
            async for event in events:
                yield event

    async def get_history(
        run: Annotated[Found, Depends(found)],
        after: Annotated[
            int, Query(ge=-1, le=LARGEST, description="Only later checkpoints: their seq is larger.")
        ] = -1,
        limit: Annotated[int, Query(ge=1, le=PAGE, description="The maximum number of checkpoints on the page.")] = 50,
    ) -> Response:
        """List the checkpoints of a run, the oldest first, each with what it changed in the state."""
        page = await shown.history(run.handle, run.stored, after, limit)
        return Response(page.model_dump_json(), media_type="application/json")

    async def cancel_run(run: Annotated[Found, Depends(found)], response: Response) -> Accepted:
        """Cancel a run permanently."""
        status = await _cancelled(runner, run)
        response.status_code = 200 if status == "cancelled" else 202
        return Accepted(run_id=run.handle.run_id, status=status)

    seconds = Query(ge=0, le=longest_wait, description="Seconds to wait until the run ends.")

    async def resume_run(
        run: Annotated[Found, Depends(found)], request: Request, wait: Annotated[float, seconds] = 0.0
    ) -> Response:
        """Continue a run that has failed or was interrupted: only the methods that did not complete run."""
        return await _resumed(shown, run, request, wait)

    async def get_run(run: Annotated[Found, Depends(found)], request: Request) -> Response:
        """Show a run: its status, its state, its result or error, and what it does and waits for."""
        where = _where(request, run.handle.run_id)
        data = await shown.run(run.handle, run.stored, run.flow, run.status, where)
        return Response(data, media_type="application/json")

    any_run: Any = runs[0] if len(runs) == 1 else Annotated[Union[tuple(runs)], Field(discriminator="flow")]  # noqa: UP007
    ended: dict[int | str, Any] = {200: {"model": any_run, "description": "The run has ended within `wait`."}}
    about_to: dict[int | str, Any] = {
        202: {"model": Accepted, "description": "The run is about to end: one of its methods has not stopped yet."}
    }
    one, common = "/runs/{run_id:path}", documented(404, 409, 503)
    refusals = [status for status in router.responses if isinstance(status, int)]
    problems = documented_of_stream(*refusals, 404, 409, 501, 503)
    add_get, add_post = partial(router.add_api_route, methods=["GET"]), partial(router.add_api_route, methods=["POST"])
    add_get(f"{one}/events", stream_events, response_class=EventSourceResponse, responses={**problems, **_OF_STREAMS})
    add_get(f"{one}/history", get_history, response_model=HistoryPage, responses={**common, **documented(501)})
    add_post(f"{one}/cancel", cancel_run, responses={**about_to, **common})
    add_post(
        f"{one}/resume",
        resume_run,
        status_code=202,
        response_model=Accepted,
        response_description="The run is resumed.",
        responses={**ended, **common, **documented(500)},
    )
    add_get(one, get_run, response_model=any_run, responses=common)


async def _found(runner: FlowRunner, names: frozenset[str], run_id: str) -> Found:
    """Return a run of one of these flows. Raises `RunNotFoundError`."""
    handle = await runner.get(run_id)
    status, stored = await handle.status_and_checkpoint()
    flow = runner.names.get(stored.known_by)
    if flow not in names:  # do not reveal a run of another flow: answer as if it did not exist
        raise RunNotFoundError("the run belongs to another flow", run_id=run_id)
    return Found(handle, stored, status, flow)


def _where(request: Request, run_id: str, suffix: str = "") -> str:
    """Return the path of the route of a run. `suffix`: of the path of the request, after the id."""
    base: str = request.scope["path"].removesuffix(f"/runs/{run_id}{suffix}")
    return f"{base}/runs/{quote(run_id, safe='')}"


async def _resumed(shown: RunsShown, run: Found, request: Request, wait: float) -> Response:
    """Resume the run with the runner. Answer with its status when it has ended, or when the time to wait is over."""
    until, run_id = anyio.current_time() + wait, run.handle.run_id
    runner = shown.runner
    handle = await placed(runner, request, partial(runner.resume, run_id, patience=max(wait, PATIENCE)))
    left = until - anyio.current_time() if wait else 0.0
    where = _where(request, run_id, "/resume")
    return await answered(shown, handle, await handle.checkpoint(), request, run.flow, where, left)


async def _cancelled(runner: FlowRunner, run: Found) -> Status:
    """Cancel the run permanently, and return its status. A method in a worker thread may not end in time: the run is then about to end."""
    status = run.stored.status
    if status not in ("cancelled", "finished"):
        with anyio.move_on_after(SOON):
            await runner.cancel(run.handle.run_id)
        status = (await run.handle.checkpoint()).status
    if status == "finished":
        raise HTTPException(409, "The run has finished, and cannot be cancelled.")
    return status


def _add_ready(router: APIRouter, runner: FlowRunner) -> None:
    """Add the route that reports whether the service accepts runs. It needs no authorization."""

    async def readyz() -> Ready:
        """Say whether the service accepts runs."""
        if not runner.is_open:
            raise unavailable("The runner has not been entered, or is shutting down.")
        is_there = False
        with anyio.move_on_after(SOON):
            try:
                await runner.persistence.load("readyz")
                is_there = True
            except Exception as error:  # any exception of a backend means that it does not answer
                raise unavailable("The storage does not respond.") from error
        if not is_there:
            raise unavailable("The storage does not respond in time.")
        return Ready()

    router.add_api_route("/readyz", readyz, methods=["GET"], tags=["health"], responses=documented(503))
