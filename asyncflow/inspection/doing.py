"""What a run does and waits for, from its stored progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

from pydantic_core import from_json

from .._definition.definition import FlowDefinition
from .._runtime.attempts import decode_attempt
from .._runtime.waits import open_memos
from .._scheduling.messages import Item
from .._scheduling.progress import Progress
from .._scheduling.signals import expected
from ..persistence.checkpoint import Checkpoint, decode_transition
from ..persistence.protocol import RunEntry
from ..persistence.status import is_over
from .model import Doing, MethodActivity, PendingInvocation, Wait

__all__ = ["activities", "pending_of", "waits_begun", "waits_of"]

_WORST_FIRST: Final = ("failed", "retrying", "interrupted", "running", "waiting", "held")


def waits_begun(memos: Mapping[str, bytes] | None) -> Iterator[tuple[str, str, float | None]]:
    """Yield the waits that a method has begun and not ended, as far as that is stored: the name of each, what for, and until when."""
    for name, value in open_memos(memos):
        call, _, rest = name.partition(" ")
        due = from_json(value)
        yield (rest.split(" ")[0], "signal", due) if call == "wait_for" else (name, call, float(due))


def waits_of(
    progress: Progress, now: float, children: Iterable[RunEntry], definition: FlowDefinition | None
) -> tuple[Wait, ...]:
    """Return what a run waits for, what is due first first; what is due at no time is last."""
    found = [
        *(wait for key in progress.attempts for wait in _waits_of_invocation(progress, key, now)),
        *(
            Wait(kind="timer", name=timer.name, method=timer.listener, due_at=timer.due)
            for timer in progress.timers.values()
        ),
        *(Wait(kind="child", name=child.run_id, method=child.flow) for child in children if not is_over(child.status)),
    ]
    if definition is not None:
        found += _signals_expected(progress, definition, {wait.name for wait in found if wait.kind == "signal"})
    if progress.deadline:
        found.append(Wait(kind="limit", name="run_timeout", due_at=progress.deadline))
    return tuple(sorted(found, key=lambda wait: float("inf") if wait.due_at is None else wait.due_at))


def _waits_of_invocation(progress: Progress, key: str, now: float) -> Iterator[Wait]:
    """Yield what a pending invocation waits for: its next attempt, or what its method awaits."""
    attempts, invocation = progress.attempts[key], progress.pending.get(key)
    method = key.rpartition(":")[0] if invocation is None else invocation.method
    if attempts.due is not None and attempts.due > now:
        number = attempts.failed + 1
        yield Wait(kind="attempt", name=method, due_at=attempts.due, attempt=number, invocation=key, method=method)
        return
    for name, kind, due in _awaited(attempts.memos, now):
        yield Wait(kind=kind, name=name, due_at=due, invocation=key, method=method)  # type: ignore[arg-type]  # one of its words


def _awaited(memos: Mapping[str, bytes] | None, now: float) -> Iterator[tuple[str, str, float | None]]:
    """Yield those of the waits of a method that are not due."""
    return (wait for wait in waits_begun(memos) if wait[1] == "signal" or (wait[2] or 0.0) > now)


def _signals_expected(progress: Progress, definition: FlowDefinition, known: Set[str]) -> Iterator[Wait]:
    """Yield the signals that listeners wait for, and that are not known yet."""
    for signal in sorted(expected(definition, progress) - known):
        method = next((m.name for m in definition.signalled if signal in m.names), "")
        yield Wait(kind="signal", name=signal, method=method)


def pending_of(progress: Progress, now: float, *, is_driven: bool) -> tuple[PendingInvocation, ...]:
    """Return the invocations that have not completed. `is_driven`: whether the run has an owner, or is parked."""
    found = []
    for key, invocation in progress.pending.items():
        attempts = progress.attempts.get(key)
        found.append(
            PendingInvocation(
                invocation=key,
                method=invocation.method,
                doing=_doing(progress, key, now, is_driven),
                attempts=0 if attempts is None else attempts.failed,
                errors=() if attempts is None else tuple([decode_attempt(error) for error in attempts.errors]),
            )
        )
    return tuple(found)


def _doing(progress: Progress, key: str, now: float, is_driven: bool) -> Doing:
    attempts = progress.attempts.get(key)
    if key in progress.failed:
        return "failed"
    if key in progress.held:
        return "held"
    if attempts is not None and attempts.due is not None and attempts.due > now:
        return "retrying"
    if attempts is not None and any(_awaited(attempts.memos, now)):
        return "waiting"
    return "running" if is_driven else "interrupted"


def activities(
    progress: Progress,
    pending: Sequence[PendingInvocation],
    rows: Sequence[Checkpoint],
    definition: FlowDefinition | None,
) -> tuple[MethodActivity, ...]:
    """Return what happened to each method in the present pass, in the order in which they were begun first."""
    whole = [each for each in pending if type(progress.pending.get(each.invocation)) is not Item]
    skipped = Counter(
        name for row in rows if row.changes is not None for name in decode_transition(row.changes).skipped
    )
    signals = {row.method.rpartition(":")[0] for row in rows if row.kind == "signal"}
    names: Any = dict.fromkeys((*progress.counts, *skipped))
    if definition is not None:
        names = [name for name in names if name in definition.methods]
    else:
        names = [name for name in names if name not in signals]
    return tuple([_activity(name, progress.counts.get(name, 0), pending, whole, skipped[name]) for name in names])


def _activity(
    method: str, started: int, pending: Sequence[PendingInvocation], whole: Sequence[PendingInvocation], skipped: int
) -> MethodActivity:
    mine = [each for each in pending if each.method == method]
    doing = [each.doing for each in mine]
    left = sum(each.method == method for each in whole)
    state: Any = next((word for word in _WORST_FIRST if word in doing), "completed" if started else "skipped")
    return MethodActivity(
        method=method,
        state=state,
        started=started,
        completed=started - left,
        failed=doing.count("failed"),
        attempts_failed=sum(each.attempts for each in mine),
        skipped=skipped,
    )
