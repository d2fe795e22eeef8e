"""Load, fork and edit stored runs. This module runs no methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from .._runtime.parking import Parked, only_waits, wakes_at
from .._scheduling.progress import Progress
from .._scheduling.signals import is_waiting
from ..errors import RunInputsError
from ..persistence.protocol import FlowPersistence, session
from ..persistence.status import Status
from ..state import reconcile_run_ids
from .inputs import materialized
from .instance import Instance
from .ownership import Claim, catalog_entry, owned, status_now
from .passes import write_snapshot
from .setup import Setup

__all__ = ["edit", "fork", "load_into"]


async def load_into(instance: Instance, run_id: str, seq: int | None = None) -> None:
    """Load a stored run into an instance, and run nothing."""
    async with session(instance.storage("load")):
        instance.show(await instance.found(run_id, seq))
        if seq is None and instance.status == "interrupted":
            instance.status = await status_now(instance.storage("load"), run_id, "running")


async def fork(instance: Instance, run_id: str, seq: int | None) -> None:
    """Store a copy of a run, as of a checkpoint, under the instance's own id."""
    persistence = instance.storage("fork")
    own_id = instance.own_id
    async with session(persistence), owned(persistence, own_id, is_new=True) as claim:
        stored = await instance.found(run_id, seq)
        c = stored.checkpoint
        stored.progress.parent = None  # the copy has a life of its own
        stored.progress.origin = run_id, c.seq
        stored.progress.postpone(instance.setup.clock() - c.at)
        copy = replace(stored, checkpoint=c._replace(run_id=own_id), state=instance.with_id(stored.state, own_id))
        is_open = stored.progress.is_open or bool(instance.setup.settings.definition.signals)
        status: Status = "finished" if c.status == "finished" or not is_open else "running"
        await write_snapshot(instance.setup, "started", status, copy, claim, after=None)
        claim.is_over = status == "finished"
        instance.show(await instance.found(own_id))
        if status == "running" and _is_parked(instance.setup, stored.progress):
            claim.parked = Parked(wakes_at(stored.progress, instance.setup.clock()))
            instance.status = "waiting"


async def edit(instance: Instance, changes: Any, fields: Mapping[str, Any]) -> None:
    """Edit the stored state of a run that is not running, and store the edit as a checkpoint of its own."""
    persistence = instance.storage("update_state")
    given = materialized(changes, lambda: instance.state_type) | dict(fields)
    given_id = instance.state_type.ids_taken(given)
    with instance.driving():
        run_id = instance.run_id
        async with session(persistence), _keeping_parked(persistence, run_id) as claim:
            stored = await instance.found(run_id)
            if claim.parked is not None:
                is_parked = _is_parked(instance.setup, stored.progress)
                claim.parked = Parked(wakes_at(stored.progress, instance.setup.clock())) if is_parked else None
            if given_id and (isinstance(changes, Mapping | None) or reconcile_run_ids(*given_id) != run_id):
                raise RunInputsError("the id of a run cannot be changed; nothing was written", run_id=run_id)
            state = instance.state_type.updated(instance.state_to_continue(stored), given)
            edited = replace(stored, state=state)
            status = stored.checkpoint.status
            await write_snapshot(instance.setup, "edited", status, edited, claim, after=stored.checkpoint)
            claim.is_over = status in ("finished", "cancelled")
            instance.show(await instance.found(run_id), state)
            if claim.parked is not None:
                instance.status = "waiting"


@asynccontextmanager
async def _keeping_parked(persistence: FlowPersistence, run_id: str) -> AsyncIterator[Claim]:
    """Own a run; if it is parked, park it again afterwards."""
    entry = await catalog_entry(persistence, run_id)
    async with owned(persistence, run_id, is_new=False) as claim:
        if entry is not None and entry.wake_at is not None:
            claim.parked = Parked(0.0)  # due at once, unless the caller finds out when
        yield claim


def _is_parked(setup: Setup, progress: Progress) -> bool:
    """Whether a run, as it is stored, only waits, so that it is parked."""
    definition = setup.settings.definition
    return setup.parks and only_waits(progress) and (progress.is_open or is_waiting(definition, progress))
