"""Maps each error of asyncflow to an HTTP response: client error or server error, and whether a retry helps.

It imports asyncio: a server on asyncio that shuts down cancels the tasks of its requests, which then answer with a plain 500.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import anyio
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from ... import errors
from ...errors import AsyncflowError
from ...runner import JsonInputsError
from .models import Problem

__all__ = [
    "FlowRoute",
    "Unread",
    "documented",
    "documented_of_stream",
    "failed",
    "misfit",
    "unavailable",
    "uncancelled",
]

logger: Final = logging.getLogger("asyncflow")

RETRY_AFTER: Final = "2"
"""Seconds until a client should retry: about as long as an overload, a restart, or the lock of a database lasts."""

UNAVAILABLE: Final[tuple[tuple[type[AsyncflowError], str], ...]] = (
    (errors.RunnerOverloadedError, "The service is at capacity; nothing was started. Retry later."),
    (errors.RunnerClosedError, "The service is starting or shutting down; nothing was started. Retry later."),
    (errors.RunInterruptedError, "The run was interrupted; it will be recovered. Retry later."),
    (errors.RunLockedError, "Another process owns the run. Retry later."),
    (errors.RunFencedError, "Another process owns the run. Retry later."),
    (errors.StorageBusyError, "The storage is busy. Retry later."),
    (errors.StorageUnreachableError, "The storage is unreachable. Retry later."),
    (errors.StorageVersionError, "A newer version of asyncflow wrote this. Upgrade the service."),
    (errors.StorageCorruptError, "The storage is damaged. Nothing was changed; restore it from a backup."),
    (errors.StorageError, "The storage cannot be used; see the log of the service. Retry later."),
)
"""Errors of the server that end when it is free, reachable or repaired, and the text of the response. The rest is for the log."""

RETRIED: Final = (errors.StorageBusyError, errors.StorageUnreachableError)
"""Errors of the storage that need no cure."""

STATUS: Final[tuple[tuple[type[AsyncflowError], int, str], ...]] = (
    (errors.RunNotFoundError, 404, "No such run. Give the whole id; GET /runs lists the runs."),
    (errors.InvalidRunIdError, 404, "No such run. Give the whole id; GET /runs lists the runs."),
    (
        errors.CheckpointCorruptError,
        409,
        "The stored run is damaged. Nothing was changed, and other runs are not affected. `asyncflow db check` shows the damage; "
        "restore the storage from a backup.",
    ),
    (errors.RunFlowMismatchError, 409, "The run belongs to another flow. Use the route of that flow."),
    (errors.RunInputsError, 409, "The run was started with other inputs. Send them again, or another Idempotency-Key."),
    (errors.RunCancelledError, 409, "The run was cancelled permanently. Start another run."),
    (
        errors.StateSchemaError,
        409,
        "The stored state no longer fits the flow. Deploy a flow that it fits, or cancel the run.",
    ),
    (
        errors.UnknownSignalError,
        404,
        "No such signal: the service does not serve it, or the flow does not declare it. `links` of the run name those it waits for.",
    ),
    (errors.RunEndedError, 409, "The run has ended, and takes no signals."),
    (
        errors.SignalKeyError,
        409,
        "The run has another signal with this Idempotency-Key. Send the same one, or another key.",
    ),
    (errors.NotWaitingError, 409, "Nothing waits for this signal now. Send it when `waits_for` of the run has it."),
    (errors.InboxFullError, 429, "The run has too many signals that nothing has taken. Retry later."),
    (errors.CapabilityMissingError, 501, "The storage of the service does not support this."),
)

DESCRIPTIONS: Final = {
    404: "No such run of these flows.",
    409: "The status of the run does not allow this, or it is damaged; or, under the same Idempotency-Key, a run failed, was cancelled "
    "or has other inputs. `detail` says which.",
    413: "The body is too large.",
    422: "The body does not fit.",
    429: "The run has too many signals that nothing has taken.",
    401: "Rejected by `authorize`.",
    403: "Rejected by `authorize`.",
    500: "An error in the flow's own code; see the log of the service.",
    501: "The storage does not support this.",
    503: "The service is at capacity, starting or shutting down, or its storage cannot be used. Retry after `Retry-After` seconds.",
}


def uncancelled() -> bool:
    """Whether the cancellation that was just caught is a native one, of this task alone; if so, undo it.

    A cancellation by a cancel scope stays in effect, and the caller has to re-raise it.
    """
    task = None if anyio.current_effective_deadline() == -math.inf else asyncio.current_task()
    if task is None:
        return False
    task.uncancel()
    return True


class Unread(NamedTuple):
    """A request body that is not parsed yet: a route parses it only after the client has been authorized."""

    data: bytes


class _UnreadRequest(Request):
    """Returns its body unparsed to FastAPI, which asks first, and parsed, as usual, to dependencies, which may want to read it."""

    _was_asked = False

    async def json(self) -> Any:
        was_asked, self._was_asked = self._was_asked, True
        data = await self.body()
        return Unread(data) if data and self._says_json() and not was_asked else await super().json()

    def _says_json(self) -> bool:
        """Whether the content type is JSON, by the same check as FastAPI's: FastAPI asks for nothing else."""
        kind, _, subtype = self.headers.get("content-type", "").partition(";")[0].strip().lower().partition("/")
        return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


class FlowRoute(APIRoute):
    """A route that answers errors of asyncflow with HTTP responses, and leaves JSON bodies unparsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, wrapped so that it answers errors."""
        handle, has_body = super().get_route_handler(), self.body_field is not None

        async def answered(request: Request) -> Response:
            try:
                return await handle(_UnreadRequest(request.scope, request.receive) if has_body else request)
            except anyio.get_cancelled_exc_class():
                if not uncancelled():
                    raise
                raise unavailable("The service is shutting down.") from None
            except RequestValidationError as error:
                raise _writable(error) from error
            except AsyncflowError as error:
                raise answer(error) or failed(error) from error

        return answered


def answer(error: AsyncflowError) -> Exception | None:
    """Return the exception that answers a request which met this error; None if it is the server's own fault."""
    if isinstance(error, JsonInputsError | errors.SignalPayloadError):
        return RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"]), "input": None} for fault in error.found]
        )
    if isinstance(error, errors.RunInputsError) and error.run_id is None:  # else: a run conflicts
        return misfit(str(error), *error.places)
    if isinstance(error, errors.NotStorableError | errors.LimitExceededError):
        return misfit(str(error))
    if isinstance(error, errors.FlowDefinitionError) and error.run_id is not None:
        return HTTPException(
            409, "The run cannot continue with the present flow. Deploy a flow that it fits, or cancel the run."
        )
    why = next((why for kind, why in UNAVAILABLE if isinstance(error, kind)), None)
    found = next(((status, why) for kind, status, why in STATUS if isinstance(error, kind)), None)
    if isinstance(error, errors.StorageError) and not isinstance(
        error, RETRIED
    ):  # its cause may have values of the run
        logger.error("request failed: %s", error, extra={"run_id": error.run_id})
    if found is not None:
        return HTTPException(*found)
    return None if why is None else unavailable(why)


def failed(error: AsyncflowError) -> HTTPException:
    """Log an error that is the server's own fault, and return the 500 response for it."""
    logger.error("request failed: %s", error, exc_info=error, extra={"run_id": error.run_id})
    return HTTPException(500, "Internal error; see the log of the service.")


def _writable(error: RequestValidationError) -> RequestValidationError:
    """Return the error without values that JSON cannot hold: FastAPI echoes the client's input, and fails at a NaN."""
    found = [_without(e) for e in error.errors()]
    return RequestValidationError(found, body=error.body)


def _without(found: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(found.get("input"), allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return {**found, "input": None}
    return found


def misfit(message: str, *places: tuple[str | int, ...], kind: str = "value_error") -> RequestValidationError:
    """Return a validation error in FastAPI's own shape: the body does not fit, at these places or as a whole."""
    fault = {"type": kind, "msg": message, "input": None}
    return RequestValidationError([{**fault, "loc": ("body", *place)} for place in places or ((),)])


def unavailable(why: str, location: str | None = None) -> HTTPException:
    """Return a 503 response with `Retry-After`."""
    where = {} if location is None else {"Location": location}
    return HTTPException(503, why, {"Retry-After": RETRY_AFTER, **where})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these statuses, for the OpenAPI schema."""
    return {status: {"model": Problem, "description": DESCRIPTIONS[status]} for status in statuses}


def documented_of_stream(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these statuses of a route that answers with a stream, whose problems are JSON nevertheless."""
    body = {"application/json": {"schema": Problem.model_json_schema()}}
    return {status: {"content": body, "description": DESCRIPTIONS[status]} for status in statuses}
