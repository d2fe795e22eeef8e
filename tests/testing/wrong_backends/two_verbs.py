"""Mistakes in `save` and `load`."""

import re
import unicodedata
from abc import ABC, abstractmethod

import anyio
import anyio.lowlevel

from asyncflow import errors
from asyncflow.persistence import Checkpoint

from .right import ON_ASYNCIO_ALONE, Opened, Right, caught_by


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
        blank = Checkpoint(run_id=run_id, flow="", seq=0, pass_number=1, kind="started", status="running", at=0.0)
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


ON_ASYNCIO_ALONE.add(SwallowsACancellation)  # trio notifies a task again that it is cancelled, and asyncio does not


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
