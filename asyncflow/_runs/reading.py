"""Read checkpoints of any flow, and raise the storage's errors for what cannot be read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from .._runs.call_errors import unknown_run
from ..errors import CapabilityMissingError, CheckpointCorruptError, StorageError
from ..persistence.checkpoint import UNREADABLE, Checkpoint
from ..persistence.protocol import CheckpointHistory, FlowPersistence, offers

__all__ = ["keeper_of", "loaded", "page_of_history", "reading", "rows_between", "takes"]


async def loaded(storage: FlowPersistence, run_id: str, seq: int | None = None) -> Checkpoint:
    """Return a checkpoint of a run, as a complete one. Raises `RunNotFoundError`, `CheckpointCorruptError`."""
    found = await storage.load(run_id, seq)
    if found is None:
        raise unknown_run(storage, run_id, seq)
    if not isinstance(found, Checkpoint):
        raise StorageError(
            f"load of {type(storage).__name__} returned a {type(found).__name__}; it must return a Checkpoint"
        )
    return found


def keeper_of(storage: object, run_id: str) -> CheckpointHistory:
    """Return a backend as one that keeps the histories of runs. Raises `CapabilityMissingError` if it does not."""
    if not offers(storage, CheckpointHistory):
        raise CapabilityMissingError(
            f"{type(storage).__name__} keeps no history: it lacks the capability CheckpointHistory (`async def history(run_id)`)",
            capability="CheckpointHistory",
            run_id=run_id,
        )
    return storage


async def rows_between(storage: object, run_id: str, *, after: int, until: int) -> list[Checkpoint]:
    """Return the checkpoints of a run with a seq above `after`, up to `until`. Raises `CapabilityMissingError`."""
    keeper: Any = keeper_of(storage, run_id)
    if after >= until:
        return []
    bounds = {"after": after, "until": until} if takes(keeper.history, "until") else {"after": after}
    return [row for row in await keeper.history(run_id, **bounds) if row.seq <= until]


async def page_of_history(storage: object, newest: Checkpoint, after: int, limit: int | None) -> list[Checkpoint]:
    """Return the first checkpoints of a run with a seq above `after`, `limit` at most. `newest`: its newest one."""
    until = newest.seq if limit is None else min(newest.seq, after + limit)
    rows = await rows_between(storage, newest.run_id, after=after, until=until)
    if not rows and until < newest.seq:  # a run that was compacted begins later
        rows = (await rows_between(storage, newest.run_id, after=after, until=newest.seq))[:limit]
    return rows


@contextmanager
def reading(run_id: str, seq: int | None = None) -> Iterator[None]:
    """Raise `CheckpointCorruptError` for what cannot be decoded."""
    try:
        yield
    except UNREADABLE as error:
        what = "the history" if seq is None else f"checkpoint {seq}"
        raise CheckpointCorruptError(
            f"{what} of run {run_id} cannot be decoded ({type(error).__name__}). Nothing was changed; restore the storage from a backup",
            run_id=run_id,
            seq=seq,
        ) from error


def takes(method: Callable[..., Any], keyword: str) -> bool:
    """Whether a backend's method takes an optional keyword that its protocol has had only since a later version."""
    return _takes(getattr(method, "__func__", method), keyword)


@lru_cache(256)
def _takes(function: Callable[..., Any], keyword: str) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(each.name == keyword for each in parameters)
