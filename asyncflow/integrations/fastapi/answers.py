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

__all__ = ["FlowRoute", "Unread", "answer", "documented", "failed", "misfit", "unavailable", "uncancelled"]

logger = logging.getLogger("asyncflow")

RETRY_AFTER: Final = "2"
"""Seconds until a client should retry: about as long as an overload, a restart, or the lock of a database lasts."""

UNAVAILABLE: Final[tuple[tuple[type[AsyncflowError], str], ...]] = (
    (errors.RunnerOverloadedError, "The service has as many runs as it takes; nothing was started."),
    (errors.RunnerClosedError, "The service has not begun, or is ending; nothing was started."),
    (errors.RunInterruptedError, "The run was stopped; it goes on later."),
    (errors.RunLockedError, "Somebody else drives the run."),
    (errors.RunFencedError, "Somebody else drives the run."),
    (errors.StorageError, "The storage cannot be reached, or could not do it now."),
)
"""Errors that a retry may fix, later or in another process, and the text of the response. The rest of an error is for the log."""

DAMAGED: Final = (errors.CheckpointCorruptError, errors.StorageCorruptError)
"""Storage errors that a retry does not fix."""

STATUS: Final[tuple[tuple[type[AsyncflowError], int, str], ...]] = (
    (errors.RunNotFoundError, 404, "There is no such run."),
    (errors.InvalidRunIdError, 404, "There is no such run."),
    (errors.RunFlowMismatchError, 409, "The run is of another flow."),
    (errors.RunInputsError, 409, "The run was begun with other inputs."),
    (errors.RunCancelledError, 409, "The run was cancelled."),
    (errors.StateSchemaError, 409, "The run does not fit the flow any more."),
    (errors.CapabilityMissingError, 501, "The storage cannot do that."),
)

TOLD: Final = {
    404: "There is no such run of these flows.",
    409: "The run stands where this cannot be done, or has failed or was begun with other inputs under the same key.",
    401: "Refused by `authorize`.",
    403: "Refused by `authorize`.",
    500: "A fault of the service, such as a run whose stored checkpoint is damaged; its log says which.",
    501: "The storage cannot do that.",
    503: "The service is overloaded, starting or ending, or its storage cannot be reached. Try again after `Retry-After` seconds.",
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
                raise unavailable("The service is ending.") from None
            except RequestValidationError as error:
                raise _writable(error) from error
            except AsyncflowError as error:
                raise answer(error) or failed(error) from error

        return answered


def answer(error: AsyncflowError) -> Exception | None:
    """Return the exception that answers a request which met this error; None if it is the server's own fault."""
    if isinstance(error, JsonInputsError):
        return RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"]), "input": None} for fault in error.found]
        )
    if isinstance(error, errors.RunInputsError) and error.run_id is None:  # else: a run conflicts
        return misfit(str(error), *error.places)
    if isinstance(error, errors.NotStorableError | errors.LimitExceededError):
        return misfit(str(error))
    if isinstance(error, errors.FlowDefinitionError) and error.run_id is not None:
        return HTTPException(409, "The run cannot go on with the flow as it is now.")
    if not isinstance(error, DAMAGED):
        why = next((why for kind, why in UNAVAILABLE if isinstance(error, kind)), None)
        if why is not None:
            return unavailable(why)
    return next((HTTPException(status, why) for kind, status, why in STATUS if isinstance(error, kind)), None)


def failed(error: AsyncflowError) -> HTTPException:
    """Log an error that is the server's own fault, and return the 500 response for it."""
    logger.error("a request could not be served: %s", error, exc_info=error)
    return HTTPException(500, "The service could not do that; its log says why.")


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
    told = {"type": kind, "msg": message, "input": None}
    return RequestValidationError([{**told, "loc": ("body", *place)} for place in places or ((),)])


def unavailable(why: str, location: str | None = None) -> HTTPException:
    """Return a 503 response with `Retry-After`."""
    where = {} if location is None else {"Location": location}
    return HTTPException(503, why, {"Retry-After": RETRY_AFTER, **where})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of these statuses, for the OpenAPI schema."""
    return {status: {"model": Problem, "description": TOLD[status]} for status in statuses}
