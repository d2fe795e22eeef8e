"""A run's history: one entry for each checkpoint, derived from the stored rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json, to_json

from .._failure import FailedAttempt
from .._runtime.attempts import attempt_of
from ..persistence.checkpoint import Checkpoint, decode_transition, state_after
from ..persistence.encoding import origin_named_in
from ..persistence.outcome import Failed, StoredFailure, decode_outcome
from ..persistence.protocol import FlowPersistence, session
from ..persistence.status import Kind, Status
from . import call_errors as refusals
from .reading import keeper_of, reading

__all__ = ["HistoryEntry", "entries", "history_of"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One checkpoint."""

    seq: int
    """The sequence number of the checkpoint, from 0."""
    pass_number: int
    """The number of the pass, from 1."""
    kind: Kind
    """What happened."""
    status: Status
    """The status of the run after it, as it is stored."""
    method: str
    """The invocation that ended, such as `fetch:3`; empty if none did."""
    at: float
    """Seconds since the epoch."""
    changed: dict[str, Any]
    """The top-level fields of the state that changed, with their new values as JSON values; None for a removed field."""
    before: dict[str, Any] = field(default_factory=dict)
    """The earlier values of these fields. A field that did not exist before is not in it."""
    removed: tuple[str, ...] = ()
    """Those of these fields that do not exist any more."""
    forked_from: tuple[str, int] | None = None
    """Of the first checkpoint of a copy: (id, seq) of the run, as of the checkpoint, that it is a copy of; else None."""
    skipped: tuple[str, ...] = ()
    """The `or_` listeners that were not started again."""
    error: str = ""
    """The type and message of the exception, for a failure and a failed attempt."""
    traceback: str = field(default="", repr=False)
    """Its traceback, as text."""


async def history_of(persistence: FlowPersistence, run_id: str) -> list[HistoryEntry]:
    """Return the history of a run, oldest checkpoint first.

    Raises `CapabilityMissingError`, `RunNotFoundError`, `CheckpointCorruptError`.
    """
    keeper = keeper_of(persistence, run_id)
    async with session(persistence):
        rows = await keeper.history(run_id)
    if not rows:
        raise refusals.unknown_run(persistence, run_id, None)
    with reading(run_id):
        return entries(rows)


def entries(
    rows: Sequence[Checkpoint], state: bytes | None = None, shown: Callable[[bytes], dict[str, Any]] | None = None
) -> list[HistoryEntry]:
    """Return the history entries of a run's rows, oldest first.

    `state`: the state before the first of them. `shown`: returns the fields of a state as they are shown; None: as JSON.
    """
    found: list[HistoryEntry] = []
    fields, values = _fields(state or b"{}", shown)
    for row in rows:
        state = state_after(state, row)
        names: list[str] = []
        earlier = values
        if row.state is not None:
            before = fields
            fields, values = _fields(state or b"{}", shown)
            names = _changed(before, fields)
        failure = _failure(row)
        skipped = () if row.changes is None else decode_transition(row.changes).skipped
        error = "" if failure is None else f"{failure.type}: {failure.message}"
        found.append(
            HistoryEntry(
                *(row.seq, row.pass_number, row.kind, row.status, row.method, row.at),
                changed={name: values.get(name) for name in names},
                before={name: earlier[name] for name in names if name in earlier},
                removed=tuple([name for name in names if name not in values]),
                forked_from=origin_named_in(row.progress) if row.seq == 0 else None,
                skipped=skipped,
                error=error,
                traceback="" if failure is None else failure.traceback,
            )
        )
    return found


def _failure(row: Checkpoint) -> StoredFailure | FailedAttempt | None:
    """Return the exception whose checkpoint this is, if it is one of an exception."""
    if row.kind == "retrying":
        return attempt_of(row)[0]
    if row.outcome is None or row.kind in ("method", "step"):  # these only repeat it
        return None
    outcome = decode_outcome(row.outcome)
    return outcome.newest if isinstance(outcome, Failed) else None


def _fields(state: bytes, shown: Callable[[bytes], dict[str, Any]] | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the fields of a state, each as bytes, and as it is shown. Bytes are compared, as True equals 1, and -0.0 equals 0."""
    values: dict[str, Any] = from_json(state)
    return {name: to_json(value) for name, value in values.items()}, values if shown is None else shown(state)


def _changed(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Return the names of the fields that changed, those that are gone last."""
    gone = [name for name in before if name not in after]
    return [name for name, data in after.items() if before.get(name) != data] + gone
