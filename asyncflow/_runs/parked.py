"""Parked runs as their callers see them: what a run waits for, and the wait until it is woken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import anyio

from .._definition.definition import FlowDefinition
from .._runtime.halting import Halt
from .._runtime.timing import wait_until
from .._runtime.waits import awaited_signals
from .._scheduling.progress import Progress
from .._scheduling.signals import expected
from ..persistence.parking import Parking
from ..persistence.protocol import FlowPersistence, offers
from .ownership import catalog_entry, place_of

__all__ = ["Stopped", "Waiting", "followed", "halt_of", "is_followed", "until_woken", "waiting_of"]

_FOLLOWED = Counter[tuple[object, str]]()
"""(place, run id) of the parked runs for which calls of this process wait: these wake them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What `kickoff` and `resume` with `until` return for a run that is parked: it waits, with no method running."""

    run_id: str
    """The id of the run."""
    waits_for: tuple[str, ...]
    """The names of the signals that it waits for."""
    due_at: float | None
    """When it is due, in seconds since the Unix epoch; None: it waits for signals only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What `kickoff` and `resume` return for a run that stopped where `until` says. It is interrupted: the next call continues it."""

    run_id: str
    """The id of the run."""
    after: str
    """The invocation after which it stopped, such as `fetch:1`."""
    pending: tuple[str, ...]
    """The invocations with which it continues."""


def halt_of(until: str | int, definition: FlowDefinition) -> Halt | None:
    """Return where a call stops its run; None for "end" and "waiting". Raises `ValueError` for any other value."""
    if until in ("end", "waiting"):
        return None
    if type(until) is int and until >= 1:
        return Halt("", until)
    if isinstance(until, str) and until in definition.methods:
        return Halt(until, 1)
    raise ValueError(
        f"until must be 'end', 'waiting', a number of methods from 1, or the name of a method, not {until!r}; the methods of "
        f"{definition.name} are {', '.join(definition.methods)}"
    )


def waiting_of(definition: FlowDefinition, run_id: str, progress: Progress, wake_at: float, now: float) -> Waiting:
    """Return what a parked run waits for."""
    names = expected(definition, progress) | awaited_signals(progress, now)
    return Waiting(
        run_id=run_id, waits_for=tuple(sorted(names)), due_at=None if math.isinf(wake_at) else max(wake_at, 0.0)
    )


async def until_woken(
    persistence: FlowPersistence, run_id: str, clock: Callable[[], float], woken: anyio.Event | None = None
) -> None:
    """Wait until a run is due or no longer parked. Return at once if it is not parked. Call it within a session.

    `woken`: set by others to end the wait.
    """
    woken = woken or anyio.Event()
    storage: object = persistence
    watching = storage.watch_parked(run_id, woken.set) if offers(storage, Parking) else nullcontext()
    with watching:
        entry = await catalog_entry(persistence, run_id)
        if entry is not None and entry.wake_at is not None:
            await wait_until(entry.wake_at, clock, woken)


@contextmanager
def followed(persistence: FlowPersistence, run_id: str) -> Iterator[None]:
    """Wait for a parked run, to wake it. A runner of this process leaves it alone: the caller may be a method that holds a slot."""
    key = place_of(persistence), run_id
    _FOLLOWED[key] += 1
    try:
        yield
    finally:
        _FOLLOWED[key] -= 1
        if not _FOLLOWED[key]:
            del _FOLLOWED[key]


def is_followed(persistence: FlowPersistence, run_id: str) -> bool:
    """Whether a call of this process waits for a parked run, to wake it."""
    return (place_of(persistence), run_id) in _FOLLOWED
