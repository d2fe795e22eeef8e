"""What a runner does with stored runs, whichever process drives them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from .._runs import call_errors as refusals
from .._runs.cancelling import cancel_stored
from .._runs.compacting import compact_stored
from .._runs.ownership import is_driven_here
from .._runtime.readers import EventStream
from .._waiting import current_loop
from ..errors import RunnerClosedError
from ..persistence.protocol import FlowPersistence, RunEntry
from ..state import parse_run_id
from .handles import RunHandle
from .live import Live
from .owned import OwnedRuns
from .registry import FlowRegistry
from .views import Viewed

__all__ = ["StoredRuns"]


class StoredRuns:
    """The operations on stored runs, whichever process drives them; a base of `FlowRunner`."""

    persistence: FlowPersistence
    _flows: FlowRegistry
    _group: TaskGroup | None
    _live: OwnedRuns
    _loop: object
    _viewed: Viewed

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

    async def get(self, run_id: object) -> RunHandle[Any]:
        """Return a handle on any stored run, whichever process drives it. Raises `InvalidRunIdError`, `RunNotFoundError`, `StorageError`s.

        - `run_id`: the id of the run.
        """
        wanted = parse_run_id(run_id)
        if wanted not in self._live and await self.persistence.load(wanted) is None:
            raise refusals.unknown_run(self.persistence, wanted, None)
        return self._handle(wanted)

    async def cancel(self, run_id: object) -> None:
        """Cancel a run permanently and durably, whichever process drives it. A finished run stays as it is.

        - `run_id`: the id of the run.

        Raises `InvalidRunIdError`, `RunNotFoundError`, `CapabilityMissingError` if the run is not driven here and the backend lacks
        `Ownership`, `RunFencedError` if another owner has just taken the run over (repeat the call), `StorageError`s, and
        `RunnerClosedError` on another event loop than the runner's.
        """
        self._check_loop()
        wanted = parse_run_id(run_id)
        live = self._live.get(wanted)
        if live is not None:
            await live.admitted.wait()
        if live is not None and not live.ended.is_set():
            await live.cancel()
        else:
            await cancel_stored(self.persistence, wanted, self._live.audience)

    def _handle(self, run_id: str, live: Live | None = None, *, is_elsewhere: bool = False) -> RunHandle[Any]:
        live, cancel = live or self._live.get(run_id), partial(self.cancel, run_id)
        return RunHandle(run_id, self.persistence, live, cancel, self._viewed, self._live, is_elsewhere=is_elsewhere)

    def _check_loop(self) -> None:
        """Raise `RunnerClosedError` on another event loop than the runner's: its runs would end with that one."""
        if self._group is not None and current_loop() is not self._loop:
            raise RunnerClosedError(
                "the runner is in use on another event loop, and nothing was started. Call it there: in a worker thread of that loop, "
                "`anyio.from_thread.run(runner.start, Report)`"
            )
