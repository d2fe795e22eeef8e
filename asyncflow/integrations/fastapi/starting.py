"""The routes that start runs: one for each flow, so that each has its own schema."""

import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response

from ...errors import RunInputsError, RunnerClosedError
from ...runner import FlowRunner, KnownFlow, MakeFlow, RunHandle, RunView
from .answers import documented, misfit
from .models import Accepted, Run, given, inputs_type

__all__ = ["add_start", "run_id_for"]

KEYS: Final = uuid.UUID("5f3d4a83-7f0b-5c1e-9d5e-0c6f5f1a7c11")
"""The namespace of the runs that an Idempotency-Key names. It must never change: keys would name other runs."""

Key = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Makes the id of the run: however often it is sent with the same inputs, there is one run.",
    ),
]


Principal = str | int | uuid.UUID | None
"""Who asks: what `authorize` returns."""

PATIENCE: Final = 5.0
"""Seconds that a request waits for a place, where it does not ask to wait longer."""

T = TypeVar("T")


def run_id_for(flow: str, key: str, principal: Principal = None) -> str:
    """The id of the run of a flow that an `Idempotency-Key` names, for whoever sends it: a UUID, made of them."""
    whose = "" if principal is None else f"\0{principal}"
    return str(uuid.uuid5(KEYS, f"{flow}\0{key}{whose}"))


def nobody() -> None:
    """Who asks, where nobody is asked who he is."""


def add_start(
    router: APIRouter,
    runner: FlowRunner,
    flow: MakeFlow,
    known: KnownFlow,
    run: type[Run],
    longest_wait: float,
    authorize: Callable[..., Any],
) -> None:
    """Add the route that starts runs of one flow."""
    inputs, are_needed = inputs_type(known)
    wait = Query(ge=0, le=longest_wait, description="Seconds to wait for the end of the run.")

    async def start(
        *,
        request: Request,
        inputs: Any,
        principal: Any,
        idempotency_key: Key = None,
        wait: Annotated[float, wait] = 0.0,
    ) -> Response:
        until = anyio.current_time() + wait
        run_id = _run_id(known.name, idempotency_key, principal)
        asked = partial(_started, runner, flow, known, given(inputs), run_id, max(wait, PATIENCE))
        handle, view = await (_while_present(request, math.inf, asked) if runner.is_full else asked())
        if wait and view.status == "running":
            view = await _waited(handle, request, until - anyio.current_time())
        return _answer(request, view, is_whole=wait > 0 and view.status != "running")

    start.__annotations__["principal"] = Annotated[Any, Depends(authorize)]
    start.__annotations__["inputs"] = Annotated[inputs if are_needed else inputs | None, Body()]
    if not are_needed:
        start.__kwdefaults__ = {**(start.__kwdefaults__ or {}), "inputs": None}
    router.add_api_route(
        f"/flows/{known.name}",
        start,
        methods=["POST"],
        name=f"start {known.name}",
        description=known.description or None,
        status_code=202,
        response_model=Accepted,
        response_description="The run is stored, and goes on by itself.",
        responses={200: {"model": run, "description": "It has ended within `wait`."}, **documented(409, 503)},
    )


async def _started(
    runner: FlowRunner,
    flow: MakeFlow,
    known: KnownFlow,
    inputs: Mapping[str, Any],
    run_id: str | None,
    patience: float,
) -> tuple[RunHandle, RunView]:
    """The run that a request asks for. The same key with other inputs is refused, and with none, too, if there were some."""
    if "id" in inputs:
        raise misfit("the id of a run is not among its inputs; send an Idempotency-Key", ("id",))
    handle = await runner.start(flow, inputs, run_id=run_id, patience=patience)
    view = await handle.look()
    if view.inputs and not inputs:
        raise RunInputsError("the run was begun with inputs", run_id=view.run_id)
    return handle, view


def _run_id(flow: str, key: str | None, principal: object) -> str | None:
    if key is None:
        return None
    if not isinstance(principal, Principal) or isinstance(principal, bool):
        raise TypeError(f"authorize returns who asks, as a str, int or UUID, or None; not a {type(principal).__name__}")
    return run_id_for(flow, key, principal)


async def _waited(handle: RunHandle, request: Request, seconds: float) -> RunView:
    """The run when it has ended, or at the end of its client's patience or presence."""
    with suppress(Exception):  # however it ended: that is looked up
        await _while_present(request, seconds, handle.result)
    return await handle.look()


async def _while_present(request: Request, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """What some work comes to. Raises `RunnerClosedError` at the end of its client's patience or presence."""
    done: list[T] = []
    failed: Exception | None = None
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            group.start_soon(_cancelled_by, lambda: _gone(request), group.cancel_scope)
            try:
                done.append(await work())
            except Exception as error:  # on its way as it is, and not in a group
                failed = error
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    if not done:
        raise RunnerClosedError("nobody waits for it any more")
    return done[0]


async def _cancelled_by(event: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    await event()
    scope.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(request: Request, view: RunView, *, is_whole: bool) -> Response:
    base = request.url.path.rpartition("/flows/")[0]
    headers = {"Location": f"{base}/runs/{quote(view.run_id, safe='')}"}
    if is_whole:
        return Response(Run.of(view).to_json(), 200, headers, "application/json")
    accepted = Accepted(run_id=view.run_id, status=view.status)
    return Response(accepted.model_dump_json(), 202, headers, "application/json")
