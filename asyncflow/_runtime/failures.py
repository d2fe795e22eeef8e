"""The errors of a run, built from what happened: those that a method fails with, and the one that the run ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from .._definition.definition import MethodDefinition
from .._failure import Failure, type_of
from ..errors import (
    AsyncflowError,
    LimitExceededError,
    MethodError,
    MethodErrorGroup,
    RecordedException,
    RunTimeoutError,
    StateConflictError,
    StateError,
    UnknownLabelError,
)
from ..merge import Conflict
from ..persistence.checkpoint import Checkpoint
from ..persistence.outcome import Failed, StoredFailure, decode_outcome
from .attempts import decode_attempts, encodable, encode_attempts

__all__ = [
    "changed_id_error",
    "conflict_error",
    "failed_with",
    "limit_error",
    "method_error",
    "method_label_error",
    "run_timed_out",
    "run_timeout_error",
    "stored_failure",
    "stored_failures",
    "undeclared_label_error",
]


NAMED: Final = 10
"""The maximum number of failures that a message names."""

EARLIER: Final = 20
EARLIER_BYTES: Final = 64 * 1024
"""The maximum number and total size of a pass's earlier failures that are stored again with its last one."""


def method_error(flow: str, run_id: str, failures: Sequence[Failure], is_stored: bool) -> MethodError:
    """Return the error for what methods raised. Its cause is the first user exception, unchanged."""
    if is_stored:
        advice = (
            f"What had completed is saved as run {run_id}. Fix the cause; then `await {flow}.resume({run_id!r})` runs only what "
            "failed or never started"
        )
    else:
        advice = "The run has no persistence, so nothing is saved; with @persist it could be resumed"
    named = _named(flow, failures, lambda f: type(f.exception).__name__, _own_text)
    return _of_failures(f"{named}. {advice}", failures, run_id=run_id)


def run_timeout_error(flow: str, run_id: str, failures: Sequence[Failure], recorder: object) -> RunTimeoutError:
    """Return the error of a run whose time limit passed. `failures`: what its methods had raised by then."""
    if recorder is None:
        advice = "The run has no persistence, so nothing is saved"
    else:
        advice = (
            f"What had completed is saved as run {run_id}. `await {flow}.resume({run_id!r}, run_timeout=...)` continues it with a new "
            "time limit"
        )
    text = f"{flow} did not finish within its run_timeout; its running methods were cancelled. {advice}"
    return RunTimeoutError(text, failures=failures, run_id=run_id)


def run_timed_out(error: RunTimeoutError, pass_number: int) -> Failed:
    """Return what to store of a run whose time limit passed."""
    return failed_with([*error.failures, Failure("", f"{error.run_id}/{pass_number}/", error)], is_over=True)


def stored_failure(flow: str, c: Checkpoint) -> MethodError:
    """Return the error of a run that failed elsewhere or earlier. The exceptions themselves are gone; their texts are stored."""
    failures = stored_failures(c)
    if failures and failures[-1].type == type_of(RunTimeoutError("")):
        *before, late = failures
        return RunTimeoutError(late.message, failures=before, run_id=c.run_id, seq=c.seq)
    what = _named(flow, failures, lambda f: f.type, lambda f: f.message) if failures else "a method raised"
    text = (
        f"run {c.run_id} has failed: {what}. What had completed is saved. `await {flow}.resume({c.run_id!r})` runs only what failed "
        "or never started"
    )
    if not failures:
        return MethodError(text, run_id=c.run_id, seq=c.seq)
    return _of_failures(text, failures, run_id=c.run_id, seq=c.seq)


def stored_failures(c: Checkpoint) -> list[Failure]:
    """Return the exceptions of a pass, as far as a checkpoint stores them."""
    outcome = None if c.outcome is None else decode_outcome(c.outcome)
    return [_recorded(c, failure) for failure in outcome.failures] if isinstance(outcome, Failed) else []


def _recorded(c: Checkpoint, f: StoredFailure) -> Failure:
    exception = RecordedException(
        f.message,
        recorded_type=f.type,
        recorded_traceback=f.traceback,
        run_id=c.run_id,
        method=f.method,
        seq=c.seq,
    )
    attempts = decode_attempts(f.attempts)
    return Failure(
        f.method,
        f"{c.run_id}/{c.pass_number}/{f.invocation or c.method or f.method}",
        exception,
        attempts[:-1],
        attempts[-1].number if attempts else 1,
        attempts[-1].at if attempts else c.at,
    )


def _of_failures(text: str, failures: Sequence[Failure], **where: Any) -> MethodError:
    where |= {"failures": failures, "method": failures[0].method}
    exceptions = [failure.exception for failure in failures]
    error = MethodError(text, **where) if len(failures) == 1 else MethodErrorGroup(text, exceptions, **where)
    error.__cause__ = exceptions[0]
    return error


def _named(
    flow: str, failures: Sequence[Failure], type_of: Callable[[Failure], str], text_of: Callable[[Failure], str]
) -> str:
    """Return a text that names which methods raised what, and in which of their invocations."""
    named = []
    for f in failures[:NAMED]:
        text = text_of(f)
        key = f.invocation_id.rpartition("/")[2]
        often = f", attempt {f.number}" if f.number > 1 else ""
        named.append(f"{flow}.{f.method} raised {type_of(f)} ({key}{often})" + (f": {text}" if text else ""))
    more = len(failures) - len(named)
    return ", ".join(named) + (f", and {more} more raised" if more else "")


def _own_text(failure: Failure) -> str:
    """Return the message of asyncflow's own errors, which contains none of the user's values; '' for other exceptions."""
    return failure.message if isinstance(failure.exception, AsyncflowError) else ""


def conflict_error(
    flow: str, run_id: str, method: str, others: Sequence[str], conflict: Conflict
) -> StateConflictError:
    """Return the error for the later of two committers that changed the same thing."""
    other = " or ".join(dict.fromkeys(others)) or None
    return StateConflictError(
        f"{flow}.{method} and {other or 'another method'} ran at the same time, and {conflict.reason}: '{conflict.path or 'state'}'. "
        f"The changes of {method} were dropped. Run one after the other, write to different fields, or declare how the field "
        f"is merged, as in Annotated[int, merge.add]. A resume runs {method} again on the new state",
        path=conflict.path,
        other=other,
        run_id=run_id,
        method=method,
    )


def changed_id_error(flow: str, run_id: str, method: str) -> StateError:
    """Return the error for a method that changed the run's id."""
    return StateError(
        f"{flow}.{method} changed the id of the state, which is the run's id. Its changes were dropped. Leave `id` unchanged",
        run_id=run_id,
        method=method,
    )


def limit_error(flow: str, run_id: str, method: str, limit: int) -> LimitExceededError:
    """Return the error for a cycle that called a method too often."""
    return LimitExceededError(
        f"{flow}.{method} was about to be called more than {limit} times in one pass. If the cycle is intended, raise "
        "max_method_calls (None: no limit) and resume",
        run_id=run_id,
        method=method,
    )


def undeclared_label_error(flow: str, run_id: str, method: MethodDefinition) -> UnknownLabelError:
    """Return the error for a router that returned a label that it does not declare."""
    known = ", ".join(sorted(method.labels or ())) or "none"
    return UnknownLabelError(
        f"the router {flow}.{method.name} returned a label that it does not declare. Declared: {known}. Add it to the return "
        "annotation or to emit=",
        run_id=run_id,
        method=method.name,
    )


def method_label_error(flow: str, run_id: str, method: str) -> UnknownLabelError:
    """Return the error for a router that returned a label that is a method's name, and would trigger by that name."""
    return UnknownLabelError(
        f"the router {flow}.{method} returned a label that is the name of a method or a timer. Rename the label",
        run_id=run_id,
        method=method,
    )


def failed_with(failures: Sequence[Failure], *, is_over: bool) -> Failed:
    """Return what to store of the newest exception: texts that can always be encoded, whatever the exception does.

    If the pass ends with it, include the exceptions before it, so that one checkpoint contains all.
    """
    earlier: list[StoredFailure] = []
    size = 0
    for each in map(_stored, failures[:-1][:EARLIER] if is_over else ()):
        for kept in (each, replace(each, attempts="")):  # rather the failure without its attempts than neither
            needs = sum(
                map(len, (kept.method, kept.type, kept.message, kept.traceback, kept.invocation, kept.attempts))
            )
            if size + needs <= EARLIER_BYTES:
                earlier.append(kept)
                size += needs
                break
    return Failed((*earlier, _stored(failures[-1])))


def _stored(failure: Failure) -> StoredFailure:
    invocation = failure.invocation_id.rpartition("/")[2]
    texts = failure.method, failure.type, failure.message, failure.traceback, invocation
    attempts = encode_attempts(failure.attempts) if failure.number > 1 else ""
    return StoredFailure(*[*map(encodable, texts), attempts])
