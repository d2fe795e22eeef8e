"""What a backend must do, and what it may do besides. Two verbs are enough; each capability is a protocol of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from .checkpoint import Checkpoint

__all__ = ["CheckpointHistory", "CheckpointLog", "FlowPersistence", "Ownership", "Sessions", "offers"]


@runtime_checkable
class FlowPersistence(Protocol):
    """A backend that remembers runs. `Checkpoint.to_bytes()` and `from_bytes()` are all the format it needs."""

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint, atomically, so that it is durable on return.

        Raises `StaleCheckpoint`, if it can compare, when `checkpoint.seq` is not the stored seq plus one.
        """
        ...

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """The newest checkpoint of a run, or the one at `seq`; None if there is none. It is complete."""
        ...


@runtime_checkable
class CheckpointLog(Protocol):
    """Takes deltas, and takes the next while one is still being written, keeping their order."""

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, complete or a delta, after its predecessor. It is queued before the first await.

        Raises `StaleCheckpoint` if `previous` or `epoch` is not what is stored. A call that is cancelled while queued
        is withdrawn with all that follow it in its run (`CheckpointWithdrawnError` for those); once its commit is under
        way the outcome is waited for.
        """
        ...


@runtime_checkable
class Ownership(Protocol):
    """Knows who drives a run, and fences off whoever did before. Storing the first checkpoint of a run makes its owner, too."""

    @property
    def place(self) -> object:
        """Tells storages apart: two persistences of one place know the same runs. Hashable."""
        ...

    async def acquire(self, run_id: str) -> int:
        """Become the owner of a run, and return its new epoch; 0, and no owner, where nothing is stored under this id yet.

        Raises `RunLockedError` while another owner lives. (Within one process the runtime sees to it by itself.)
        """
        ...

    async def release(self, run_id: str, epoch: int) -> None:
        """Be the owner no longer, if one still is. Never raises for a run that somebody else has taken over.

        Not called where the run's last checkpoint said so already: one whose status is 'finished' or 'cancelled'.
        """
        ...


@runtime_checkable
class CheckpointHistory(Protocol):
    """Keeps every checkpoint, not only the newest."""

    async def history(self, run_id: str) -> list[Checkpoint]:
        """All checkpoints of a run in order of seq, as they are stored: complete ones and deltas."""
        ...


@runtime_checkable
class Sessions(Protocol):
    """Holds something open, such as a connection, while it is in use."""

    def session(self) -> AbstractAsyncContextManager[object]:
        """Opened by the first that enters, closed by the last that leaves."""
        ...


P = TypeVar("P")


def offers(persistence: object, capability: Callable[..., P]) -> TypeGuard[P]:
    """Whether a backend has a capability. Like `isinstance`, which takes 10 us for a protocol, but asked once a class."""
    key = type(persistence), capability
    known = _offers.get(key)
    if known is None:
        known = _offers[key] = isinstance(persistence, cast(type, capability))
    return known


_offers: dict[tuple[type, object], bool] = {}
