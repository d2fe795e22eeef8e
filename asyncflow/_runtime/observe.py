"""Report the stored checkpoints of a run to observers, as events."""

from __future__ import annotations

import logging

from pydantic_core import from_json

from ..events import Event, events_of
from ..persistence.checkpoint import Checkpoint, decode_transition

__all__ = ["events_from", "log_events"]

logger = logging.getLogger("asyncflow")


def events_from(checkpoint: Checkpoint) -> list[Event]:
    """Return the events of a checkpoint."""
    failure = "" if checkpoint.outcome is None else str(from_json(checkpoint.outcome).get("type", ""))
    if checkpoint.changes is None:
        return events_of(checkpoint._asdict(), failure=failure)
    transition = decode_transition(checkpoint.changes)
    enabled = [invocation.key for invocation in transition.enabled]
    return events_of(checkpoint._asdict(), enabled=enabled, passed_over=transition.passed_over, failure=failure)


def log_events(checkpoint: Checkpoint) -> None:
    """Log the events of a checkpoint at INFO, for `@persist(verbose=True)`."""
    for event in events_from(checkpoint):
        logger.info("%s %s: %s", event.flow, event.run_id, event)
