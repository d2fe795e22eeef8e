"""All that is stored of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from .._failure import FailedAttempt
from .._runs.inputs import inputs_shown
from .._runs.reading import loaded, reading, rows_between
from .._runtime.attempts import decode_attempts
from .._runtime.timing import clock_of
from .._scheduling.progress import Progress
from ..flow import Flow
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.children import Children
from ..persistence.inbox import FINISH, Inbox, StoredSignal
from ..persistence.outcome import Failed, Finished, Outcome, StoredFailure, decode_outcome
from ..persistence.protocol import Catalog, CheckpointHistory, FlowPersistence, Owners, RunEntry, offers, session
from ..persistence.status import has_ended, is_over, status_of
from .doing import activities, pending_of, waits_of
from .model import Driver, InboxSignal, RunDetail, RunError
from .values import Redact, redacted, stored_tree

__all__ = ["run_detail"]

ROWS: Final = 2_000
"""The newest checkpoints of a pass in which its exceptions are looked for."""


async def run_detail(
    storage: FlowPersistence, run_id: str, *, flow: type[Flow[Any]] | None = None, redact: Redact | None = None
) -> RunDetail:
    """Return all that is stored of a run: its status, who drives it, what it waits for, what is pending, its values and its errors.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `flow`: its class, if it is at hand: the signals that its listeners wait for are known to it alone.
    - `redact`: returns what is shown in place of a value. Its path begins with "inputs", "state", "result", "inbox" or "errors".

    Raises `RunNotFoundError`, `CheckpointCorruptError` for what cannot be decoded, and `StorageError`s.
    """
    definition = None if flow is None else flow._definition
    async with session(storage):
        c = await loaded(storage, run_id)
        entry = await _entry_of(storage, c)
        driver = await _driver(storage, entry)
        rows = await _rows_of_pass(storage, c)
        inbox = await storage.inbox(run_id) if offers(storage, Inbox) else []
        children = await storage.children(run_id) if offers(storage, Children) else []
        now = clock_of(storage)()
    with reading(run_id, c.seq):
        progress = decode_progress(c.progress or b"")
        outcome = None if c.outcome is None else decode_outcome(c.outcome)
        pending = () if is_over(c.status) else pending_of(progress, now, is_driven=entry.status != "interrupted")
        if redact is not None:
            pending = tuple([replace(each, errors=_attempts(each.errors, redact)) for each in pending])
        return RunDetail(
            entry=entry,
            driver=driver,
            waits=() if is_over(c.status) else waits_of(progress, now, children, definition),
            pending=pending,
            methods=activities(progress, pending, rows, definition),
            inputs=redacted(dict(inputs_shown(c.inputs)), redact, ("inputs",)),
            state=redacted(stored_tree(c.state or b"{}"), redact, ("state",)),
            result=_result(outcome, redact),
            errors=tuple(_errors(c, rows, progress, redact)),
            inbox=tuple([_signal(each, redact) for each in inbox]),
            parent=entry.parent or (progress.parent or ("",))[0],
            children=tuple(children),
            forked_from=progress.origin,
            deadline=progress.deadline or None,
            ending=progress.ending,
            version=c.version,
        )


async def _entry_of(storage: FlowPersistence, c: Checkpoint) -> RunEntry:
    """Return the catalog entry of a run; of a backend without a catalog, what its newest checkpoint says."""
    known = await storage.runs(run_id=c.run_id, limit=1) if offers(storage, Catalog) else []
    if known:
        return known[0]._replace(seq=c.seq, pass_number=c.pass_number, updated_at=c.at)
    status = status_of(c.status, is_driven=False)
    return RunEntry(c.run_id, c.flow, status, c.pass_number, c.seq, False, 0.0, c.at, 0, 0, c.known_by)


async def _rows_of_pass(storage: Any, c: Checkpoint) -> Sequence[Checkpoint]:
    """Return the newest checkpoints of a run's present pass; none if the backend keeps no history."""
    if not offers(storage, CheckpointHistory):
        return ()
    after, size = c.seq, 64
    rows: list[Checkpoint] = []
    while after >= 0 and len(rows) < ROWS and (not rows or rows[0].pass_number == c.pass_number):
        after = max(-1, after - size)
        found = await rows_between(storage, c.run_id, after=after, until=c.seq)
        if len(found) == len(rows):  # a run that was compacted begins later
            break
        rows, size = found, size * 4
    return [row for row in rows if row.pass_number == c.pass_number]


async def _driver(storage: FlowPersistence, entry: RunEntry) -> Driver | None:
    """Return who drives a run, as far as the backend reports it."""
    if not offers(storage, Owners):
        return Driver(owner="") if entry.is_driven else None
    owner = await storage.owner_of(entry.run_id)
    if owner is None or has_ended(entry.status):
        return None
    return Driver(
        owner=owner.owner,
        process=owner.process,
        is_alive=owner.is_alive,
        is_here=owner.is_here,
        seconds_left=owner.seconds_left,
    )


def _result(outcome: Outcome | None, redact: Redact | None) -> Any:
    return redacted(stored_tree(outcome.result), redact, ("result",)) if isinstance(outcome, Finished) else None


def _signal(stored: StoredSignal, redact: Redact | None) -> InboxSignal:
    name, payload, key, sender, at = stored.signal
    shown = redacted(stored_tree(payload or b"null"), redact, ("inbox", name, "payload"))
    if name == FINISH:
        name = "(finish)"
    return InboxSignal(
        id=stored.id, name=name, payload=shown, key="" if key.startswith(" ") else key, sender=sender, at=at
    )


def _errors(c: Checkpoint, rows: Sequence[Checkpoint], progress: Progress, redact: Redact | None) -> Iterator[RunError]:
    """Yield the exceptions of a pass, the oldest first: those of its history, or those that its last checkpoint repeats."""
    found = [(row, failure) for row in rows if row.kind == "failed" for failure in _failures(row)[-1:]]
    for row, f in found or [(c, failure) for failure in _failures(c)]:
        key = f.invocation or row.method
        yield RunError(
            method=f.method,
            invocation=key,
            type=f.type,
            message=redacted(f.message, redact, ("errors", "message")),
            traceback=redacted(f.traceback, redact, ("errors", "traceback")),
            seq=row.seq,
            at=row.at,
            attempts=_attempts(decode_attempts(f.attempts), redact),
            is_open=c.status == "failed" or key in progress.failed,
        )


def _failures(c: Checkpoint) -> tuple[StoredFailure, ...]:
    outcome = None if c.outcome is None else decode_outcome(c.outcome)
    return outcome.failures if isinstance(outcome, Failed) else ()


def _attempts(found: Iterable[FailedAttempt], redact: Redact | None) -> tuple[FailedAttempt, ...]:
    """Return attempts with their texts as they are shown."""
    if redact is None:
        return tuple(found)
    return tuple(
        each._replace(
            message=redacted(each.message, redact, ("errors", "message")),
            traceback=redacted(each.traceback, redact, ("errors", "traceback")),
        )
        for each in found
    )
