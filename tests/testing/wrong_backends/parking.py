"""Mistakes with parked runs."""

import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext

from asyncflow.persistence import NewSignal, RunEntry

from .right import Right, caught_by


@caught_by("a_parked_run_waits_and_has_no_owner")
class KeepsTheOwnerOfAParkedRun(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, epoch, wake_at=wake_at, newest=newest)
        self._driven.add(run_id)


@caught_by("a_parked_run_waits_and_has_no_owner")
class KnowsNoRunWithoutATime(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, epoch, wake_at=min(wake_at, 1e18), newest=newest)


@caught_by("parked_runs_are_found_by_their_wake_times")
class FindsTheNewestFirst(Right):
    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        return (await super().parked(identities, until=until, limit=999))[::-1][:limit]


@caught_by("parked_runs_are_found_by_their_wake_times")
class FindsRunsThatAreNotDue(Right):
    async def parked(self, identities: Collection[str], *, until: float, limit: int) -> list[RunEntry]:
        return await super().parked(identities, until=math.inf, limit=limit)


@caught_by("acquiring_a_run_ends_its_parking")
class KeepsAcquiredRunsParked(Right):
    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        wake_at = self._wake_at.get(run_id)
        epoch = await super().acquire(run_id, force=force)
        if wake_at is not None:
            self._wake_at[run_id] = wake_at
        return epoch


@caught_by("only_its_owner_parks_a_run")
class ParksForAnybody(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, self._epochs.get(run_id, 1), wake_at=wake_at, newest=newest)


@caught_by("a_run_that_has_ended_is_not_parked")
class ParksRunsThatHaveFailed(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, epoch, wake_at=wake_at, newest=newest)
        if self._entries[run_id].status == "failed":
            self._wake_at[run_id] = wake_at


@caught_by("a_signal_makes_a_parked_run_due")
class LetsItsRunsSleep(Right):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        wake_at = self._wake_at.get(run_id)
        is_new = await super().send(run_id, signal, seq=seq)
        if wake_at is not None:
            self._wake_at[run_id] = wake_at
        return is_new


@caught_by("a_signal_that_its_owner_has_not_read_makes_a_run_due")
class LosesTheSignalInBetween(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, epoch, wake_at=wake_at, newest=1 << 60)


@caught_by("a_signal_that_its_owner_has_not_read_makes_a_run_due")
class WakesForSignalsThatWereRead(Right):
    async def park(self, run_id: str, epoch: int, *, wake_at: float, newest: int = 0) -> None:
        await super().park(run_id, epoch, wake_at=wake_at, newest=0)


@caught_by("who_watches_a_parked_run_is_called_when_it_wakes")
class ReportsNothing(Right):
    def watch_parked(self, run_id: str, woken: Callable[[], object]) -> AbstractContextManager[object]:
        return nullcontext()
