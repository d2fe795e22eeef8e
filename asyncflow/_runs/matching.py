"""Check whether a call fits a stored run: its class is the run's flow and can complete the run, and its inputs are the run's."""

from __future__ import annotations

from typing import Any

from .._definition.identity import Identity
from .._runtime.settings import Settings
from .._scheduling.progress import Progress
from .._scheduling.upgrades import obstacles
from ..errors import FlowDefinitionError
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import RunEntry
from ..state import StateInputs, StateType
from .call_errors import mismatch
from .inputs import JsonInputs, inputs_match
from .json_inputs import named, state_from_json, values_of

__all__ = ["are_its_inputs", "by_field", "check_covers", "check_entry", "check_flow", "check_resumable"]


def check_flow(identity: Identity, c: Checkpoint) -> None:
    """Check that a checkpoint belongs to this flow. Raises `RunFlowMismatchError`."""
    if c.known_by not in identity.known:
        raise mismatch(identity, c)


def check_entry(identity: Identity, entry: RunEntry) -> None:
    """Check that a run of the catalog belongs to this flow. Raises `RunFlowMismatchError`."""
    if entry.identity not in identity.known:
        raise mismatch(identity, entry)


def check_covers(settings: Settings, c: Checkpoint, progress: Progress) -> None:
    """Check that the class has the methods that a run of asyncflow 0.1 waits for: 0.1 stored only the bare name of the flow.

    Raises `RunFlowMismatchError`.
    """
    if not c.identity and (missing := _missing(settings, progress)):
        raise mismatch(settings.identity, c, missing)


def check_resumable(settings: Settings, c: Checkpoint, progress: Progress) -> None:
    """Check that the class can complete a stored pass.

    Raises `FlowDefinitionError` if it has lost a method that the pass waits for, or if a join of the pass could never run.
    """
    if missing := _missing(settings, progress):
        raise FlowDefinitionError(
            f"run {c.run_id} waits for {', '.join(missing)}, which {settings.name} no longer has; put the method back, under "
            "its old name, until such runs have ended. Nothing was changed",
            problems=missing,
            run_id=c.run_id,
            seq=c.seq,
        )
    if problems := obstacles(settings.definition, progress):
        raise FlowDefinitionError(
            f"run {c.run_id} cannot continue with {settings.name} as the class is now: {'; '.join(problems)}. Nothing was run "
            "and nothing was changed",
            problems=problems,
            run_id=c.run_id,
            seq=c.seq,
        )


def _missing(settings: Settings, progress: Progress) -> list[str]:
    """Return the methods that a pass waits for and the class does not have."""
    results = (key.rpartition(":")[0] for key in progress.results)
    listeners = (timer.listener for timer in progress.timers.values())
    named = {i.method for i in progress.pending.values()}.union(progress.latches, results, listeners)
    return sorted(named - settings.definition.methods.keys() - settings.definition.signals.keys())


def are_its_inputs(state_type: StateType, initial: Any, c: Checkpoint, given: dict[str, Any]) -> bool:
    """Whether a stored pass was started with these inputs. If none are given, any inputs match."""
    if not given or inputs_match(c.inputs, by_field(state_type, given)):
        return True
    if isinstance(given, StateInputs):  # until 0.5 all fields of such a state were stored
        return inputs_match(c.inputs, by_field(state_type, {**given.defaults, **given}))
    if not isinstance(given, JsonInputs):
        return False
    state = state_from_json(state_type, initial, given, c.run_id)
    # 0.1 stored the values that it read from the JSON.
    return inputs_match(c.inputs, values_of(state, by_field(state_type, given)))


def by_field(state_type: StateType, given: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs, keyed by the names of the state's fields."""
    if isinstance(given, JsonInputs):
        return named(state_type, given)
    return dict(zip(state_type.names_of(given), given.values(), strict=True))
