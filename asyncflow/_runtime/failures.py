"""What went wrong in a run, told from what happened: the errors that a method fails with, and the one that a run ends with."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from .._definition.definition import MethodDefinition
from ..errors import (
    Failure,
    LimitExceededError,
    MethodError,
    MethodErrorGroup,
    StateConflictError,
    StateError,
    UnknownLabelError,
)
from ..merge import Conflict
from ..persistence.checkpoint import Checkpoint

__all__ = [
    "changed_id_error",
    "conflict_error",
    "failure_record",
    "limit_error",
    "method_error",
    "method_label_error",
    "stored_failure",
    "undeclared_label_error",
]


def method_error(flow: str, run_id: str, failures: Sequence[Failure], is_stored: bool) -> MethodError:
    """The error for what methods raised: its cause is the first user exception, untouched."""
    names = ", ".join(f"{flow}.{f.method} raised {type(f.exception).__name__}" for f in failures)
    if is_stored:
        advice = (
            f"What had completed is saved as run {run_id}: mend the cause, then `await {flow}.resume({run_id!r})` runs only "
            "what failed or never started"
        )
    else:
        advice = "The run has no persistence, so nothing is saved; with @persist it could be resumed"
    where: dict[str, Any] = {"failures": failures, "run_id": run_id, "method": failures[0].method}
    error = (
        MethodError(f"{names}. {advice}", **where)
        if len(failures) == 1
        else MethodErrorGroup(f"{names}. {advice}", [f.exception for f in failures], **where)
    )
    error.__cause__ = failures[0].exception
    return error


def stored_failure(flow: str, c: Checkpoint) -> MethodError:
    """The error of a run that has failed elsewhere, or before: the exception itself is gone, its type and text are stored."""
    told = {} if c.outcome is None else from_json(c.outcome)
    what = f"{flow}.{told['method']} raised {told['type']}: {told['message']}" if "type" in told else "a method raised"
    return MethodError(
        f"run {c.run_id} has failed: {what}. What had completed is saved; `await {flow}.resume({c.run_id!r})` runs only what failed "
        "or never started",
        run_id=c.run_id,
        method=told.get("method"),
        seq=c.seq,
    )


def conflict_error(
    flow: str, run_id: str, method: str, others: Sequence[str], conflict: Conflict
) -> StateConflictError:
    """The error for the later committer of two that changed the same thing."""
    other = " or ".join(dict.fromkeys(others)) or None
    return StateConflictError(
        f"{flow}.{method} and {other or 'another method'} ran at the same time, and {conflict.reason}: '{conflict.path or 'state'}'. "
        f"What {method} changed was dropped. Let one follow the other, write to different fields, or declare how the field "
        f"is merged, as in Annotated[int, merge.add]; resuming runs {method} again on the new state",
        path=conflict.path,
        other=other,
        run_id=run_id,
        method=method,
    )


def changed_id_error(flow: str, run_id: str, method: str) -> StateError:
    """The error for a method that changed the run's id."""
    return StateError(
        f"{flow}.{method} changed the id of the state, which is the run's; its changes were dropped. Keep `id` as it is",
        run_id=run_id,
        method=method,
    )


def limit_error(flow: str, run_id: str, method: str, limit: int) -> LimitExceededError:
    """The error for a cycle that turned too often."""
    return LimitExceededError(
        f"{flow}.{method} was about to be called more than {limit} times in one pass; if the cycle is meant to go on, raise "
        "max_method_calls (None: no limit) and resume",
        run_id=run_id,
        method=method,
    )


def undeclared_label_error(flow: str, run_id: str, method: MethodDefinition) -> UnknownLabelError:
    """The error for a router that returned a label which it does not declare."""
    known = ", ".join(sorted(method.labels or ())) or "none"
    return UnknownLabelError(
        f"the router {flow}.{method.name} returned a label that it does not declare; declared: {known}. Add it to the return "
        "annotation or to emit=. Nothing of this call was saved",
        run_id=run_id,
        method=method.name,
    )


def method_label_error(flow: str, run_id: str, method: str) -> UnknownLabelError:
    """The error for a router whose label would trigger a method by its name."""
    return UnknownLabelError(
        f"the router {flow}.{method} returned a label that is the name of a method; rename the label. Nothing of this call was "
        "saved",
        run_id=run_id,
        method=method,
    )


def failure_record(method: str, error: Exception) -> dict[str, Any]:
    """What is stored of an exception: texts that can be written, whatever the exception does."""
    return {
        "method": method,
        "type": _readable(f"{type(error).__module__}.{type(error).__qualname__}"),
        "message": _text(error),
        "traceback": _readable("".join(traceback.format_exception(error))),
    }


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _text(error: Exception) -> str:
    try:
        return _readable(str(error))
    except Exception:  # a foreign __str__ may raise anything; the failure is recorded all the same
        return ""
