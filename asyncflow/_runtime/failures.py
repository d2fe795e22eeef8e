"""The errors that a run ends with, told from what happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import Failure, MethodError, MethodErrorGroup, StateConflictError
from ..merge import Conflict

__all__ = ["conflict_error", "method_error"]


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
