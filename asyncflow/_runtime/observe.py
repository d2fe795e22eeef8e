"""What a checkpoint says, as events; and the same of what a run does not store."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from .._failure import FailedAttempt
from .._run_ids import child_id
from .._scheduling.messages import Transition
from ..events import (
    ChildEnded,
    Event,
    MethodFailed,
    MethodFinished,
    MethodRetrying,
    MethodSkipped,
    MethodWaiting,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SignalTaken,
    StateEdited,
    StepFinished,
    StepRetrying,
    TimerFired,
)
from ..persistence.checkpoint import Checkpoint, decode_transition
from ..persistence.outcome import Failed, decode_outcome
from ..persistence.status import Kind, Status
from .attempts import attempt_of

__all__ = ["Described", "Noticed", "described", "events_from", "log_events"]

logger = logging.getLogger("asyncflow")

Described = tuple[type[Event], dict[str, Any]]
"""The type of an event, and its own fields."""

FAILING: Final = ("method", "failed", "retrying", "step", "timer", "signal")
"""The kinds of the checkpoints with which a run can fail."""


class Noticed(NamedTuple):
    """A happening, as far as its events show it."""

    kind: Kind
    status: Status
    run_id: str
    pass_number: int
    method: str = ""
    """As in `Checkpoint.method`."""
    transition: Transition | None = None
    value: Any = None
    """The memo that was stored."""
    error: str = ""
    """The type of the exception with which the method failed."""
    attempt: FailedAttempt | None = None
    """The attempt that failed, and is followed by another one."""
    due: float = 0.0


def events_from(c: Checkpoint) -> list[Event]:
    """Return the events of a checkpoint, in order."""
    kind, attempt, due = c.kind, None, 0.0
    if kind == "retrying":
        attempt, due = attempt_of(c)
    transition = None if c.changes is None else decode_transition(c.changes)
    error = _raised(c) if kind == "failed" else ""
    happened = Noticed(kind, c.status, c.run_id, c.pass_number, c.method, transition, c.result, error, attempt, due)
    where: dict[str, Any] = {"run_id": c.run_id, "flow": c.flow, "seq": c.seq, "at": c.at}
    return [cls(**where, n=n, **fields) for n, (cls, fields) in enumerate(described(happened))]


def described(h: Noticed) -> list[Described]:
    """Return the events of a happening, with their own fields."""
    found: list[Described] = []
    match h.kind:
        case "started":
            ended: list[Described] = [(MethodFinished, {"invocation": h.method, "enabled": ()})] if h.method else []
            found += [*ended, (RunStarted, {"pass_number": h.pass_number})]
        case "resumed":
            found.append((RunResumed, {"pass_number": h.pass_number}))
        case "method" | "finished":
            found += _ended(h)
        case "failed" if h.method:
            found.append((MethodFailed, {"invocation": h.method, "type": h.error}))
        case "retrying":
            number, error = (0, "") if h.attempt is None else (h.attempt.number, h.attempt.type)
            fields = {"invocation": h.method, "attempt": number, "type": error, "due": h.due}
            found.append((MethodRetrying, fields))
        case "timer":
            found.append(_timer_fired(h))
        case "signal":
            found.append((SignalTaken, {"signal": h.method.rpartition(":")[0], "enabled": _enabled(h)}))
        case "step":
            found += _memo_stored(h)
        case "cancelled":
            found.append((RunCancelled, {}))
        case "edited":
            found.append((StateEdited, {}))
    if h.kind == "finished":
        found.append((RunFinished, {}))
    if h.status == "failed" and h.kind in FAILING:
        found.append((RunFailed, {}))
    return found


def _ended(h: Noticed) -> list[Described]:
    """Return the events of a method's end."""
    enabled: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    transition = h.transition
    if transition is not None:
        enabled, skipped = _enabled(h), transition.skipped
        if transition.completed and transition.completed != h.method:  # with the last of its items
            whole: Described = MethodFinished, {"invocation": transition.completed, "enabled": enabled}
            last: Described = MethodFinished, {"invocation": h.method, "enabled": ()}
            return [last, whole, *_skipped(skipped, transition.completed)]
    ends: list[Described] = [(MethodFinished, {"invocation": h.method, "enabled": enabled})] if h.method else []
    return [*ends, *_skipped(skipped, h.method)]


def _skipped(methods: tuple[str, ...], invocation: str) -> list[Described]:
    return [(MethodSkipped, {"method": method, "invocation": invocation}) for method in methods]


def _raised(c: Checkpoint) -> str:
    """Return the type of the exception with which a method failed; '' if the checkpoint stores none."""
    outcome = None if c.outcome is None else decode_outcome(c.outcome)
    return outcome.newest.type if isinstance(outcome, Failed) else ""


def _timer_fired(h: Noticed) -> Described:
    transition = h.transition or Transition()
    listener, timer = (
        ("", "") if transition.timing is None or transition.timing.fired is None else transition.timing.fired[:2]
    )
    return TimerFired, {"timer": timer, "listener": listener, "enabled": _enabled(h)}


def _enabled(h: Noticed) -> tuple[str, ...]:
    """Return the invocations that a happening enabled. A snapshot may not say it."""
    return () if h.transition is None else tuple([enabled.key for enabled in h.transition.enabled])


def _memo_stored(h: Noticed) -> list[Described]:
    """Return the events of a value that a running method stored: of a step, a child, or a wait that begins."""
    timing = None if h.transition is None else h.transition.timing
    if timing is None or timing.memo is None:
        return []
    (invocation, name), value = timing.memo, h.value
    what, _, rest = name.partition(" ")
    fields: dict[str, Any] = {"invocation": invocation}
    if what == "step":
        failed = from_json(value) if isinstance(value, bytes) and value[1:2] != b'"' else None
        if failed is None:
            return [(StepFinished, {**fields, "step": rest})]
        return [(StepRetrying, {**fields, "step": rest, "attempt": failed[0], "due": failed[1]})]
    if what == "run_child":
        status = (from_json(value) if isinstance(value, bytes) else value)[0]
        child = child_id(f"{h.run_id}/{h.pass_number}/{invocation}", name)
        return [(ChildEnded, {**fields, "child_id": child, "status": status})]
    if what in ("sleep", "wait_for"):
        waits_for = what if what == "sleep" else rest.partition(" ")[0]
        return [(MethodWaiting, {**fields, "waits_for": waits_for, "due": from_json(value)})]
    return []


def log_events(checkpoint: Checkpoint) -> None:
    """Log the events of a checkpoint at INFO, for `@persist(verbose=True)`."""
    for event in events_from(checkpoint):
        about = {"run_id": event.run_id, "flow": event.flow, "seq": event.seq}
        logger.info("run event: %s %s: %s", event.flow, event.run_id, event, extra=about)
