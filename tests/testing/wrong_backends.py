"""Backends with one mistake each, such as are easily made, and the conformance test that must catch it."""

import re
import time
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel

from asyncflow import FlowPersistence, MemoryFlowPersistence, errors
from asyncflow.persistence import Checkpoint, RunEntry
from asyncflow.persistence.checkpoint import fold

WRONG: list[tuple[type[FlowPersistence], str]] = []
"""(wrong backend, name of the test that must fail)."""

ON_ASYNCIO_ALONE: set[type[FlowPersistence]] = set()
"""Those whose mistake does no harm on trio."""


def caught_by(*tests: str) -> Callable[[type[Any]], type[Any]]:
    def noted(wrong: type[Any]) -> type[Any]:
        WRONG.extend((wrong, f"test_{test}") for test in tests)
        return wrong

    return noted


class Right(MemoryFlowPersistence):
    """What most of the others are made of."""

    async def store(self, checkpoint: Checkpoint) -> None:
        """What `save` and `append` do."""
        await super().append(checkpoint)

    async def append(self, checkpoint: Checkpoint) -> None:
        await self.store(checkpoint)

    def view(self) -> FlowPersistence:
        """Another one, of the same storage."""
        other = type(self)()
        other._rows, other._epochs = self._rows, self._epochs
        return other

    def put(self, checkpoint: Checkpoint) -> None:
        """Store it, without looking at what is stored."""
        self._rows.setdefault(checkpoint.run_id, []).append(checkpoint.to_bytes())

    def newest(self, run_id: str) -> Checkpoint | None:
        rows = self._rows.get(run_id)
        return Checkpoint.from_bytes(rows[-1]) if rows else None

    async def changed(self, run_id: str, seq: int | None, **fields: Any) -> Checkpoint | None:
        """What is loaded, but with these fields."""
        found = await super().load(run_id, seq)
        return None if found is None else found._replace(**fields)


class Opened(Right):
    """The same, with something to be opened and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.users = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        self.users += 1
        try:
            await self.opened()
            yield
        finally:
            self.users -= 1
            self.left()

    async def opened(self) -> None:
        await anyio.lowlevel.checkpoint()

    def left(self) -> None: ...


class Fenced(Right):
    """The same, with a fence that never falls."""

    stretch = 0

    def fence(self) -> Any:
        return self

    def holds(self, stretch: object) -> bool:
        return True

    async def confirm(self, run_id: str, epoch: int) -> object:
        if run_id not in self._driven or self._epochs.get(run_id, 1) != epoch:
            raise errors.StaleCheckpoint(f"{run_id} is another's", run_id=run_id)
        return self.stretch


# ---- two verbs -----------------------------------------------------------------------------------------------------


@caught_by("every_field_comes_back_as_it_was_saved")
class DropsTheInputs(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await self.changed(run_id, seq, inputs=None)


@caught_by("every_field_comes_back_as_it_was_saved")
class RoundsTheTime(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        return found and found._replace(at=round(found.at, 3))


@caught_by("every_field_comes_back_as_it_was_saved")
class ReturnsAnotherKindOfBytes(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        return found and found._replace(state=bytearray(found.state or b""))  # type: ignore[arg-type]  # the mistake


@caught_by("every_field_comes_back_as_it_was_saved")
class TakesNullForNothing(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        return found and found._replace(result=None if found.result == b"null" else found.result)


@caught_by("the_newest_checkpoint_is_loaded")
class AcknowledgesBeforeItStores(Right):
    def __init__(self) -> None:
        super().__init__()
        self.late: list[Checkpoint] = []

    async def store(self, checkpoint: Checkpoint) -> None:
        self.late.append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        for checkpoint in self.late:
            self.put(checkpoint)
        self.late.clear()
        return found


@caught_by("the_newest_checkpoint_is_loaded")
class KeepsWhatItOnceLoaded(Right):
    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Checkpoint] = {}

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = self.cache.get(run_id) or await super().load(run_id, seq)
        if found is not None:
            self.cache[run_id] = found
        return found


@caught_by("a_load_during_a_save_sees_all_of_it_or_nothing")
class KeepsWhatItLoadedDuringASave(Right):
    """Its cache is emptied before the save, and filled again by a load that began before."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Checkpoint | None] = {}

    async def store(self, checkpoint: Checkpoint) -> None:
        self.cache.pop(checkpoint.run_id, None)
        await anyio.lowlevel.checkpoint()
        await super().store(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        if seq is not None:
            return await super().load(run_id, seq)
        if run_id not in self.cache:
            found = await super().load(run_id)
            await anyio.lowlevel.checkpoint()
            self.cache[run_id] = found
        return self.cache[run_id]


@caught_by("a_seq_is_that_checkpoint_or_none_and_never_another")
class ReturnsTheNewestForAnySeq(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await super().load(run_id)


@caught_by("a_seq_is_that_checkpoint_or_none_and_never_another")
class TakesASeqForAnIndexOfAList(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = self._rows.get(run_id, [])
        return None if not rows or (seq or 0) >= len(rows) else Checkpoint.from_bytes(rows[-1 if seq is None else seq])


@caught_by("a_run_that_is_unknown_is_none")
class MakesUpWhatIsUnknown(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        blank = Checkpoint(run_id=run_id, flow="", seq=0, number=1, kind="started", status="running", at=0.0)
        return await super().load(run_id, seq) or blank


@caught_by("runs_do_not_see_one_another")
class LooksForWhatBeginsLikeTheId(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await super().load(max((name for name in self._rows if name.startswith(run_id)), default=run_id), seq)


class WithKeys(Right, ABC):
    """Stores runs under what it makes of their ids."""

    async def store(self, checkpoint: Checkpoint) -> None:
        rows = self._rows.setdefault(self.key(checkpoint.run_id), [])
        rows.append(checkpoint.to_bytes())

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return self.newest(self.key(run_id))

    @abstractmethod
    def key(self, run_id: str) -> str:
        """What it makes of an id."""


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class MixesUpCase(WithKeys):
    def key(self, run_id: str) -> str:
        return run_id.lower()


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class CutsLongIds(WithKeys):
    def key(self, run_id: str) -> str:
        return run_id[:127]


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class NormalizesIds(WithKeys):
    def key(self, run_id: str) -> str:
        return unicodedata.normalize("NFC", run_id)


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class TakesIdsForPaths(WithKeys):
    def key(self, run_id: str) -> str:
        return re.sub(r"/+", "/", run_id)


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class TakesIdsForNumbers(WithKeys):
    def key(self, run_id: str) -> str:
        return str(int(run_id)) if run_id.isdigit() else run_id


@caught_by("an_id_of_any_legal_form_is_a_run_of_its_own")
class ComparesByLike(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        pattern = re.escape(run_id).replace("%", ".*").replace("_", ".")
        return self.newest(next((name for name in self._rows if re.fullmatch(pattern, name)), run_id))


@caught_by("many_save_at_the_same_time")
class WritesThroughOneBuffer(Right):
    buffer: Checkpoint

    async def store(self, checkpoint: Checkpoint) -> None:
        self.buffer = checkpoint
        await anyio.lowlevel.checkpoint()
        if self.newest(self.buffer.run_id) != self.buffer:
            self.put(self.buffer)


@caught_by("a_load_during_a_save_sees_all_of_it_or_nothing", "a_save_cancelled_at_any_await_leaves_the_old_or_the_new")
class WritesInTwoHalves(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        self.put(checkpoint._replace(state=b"{}"))
        await anyio.lowlevel.checkpoint()
        self._rows[checkpoint.run_id][-1] = checkpoint.to_bytes()

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return self.newest(run_id)


@caught_by("a_checkpoint_that_does_not_follow_is_stale_or_stored", "a_wrong_predecessor_is_stale")
class WritesBeforeItCompares(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        before = self.newest(checkpoint.run_id)
        self.put(checkpoint)
        if before is not None and (before.digest, before.seq + 1) != (checkpoint.previous, checkpoint.seq):
            raise errors.StaleCheckpoint("it does not follow")

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return self.newest(run_id)


@caught_by("a_save_cancelled_at_any_await_leaves_the_old_or_the_new")
class GoesOnBehindACancellation(Right):
    late: Checkpoint | None = None

    async def store(self, checkpoint: Checkpoint) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            self.late = checkpoint
            raise
        await super().store(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        if self.late is not None:
            self.put(self.late)
            self.late = None
        return found


@caught_by("an_append_cancelled_at_any_await_leaves_the_old_or_the_new")
class StoresWhenTheSessionCloses(Opened):
    """What was cancelled is still under way, within a session: it is stored with the next one, or at the session's end."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Checkpoint] = []

    async def append(self, checkpoint: Checkpoint) -> None:
        async with self.session():
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                self.late.append(checkpoint)
                raise
            self.settle()
            await self.store(checkpoint)

    def left(self) -> None:
        if not self.users:
            self.settle()

    def settle(self) -> None:
        while self.late:
            self.put(self.late.pop(0))


@caught_by("a_withdrawn_append_withdraws_those_that_follow_it")
class LeavesInTheQueueWhatIsCancelled(Right):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()
        self.late: list[Checkpoint] = []

    async def store(self, checkpoint: Checkpoint) -> None:
        try:
            async with self.turn:
                await anyio.lowlevel.checkpoint()
                await super().store(checkpoint)
        except anyio.get_cancelled_exc_class():
            self.late.append(checkpoint)
            raise

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        found = await super().load(run_id, seq)
        if found is not None and self.late and self.late[0].previous == found.digest:
            self.put(self.late.pop(0))
        return found


@caught_by("an_append_cancelled_at_any_await_leaves_the_old_or_the_new")
class SwallowsACancellation(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class():
            pass
        await super().store(checkpoint)


ON_ASYNCIO_ALONE.add(SwallowsACancellation)  # trio tells a task again that it is cancelled, and asyncio does not


class WithALock(Right):
    """Leaves its lock held behind a cancellation."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = anyio.Semaphore(1)

    async def locked(self) -> None:
        await self.lock.acquire()
        await anyio.lowlevel.checkpoint()
        self.lock.release()


@caught_by(
    "a_save_cancelled_at_any_await_leaves_the_old_or_the_new",
    "an_append_cancelled_at_any_await_leaves_the_old_or_the_new",
)
class KeepsItsLockAfterACancelledWrite(WithALock):
    async def store(self, checkpoint: Checkpoint) -> None:
        await self.locked()
        await super().store(checkpoint)


@caught_by("a_load_cancelled_at_any_await_leaves_the_backend_usable")
class KeepsItsLockAfterACancelledLoad(WithALock):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        await self.locked()
        return await super().load(run_id, seq)


@caught_by("it_is_used_without_a_session_too")
class NeedsASession(Opened):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await super().load(run_id, seq) if self.users else None


# ---- log -----------------------------------------------------------------------------------------------------------


@caught_by("deltas_are_folded_on_load", "a_flow_that_failed_goes_on_and_runs_each_method_once")
class DoesNotFold(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        newest, whole = self.newest(run_id), await super().load(run_id)
        return newest and whole and newest._replace(state=whole.state, progress=await self.first_progress(run_id))

    async def first_progress(self, run_id: str) -> bytes | None:
        return (await self.history(run_id))[0].progress


@caught_by("saves_and_appends_are_one_chain")
class PrefersWhatWasSaved(Right):
    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[str, Checkpoint] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        await self.store(checkpoint)
        self.saved[checkpoint.run_id] = checkpoint

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return self.saved.get(run_id) or await super().load(run_id, seq)


@caught_by("a_run_of_three_hundred_deltas_loads")
class LoadsAHundredRows(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = await self.history(run_id)
        return fold(rows[:100]) if rows else None


@caught_by("appends_of_many_runs_at_once_are_all_stored")
class DropsWhatIsTooMuch(Right):
    writing = 0

    async def store(self, checkpoint: Checkpoint) -> None:
        if self.writing < 32:
            self.writing += 1
            await super().store(checkpoint)
            self.writing -= 1


@caught_by("appends_started_together_keep_their_order")
class LosesTheOrder(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        for _ in range(checkpoint.seq % 3):
            await anyio.lowlevel.checkpoint()
        await super().store(checkpoint)


@caught_by("a_load_during_an_append_sees_all_of_it_or_nothing")
class AcknowledgesALateRow(Right):
    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = await self.history(run_id)
        await anyio.lowlevel.checkpoint()
        newest = self.newest(run_id)
        return fold(rows)._replace(state=newest and newest.state) if rows else None


@caught_by("a_wrong_predecessor_is_stale")
class ComparesTheSeqAlone(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        newest = self.newest(checkpoint.run_id)
        if checkpoint.seq != (0 if newest is None else newest.seq + 1):
            raise errors.StaleCheckpoint("it does not follow")
        self.put(checkpoint)


@caught_by("a_wrong_seq_is_stale")
class ComparesThePredecessorAlone(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        newest = self.newest(checkpoint.run_id)
        if checkpoint.previous != (b"" if newest is None else newest.digest):
            raise errors.StaleCheckpoint("it does not follow")
        self.put(checkpoint)


@caught_by("a_checkpoint_is_not_taken_twice")
class TakesTheSameAgain(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        if self.newest(checkpoint.run_id) != checkpoint:
            await super().store(checkpoint)


@caught_by("a_second_beginning_of_a_run_is_stale")
class BeginsAgain(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        if checkpoint.seq == 0:
            self._rows.pop(checkpoint.run_id, None)
        await super().store(checkpoint)


@caught_by("of_two_that_follow_one_checkpoint_one_is_stored")
class ComparesTooEarly(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        newest = self.newest(checkpoint.run_id)
        if checkpoint.previous != (b"" if newest is None else newest.digest):
            raise errors.StaleCheckpoint("it does not follow")
        await anyio.lowlevel.checkpoint()
        self.put(checkpoint)


@caught_by("a_withdrawn_append_withdraws_those_that_follow_it")
class WithdrawsOneAlone(Right):
    def __init__(self) -> None:
        super().__init__()
        self.turn = anyio.Lock()

    async def store(self, checkpoint: Checkpoint) -> None:
        async with self.turn:
            await anyio.lowlevel.checkpoint()
            await super().store(checkpoint)


# ---- history, owners -----------------------------------------------------------------------------------------------


@caught_by("a_history_holds_every_checkpoint_in_order")
class KeepsTheNewestTen(Right):
    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        return (await super().history(run_id, after=after))[-10:]


@caught_by("a_history_holds_every_checkpoint_in_order")
class KeepsTheNewestFirst(Right):
    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        return (await super().history(run_id, after=after))[::-1]

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = await super().history(run_id)
        return fold(rows) if rows else None


@caught_by("nobody_owns_a_run_that_is_unknown")
class OwnsWhatIsUnknown(Right):
    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        return await super().acquire(run_id, force=force) or 1


@caught_by("every_acquiring_raises_the_epoch", "a_run_is_taken_over_by_force")
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


@caught_by("a_place_tells_storages_apart")
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


# ---- fences ---------------------------------------------------------------------------------------------------------


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


# ---- sessions ------------------------------------------------------------------------------------------------------


@caught_by("sessions_are_nested_and_used_again")
class ForgetsWhenClosed(Opened):
    def left(self) -> None:
        if not self.users:
            self._rows.clear()


@caught_by("sessions_are_nested_and_used_again")
class ClosesWithTheFirstThatLeaves(Opened):
    def left(self) -> None:
        self.is_closed = self.users > 0

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return None if getattr(self, "is_closed", False) else await super().load(run_id, seq)


@caught_by("sessions_are_opened_and_closed_by_many_at_once")
class OpensTwiceAtOnce(Opened):
    is_open = False

    async def opened(self) -> None:
        if not self.is_open:
            await anyio.lowlevel.checkpoint()
            for _ in range(len(self._rows) % 3):
                await anyio.lowlevel.checkpoint()
            self._rows = {}
            self.is_open = True


@caught_by("a_session_passes_errors_on_and_closes")
class WrapsWhatIsRaisedInASession(Opened):
    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        async with super().session(), anyio.create_task_group():
            yield


@caught_by("a_session_cancelled_at_any_await_can_be_opened_again")
class StaysHalfOpen(Opened):
    def __init__(self) -> None:
        super().__init__()
        self.opening = anyio.Semaphore(1)

    async def opened(self) -> None:
        await self.opening.acquire()
        await anyio.lowlevel.checkpoint()
        self.opening.release()


@caught_by("a_flow_that_was_cancelled_goes_on_and_runs_each_method_once")
class RollsBackWhatACancelledSessionStored(Opened):
    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        before = {run_id: list(rows) for run_id, rows in self._rows.items()}
        try:
            async with super().session():
                yield
        except anyio.get_cancelled_exc_class():
            self._rows = before
            raise


# ---- the catalog, and forgetting -----------------------------------------------------------------------------------


class Lists(Right):
    """Lists what it has in a wrong way."""

    async def runs(self, **options: Any) -> list[RunEntry]:
        return self.listed(await super().runs(**options))

    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return found


@caught_by("the_catalog_lists_runs_the_newest_first", "the_catalog_is_read_page_by_page")
class ListsTheOldestFirst(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return found[::-1]


@caught_by("the_catalog_lists_runs_the_newest_first")
class TellsTheFirstCheckpointsTime(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return [entry._replace(updated_at=entry.created_at) for entry in found]


@caught_by("the_catalog_tells_flows_and_statuses_apart")
class ListsFlowsInAnyCase(Right):
    async def runs(self, *, flow: str | None = None, **options: Any) -> list[RunEntry]:
        found = await super().runs(**options)
        return [entry for entry in found if flow is None or entry.flow.lower() == flow.lower()]


@caught_by("the_catalog_finds_runs_by_the_identities_of_their_flows")
class ListsRunsOfAllFlowsOfOneName(Right):
    async def runs(self, *, identities: Collection[str] | None = None, **options: Any) -> list[RunEntry]:
        names = None if identities is None else {identity.rpartition(".")[2].strip(":") for identity in identities}
        return [entry for entry in await super().runs(**options) if names is None or entry.flow in names]


@caught_by("the_catalog_tells_flows_and_statuses_apart")
class ListsAllForAnId(Right):
    async def runs(self, *, run_id: str | None = None, **options: Any) -> list[RunEntry]:
        return await super().runs(**options)


@caught_by("the_catalog_tells_flows_and_statuses_apart")
class CutsBeforeItChooses(Right):
    """A page of what fits, among the newest of all."""

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: str | None = None,
        identities: Collection[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        page = await super().runs(run_id=run_id, before=before, limit=limit)
        return [
            entry
            for entry in page
            if flow in (None, entry.flow)
            and status in (None, entry.status)
            and (identities is None or entry.identity in identities)
        ]


@caught_by("the_catalog_lists_interrupted_runs_apart_from_those_that_are_driven")
class CallsAllThatRunInterrupted(Right):
    async def runs(self, *, status: Any = None, **options: Any) -> list[RunEntry]:
        return await super().runs(status="unfinished" if status == "interrupted" else status, **options)


@caught_by("the_catalog_tells_flows_and_statuses_apart", "the_catalog_tells_that_a_released_run_is_driven_by_nobody")
class TellsThatAllAreDriven(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return [entry._replace(is_driven=True) for entry in found]


@caught_by("the_catalog_is_read_page_by_page")
class CountsPagesFromTheTop(Right):
    """With an offset: what is begun meanwhile moves the pages."""

    async def runs(self, *, before: int | None = None, limit: int = 100, **options: Any) -> list[RunEntry]:
        found = await super().runs(limit=10**6, **options)
        begin = before or 0
        page = found[begin : begin + limit]
        return [entry._replace(position=begin + limit) for entry in page]


@caught_by("a_history_begins_after_a_seq")
class TellsAllOfTheHistory(Right):
    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        return await super().history(run_id)


@caught_by("a_deleted_run_stays_unknown")
class ForgetsTheNewestCheckpointAlone(Right):
    async def delete(self, run_id: str) -> bool:
        return bool(self._rows.get(run_id)) and bool(self._rows[run_id].pop())


@caught_by("a_deleted_run_stays_unknown")
class BringsBackWhatWasDeleted(Right):
    """Takes the next checkpoint of a run that it has forgotten."""

    async def store(self, checkpoint: Checkpoint) -> None:
        if checkpoint.seq and checkpoint.run_id not in self._rows:
            self.put(checkpoint)
        else:
            await super().store(checkpoint)


@caught_by("a_deleted_run_stays_unknown")
class MakesAnEmptyRunOfWhatIsRefused(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        self._rows.setdefault(checkpoint.run_id, [])
        await super().store(checkpoint)


@caught_by("a_deleted_run_stays_unknown")
class KeepsTheHistoryOfWhatWasDeleted(Right):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[bytes]] = {}

    async def delete(self, run_id: str) -> bool:
        self.kept.setdefault(run_id, self._rows.get(run_id, []))
        return await super().delete(run_id)

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        if run_id in self.kept and run_id not in self._rows:
            return [Checkpoint.from_bytes(row) for row in self.kept[run_id]][after + 1 :]
        return await super().history(run_id, after=after)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await super().load(run_id, seq) if run_id in self._rows else None


@caught_by("a_deleted_run_stays_unknown")
class ListsWhatWasDeleted(Right):
    async def delete(self, run_id: str) -> bool:
        entry = self._entries.get(run_id)
        is_done = await super().delete(run_id)
        self._entries.update({run_id: entry} if entry else {})
        return is_done


class Prunes(Right):
    """Forgets what has ended, but takes something wrong for it."""

    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status != "running" and entry.updated_at < before

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        kept: Counter[str] = Counter()
        gone = 0
        for entry in await self.runs(limit=10**6):
            kept[entry.flow] += 1
            if kept[entry.flow] > keep_last and self.has_ended(entry, time.time() - older_than):
                gone += await self.delete(entry.run_id)
        return gone


@caught_by("the_newest_of_each_flow_are_kept")
class CountsWhatHasNotEnded(Prunes): ...


@caught_by("only_what_ended_long_ago_is_pruned")
class PrunesByTheBeginning(Prunes):
    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status != "running" and entry.created_at < before


@caught_by("only_what_ended_long_ago_is_pruned")
class KeepsWhatHasFailed(Prunes):
    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status in ("finished", "cancelled") and entry.updated_at < before


@caught_by("a_run_that_goes_on_while_others_are_pruned_is_kept")
class ListsFirstAndDeletesLater(Right):
    """Each deletion asks only whether somebody drives the run: it may have been resumed, and have ended, since it was listed."""

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        before = time.time() - older_than
        found = await self.runs(limit=10**6)
        gone = 0
        for entry in found:
            if entry.status != "running" and entry.updated_at < before:
                await anyio.lowlevel.checkpoint()
                with suppress(errors.RunLockedError):
                    gone += await self.delete(entry.run_id)
        return gone


@caught_by("a_run_that_goes_on_while_others_are_pruned_is_kept")
class DeletesTheOldestFirstByAnOldList(Right):
    """The same from the other end of the list."""

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        before = time.time() - older_than
        found = [e for e in await self.runs(limit=10**6) if e.status != "running" and e.updated_at < before]
        gone = 0
        for entry in reversed(found):
            await anyio.lowlevel.checkpoint()
            if entry.run_id not in self._driven:
                gone += await self.delete(entry.run_id)
        return gone


@caught_by("a_run_that_is_driven_is_not_forgotten")
class ForgetsWhatIsDriven(Right):
    async def delete(self, run_id: str) -> bool:
        self._driven.discard(run_id)
        return await super().delete(run_id)


@caught_by("only_what_ended_long_ago_is_pruned")
class PrunesWhatIsInterrupted(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        found = await self.runs(limit=10**6)
        return sum([await self.delete(entry.run_id) for entry in found])


@caught_by("the_newest_of_each_flow_are_kept")
class KeepsTheNewestOfAll(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        found = await self.runs(limit=10**6)
        return sum([await self.delete(entry.run_id) for entry in found[keep_last:]])
