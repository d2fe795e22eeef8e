"""The routes that start runs: one for each flow, so that each has its own schema."""

import uuid
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Final
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Body, Header, Query, Request, Response

from ...errors import RunInputsError
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


def run_id_for(flow: str, key: str) -> str:
    """The id of the run of a flow that an `Idempotency-Key` names: a UUID, made of both."""
    return str(uuid.uuid5(KEYS, f"{flow}\0{key}"))


def add_start(
    router: APIRouter, runner: FlowRunner, flow: MakeFlow, known: KnownFlow, run: type[Run], longest_wait: float
) -> None:
    """Add the route that starts runs of one flow."""
    inputs, are_needed = inputs_type(known)
    wait = Query(ge=0, le=longest_wait, description="Seconds to wait for the end of the run.")

    async def start(
        *,
        request: Request,
        inputs: Any,
        idempotency_key: Key = None,
        wait: Annotated[float, wait] = 0.0,
    ) -> Response:
        handle, view = await _started(runner, flow, known, given(inputs), idempotency_key)
        if wait and view.status == "running":
            view = await _waited(handle, request, wait)
        return _answer(request, view, is_whole=wait > 0 and view.status != "running")

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
    runner: FlowRunner, flow: MakeFlow, known: KnownFlow, inputs: Mapping[str, Any], key: str | None
) -> tuple[RunHandle, RunView]:
    """The run that a request asks for. The same key with other inputs is refused, and with none, too, if there were some."""
    if "id" in inputs:
        raise misfit("the id of a run is not among its inputs; send an Idempotency-Key", ("id",))
    run_id = None if key is None else run_id_for(known.name, key)
    handle = await runner.start(flow, inputs, run_id=run_id)
    view = await handle.look()
    if view.inputs and not inputs:
        raise RunInputsError("the run was begun with inputs", run_id=view.run_id)
    return handle, view


async def _waited(handle: RunHandle, request: Request, seconds: float) -> RunView:
    """The run when it has ended, or at the end of its client's patience or presence."""
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            group.start_soon(_cancelled_by, lambda: _gone(request), group.cancel_scope)
            with suppress(Exception):  # however it ended: that is looked up
                await handle.result()
            group.cancel_scope.cancel()
    return await handle.look()


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
