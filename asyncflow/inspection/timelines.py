"""When each attempt and each wait of a run began and ended, as far as its checkpoints show it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

from .._runs.reading import loaded, reading, rows_between
from .._runtime.timing import clock_of
from .._scheduling.progress import Progress
from ..persistence.checkpoint import Checkpoint, decode_progress, decode_transition
from ..persistence.protocol import FlowPersistence, session
from .doing import waits_begun
from .model import Span

__all__ = ["timeline"]

Outcome = Literal["completed", "failed", "retrying", "interrupted", "dropped", "open"]

_ENDS: Final[dict[str, Outcome]] = {"failed": "failed", "retrying": "retrying"}
"""How an attempt ended, by the kind of the checkpoint of its end; by any other kind it has completed."""


class _Going(NamedTuple):
    """An attempt or a wait that is in progress after a checkpoint."""

    kind: Any
    name: str
    invocation: str
    due: float | None = None


async def timeline(storage: FlowPersistence, run_id: str, *, after: int = -1, until: int | None = None) -> list[Span]:
    """Return the attempts and waits of a run, in the order in which they began.

    Times are those of checkpoints: an attempt begins with the checkpoint that enabled it, or when its pause was over. Waits for signals
    that a listener begins, and not a method in `wait_for`, are not in it: no checkpoint shows them.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `after`: only what begins with a checkpoint of a larger seq; -1: all.
    - `until`: only up to this checkpoint; None: the newest one.

    Raises `RunNotFoundError`, `CapabilityMissingError` if the backend keeps no history, and `StorageError`s.
    """
    async with session(storage):
        newest = await loaded(storage, run_id, until)
        rows = await rows_between(storage, run_id, after=after, until=newest.seq)
        is_part = bool(rows) and not rows[0].is_complete
        before = await loaded(storage, run_id, rows[0].seq - 1) if is_part else None
        now = clock_of(storage)()
    with reading(run_id):
        spans = _Spans(before)
        for row in rows:
            spans.add(row)
        found = spans.all(now)
    return sorted(found, key=lambda span: (span.start, span.seq))


class _Spans:
    """Collects spans from checkpoint to checkpoint: by comparing what each has left in progress."""

    def __init__(self, before: Checkpoint | None) -> None:
        """`before`: a complete checkpoint after which they begin; None: they begin with the run."""
        self._progress = Progress() if before is None else decode_progress(before.progress or b"")
        self._known = _in_progress(self._progress)
        self._open: dict[tuple[Any, ...], Span] = {}
        self._done: list[Span] = []

    def add(self, row: Checkpoint) -> None:
        """Add what one checkpoint shows."""
        if row.is_complete:
            self._progress = decode_progress(row.progress or b"")
        elif row.changes is not None:
            self._progress.fold(decode_transition(row.changes), row.result)
        now = {} if row.status in ("finished", "cancelled") else _in_progress(self._progress)
        is_resumed = row.kind == "resumed"
        for key, known in self._known.items():
            if now.get(key) != known or is_resumed:
                self._end(key, known, row)
        for key, going in now.items():
            if self._known.get(key) != going or is_resumed:
                self._open[key] = _begun(going, row.at, row.seq)
        self._known = now

    def all(self, now: float) -> list[Span]:
        """Return all spans. What is still open has no end, except for a pause that is over by now."""
        for key, span in self._open.items():
            due = self._known[key].due
            if span.kind == "pause" and due is not None and due <= now:
                self._done += [_ended(span, due, "completed"), replace(span, kind="attempt", start=due)]
            else:
                self._done.append(span)
        return self._done

    def _end(self, key: tuple[Any, ...], known: _Going, row: Checkpoint) -> None:
        span = self._open.pop(key, None)
        if span is None:
            return
        outcome = _outcome(span, row)
        if span.kind == "attempt" or known.due is None or known.due >= row.at:
            self._done.append(_ended(span, row.at, outcome))
            return
        self._done.append(_ended(span, known.due, "completed"))
        if span.kind == "pause":
            attempt = replace(span, kind="attempt", start=max(span.start, known.due))
            self._done.append(_ended(attempt, row.at, _outcome(attempt, row)))


def _begun(going: _Going, at: float, seq: int) -> Span:
    return Span(
        kind=going.kind, name=going.name, invocation=going.invocation, start=at, end=None, outcome="open", seq=seq
    )


def _ended(span: Span, at: float, outcome: Outcome) -> Span:
    return replace(span, end=max(at, span.start), outcome=outcome)


def _outcome(span: Span, row: Checkpoint) -> Outcome:
    """Return how a span ended that a checkpoint has ended."""
    if row.kind == "resumed":
        return "interrupted"
    if span.kind != "attempt":
        return "dropped" if row.status in ("cancelled", "failed") else "completed"
    if row.method == span.invocation:
        return _ENDS.get(row.kind, "completed")
    is_whole = row.changes is not None and decode_transition(row.changes).completed == span.invocation
    return "completed" if is_whole else "dropped"


def _in_progress(progress: Progress) -> dict[tuple[Any, ...], _Going]:
    """Return what is in progress after a checkpoint, by keys that stay the same from checkpoint to checkpoint."""
    found: dict[tuple[Any, ...], _Going] = {}
    for key, invocation in progress.pending.items():
        attempts = progress.attempts.get(key)
        if key in progress.failed or progress.is_by_items(key):
            continue
        if key in progress.held:
            found["held", key] = _Going("held", invocation.method, key)
        elif attempts is not None and attempts.due is not None:
            found["pause", key, attempts.failed] = _Going("pause", invocation.method, key, attempts.due)
        else:
            found["attempt", key, 0 if attempts is None else attempts.failed] = _Going(
                "attempt", invocation.method, key
            )
        for name, kind, due in () if attempts is None else waits_begun(attempts.memos):
            if kind in ("sleep", "signal"):
                found[kind, key, name] = _Going(kind, name, key, due)
    for timer_key, timer in progress.timers.items():
        found["timer", *timer_key] = _Going("timer", timer.name, "", timer.due)
    return found
