"""Notice that a run was ended, deleted or continued elsewhere while it only waits. What commits nothing meets no fence.

A runner looks at the owners of all its runs; this is for a run that is driven by a bare call.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from ..errors import RunFencedError, StorageError
from ..persistence.protocol import Catalog, offers
from .recorder import Recorder
from .timing import virtual_clock

__all__ = ["OwnedClock", "OwnerCheck"]


class OwnerCheck:
    """Stops a run that belongs to another owner, or has ended."""

    __slots__ = ("_recorder", "_stop")

    def __init__(self, recorder: Recorder, stop: Callable[[BaseException], None]) -> None:
        """`stop`: ends the run here with an error: cancels what runs, the caller included."""
        self._recorder = recorder
        self._stop = stop

    async def __call__(self) -> None:
        """Look into the catalog of the storage, if it has one. A storage that does not answer is asked again the next time."""
        storage, chain = self._recorder.persistence, self._recorder.chain
        if virtual_clock.get() is not None or not offers(storage, Catalog):
            return
        try:
            entries = await storage.runs(run_id=chain.run_id, limit=1)
        except StorageError:
            return
        if entries and entries[0].status not in ("finished", "cancelled") and entries[0].seq <= chain.seq:
            return
        self._stop(
            RunFencedError(
                f"run {chain.run_id} was fenced: while it waited, another owner has taken it over, ended or deleted it. Nothing more is "
                "started here",
                run_id=chain.run_id,
            )
        )
        await anyio.sleep_forever()


class OwnedClock:
    """The clock of such a run: a wait that uses it also checks the owner, now and then."""

    __slots__ = ("_clock", "check")

    def __init__(self, clock: Callable[[], float], check: OwnerCheck) -> None:
        self._clock = clock
        self.check = check

    def __call__(self) -> float:
        """Return the time in seconds since the Unix epoch."""
        return self._clock()
