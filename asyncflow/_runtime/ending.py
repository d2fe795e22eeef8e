"""Ending a stored run for good, whoever drives it: its driver is fenced off. It needs no flow class."""

from __future__ import annotations

from functools import partial

from .._waiting import to_its_end
from ..errors import CapabilityMissingError, RunFencedError
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.protocol import FlowPersistence, Ownership, offers
from . import refusals
from .recorder import Recorder
from .runs import give_back, session

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
        while True:
            newest = await persistence.load(run_id)
            if newest is None:
                raise refusals.unknown_run(persistence, run_id, None)
            if newest.status in ("finished", "cancelled"):
                return
            try:
                await to_its_end(partial(_end, persistence, owner, newest))
            except RunFencedError:
                pass  # somebody else cancels it at this moment: it has ended, or is to be ended by this one
            else:
                return


async def _end(persistence: FlowPersistence, owner: Ownership, newest: Checkpoint) -> None:
    """Take a run, and end it. Nobody may cut this short: the run would stay with this process, which does not drive it."""
    run_id = newest.run_id
    epoch = await owner.acquire(run_id, force=True)
    is_over = False
    try:
        newest = await persistence.load(run_id) or newest  # its driver may have gone on until then
        if newest.status not in ("finished", "cancelled"):
            await _record_end(persistence, newest, epoch)
            is_over = True
    finally:
        if not is_over:
            await give_back(owner, run_id, epoch)


async def _record_end(persistence: FlowPersistence, newest: Checkpoint, epoch: int) -> None:
    recorder = Recorder(
        persistence,
        None,
        flow=newest.flow,
        identity=newest.identity,
        run_id=newest.run_id,
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
