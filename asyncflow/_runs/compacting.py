"""Delete the earlier passes of a stored run."""

from __future__ import annotations

from ..errors import CapabilityMissingError
from ..persistence.compaction import Compaction
from ..persistence.protocol import FlowPersistence, offers, session
from . import call_errors as refusals
from .matching import check_flow
from .setup import Setup

__all__ = ["compact", "compact_stored"]


async def compact(setup: Setup, run_id: str) -> int:
    """Delete the earlier passes of a run of this flow. Return how many checkpoints were deleted."""
    persistence = setup.persistence
    if persistence is None:
        raise refusals.not_stored(setup.settings.name, "compact")
    async with session(persistence):
        stored = await persistence.load(run_id)
        if stored is not None:
            check_flow(setup.settings.identity, stored)
        return await compact_stored(persistence, run_id)


async def compact_stored(persistence: FlowPersistence, run_id: str) -> int:
    """Delete the earlier passes of a run. Raises `CapabilityMissingError`, `RunNotFoundError`."""
    if not offers(persistence, Compaction):
        raise CapabilityMissingError(
            f"{type(persistence).__name__} cannot delete a part of a run: it lacks the capability Compaction",
            capability="Compaction",
            run_id=run_id,
        )
    async with session(persistence):
        deleted = await persistence.compact(run_id)
    if deleted is None:
        raise refusals.unknown_run(persistence, run_id, None)
    return deleted
