"""Load, fork and edit stored runs. This module runs no methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import RunInputsError
from ..persistence.protocol import session
from ..persistence.status import Status
from ..state import reconcile_run_ids
from .inputs import materialized
from .instance import Instance
from .ownership import is_driven, owned
from .passes import write_snapshot

__all__ = ["edit", "fork", "load_into"]


async def load_into(instance: Instance, run_id: str, seq: int | None = None) -> None:
    """Load a stored run into an instance, and run nothing."""
    async with session(instance.storage("load")):
        instance.show(await instance.found(run_id, seq))
        if seq is None and instance.status == "interrupted" and await is_driven(instance.storage("load"), run_id):
            instance.status = "running"


async def fork(instance: Instance, run_id: str, seq: int | None) -> None:
    """Store a copy of a run, as of a checkpoint, under the instance's own id."""
    persistence = instance.storage("fork")
    own_id = instance.own_id
    async with session(persistence), owned(persistence, own_id, is_new=True) as claim:
        stored = await instance.found(run_id, seq)
        c = stored.checkpoint
        stored.progress.postpone(instance.setup.clock() - c.at)
        copy = replace(stored, checkpoint=c._replace(run_id=own_id), state=instance.with_id(stored.state, own_id))
        is_open = stored.progress.is_open or bool(instance.setup.settings.definition.signals)
        status: Status = "finished" if c.status == "finished" or not is_open else "running"
        await write_snapshot(instance.setup, "started", status, copy, claim, after=None)
        claim.is_over = status == "finished"
        instance.show(await instance.found(own_id))


async def edit(instance: Instance, changes: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> None:
    """Edit the stored state of a run that is not running, and store the edit as a checkpoint of its own."""
    persistence = instance.storage("update_state")
    given = materialized(changes, lambda: instance.state_type) | dict(fields)
    given_id = instance.state_type.ids_taken(given)
    with instance.driving():
        run_id = instance.run_id
        async with session(persistence), owned(persistence, run_id, is_new=False) as claim:
            stored = await instance.found(run_id)
            if given_id and (isinstance(changes, Mapping | None) or reconcile_run_ids(*given_id) != run_id):
                raise RunInputsError("the id of a run cannot be changed; nothing was written", run_id=run_id)
            state = instance.state_type.updated(instance.state_to_continue(stored), given)
            edited = replace(stored, state=state)
            status = stored.checkpoint.status
            await write_snapshot(instance.setup, "edited", status, edited, claim, after=stored.checkpoint)
            claim.is_over = status in ("finished", "cancelled")
            instance.show(await instance.found(run_id), state)
