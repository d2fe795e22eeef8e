"""What a runner does by itself: it recovers interrupted runs, wakes parked ones, and sweeps over those that wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from .._runs.parked import is_followed
from ..persistence.protocol import FlowPersistence, RunEntry
from .capacity import Limits
from .counting import Counting
from .live import Live
from .opening import Opening
from .orphans import Orphans
from .owned import OwnedRuns
from .recovery import Recovery
from .registry import FlowRegistry
from .sweeping import Sweep
from .waking import Waker

__all__ = ["Background"]

AT_ONCE: Final = 64
"""Runs that are woken at once, at most. With many, each costs more CPU: the garbage collector scans them all, again and again."""


class Background:
    """The tasks of a runner that no call has asked for."""

    def __init__(
        self,
        persistence: FlowPersistence,
        flows: FlowRegistry,
        live: OwnedRuns,
        limits: Limits,
        is_recoverable: Callable[[RunEntry], bool],
        resume: Callable[[RunEntry], Awaitable[bool]],
        free_slots: Callable[[], int],
    ) -> None:
        """`live`: the runs that are driven here. `resume`: resumes a run as soon as there is a place, and returns whether it did."""
        self._live = live
        self._resume = resume
        self.recovery: Recovery = Recovery(
            persistence, is_recoverable, lambda: flows.identities, resume, live, limits.max_takeovers, live.audience
        )
        self.orphans: Orphans = Orphans(persistence, live.audience)
        self.counting: Counting = Counting(persistence, lambda: flows.identities, live.audience)
        self.sweep: Sweep = Sweep(persistence, lambda: flows.identities, self._wake, limits.waiting_warning)
        self._persistence = persistence
        self._free_slots = free_slots
        self._woken: set[Live] = set()
        """Runs that were woken, and have not begun."""
        calls = self._may_take, lambda: flows.may_wait, lambda: self.recovery.stopped + len(self._woken)
        self.waker: Waker = Waker(persistence, lambda: flows.identities, self._wake, *calls)

    async def work(self, opening: Opening, recover_every: float | None) -> None:
        """Work until this is cancelled, as soon as the storage is open. `recover_every`: seconds between two scans; None: no scans."""
        await opening.finish()
        async with anyio.create_task_group() as group:
            group.start_soon(self.waker.keep_looking)
            group.start_soon(self.sweep.keep_sweeping)
            group.start_soon(self.orphans.keep_looking)
            if self._live.audience.is_measuring:
                group.start_soon(self.counting.keep_counting)
            if recover_every is not None:
                await self.recovery.keep_scanning(recover_every)

    def _may_take(self) -> int:
        """Return how many due runs may be taken: as many as there are free slots; else one, which waits for its slot like new runs.

        Of many, `AT_ONCE` are taken at once, and the next ones when half of them have begun: see `_has_begun`.
        """
        most = min(max(self._free_slots(), 1), AT_ONCE)
        return most - len(self._woken) if len(self._woken) <= AT_ONCE // 2 else 0

    async def _wake(self, entry: RunEntry) -> bool:
        """Resume a run that was parked and is due."""
        is_free = entry.run_id not in self._live and not is_followed(self._persistence, entry.run_id)
        is_woken = is_free and self.recovery.may_retry(entry.run_id) and await self._resume(entry)
        run = self._live.get(entry.run_id) if is_woken else None
        if run is not None and run.is_queued:
            self._woken.add(run)
            run.on_begun = self._has_begun
        return is_woken

    def _has_begun(self, run: Live) -> None:
        self._woken.discard(run)
        if len(self._woken) <= AT_ONCE // 2:
            self.waker.look_for_more()
