"""Mistakes with the signals of runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import anyio.lowlevel

from asyncflow import errors
from asyncflow.persistence import Checkpoint, NewSignal, StoredSignal

from .right import Right, caught_by


@caught_by("signals_are_returned_as_they_were_sent_and_in_that_order")
class ReturnsTheNewestFirst(Right):
    async def inbox(self, run_id: str) -> list[StoredSignal]:
        return (await super().inbox(run_id))[::-1]


@caught_by("signals_are_returned_as_they_were_sent_and_in_that_order")
class HasKeysForAllRuns(Right):
    def __init__(self) -> None:
        super().__init__()
        self.keys: set[str] = set()

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        is_new = signal.key not in self.keys and await super().send(run_id, signal, seq=seq)
        self.keys.add(signal.key)
        return is_new


@caught_by("a_key_stands_for_one_signal")
class StoresASignalForEachCall(Right):
    calls = 0

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        self.calls += 1
        return await super().send(run_id, signal._replace(key=f"{signal.key} {self.calls}"), seq=seq)


@caught_by("a_key_stands_for_one_signal")
class KeepsTheFirstOfAKey(Right):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        with suppress(errors.SignalKeyError):
            return await super().send(run_id, signal, seq=seq)
        return False


@caught_by("a_run_that_has_ended_takes_no_signal")
class StoresSignalsForAllRuns(Right):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        with suppress(errors.RunEndedError):
            return await super().send(run_id, signal, seq=seq)
        self._inbox.add(run_id, signal)
        return True


@caught_by("a_signal_is_taken_with_a_checkpoint_or_not_at_all")
class TakesBeforeItStores(Right):
    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        self._inbox.remove(signal)
        await self.append(checkpoint)


@caught_by("a_signal_is_taken_with_a_checkpoint_or_not_at_all")
class TakesASignalTwice(Right):
    async def append_taking(self, checkpoint: Checkpoint, signal: StoredSignal) -> None:
        await self.append(checkpoint)
        self._inbox.remove(signal)


@caught_by("a_pass_does_not_end_before_a_signal_that_came_since")
class EndsWithoutALook(Right):
    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        await super().append_last(checkpoint, 1 << 60)


@caught_by("a_pass_does_not_end_before_a_signal_that_came_since")
class LeavesSignalsToTheNextPass(Right):
    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        if not self._inbox.is_read(checkpoint.run_id, newest):
            raise errors.InboxChanged("no")
        await self.append(checkpoint)


@caught_by("a_signal_and_an_end_at_the_same_moment_exclude_each_other")
class LooksAndThenEnds(Right):
    async def append_last(self, checkpoint: Checkpoint, newest: int) -> None:
        if not self._inbox.is_read(checkpoint.run_id, newest):
            raise errors.InboxChanged("no")
        await anyio.lowlevel.checkpoint()
        await super().append_last(checkpoint, 1 << 60)


@caught_by("a_signal_for_an_older_checkpoint_is_refused")
class IgnoresTheSeqOfASender(Right):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        return await super().send(run_id, signal)


@caught_by("a_signal_that_is_set_aside_leaves_the_inbox")
class SetsNothingAside(Right):
    async def set_aside(self, signal: StoredSignal, problem: str) -> None:
        await anyio.lowlevel.checkpoint()


@caught_by("an_inbox_has_a_capacity")
class HasRoomForAll(Right):
    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        with suppress(errors.InboxFullError):
            return await super().send(run_id, signal, seq=seq)
        return True


@caught_by("who_watches_a_run_is_called_when_a_signal_arrives")
class ReportsNothing(Right):
    @contextmanager
    def watch(self, run_id: str, arrived: Callable[[], object]) -> Iterator[None]:
        yield


@caught_by("a_deleted_run_leaves_no_signals")
class KeepsTheSignalsOfDeletedRuns(Right):
    async def delete(self, run_id: str) -> bool:
        contents = self._inbox._contents.get(run_id)
        deleted = await super().delete(run_id)
        if contents is not None:
            self._inbox._contents[run_id] = contents
        return deleted


@caught_by("a_sending_cancelled_at_any_await_has_stored_the_signal_or_can_be_repeated")
class NotesTheKeyFirst(Right):
    def __init__(self) -> None:
        super().__init__()
        self.noted: set[tuple[str, str]] = set()

    async def send(self, run_id: str, signal: NewSignal, *, seq: int | None = None) -> bool:
        place = run_id, signal.key
        if place in self.noted and not self._inbox.has_received(run_id, signal):
            return False
        self.noted.add(place)
        await anyio.lowlevel.checkpoint()
        return await super().send(run_id, signal, seq=seq)
