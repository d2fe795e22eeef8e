"""What a database has open while a backend is in use: a reader, a writer behind a queue, a lease."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from ..checkpoint import Checkpoint
from ..fence import Fence
from ..inbox import StoredSignal
from .group_commit import GroupCommit
from .inboxes import Received
from .jobs import Ended
from .listing import Query
from .loop_host import LoopHost
from .ownership_rules import Liveness
from .unreleased import Unreleased
from .watches import Watches

__all__ = ["Opened", "Reads"]


class Reads(Protocol):
    """The interface of a reader of runs. Its methods run on the loop host's event loop; each answers from one snapshot of the database."""

    @property
    def newest(self) -> Callable[[str], Coroutine[Any, Any, list[Checkpoint]]] | None:
        """Reads the rows from which a run's newest checkpoint is folded, in one statement; None if this backend cannot.

        It may be cancelled at any await. If it returns nothing, `checkpoints` has to look: the run may be unknown, or damaged.
        """
        ...

    async def checkpoints(
        self, run_id: str, seq: int | None, *, whole: bool, after: int = -1
    ) -> list[Checkpoint] | None:
        """Return the rows of a run up to `seq` (None: the newest), or None if the run is unknown.

        If `whole` is set, the rows with a seq above `after`; otherwise the rows from the last complete checkpoint on. Raises
        `CheckpointCorruptError`.
        """
        ...

    async def everything(self, run_id: str) -> tuple[list[Checkpoint], Received] | None:
        """Return all checkpoints and signals of a run, or None if the run is unknown. Raises `CheckpointCorruptError`."""
        ...

    async def runs(self, query: Query) -> list[tuple[Any, ...]]:
        """Return a page of the catalog, newest run first, as rows for `listing.entry_of`."""
        ...

    async def parked(self, identities: Collection[str], until: float, limit: int) -> list[tuple[Any, ...]]:
        """Return up to `limit` parked runs of each flow that are due by a time, as rows for `listing.entry_of`. See `Parking.parked`."""
        ...

    async def orphans(self, limit: int) -> list[tuple[Any, ...]]:
        """Return child runs that are not over although their parent is, as rows for `listing.entry_of`. See `Children.orphans`."""
        ...

    async def quiet(self, run_ids: Collection[str]) -> list[str]:
        """Return those of some runs that are parked, and that no signal has made due."""
        ...

    async def ended(self, older_than: float, after: int, limit: int) -> list[Ended]:
        """Return up to `limit` runs that ended more than `older_than` seconds ago by the database's clock, in catalog order.

        The page starts after the catalog position `after`.
        """
        ...

    async def run_ids(self) -> list[str]:
        """Return the ids of all runs, in order of creation."""
        ...

    async def inbox(self, run_id: str) -> list[StoredSignal]:
        """Return the signals of a run that were neither taken nor set aside, the oldest first. Raises `CheckpointCorruptError`."""
        ...

    @property
    def has_cancellable_inboxes(self) -> bool:
        """Whether `inbox` may be cancelled at any await, after `check_inboxes`."""
        ...

    @property
    def has_sound_inboxes(self) -> bool:
        """Whether `check_inboxes` would find nothing."""
        ...

    async def check_inboxes(self) -> None:
        """Check the tables of the runs and of the signals, and their indexes, once for each opening.

        An empty inbox may be one whose signals were lost, and an unknown key may be that of a signal which was taken. Raises
        `StorageCorruptError`.
        """
        ...

    async def received(self, run_id: str) -> Received:
        """Return all signals of a run that are kept, to be checked. Raises `StorageCorruptError`."""
        ...

    async def damage(self) -> list[str]:
        """Return descriptions of damage to the database itself."""
        ...


class Opened(Protocol):
    """The resources that are open while a backend is in use."""

    home: LoopHost
    commits: GroupCommit
    unreleased: Unreleased
    arrivals: Watches
    parked: Watches
    stop_renewing: Callable[[], object]

    @property
    def fence(self) -> Fence:
        """The fence that proves the owner's lease."""
        ...

    @property
    def reader(self) -> Reads:
        """The reader of runs."""
        ...

    def liveness(self, owner: str) -> Liveness:
        """Return what is known of an owner, apart from its lease."""
        ...

    def name_of(self, owner: str) -> str:
        """Return the process that an owner belongs to, such as "process 4711 on host"; '' if that is unknown."""
        ...

    def rest(self) -> float:
        """Return the pause between two large transactions, for other processes, as a fraction of the time that one transaction takes."""
        ...

    async def close(self) -> None:
        """Close the open resources. Runs on the loop host's event loop."""
        ...

    def leave(self) -> None:
        """Stop being an owner. Call it after `close`."""
        ...

    def abandon(self) -> None:
        """Release what a closed event loop has left open."""
        ...
