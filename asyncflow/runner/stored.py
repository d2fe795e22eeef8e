"""What a runner does with stored runs that it need not drive."""

from __future__ import annotations

from collections.abc import Mapping

from .._runs.compacting import compact_stored
from .._runs.ownership import is_driven_here
from .._runtime.readers import EventStream
from ..persistence.protocol import FlowPersistence, RunEntry
from ..state import parse_run_id
from .owned import OwnedRuns
from .registry import FlowRegistry

__all__ = ["StoredRuns"]


class StoredRuns:
    """The operations on stored runs; a base of `FlowRunner`."""

    persistence: FlowPersistence
    _flows: FlowRegistry
    _live: OwnedRuns

    def __repr__(self) -> str:
        names = ", ".join(sorted(set(self._flows.names.values()))) or "no flows yet"
        return f"<FlowRunner of {names} in {self.persistence!r}: {len(self._live)} running>"

    @property
    def running(self) -> int:
        """The number of runs that it owns, including those that wait for a slot."""
        return len(self._live)

    def events(self) -> EventStream:
        """Return the events of all runs that this runner drives, and of their children, as they come: `async for event in runner.events()`.

        They begin at this call, and end when the runner is left. A reader that is slow never slows a run: it loses events, and an
        `events.EventsLost` says how many. For all events of one run, past ones included, see `RunHandle.events`.
        """
        return EventStream(self._live.audience.reader())

    @property
    def names(self) -> Mapping[str, str]:
        """The names of the registered flows, by every identity that their runs may be stored under (`RunEntry.identity`)."""
        return self._flows.names

    def is_driven(self, entry: RunEntry) -> bool:
        """Whether a run that the catalog lists has a living owner, in this process or elsewhere.

        - `entry`: the run, as `Catalog.runs` returns it.
        """
        return entry.is_driven or is_driven_here(self.persistence, entry.run_id)

    async def compact(self, run_id: object) -> int:
        """Delete the checkpoints of the earlier passes of a run, also while it is driven. Return how many were deleted.

        - `run_id`: the id of the run.

        Raises `InvalidRunIdError`, `RunNotFoundError`, `CapabilityMissingError` if the backend cannot delete a part of a run, and
        `StorageError`s.
        """
        return await compact_stored(self.persistence, parse_run_id(run_id))
