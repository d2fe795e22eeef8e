"""The backend interface: two required methods, and one protocol for each optional capability.

- `run_id`: the id of the run.
- `epoch`: the fencing epoch under which this process owns the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Literal, NamedTuple, Protocol, TypeGuard, TypeVar, cast, get_args, runtime_checkable

from .checkpoint import Checkpoint
from .fence import Fence
from .status import Status

__all__ = [
    "Catalog",
    "CheckpointHistory",
    "CheckpointLog",
    "Clocked",
    "Fencing",
    "FlowPersistence",
    "Owners",
    "Ownership",
    "Retention",
    "RunEntry",
    "RunOwner",
    "RunSearch",
    "Sessions",
    "check_query",
    "check_retention",
    "offers",
    "session",
]


@runtime_checkable
class FlowPersistence(Protocol):
    """A backend that stores runs. `Checkpoint.to_bytes()` and `from_bytes()` are the only format it needs."""

    async def save(self, checkpoint: Checkpoint) -> None:
        """Store a complete checkpoint atomically. It is durable on return.

        - `checkpoint`: the checkpoint, with the whole state and progress.

        Raises `StaleCheckpoint`, if the backend can compare, when `checkpoint.seq` is not the stored seq plus one.
        """
        ...

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        """Return a checkpoint of a run, as a complete one; None if there is none.

        - `seq`: the number of the checkpoint; None: the newest one.

        Raises `CheckpointCorruptError` for damage, and `StorageVersionError` for what a newer version has written.
        """
        ...


@runtime_checkable
class CheckpointLog(Protocol):
    """Stores deltas. It accepts the next checkpoint while one is still being written, and keeps their order."""

    async def append(self, checkpoint: Checkpoint) -> None:
        """Store a checkpoint, complete or a delta, after its predecessor. It is queued before the first await.

        - `checkpoint`: the next checkpoint of its run.

        Raises `StaleCheckpoint` if `previous` or `epoch` does not match the stored one (compare and set). Cancelling a queued call
        withdraws its checkpoint and all later queued ones of its run, which raise `CheckpointWithdrawnError`. Once its commit has
        started, the call waits for the outcome even if it is cancelled.
        """
        ...


@runtime_checkable
class Ownership(Protocol):
    """Knows the owner of each run, and fences off the previous owner. Storing the first checkpoint of a run also makes its owner."""

    @property
    def place(self) -> object:
        """A hashable key of the storage: two backend objects with equal places store the same runs."""
        ...

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        """Become the owner of a run and return its new epoch. Return 0, without becoming the owner, if nothing is stored under this id yet.

        - `force`: whether to take the run over from an owner that is alive.

        Raises `RunLockedError` while another owner is alive, unless `force` is set. (Within one process, the runtime itself
        prevents two drivers of a run.)
        """
        ...

    async def release(self, run_id: str, epoch: int) -> None:
        """Release a run, if this is still its owner. Never raises for a run that another owner has taken over.

        Not called if the run's last checkpoint has already released it: one with status "finished" or "cancelled".
        """
        ...


@runtime_checkable
class Fencing(Protocol):
    """Proves, before each method starts, that no other owner can have taken over the run. For backends with leases that can expire.

    A backend whose living owners cannot be replaced does not need this capability.
    """

    def fence(self) -> Fence | None:
        """Return the fence of this owner, valid while the current session is open; None if no session is open."""
        ...


@runtime_checkable
class Clocked(Protocol):
    """Has a clock of its own, by which due times count. For backends that several machines use, because their clocks differ.

    For a backend without this capability, the clock of this machine counts.
    """

    @property
    def clock_offset(self) -> float:
        """Seconds by which the clock of the storage is ahead of this machine's, as last measured; 0.0 before that. No I/O."""
        ...


@runtime_checkable
class CheckpointHistory(Protocol):
    """Keeps every checkpoint, not only the newest one.

    `history` may take `until`, the seq of the last checkpoint, too: `asyncflow.inspection` passes it if it does, to read less.
    """

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        """Return the checkpoints of a run, in order, as they are stored: complete ones and deltas.

        - `after`: only checkpoints with a larger seq; -1: all.
        """
        ...


class RunOwner(NamedTuple):
    """The owner of a run, as the storage knows it."""

    owner: str
    """Its id."""
    is_alive: bool
    """Whether it is alive, as far as this process knows. Otherwise its runs are interrupted."""
    is_here: bool = False
    """Whether it belongs to this process."""
    process: str = ""
    """The process, such as "process 4711 on host"; empty if that is unknown."""
    seconds_left: float | None = None
    """The seconds until its lease expires unless it is renewed; None if it has none."""


@runtime_checkable
class Owners(Protocol):
    """Reports who owns a run. For backends that also have `Ownership`."""

    async def owner_of(self, run_id: str) -> RunOwner | None:
        """Return the owner of a run; None if it has none, or is not stored.

        - `run_id`: the id of the run.
        """
        ...


class RunEntry(NamedTuple):
    """An entry of the catalog."""

    run_id: str
    """The id of the run."""
    flow: str
    """The name of its flow, for people."""
    status: Status
    """ "running" while an owner is alive, "waiting" if it is parked, otherwise "interrupted". All three are stored as "running"."""
    pass_number: int
    """The number of the pass, from 1."""
    seq: int
    """The seq of the newest checkpoint."""
    is_driven: bool
    """Whether its owner is alive, as far as this process knows."""
    created_at: float
    """When the run was first stored, in seconds since the Unix epoch."""
    updated_at: float
    """When its newest checkpoint was stored, in seconds since the Unix epoch."""
    position: int
    """Its position in the catalog: larger for runs that started later."""
    takeovers: int = 0
    """How often the run was taken over from a dead owner since its newest checkpoint that shows progress, which a resume does not.

    A poison run, which kills its processes, has many.
    """
    identity: str = ""
    """The key by which its flow is found: `Checkpoint.known_by`."""
    wake_at: float | None = None
    """When a waiting run is due, in seconds since the Unix epoch: infinity if it waits for signals only. None for other runs."""
    parent: str = ""
    """The id of its parent, if it is a child run."""


class RunSearch(NamedTuple):
    """What a person looks for in the catalog; None matches any run."""

    id_prefix: str | None = None
    """Only runs whose id begins with this text."""
    id_part: str | None = None
    """Only runs whose id contains this text."""
    changed_since: float | None = None
    """Only runs with `updated_at` at this time or later, in seconds since the Unix epoch."""
    created_until: float | None = None
    """Only runs with `created_at` at this time or earlier, in seconds since the Unix epoch."""
    after: int | None = None
    """Only runs with a larger position."""

    def fits(self, entry: RunEntry) -> bool:
        """Whether a run is one of those.

        - `entry`: its entry.
        """
        prefix, part, since, until, after = self
        return (
            (prefix is None or entry.run_id.startswith(prefix))
            and (part is None or part in entry.run_id)
            and (since is None or entry.updated_at >= since)
            and (until is None or entry.created_at <= until)
            and (after is None or entry.position > after)
        )


@runtime_checkable
class Catalog(Protocol):
    """Lists all its runs.

    `runs` may take `search`, a `RunSearch`, too: `asyncflow.inspection` passes it if it does, and otherwise reads all runs to find some.
    """

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: Status | Literal["unfinished"] | None = None,
        identities: Collection[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        """Return runs, newest first, filtered by run id, flow name, status or identity.

        - `run_id`: only the run with this id.
        - `flow`: only runs of the flow with this name.
        - `status`: only runs with this status. "unfinished" selects running and interrupted runs, without checking whether their
          owners are alive; waiting runs are not among them.
        - `identities`: only runs whose `RunEntry.identity` is one of these; among running runs, they are found without reading any
          other run.
        - `before`: only runs with a smaller position: that of the last run of the page before.
        - `limit`: the maximum number of runs.

        Raises `ValueError` for an unknown status, and for a negative limit.
        """
        ...


@runtime_checkable
class Retention(Protocol):
    """Deletes runs, except those with a living owner."""

    async def delete(self, run_id: str) -> bool:
        """Delete a run permanently: its former owner cannot bring it back. Return whether it existed.

        Raises `RunLockedError` while its owner is alive.
        """
        ...

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        """Delete runs that ended some time ago: finished, failed and cancelled ones. Return how many were deleted.

        - `older_than`: seconds since the run ended; 0: all that have ended.
        - `keep_last`: how many of the newest runs of each flow are kept, whenever they ended.

        Raises `ValueError` for numbers below 0, which would delete all runs.
        """
        ...


def check_query(status: object, limit: int) -> None:
    """Raise `ValueError` for a status that no run has, and for a negative limit: arguments of `Catalog.runs`."""
    known = (*get_args(Status), "unfinished")
    if status not in (None, *known):
        raise ValueError(f"status must be one of {', '.join(map(repr, known))}, not {status!r}")
    if limit < 0:
        raise ValueError(f"limit must be a number of runs, at least 0, not {limit!r}")


def check_retention(older_than: float, keep_last: int) -> None:
    """Validate the arguments of `prune`. Raises `ValueError`."""
    if not (older_than >= 0 and keep_last >= 0):
        raise ValueError(
            f"older_than must be a number of seconds and keep_last a number of runs, at least 0, not {older_than!r} and {keep_last!r}"
        )


@runtime_checkable
class Sessions(Protocol):
    """Keeps a resource, such as a connection, open while it is in use."""

    def session(self) -> AbstractAsyncContextManager[object]:
        """Return a context manager: the first user to enter opens the resource, the last one to exit closes it."""
        ...


P = TypeVar("P")


def offers(persistence: object, capability: Callable[..., P]) -> TypeGuard[P]:
    """Whether a backend has a capability. Like `isinstance`, which takes 10 us for a protocol, but checked only once for each class."""
    key = type(persistence), capability
    known = _offers.get(key)
    if known is None:
        known = _offers[key] = isinstance(persistence, cast(type, capability))
    return known


_offers: dict[tuple[type, object], bool] = {}


def session(persistence: object) -> AbstractAsyncContextManager[object]:
    """Return a context manager that keeps the backend open."""
    return persistence.session() if offers(persistence, Sessions) else nullcontext()
