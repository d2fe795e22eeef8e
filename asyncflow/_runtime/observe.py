"""Telling what happened to whoever listens; an observer that raises cannot hurt a run."""

from __future__ import annotations

import logging

from .._scheduling.messages import Transition
from ..events import Event, events_of
from ..persistence.checkpoint import Checkpoint

__all__ = ["log_events", "told_by"]

logger = logging.getLogger("asyncflow")


def told_by(checkpoint: Checkpoint, transition: Transition | None) -> list[Event]:
    """The events of a checkpoint."""
    fields = {
        name: getattr(checkpoint, name)
        for name in ("run_id", "flow", "seq", "at", "number", "kind", "status", "method")
    }
    if transition is None:
        return events_of(fields)
    enabled = [invocation.key for invocation in transition.enabled]
    return events_of(fields, enabled=enabled, passed_over=transition.passed_over)


def log_events(checkpoint: Checkpoint, transition: Transition | None) -> None:
    """Log the events of a checkpoint at INFO: what `@persist(verbose=True)` asks for."""
    for event in told_by(checkpoint, transition):
        logger.info("%s %s: %s", event.flow, event.run_id, event)
