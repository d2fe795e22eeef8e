"""Derives what a run did with each method from the scheduler's progress, as an instance holds it and as storage has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .._definition.definition import FlowDefinition
from .._definition.triggers import trigger_of
from .._runtime.waits import open_memos
from .._scheduling.messages import Item
from .._scheduling.progress import Progress
from .._scheduling.signals import expected
from .picture import Happened, NodeStatus

__all__ = ["happened_in"]

URGENT: tuple[NodeStatus, ...] = ("failed", "retrying", "running", "waiting", "interrupted")
"""The statuses of invocations; of several, a method shows the first one of these."""


def happened_in(definition: FlowDefinition, progress: Progress, status: str) -> dict[str, Happened]:
    """Return what a run did with the nodes of its picture, by node id. `status`: that of the run."""
    pending: dict[str, list[str]] = {name: [] for name in definition.methods}
    for key, invocation in progress.pending.items():
        pending.setdefault(invocation.method, []).append(key)
    happened = {name: _happened_to(name, pending[name], progress, status) for name in definition.methods}
    found = {name: each for name, each in happened.items() if each is not None}
    if status in ("running", "waiting"):
        for name in _awaited(definition, progress):
            found[name] = "waiting", found[name][1] if name in found else 0
    for name in definition.signals:
        if f"signal:{name}" not in found and (count := progress.counts.get(name, 0)):
            found[f"signal:{name}"] = "completed", count
    return found


def _happened_to(method: str, keys: Sequence[str], progress: Progress, status: str) -> Happened | None:
    """Return what a run did with a method, `keys` of whose invocations are pending; None if it has not begun."""
    count = progress.counts.get(method, 0) - sum(not isinstance(progress.pending[key], Item) for key in keys)
    if keys:
        statuses = {_status_of(key, progress, status) for key in keys if not progress.is_by_items(key)}
        return next((each for each in URGENT if each in statuses), "interrupted"), count
    return ("completed", count) if count else None


def _status_of(key: str, progress: Progress, status: str) -> NodeStatus:
    attempts = progress.attempts.get(key)
    if key in progress.failed:
        return "failed"
    if status not in ("running", "waiting") or key in progress.held:
        return "interrupted"
    if key in progress.paused:
        return "retrying" if attempts is not None and attempts.failed > attempts.before else "waiting"
    memos = None if attempts is None else attempts.memos
    waits = any(name.startswith("wait_for ") for name, _ in open_memos(memos))
    return "waiting" if waits or status == "waiting" else "running"


def _awaited(definition: FlowDefinition, progress: Progress) -> Iterator[str]:
    """Yield the timers that have started, and the signals that a listener waits for which holds the other parts of its condition."""
    for timer in progress.timers.values():
        yield f"timer:{timer.listener}:{trigger_of(timer.name)}"
    signals = expected(definition, progress)
    for method in definition.signalled:
        if progress.latches.get(method.name) or (method.keep_open and not progress.counts.get(method.name)):
            yield from (f"signal:{name}" for name in method.signals & signals)
