"""Telling what is stored of a run to whoever listens."""

from __future__ import annotations

import logging

from pydantic_core import from_json

from ..events import Event, events_of
from ..persistence.checkpoint import Checkpoint, decode_transition

__all__ = ["log_events", "told_by"]

logger = logging.getLogger("asyncflow")


def told_by(checkpoint: Checkpoint) -> list[Event]:
    """The events of a checkpoint."""
    failure = "" if checkpoint.outcome is None else str(from_json(checkpoint.outcome).get("type", ""))
    if checkpoint.changes is None:
        return events_of(checkpoint._asdict(), failure=failure)
    transition = decode_transition(checkpoint.changes)
    enabled = [invocation.key for invocation in transition.enabled]
    return events_of(checkpoint._asdict(), enabled=enabled, passed_over=transition.passed_over, failure=failure)


def log_events(checkpoint: Checkpoint) -> None:
    """Log the events of a checkpoint at INFO: what `@persist(verbose=True)` asks for."""
    for event in told_by(checkpoint):
        logger.info("%s %s: %s", event.flow, event.run_id, event)
