"""The history of a run, its state at each checkpoint, and the difference between two of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._runs.history import HistoryEntry, entries
from .._runs.reading import loaded, page_of_history, reading
from ..persistence.protocol import FlowPersistence, session
from .model import Change
from .values import Path, Redact, redacted, stored_tree

__all__ = ["changes", "diff", "run_history", "state_at"]


async def run_history(
    storage: FlowPersistence,
    run_id: str,
    *,
    after: int = -1,
    limit: int | None = None,
    redact: Redact | None = None,
) -> list[HistoryEntry]:
    """Return the checkpoints of a run, the oldest first, each with what it changed in the state.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `after`: only checkpoints with a larger seq; -1: all.
    - `limit`: the maximum number of checkpoints; None: all.
    - `redact`: returns what is shown in place of a value; its path begins with "state" or "error".

    Raises `RunNotFoundError`, `CapabilityMissingError` if the backend keeps no history, and `StorageError`s.
    """
    async with session(storage):
        newest = await loaded(storage, run_id)
        rows = await page_of_history(storage, newest, after, limit)
        if not rows:
            return []
        first = rows[0].seq
        is_whole = first == 0 or after < first - 1  # a run that was compacted begins later
        state = None if is_whole else (await loaded(storage, run_id, first - 1)).state
    with reading(run_id):
        shown = entries(rows, state, lambda data: _fields(data, redact))
    return shown if redact is None else [_without_texts(entry, redact) for entry in shown]


def _fields(state: bytes, redact: Redact | None) -> dict[str, Any]:
    tree: dict[str, Any] = stored_tree(state)
    whole = tree if redact is None else redact(("state",), tree)
    if whole is not tree:
        return {name: whole.get(name) if isinstance(whole, dict) else whole for name in tree}
    return {name: redacted(value, redact, ("state", name)) for name, value in tree.items()}


def _without_texts(entry: HistoryEntry, redact: Redact) -> HistoryEntry:
    if not entry.error:
        return entry
    error = redacted(entry.error, redact, ("error", "message"))
    return replace(entry, error=error, traceback=redacted(entry.traceback, redact, ("error", "traceback")))


async def state_at(
    storage: FlowPersistence, run_id: str, seq: int | None = None, *, redact: Redact | None = None
) -> Any:
    """Return the state of a run as of a checkpoint.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `seq`: the number of the checkpoint; None: the newest one.
    - `redact`: returns what is shown in place of a value; its path begins with "state".

    Raises `RunNotFoundError` for an unknown run or checkpoint, and `StorageError`s.
    """
    async with session(storage):
        c = await loaded(storage, run_id, seq)
    with reading(run_id, c.seq):
        return redacted(stored_tree(c.state or b"{}"), redact, ("state",))


async def diff(
    storage: FlowPersistence, run_id: str, a: int, b: int | None = None, *, redact: Redact | None = None
) -> list[Change]:
    """Return what is different between the states of a run as of two checkpoints.

    - `storage`: where the run is stored.
    - `run_id`: the id of the run.
    - `a`: the number of the earlier checkpoint.
    - `b`: the number of the later checkpoint; None: the newest one.
    - `redact`: returns what is shown in place of a value; its path begins with "state".

    Raises `RunNotFoundError` for an unknown run or checkpoint, and `StorageError`s.
    """
    async with session(storage):
        before, after = await state_at(storage, run_id, a), await state_at(storage, run_id, b)
    shown = [redacted(each, redact, ("state",)) for each in (before, after)]
    return changes(before, after, *shown)


def changes(before: Any, after: Any, shown_before: Any, shown_after: Any, path: Path = ()) -> list[Change]:
    """Return the differences between two trees. `shown_before`, `shown_after`: the same trees, as they are shown."""
    both = (before, after, shown_before, shown_after)
    if all(isinstance(each, dict) for each in both):  # what the shown trees lack, the hook has left out
        names = list(dict.fromkeys((*before, *after)))
        return [c for name in names for c in _of_part(*both, name, path)]
    if all(isinstance(each, list) for each in both) and (len(before), len(after)) == tuple(map(len, both[2:])):
        return [c for place in range(max(len(before), len(after))) for c in _of_part(*both, place, path)]
    if _same(before, after):
        return []
    return [Change(path=path, kind="changed", before=shown_before, after=shown_after)]


def _of_part(before: Any, after: Any, shown_before: Any, shown_after: Any, part: Any, path: Path) -> list[Change]:
    had, has = _contains(before, part), _contains(after, part)
    if had > _contains(shown_before, part) or has > _contains(shown_after, part):
        return []
    path = (*path, part)
    if had and has:
        return changes(before[part], after[part], shown_before[part], shown_after[part], path)
    if had:
        return [Change(path=path, kind="removed", before=shown_before[part])]
    return [Change(path=path, kind="added", after=shown_after[part])]


def _contains(tree: Any, part: Any) -> bool:
    return part < len(tree) if isinstance(tree, list) else part in tree


def _same(before: Any, after: Any) -> bool:
    """Whether two plain values are the same: True is not 1, and 1 is not 1.0."""
    return type(before) is type(after) and repr(before) == repr(after)
