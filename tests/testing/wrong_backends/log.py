"""Mistakes in `append` and `history`."""

import anyio
import anyio.lowlevel

from asyncflow import errors
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import fold

from .right import Right, caught_by


@caught_by("deltas_are_folded_on_load", "a_failed_flow_resumes_and_runs_each_method_once")
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


@caught_by("a_checkpoint_is_not_stored_twice")
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
