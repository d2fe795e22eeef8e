"""Ending a stored run for good, whoever drives it: its driver is fenced off. It needs no flow class."""

from __future__ import annotations

from ..errors import CapabilityMissingError
from ..persistence.checkpoint import decode_progress
from ..persistence.protocol import FlowPersistence, Ownership, offers
from . import refusals
from .recorder import Recorder
from .runs import session

__all__ = ["cancel_stored"]


async def cancel_stored(persistence: FlowPersistence, run_id: str) -> None:
    """Record that a run was cancelled. One that has finished stays as it is.

    Raises `RunNotFoundError`, `CapabilityMissingError`.
    """
    owner = _owner(persistence)
    if owner is None:
        raise CapabilityMissingError(
            f"{type(persistence).__name__} cannot tell who drives a run: it lacks the capability Ownership",
            capability="Ownership",
            run_id=run_id,
        )
    async with session(persistence):
        newest = await persistence.load(run_id)
        if newest is None:
            raise refusals.unknown_run(persistence, run_id, None)
        if newest.status in ("finished", "cancelled"):
            return
        epoch = await owner.acquire(run_id, force=True)
        newest = await persistence.load(run_id) or newest  # its driver may have gone on until then
        if newest.status in ("finished", "cancelled"):
            await owner.release(run_id, epoch)
            return
        recorder = Recorder(
            persistence,
            None,
            flow=newest.flow,
            run_id=run_id,
            epoch=epoch,
            number=newest.number,
            inputs=newest.inputs,
            after=newest,
            whole=False,
        )
        progress = decode_progress(newest.progress or b"")
        await recorder.commit(recorder.prepare("cancelled", "cancelled", progress, outcome={}, outcome_only=True))


def _owner(persistence: object) -> Ownership | None:
    return persistence if offers(persistence, Ownership) else None
