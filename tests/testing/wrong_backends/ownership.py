"""Mistakes with owners, epochs and fences."""

from asyncflow import FlowPersistence, errors
from asyncflow.persistence import Checkpoint

from .right import Fenced, Right, caught_by
from .two_verbs import WithALock


@caught_by("an_unknown_run_has_no_owner")
class OwnsWhatIsUnknown(Right):
    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        return await super().acquire(run_id, force=force) or 1


@caught_by("every_acquiring_raises_the_epoch", "acquire_by_force_takes_over_a_run")
class HasOneEpochForAll(Right):
    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        return 1 if run_id in self._rows else 0


@caught_by("commits_of_an_old_epoch_are_stale_and_write_nothing", "a_wrong_epoch_is_stale")
class IgnoresTheEpoch(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        newest = self.newest(checkpoint.run_id)
        if checkpoint.previous != (b"" if newest is None else newest.digest):
            raise errors.StaleCheckpoint("it does not follow")
        self.put(checkpoint)


@caught_by("commits_of_an_old_epoch_are_stale_and_write_nothing")
class FencesOffAfterWriting(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        try:
            await super().store(checkpoint)
        except errors.StaleCheckpoint:
            self.put(checkpoint)
            raise


@caught_by("releasing_never_raises_and_takes_nothing_from_others")
class RefusesToReleaseTwice(Right):
    def __init__(self) -> None:
        super().__init__()
        self.released: set[str] = set()

    async def release(self, run_id: str, epoch: int) -> None:
        if run_id in self.released:
            raise KeyError(run_id)
        self.released.add(run_id)


@caught_by("releasing_never_raises_and_takes_nothing_from_others")
class ReleasesWhateverIsOwned(Right):
    async def release(self, run_id: str, epoch: int) -> None:
        if run_id in self._rows:
            await self.acquire(run_id)


@caught_by("a_run_that_has_ended_is_free")
class HoldsWhatHasEnded(Right):
    def __init__(self) -> None:
        super().__init__()
        self.free: set[str] = set()

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        if run_id in self._rows and run_id not in self.free:
            raise errors.RunLockedError(f"run {run_id} is owned", run_id=run_id)
        self.free.discard(run_id)
        return await super().acquire(run_id, force=force)

    async def release(self, run_id: str, epoch: int) -> None:
        self.free.add(run_id)


@caught_by("an_acquiring_cancelled_at_any_await_can_be_repeated")
class KeepsItsLockAfterACancelledAcquire(WithALock):
    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        await self.locked()
        return await super().acquire(run_id, force=force)


@caught_by("a_place_identifies_a_storage")
class IsInAnotherPlaceEachTime(Right):
    @property
    def place(self) -> object:
        return object()


@caught_by("another_view_of_the_storage_knows_and_fences_the_same_runs")
class ShowsAnotherViewWhatItWas(Right):
    def view(self) -> FlowPersistence:
        other = Right()
        other._rows = {run_id: list(rows) for run_id, rows in self._rows.items()}
        return other


@caught_by("another_view_of_the_storage_knows_and_fences_the_same_runs")
class KeepsEpochsToItself(Right):
    def view(self) -> FlowPersistence:
        other = Right()
        other._rows = self._rows
        return other


@caught_by("a_fence_holds_for_the_owner_of_a_run")
class FencesEverybodyOff(Fenced):
    def holds(self, stretch: object) -> bool:
        return False


@caught_by("a_fence_holds_for_the_owner_of_a_run")
class FencesTheFirstStretchOff(Fenced):
    def holds(self, stretch: object) -> bool:
        return stretch == 1

    async def confirm(self, run_id: str, epoch: int) -> object:
        await super().confirm(run_id, epoch)
        return 1


@caught_by("a_fence_confirms_no_run_that_is_not_its_owner_s")
class ConfirmsWhatever(Fenced):
    async def confirm(self, run_id: str, epoch: int) -> object:
        return self.stretch


@caught_by("a_fence_confirms_no_run_that_is_not_its_owner_s")
class ConfirmsAnyEpoch(Fenced):
    async def confirm(self, run_id: str, epoch: int) -> object:
        if run_id not in self._driven:
            raise errors.StaleCheckpoint(f"{run_id} is another's", run_id=run_id)
        return self.stretch
