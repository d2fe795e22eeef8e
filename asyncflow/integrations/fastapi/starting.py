"""The routes that start runs: one for each flow, so that each has its own schema."""

import codecs
import math
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import anyio
from fastapi import APIRouter, Body, Depends, Header, HTTPException, Query, Request, Response
from pydantic_core import from_json

from ...errors import LimitExceededError, NotStorableError, RunInputsError, RunnerClosedError
from ...persistence import Checkpoint
from ...persistence.status import Status, has_ended
from ...runner import FlowInfo, FlowRunner, JsonInputs, MakeFlow, RunHandle
from .answers import Unread, documented, failed, misfit, unavailable, uncancelled
from .describing import body_type, comes_from, ids_of
from .models import Accepted, Problem, Run
from .showing import RunsShown

__all__ = ["PATIENCE", "add_start", "answered", "placed", "run_id_for"]

KEYS: Final = uuid.UUID("5f3d4a83-7f0b-5c1e-9d5e-0c6f5f1a7c11")
"""The UUID namespace of runs that have an Idempotency-Key. It must never change: existing keys would name other runs."""

Key = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="Determines the id of the run: repeated requests with the same key and inputs get one run.",
    ),
]


Principal = str | int | uuid.UUID | None
"""The client of a request: the return value of `authorize`."""

PATIENCE: Final = 5.0
"""Seconds that a request waits for a place, unless it asks to wait longer."""

T = TypeVar("T")


def run_id_for(flow: str, key: str, principal: Principal = None) -> str:
    """Return the run id of an `Idempotency-Key`: a UUID, derived from the flow, the key and the client.

    - `flow`: the name of the flow.
    - `key`: the value of the header.
    - `principal`: the client, as `authorize` returns it; None without `authorize`.
    """
    client = "" if principal is None else f"\0{principal}"
    return str(uuid.uuid5(KEYS, f"{flow}\0{key}{client}"))


async def no_client() -> None:
    """Return None as the client, if there is no `authorize`. It is async because FastAPI would run a plain function in a thread."""


def add_start(
    router: APIRouter,
    runner: FlowRunner,
    flow: MakeFlow,
    known: FlowInfo,
    run: type[Run],
    longest_wait: float,
    authorize: Callable[..., Any],
    shown: RunsShown,
) -> None:
    """Add the route that starts runs of one flow."""
    body, is_needed = body_type(known)
    ids = ids_of(known)
    wait = Query(ge=0, le=longest_wait, description="Seconds to wait until the run ends.")

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
        given = _read(inputs, is_needed, ids)
        asked = partial(_started, runner, flow, known, given, run_id, max(wait, PATIENCE))
        try:
            ended = None if run_id is None else await _ended_badly(runner, run_id)
            handle, stored = await placed(runner, request, asked)
        except anyio.get_cancelled_exc_class():
            if not uncancelled():
                raise
            raise _ending(request, run_id) from None
        where = _location(request, stored.run_id)
        if ended is not None and stored.seq == ended.seq:
            return _refused(where, stored)
        seconds = until - anyio.current_time() if wait else 0.0
        return await answered(shown, handle, stored, request, known.name, where, seconds)

    start.__annotations__["principal"] = Annotated[Any, Depends(authorize)]
    start.__annotations__["inputs"] = Annotated[body, Body()]
    if not is_needed:
        start.__kwdefaults__ = {**(start.__kwdefaults__ or {}), "inputs": None}
    router.add_api_route(
        f"/flows/{known.name}",
        start,
        methods=["POST"],
        name=f"start {known.name}",
        description=known.description or None,
        status_code=202,
        response_model=Accepted,
        response_description="The run is stored and continues in the background.",
        responses={200: {"model": run, "description": "The run has ended within `wait`."}, **documented(409, 500, 503)},
    )


def _read(inputs: Any, is_needed: bool, ids: frozenset[str]) -> JsonInputs:
    """Parse the inputs of a request. Raises the validation error to answer with if they are missing, or are not JSON."""
    if isinstance(inputs, bytes):
        raise misfit("inputs must be JSON, with `Content-Type: application/json`", kind="content_type")
    read = inputs
    try:
        if isinstance(inputs, Unread):
            read = from_json(inputs.data.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:  # its message has the error and its position, and no more
        raise misfit(f"the body is not JSON: {error}", kind="json_invalid") from None
    if read is None and is_needed:
        raise misfit("Field required", kind="missing")
    if not isinstance(read, dict | None):
        raise misfit("Input should be an object", kind="dict_type")
    given = JsonInputs(read or {})
    for name in ids & given.keys():
        raise misfit("inputs must not contain the id of the run; send an Idempotency-Key instead", (name,))
    if not _is_finite(given):
        raise misfit("the body contains a number that is too large", kind="finite_number")
    return given


def _is_finite(tree: Any) -> bool:
    if isinstance(tree, float):
        return math.isfinite(tree)
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return all(map(_is_finite, parts))


async def _ended_badly(runner: FlowRunner, run_id: str) -> Checkpoint | None:
    """Return the last checkpoint of a run that had failed or was cancelled before this request; None for any other run."""
    stored = await runner.persistence.load(run_id) if runner.is_open else None
    if stored is None or stored.status not in ("failed", "cancelled"):
        return None
    return None if await (await runner.get(run_id)).status() == "running" else stored  # it has been resumed


async def _started(
    runner: FlowRunner, flow: MakeFlow, known: FlowInfo, given: JsonInputs, run_id: str | None, patience: float
) -> tuple[RunHandle, Checkpoint]:
    """Start the run of a request. Refuse a known key with other inputs, also with no inputs if the run has some.

    Raises `HTTPException` 500 if the state cannot be stored because of a part that the inputs do not set.
    """
    try:
        handle = await runner.start(flow, given, run_id=run_id, patience=patience)
    except (NotStorableError, LimitExceededError) as error:
        if comes_from(known, getattr(error, "path", ""), given):
            raise
        raise failed(error) from error
    stored = await handle.checkpoint()
    if not given and stored.inputs not in (None, b"{}"):
        raise RunInputsError("the run was started with other inputs", run_id=stored.run_id)
    return handle, stored


def _run_id(flow: str, key: str | None, principal: object) -> str | None:
    if key is None:
        return None
    if not isinstance(principal, Principal) or isinstance(principal, bool):
        raise TypeError(
            f"authorize must return the client as a str, int or UUID, or None; not a {type(principal).__name__}"
        )
    return run_id_for(flow, key, principal)


async def placed(runner: FlowRunner, request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """Do some work that may have to wait for a place, but only while the client is connected; return its result."""
    return await (_while_present(request, math.inf, work) if runner.is_full else work())


async def answered(
    shown: RunsShown,
    handle: RunHandle,
    stored: Checkpoint,
    request: Request,
    flow: str,
    where: str,
    seconds: float,
) -> Response:
    """Answer with the whole run if it ends in time, else with its status: when the time is over, the client is gone or the server ends."""
    status: Status = stored.status  # the request has just started the run or attached to it, so it is driven
    if stored.status == "failed":
        status, stored = await handle.status_and_checkpoint()
    if status == "running" and seconds > 0:
        try:
            with suppress(Exception):  # its outcome, whatever it is, is loaded below
                await _while_present(request, seconds, handle.result)
            status, stored = await handle.status_and_checkpoint()
        except anyio.get_cancelled_exc_class():
            if not uncancelled():
                raise  # else the run continues, here or elsewhere, and the response says where to find it
    headers = {"Location": where}
    if seconds > 0 and has_ended(status):
        data = await shown.run(handle, stored, flow, status, where)
        return Response(data, 200, headers, "application/json")
    accepted = Accepted(run_id=stored.run_id, status=status)
    return Response(accepted.model_dump_json(), 202, headers, "application/json")


async def _while_present(request: Request, seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Do some work and return its result. Raises `RunnerClosedError` when the time is over, or the client has disconnected."""
    done: list[T] = []
    failed: Exception | None = None
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            group.start_soon(_cancelled_by, lambda: _gone(request), group.cancel_scope)
            try:
                done.append(await work())
            except Exception as error:  # raised below as it is, and not in an exception group
                failed = error
            group.cancel_scope.cancel()
    if failed is not None:
        raise failed
    if not done:
        raise RunnerClosedError("the client has disconnected, or the time to wait is over")
    return done[0]


async def _cancelled_by(event: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
    await event()
    scope.cancel()


async def _gone(request: Request) -> None:
    """Wait until the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _location(request: Request, run_id: str) -> str:
    base = request.url.path.rpartition("/flows/")[0]
    return f"{base}/runs/{quote(run_id, safe='')}"


def _refused(where: str, stored: Checkpoint) -> Response:
    """Refuse a known key if its run has failed or was cancelled: the run is not started again, and the answer is no success."""
    way_on = (
        "was cancelled permanently" if stored.status == "cancelled" else f"has failed; POST {where}/resume resumes it"
    )
    problem = Problem(
        detail=f"The run of this Idempotency-Key {way_on}. Another key starts another run.",
        run_id=stored.run_id,
        status=stored.status,
    )
    return Response(problem.model_dump_json(), 409, {"Location": where}, "application/json")


def _ending(request: Request, run_id: str | None) -> HTTPException:
    """Return a 503 for a server that shuts down before it is known whether the run was started."""
    if run_id is None:
        return unavailable(
            "The service is shutting down. The run may or may not have been started; with an Idempotency-Key, a retry would find it."
        )
    where = _location(request, run_id)
    return unavailable(
        "The service is shutting down. Retry with the same Idempotency-Key: there will be one run.", where
    )
