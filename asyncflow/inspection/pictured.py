"""The picture of a stored run, with the durations that its checkpoints show."""

from __future__ import annotations

from contextlib import suppress

from .._pictures.deriving import picture_of
from .._pictures.happening import happened_in
from .._pictures.picture import Happened, Picture
from .._runs.reading import loaded, reading
from ..errors import CapabilityMissingError
from ..flow import Flow
from ..persistence.checkpoint import decode_progress
from ..persistence.protocol import Catalog, FlowPersistence, offers, session
from ..persistence.status import status_of
from .model import Span
from .timelines import timeline

__all__ = ["run_picture"]

ROWS = 2_000
"""The newest checkpoints in which durations are looked for."""


async def run_picture(
    storage: FlowPersistence, run_id: str, flow: type[Flow[object]], *, seq: int | None = None
) -> Picture:
    """Return the picture of a run.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `flow`: its class.
    - `seq`: the number of an older checkpoint; None: the newest one.

    Raises `RunNotFoundError`, `CheckpointCorruptError`, and `StorageError`s.
    """
    async with session(storage):
        c = await loaded(storage, run_id, seq)
        spans: list[Span] = []
        with suppress(CapabilityMissingError):  # a backend without a history shows no durations
            spans = await timeline(storage, run_id, after=max(-1, c.seq - ROWS), until=c.seq)
        status = status_of(c.status, is_driven=False)
        if seq is None and offers(storage, Catalog):
            status = next((entry.status for entry in await storage.runs(run_id=run_id, limit=1)), status)
    with reading(run_id, c.seq):
        happened = happened_in(flow._definition, decode_progress(c.progress or b""), status)
    ended = sorted((span.end, span.name, span.start) for span in spans if span.kind == "attempt" and span.end)
    took = {name: end - start for end, name, start in ended}
    timed: dict[str, Happened] = {node: (*known[:2], took.get(node)) for node, known in happened.items()}
    return picture_of(flow._definition, flow.name or "").with_run(timed, run_id=run_id, status=status)
