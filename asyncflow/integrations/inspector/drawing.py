"""The graph of a run: the picture of its flow, with what the run did."""

from __future__ import annotations

from ..._pictures.deriving import picture_of
from ..._pictures.happening import happened_in
from ...persistence.checkpoint import Checkpoint, decode_progress
from ...persistence.status import Status
from .site import KnownFlow

__all__ = ["picture_json"]


def picture_json(known: KnownFlow | None, stored: Checkpoint | None, status: Status) -> str:
    """Return the graph of a run as JSON, for `draw.js`; '' if the class of its flow is not known."""
    if known is None or stored is None:
        return ""
    definition = known.cls._definition
    happened = happened_in(definition, decode_progress(stored.progress or b""), status)
    return picture_of(definition, known.info.name).with_run(happened, run_id=stored.run_id, status=status).to_json()
