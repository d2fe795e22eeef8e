"""What works on a pass and what only waits: when the run releases its turn, and when the waits of a pass that is over end."""

from __future__ import annotations

import anyio

from .children import Children
from .journal import Journal
from .signals import Signals
from .turns import Turn
from .waits import Waits

__all__ = ["Workload"]


class Workload:
    """The tasks of a pass, and its waits."""

    __slots__ = (
        "_journal",
        "_turn",
        "_waits",
        "children",
        "is_ended",
        "is_over",
        "of_pass",
        "pauses",
        "signals",
        "tasks",
    )

    def __init__(self, journal: Journal, turn: Turn | None) -> None:
        """`turn`: set if a runner drives the run."""
        self._journal = journal
        self._turn = turn
        self._waits: Waits | None = None
        """Set once a method has waited."""
        self.children: Children | None = None
        """Set once a method has run a child."""
        self.signals: Signals | None = None
        """Set if the flow declares signals."""
        self.tasks = 0
        """The tasks that run invocations, also those that wait in `sleep`, or record what no method has done."""
        self.pauses = 0
        """The methods that wait for their next attempt."""
        self.is_over = False
        """Whether the pass fails or ends: no wait ends any more."""
        self.is_ended = False
        """Whether a pass that is ending has nothing left to do."""
        self.of_pass: anyio.CancelScope | None = None
        """The cancel scope of the pass."""

    def end_waits(self) -> None:
        """Let no further attempt start, no timer fire and no sleep end. They are stored: a resume continues them."""
        self.is_over = True
        if self.signals is not None:
            self.signals.changed()
        self.end_if_all_wait()

    def end_if_all_wait(self) -> None:
        """Once the pass fails or ends: cancel what is left of it, if that only waits."""
        if self.children is not None and self.children.are_working:
            return
        waits = self._journal.progress.paused or self._journal.progress.timers
        asleep = 0 if self._waits is None else self._waits.asleep
        has_waits = self.is_ended if self._journal.progress.ending else bool(waits)
        if self.is_over and has_waits and self.tasks == asleep and self.of_pass is not None:
            self.of_pass.cancel()

    async def take_turn(self) -> bool:
        """Before something starts after a wait: wait until the run may run methods. Return whether that took a while."""
        return self._turn is not None and await self._turn.take()

    def let_others_run(self) -> None:
        """Release the turn of the run, if all of it waits. Once the pass fails or ends, end its waits instead."""
        if self.is_over:
            self.end_if_all_wait()
        if self._turn is None or self.is_over:
            return
        progress, asleep = self._journal.progress, 0 if self._waits is None else self._waits.asleep
        is_open = progress.is_open or self.signals is not None
        if is_open and not progress.running and self.tasks == asleep:
            self._turn.release()
