"""Load a stored run of a flow, and decode it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._codec.codec import Misfit
from .._scheduling.progress import Progress
from ..errors import CheckpointCorruptError, StateSchemaError, StorageError
from ..persistence.checkpoint import UNREADABLE, Checkpoint, decode_progress
from ..persistence.checks import to_be_awaited
from ..persistence.outcome import Finished, Outcome, decode_outcome
from .matching import check_covers, check_flow
from .ownership import Claim, can_create
from .setup import Setup

__all__ = ["Stored", "decoded", "load", "load_owned", "outcome_of"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A run as it was loaded."""

    checkpoint: Checkpoint
    state: Any
    progress: Progress
    outcome: Outcome | None = None


async def load_owned(setup: Setup, run_id: str, claim: Claim, *, creates: bool = False) -> Stored | None:
    """Load a run that is to be driven, or return None. If it was stored only after the claim was made, acquire it and load it again.

    `creates`: whether the caller then commits its first checkpoint. If the backend refuses that for a stored run, a run that could
    not be acquired is not looked for again.
    """
    if creates and not claim.epoch and claim.owner is not None and can_create(claim.owner):
        return None
    stored = await load(setup, run_id)
    if stored is None or claim.epoch:
        return stored
    await claim.acquire(run_id)
    return await load(setup, run_id)


async def load(setup: Setup, run_id: str, seq: int | None = None) -> Stored | None:
    """Load a stored run of this flow, or return None.

    Raises `RunFlowMismatchError`, `StateSchemaError`, `FlowDefinitionError`, `CheckpointCorruptError` and what the backend raises.
    """
    assert setup.persistence is not None, "called only if the runs are stored"
    checkpoint = await to_be_awaited(setup.persistence.load(run_id, seq), setup.persistence, "load")
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, Checkpoint):
        raise StorageError(
            f"load of {type(setup.persistence).__name__} returned a {type(checkpoint).__name__}; it must return a Checkpoint, or None "
            "for an unknown run (Checkpoint.from_bytes decodes what to_bytes has encoded). Nothing was changed",
            run_id=run_id,
        )
    if checkpoint.run_id != run_id:
        raise CheckpointCorruptError(
            f"the storage has a checkpoint of another run under the id of run {run_id}. Nothing was changed; restore the storage from "
            "a backup",
            run_id=run_id,
        )
    return decoded(setup, checkpoint)


def decoded(setup: Setup, checkpoint: Checkpoint) -> Stored:
    """Decode a run from its snapshot (complete checkpoint).

    Raises `RunFlowMismatchError`, `StateSchemaError`, `FlowDefinitionError`, `CheckpointCorruptError`.
    """
    run_id = checkpoint.run_id
    check_flow(setup.settings.identity, checkpoint)
    try:
        state = setup.codecs.state.decode(checkpoint.state or b"")
        progress = decode_progress(checkpoint.progress or b"")
        outcome = outcome_of(checkpoint)
    except Misfit as misfit:
        raise StateSchemaError(
            f"the stored state of run {run_id} was written under another type of state than {setup.settings.name} has now, which "
            "cannot decode it. Nothing was changed; keep the earlier type until no such run has to be resumed or loaded"
            if misfit.is_gone
            else f"the stored state of run {run_id} does not fit the model of {setup.settings.name}: {misfit.detail}. Nothing was "
            "changed; add the fields, or a before-validator (@model_validator(mode='before')) that converts the old form into the new",
            paths=misfit.paths,
            run_id=run_id,
            seq=checkpoint.seq,
        ) from misfit.__cause__
    except UNREADABLE as error:
        raise CheckpointCorruptError(
            f"checkpoint {checkpoint.seq} of run {run_id} cannot be read ({type(error).__name__}). Nothing was changed; load an "
            "older seq, or restore the storage from a backup",
            run_id=run_id,
            seq=checkpoint.seq,
        ) from error
    check_covers(setup.settings, checkpoint, progress)
    return Stored(checkpoint, state, progress, outcome)


def outcome_of(c: Checkpoint) -> Outcome | None:
    """Return the outcome of the pass that a checkpoint stores, None if it stores none. Raises `ValueError` and `KeyError`."""
    outcome = None if c.outcome is None else decode_outcome(c.outcome)
    if c.status == "finished" and not isinstance(outcome, Finished | None):
        raise ValueError("a finished pass has a result")
    return outcome
