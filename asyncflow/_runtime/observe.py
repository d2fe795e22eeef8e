"""Report the stored checkpoints of a run to observers, as events."""

from __future__ import annotations

import logging
from typing import Any

from .._scheduling.messages import Transition
from ..events import (
    Event,
    MethodFailed,
    MethodFinished,
    MethodRetrying,
    MethodSkipped,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SignalTaken,
    StateEdited,
    TimerFired,
)
from ..persistence.checkpoint import Checkpoint, decode_transition
from ..persistence.outcome import Failed, decode_outcome
from .attempts import attempt_of

__all__ = ["events_from", "log_events"]

logger = logging.getLogger("asyncflow")


def events_from(c: Checkpoint) -> list[Event]:
    """Return the events of a checkpoint, in order."""
    found: list[tuple[type[Event], dict[str, Any]]] = []
    match c.kind:
        case "started":
            ended = [(MethodFinished, {"invocation": c.method, "enabled": ()})] if c.method else []
            found += [*ended, (RunStarted, {"pass_number": c.pass_number})]
        case "resumed":
            found.append((RunResumed, {"pass_number": c.pass_number}))
        case "method" | "finished":
            found += _ended(c)
        case "failed" if c.method:
            found.append((MethodFailed, {"invocation": c.method, "type": _raised(c)}))
        case "retrying":
            found.append((MethodRetrying, _retrying(c)))
        case "timer":
            found += _timer_fired(c)
        case "signal":
            found.append((SignalTaken, {"signal": c.method.rpartition(":")[0], "enabled": _enabled(c)}))
        case "cancelled":
            found.append((RunCancelled, {}))
        case "edited":
            found.append((StateEdited, {}))
    if c.kind == "finished":
        found.append((RunFinished, {}))
    if c.status == "failed" and c.kind in ("method", "failed", "retrying"):
        found.append((RunFailed, {}))
    where: dict[str, Any] = {"run_id": c.run_id, "flow": c.flow, "seq": c.seq, "at": c.at}
    return [cls(**where, n=n, **fields) for n, (cls, fields) in enumerate(found)]


def _ended(c: Checkpoint) -> list[tuple[type[Event], dict[str, Any]]]:
    """Return the events of a method's end, with their own fields."""
    enabled: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    if c.changes is not None:
        transition = decode_transition(c.changes)
        enabled, skipped = tuple([invocation.key for invocation in transition.enabled]), transition.skipped
        if transition.completed and transition.completed != c.method:  # with the last of its items
            whole = MethodFinished, {"invocation": transition.completed, "enabled": enabled}
            return [
                (MethodFinished, {"invocation": c.method, "enabled": ()}),
                whole,
                *_skipped(skipped, transition.completed),
            ]
    ends = [(MethodFinished, {"invocation": c.method, "enabled": enabled})] if c.method else []
    return [*ends, *_skipped(skipped, c.method)]


def _skipped(methods: tuple[str, ...], invocation: str) -> list[tuple[type[Event], dict[str, Any]]]:
    return [(MethodSkipped, {"method": method, "invocation": invocation}) for method in methods]


def _raised(c: Checkpoint) -> str:
    """Return the type of the exception with which a method failed; '' if the checkpoint stores none."""
    outcome = None if c.outcome is None else decode_outcome(c.outcome)
    return outcome.newest.type if isinstance(outcome, Failed) else ""


def _timer_fired(c: Checkpoint) -> list[tuple[type[Event], dict[str, Any]]]:
    """Return the events of a timer, with their own fields."""
    transition = Transition() if c.changes is None else decode_transition(c.changes)
    listener, timer = (
        ("", "") if transition.timing is None or transition.timing.fired is None else transition.timing.fired[:2]
    )
    return [(TimerFired, {"timer": timer, "listener": listener, "enabled": _enabled(c)})]


def _enabled(c: Checkpoint) -> tuple[str, ...]:
    """Return the invocations that a checkpoint enabled. A snapshot may not say it."""
    return () if c.changes is None else tuple([enabled.key for enabled in decode_transition(c.changes).enabled])


def _retrying(c: Checkpoint) -> dict[str, Any]:
    """Return the fields of an attempt that failed and is followed by another one."""
    failed, due = attempt_of(c)
    number, error = (0, "") if failed is None else (failed.number, failed.type)
    return {"invocation": c.method, "attempt": number, "type": error, "due": due}


def log_events(checkpoint: Checkpoint) -> None:
    """Log the events of a checkpoint at INFO, for `@persist(verbose=True)`."""
    for event in events_from(checkpoint):
        logger.info("run event: %s %s: %s", event.flow, event.run_id, event)
