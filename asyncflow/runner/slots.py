"""A counter of free slots, in which runs that were begun come before new ones."""

from __future__ import annotations

from collections import deque

import anyio
import anyio.lowlevel

__all__ = ["ChildTurn", "Slots"]


class Slots:
    """A number of slots. They are given out in the order of the requests, first to those that ask to go ahead."""

    __slots__ = ("_ahead", "_free", "_waiting")

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting = deque[anyio.Event]()
        self._ahead = deque[anyio.Event]()

    @property
    def free(self) -> int:
        """The number of free slots; less than 0 if more were taken than there are."""
        return self._free

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a slot."""
        return len(self._waiting) + len(self._ahead)

    async def acquire(self, *, ahead: bool = False) -> None:
        """Take a slot as soon as one is free. `ahead`: before all that do not ask for that."""
        if self._free > 0:
            self._free -= 1
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException:
                self.release()
                raise
            return
        turn, queue = anyio.Event(), self._ahead if ahead else self._waiting
        queue.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.release()  # it was given to this caller just now
            else:
                queue.remove(turn)
            raise

    def acquire_nowait(self) -> None:
        """Take a slot. Raises `anyio.WouldBlock` if none is free."""
        if self._free <= 0:
            raise anyio.WouldBlock
        self._free -= 1

    def acquire_anyway(self) -> None:
        """Take a slot, whether or not one is free."""
        self._free -= 1

    def release(self) -> None:
        """Release a slot: to the next caller that waits, if there is one and no more are taken than there are."""
        queue = self._ahead or self._waiting
        if queue and self._free >= 0:
            queue.popleft().set()
        else:
            self._free += 1


class ChildTurn:
    """The turn of a child, which a run of the runner drives: a slot, ahead of runs that have not begun. A child needs no place.

    See `_runtime.turns.Turn`.
    """

    __slots__ = ("_has_slot", "_slots", "_taking")

    is_watched = False

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._has_slot = False
        self._taking: anyio.Event | None = None

    async def take(self) -> bool:
        """Wait for a slot, if the child has none. Return whether it waited."""
        if self._has_slot:
            return False
        while not self._has_slot:
            if self._taking is not None:  # another wait of the run has ended, too
                await self._taking.wait()
                continue
            taking = self._taking = anyio.Event()
            try:
                await self._slots.acquire(ahead=True)
                self._has_slot = True
            finally:
                self._taking = None
                taking.set()
        return True

    def release(self) -> None:
        """Release the slot, if the child has one."""
        if self._has_slot:
            self._has_slot = False
            self._slots.release()

    def of_child(self) -> ChildTurn:
        """Return the turn of a child of the child."""
        return ChildTurn(self._slots)
