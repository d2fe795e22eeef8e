"""What a backend must do, and what it may do besides. Two verbs are enough; each capability is a protocol of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol, TypeGuard, TypeVar, cast, runtime_checkable

from .checkpoint import Checkpoint
from .fencing import Fence

__all__ = [
    "Catalog",
    "CheckpointHistory",
    "CheckpointLog",
    "Fencing",
    "FlowPersistence",
    "Ownership",
    "Retention",
    "RunEntry",
    "Sessions",
    "check_retention",
    "offers",
]


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

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run, and return its new epoch; 0, and no owner, where nothing is stored under this id yet.

        Raises `RunLockedError` while another owner lives, unless by `force`. (Within one process the runtime sees to it by itself.)
        """
        ...

    async def release(self, run_id: str, epoch: int) -> None:
        """Be the owner no longer, if one still is. Never raises for a run that somebody else has taken over.

        Not called where the run's last checkpoint said so already: one whose status is 'finished' or 'cancelled'.
        """
        ...


@runtime_checkable
class Fencing(Protocol):
    """Proves, before each method starts, that its run cannot have been taken over: for owners whose lease may run out.

    A backend whose owners cannot be replaced while they live does not need it.
    """

    def fence(self) -> Fence | None:
        """The fence of this owner, for as long as the session that is open lasts; None where none is open."""
        ...


@runtime_checkable
class CheckpointHistory(Protocol):
    """Keeps every checkpoint, not only the newest."""

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        """The checkpoints of a run after this seq, in order, as they are stored: complete ones and deltas."""
        ...


RunStatus = Literal["running", "interrupted", "failed", "finished", "cancelled"]
"""How a run stands: "running" while its owner lives, "interrupted" while none does."""


class RunEntry(NamedTuple):
    """A line of the catalog."""

    run_id: str
    flow: str
    status: RunStatus
    """ "running" while an owner lives, "interrupted" while none does: both are stored as "running"."""
    number: int
    """Of the pass, from 1."""
    seq: int
    """Of the newest checkpoint."""
    is_driven: bool
    """Whether its owner lives, as far as this process can tell."""
    created_at: float
    """Seconds since the epoch."""
    updated_at: float
    position: int
    """Its place in the catalog: larger for what was begun later."""
    takeovers: int = 0
    """How often it was taken over from a dead owner since its newest checkpoint: what ends its processes has many."""
    identity: str = ""
    """What its flow is known by: `Checkpoint.known_by`."""


@runtime_checkable
class Catalog(Protocol):
    """Knows all its runs."""

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: RunStatus | Literal["unfinished"] | None = None,
        identities: Collection[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        """Runs, the newest first, at most `limit`: the one of an id, those of a flow's name, those in a status.

        "unfinished": the running and the interrupted ones, without a look at who drives them.

        `identities`: those of flows that are known by one of these, as `RunEntry.identity` has it. Of running runs they are
        found without a look at any other. For the next page, `before` a position.
        """
        ...


@runtime_checkable
class Retention(Protocol):
    """Forgets runs. None is forgotten that somebody drives."""

    async def delete(self, run_id: str) -> bool:
        """Forget a run for good: whoever drove it cannot bring it back. Whether there was one.

        Raises `RunLockedError` while its owner lives.
        """
        ...

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Forget runs that ended more than `older_than` seconds ago; how many.

        Finished, failed and cancelled ones have ended. Of those, the `keep_last` newest of each flow are kept.
        Raises `ValueError` for numbers below 0, which would forget all.
        """
        ...


def check_retention(older_than: float, keep_last: int) -> None:
    """Whether `prune` can be meant so. Raises `ValueError`."""
    if not (older_than >= 0 and keep_last >= 0):
        raise ValueError(
            f"older_than is a number of seconds and keep_last one of runs, at least 0, not {older_than!r} and {keep_last!r}"
        )


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
