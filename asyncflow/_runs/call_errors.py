"""Errors for calls that cannot be served: each message says why, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from .._definition.identity import Identity
from ..errors import (
    CapabilityMissingError,
    FlowBusyError,
    RunCancelledError,
    RunFencedError,
    RunFlowMismatchError,
    RunInputsError,
    RunInterruptedError,
    RunNotFoundError,
    StateError,
)
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import RunEntry

__all__ = [
    "already_stored",
    "busy",
    "cancelled",
    "edited_here",
    "fenced",
    "interrupted",
    "mismatch",
    "not_stored",
    "other_inputs",
    "other_inputs_waiting",
    "parks_not",
    "place_of",
    "started_with_other_inputs",
    "stopped_by",
    "stops_not",
    "unknown_flow",
    "unknown_run",
]


def busy(flow: str, run_id: str) -> FlowBusyError:
    """Return the error for a second call on an instance that drives a run."""
    return FlowBusyError(
        f"this {flow} instance already drives run {run_id}; create one instance for each run that runs concurrently. Nothing was "
        "started",
        run_id=run_id,
    )


def not_stored(flow: str, what: str) -> CapabilityMissingError:
    """Return the error for a call that needs persistence, on a flow that has none."""
    return CapabilityMissingError(
        f"{what} needs persistence, and {flow} has none: decorate the class with @persist, or pass persistence=",
        capability="FlowPersistence",
    )


def parks_not(flow: str, why: str) -> CapabilityMissingError:
    """Return the error for `until="waiting"` of a flow whose runs are not parked."""
    return CapabilityMissingError(
        f'kickoff(until="waiting") needs runs that are parked while they wait, and those of {flow} are not: {why}. Nothing was started',
        capability="Parking",
    )


def stops_not(flow: str, why: str) -> CapabilityMissingError:
    """Return the error for `until=` a method of a flow whose runs could not continue there."""
    return CapabilityMissingError(
        f"a run can stop after a method only if it is stored after each, and those of {flow} are not: {why}. Nothing was started; store "
        "them, with @persist on the class, or with persistence=",
        capability="FlowPersistence",
    )


def other_inputs_waiting(flow: str, c: Checkpoint) -> RunInputsError:
    """Return the error for a kickoff of a waiting run with other inputs than it was started with."""
    return RunInputsError(
        f"run {c.run_id} of {flow} waits, and was started with other inputs; nothing was changed. To give it something new, send it a "
        "signal; to start another run, pass another id",
        run_id=c.run_id,
        seq=c.seq,
    )


def place_of(storage: object) -> str:
    """Return where a storage keeps its runs, as people know it: the path of a file, or a schema of a database, without a password."""
    return str(getattr(storage, "_place", None) or repr(storage))


def unknown_run(storage: object, run_id: str, seq: int | None) -> RunNotFoundError:
    """Return the error for an id, or a seq, under which nothing is stored."""
    checkpoint, key = ("", "id") if seq is None else (f"checkpoint {seq} of ", "id, the seq")
    return RunNotFoundError(
        f"no {checkpoint}run {run_id} is stored in {place_of(storage)}; check the {key} and the storage",
        run_id=run_id,
        seq=seq,
    )


def mismatch(identity: Identity, c: Checkpoint | RunEntry, missing: Sequence[str] = ()) -> RunFlowMismatchError:
    """Return the error for a run of another flow.

    `missing`: methods that a run waits for and the class lacks. Used for a run of asyncflow 0.1, which stored only the flow's bare name.
    """
    own, stored = identity.stored, (c.identity or c.flow).lstrip(":")
    if missing:
        return RunFlowMismatchError(
            f"run {c.run_id} was stored by asyncflow 0.1 under the bare name {c.flow}, and waits for {', '.join(missing)}, which "
            f"{own} does not have. The run belongs to another class of that name, or the class has lost methods. Use that class, or "
            "put the methods back. Nothing was changed",
            run_id=c.run_id,
            seq=c.seq,
        )
    return RunFlowMismatchError(
        f"run {c.run_id} belongs to the flow {stored}, not to {own}; use that class. If this class was moved or renamed, write "
        f"formerly = {stored!r} in it; to keep one name wherever the class is defined, also declare name = .... Nothing was changed",
        run_id=c.run_id,
        seq=c.seq,
    )


def unknown_flow(c: Checkpoint) -> RunFlowMismatchError:
    """Return the error for a run that a runner has to resume, but whose flow the runner does not know."""
    return RunFlowMismatchError(
        f"run {c.run_id} belongs to the flow {c.known_by.lstrip(':')}, which is not registered with this runner; nothing was run. "
        "Register its class by FlowRunner(flows=[...]) or runner.add(...). If a registered class was moved or renamed, write "
        f"formerly = {c.known_by.lstrip(':')!r} in it",
        run_id=c.run_id,
        seq=c.seq,
    )


def already_stored(run_id: str) -> RunInputsError:
    """Return the error for `restore_from_state_id` with the id of a run that is already stored."""
    return RunInputsError(
        f"run {run_id} is already stored, so it cannot start with the state of another run; nothing was run. Leave "
        "restore_from_state_id out to continue the stored run, or pass another id",
        run_id=run_id,
    )


def cancelled(run_id: str) -> RunCancelledError:
    """Return the error for a run that was cancelled, also when a call would continue it."""
    return RunCancelledError(
        f"run {run_id} was cancelled permanently; what had completed is kept, and can be read with load() or forked",
        run_id=run_id,
    )


def interrupted(run_id: str) -> RunInterruptedError:
    """Return the error for a run that stops because its runner ends."""
    return RunInterruptedError(
        f"run {run_id} was interrupted, because its runner shuts down; what had completed is saved, and the run can be resumed",
        run_id=run_id,
    )


def fenced(run_id: str) -> RunFencedError:
    """Return the error for a run that another owner has ended or resumes."""
    return RunFencedError(
        f"run {run_id} was fenced: another owner has taken it over or ended it. Its methods here were cancelled, and nothing more is "
        "started or stored here",
        run_id=run_id,
    )


def stopped_by(run_id: str, by: BaseException) -> RunInterruptedError:
    """Return the error for a run that a method ended by raising a non-error, such as the cancellation of a task that it awaited."""
    error = RunInterruptedError(
        f"run {run_id} was stopped by a {type(by).__name__} that one of its methods raised, although the run was not cancelled; what "
        "had completed is saved, and the run can be resumed. Catch the exception in the method",
        run_id=run_id,
    )
    error.__cause__ = by
    return error


def other_inputs(flow: str, c: Checkpoint) -> RunInputsError:
    """Return the error for inputs to an interrupted run that was started with others."""
    return RunInputsError(
        f"run {c.run_id} has not finished, and was started with other inputs; nothing was run. Leave the inputs out to resume it, "
        f"or change its state first: `await (await {flow}.load({c.run_id!r})).update_state(...)`",
        run_id=c.run_id,
        seq=c.seq,
    )


def started_with_other_inputs(c: Checkpoint) -> RunInputsError:
    """Return the error for inputs to a run, whatever its status, that was started with others."""
    return RunInputsError(
        f"run {c.run_id} was started with other inputs; nothing was run. Leave the inputs out to attach to it, or pass another id",
        run_id=c.run_id,
        seq=c.seq,
    )


def edited_here(c: Checkpoint) -> StateError:
    """Return the error for a state that was changed in the instance since its run stopped: resuming would silently ignore the change."""
    return StateError(
        f"the state of run {c.run_id} was changed here since the run stopped, but a resume continues with the stored state; nothing "
        "was run. Store the change with `await flow.update_state(...)`, then resume",
        run_id=c.run_id,
        seq=c.seq,
    )
