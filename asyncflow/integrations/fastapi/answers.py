"""What each error of asyncflow is in HTTP: whose fault it is, and whether trying again helps.

It names asyncio: a server there that ends cancels the tasks of its requests, and what they answer then is a 500 of its own.
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

__all__ = ["FlowRoute", "Unread", "answer", "documented", "misfit", "unavailable", "uncancelled"]

logger = logging.getLogger("asyncflow")

RETRY_AFTER: Final = "2"
"""Seconds: about what an overload, a restart, or the lock of a database takes."""

UNAVAILABLE: Final[tuple[tuple[type[AsyncflowError], str], ...]] = (
    (errors.RunnerOverloadedError, "The service has as many runs as it takes; nothing was started."),
    (errors.RunnerClosedError, "The service has not begun, or is ending; nothing was started."),
    (errors.RunInterruptedError, "The run was stopped; it goes on later."),
    (errors.RunLockedError, "Somebody else drives the run."),
    (errors.RunFencedError, "Somebody else drives the run."),
    (errors.StorageError, "The storage cannot be reached, or could not do it now."),
)
"""Not now, but perhaps later, or in another process. What else an error says is for the log."""

DAMAGED: Final = (errors.CheckpointCorruptError, errors.StorageCorruptError)
"""Storage errors that trying again does not mend."""

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
    """Whether the cancellation that was just caught is a native one, of this task alone; then it is taken back.

    That of a scope goes on, and has to be let through.
    """
    task = None if anyio.current_effective_deadline() == -math.inf else asyncio.current_task()
    if task is None:
        return False
    task.uncancel()
    return True


class Unread(NamedTuple):
    """A body that is still to be read: by whoever asks for it, once it is known that the sender may."""

    data: bytes


class _UnreadRequest(Request):
    """Gives its body unread to FastAPI, which asks first, and as ever to dependencies, which may want to look at it."""

    _was_asked = False

    async def json(self) -> Any:
        was_asked, self._was_asked = self._was_asked, True
        data = await self.body()
        return Unread(data) if data and self._says_json() and not was_asked else await super().json()

    def _says_json(self) -> bool:
        """As FastAPI finds it out: it asks for nothing else."""
        kind, _, subtype = self.headers.get("content-type", "").partition(";")[0].strip().lower().partition("/")
        return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


class FlowRoute(APIRoute):
    """A route that answers errors of asyncflow as HTTP has them, and leaves JSON bodies unread."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors answered."""
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
                known = answer(error)
                if known is None:
                    logger.error("a request could not be served: %s", error, exc_info=error)
                    known = HTTPException(500, "The service could not do that; its log says why.")
                raise known from error

        return answered


def answer(error: AsyncflowError) -> Exception | None:
    """What a request is told that met this error; None where it is the server's own fault."""
    if isinstance(error, JsonInputsError):
        return RequestValidationError(
            [{**fault, "loc": ("body", *fault["loc"]), "input": None} for fault in error.found]
        )
    if isinstance(error, errors.RunInputsError) and error.run_id is None:  # else: a run has others
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


def _writable(error: RequestValidationError) -> RequestValidationError:
    """The same without what JSON cannot hold: FastAPI tells a client what it sent, and fails at a NaN."""
    found = [_without(e) for e in error.errors()]
    return RequestValidationError(found, body=error.body)


def _without(found: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(found.get("input"), allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return {**found, "input": None}
    return found


def misfit(message: str, *places: tuple[str | int, ...], kind: str = "value_error") -> RequestValidationError:
    """A body that does not fit, in these places or as a whole, in FastAPI's own shape."""
    told = {"type": kind, "msg": message, "input": None}
    return RequestValidationError([{**told, "loc": ("body", *place)} for place in places or ((),)])


def unavailable(why: str, location: str | None = None) -> HTTPException:
    """Not now."""
    where = {} if location is None else {"Location": location}
    return HTTPException(503, why, {"Retry-After": RETRY_AFTER, **where})


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These answers, for the schema."""
    return {status: {"model": Problem, "description": TOLD[status]} for status in statuses}
