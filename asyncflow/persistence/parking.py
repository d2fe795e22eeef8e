"""Parked runs: they wait for a time or a signal, have no owner, and take no memory. A capability of backends."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from .protocol import RunEntry

__all__ = ["Parking"]


@runtime_checkable
class Parking(Protocol):
    """Parks runs, and finds those that are due. For backends that also have `Ownership`, `Catalog` and `CheckpointLog`.

    `Ownership.acquire` ends the parking of a run, so that it is interrupted if its new owner dies. A signal that is sent to a parked run
    makes it due at once.
    """

    @property
    def poll_seconds(self) -> float:
        """Seconds between two looks for runs that are due."""
        ...

    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        """Release a run that only waits, if this is still its owner, and store when it is due.

        - `run_id`: the id of the run.
        - `epoch`: the fencing epoch under which this process owns the run.
        - `wake_at`: when it is due, in seconds since the Unix epoch; infinity: at no time.
        - `newest`: the largest id of the signals that the caller has read. If the inbox has one with a larger id, the run is due at once.

        Never raises for a run that another owner has taken over. A run that is not stored as running is released.
        """
        ...

    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        """Return parked runs, the earliest wake time first. It costs the same whatever other runs are parked.

        - `identities`: only runs whose `RunEntry.identity` is one of these.
        - `until`: only runs that are due by then, in seconds since the Unix epoch; infinity: all.
        - `limit`: the maximum number of runs.
        """
        ...

    def watch_parked(self, run_id: str, woken: Callable[[], object]) -> AbstractContextManager[object]:
        """Return a context manager within which a function is called on this event loop whenever a run may have ceased to be parked.

        It is also called when a signal has made the run due. What another process does is noticed within a second.

        - `run_id`: the id of the run.
        - `woken`: the function. It takes no arguments.
        """
        ...
