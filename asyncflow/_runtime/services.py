"""What a method may call while it runs: `sleep`, `wait_for`, `step`. Each is made for a pass when it is first called."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from .._definition.signals import Signal
from .._scheduling.messages import Command, EndAsked, WaitDropped
from ..events import Event, Reported
from .audience import Audience
from .children import Child, Children
from .journal import Journal
from .memos import Memos
from .readers import live
from .recorder import Recorder
from .scope import Scope
from .settings import Settings
from .step_calls import Call
from .substeps import Substeps
from .turns import Turn
from .waits import Waits
from .workload import Workload

__all__ = ["Services"]

KEPT: Final = 64
"""Reports of invocations that have ended, which may be kept until they are removed."""


class Services(Workload, ABC):
    """What the invocations of a pass call."""

    __slots__ = (
        "_clock",
        "_memos",
        "_recorder",
        "_reports",
        "_settings",
        "_substeps",
        "_thread",
        "audience",
        "running",
        "stopped_by",
    )

    def __init__(
        self,
        journal: Journal,
        turn: Turn | None,
        recorder: Recorder | None,
        clock: Callable[[], float],
        settings: Settings,
    ) -> None:
        super().__init__(journal, turn)
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._memos: Memos | None = None
        """Set once a method has stored a value of its own."""
        self._substeps: Substeps | None = None
        self.audience: Audience | None = None
        """Who observes the run."""
        self._reports: dict[str, tuple[Scope, Callable[[], Event]]] = {}
        """The newest report of each invocation, some of them of invocations that have ended."""
        self._thread = threading.get_ident()
        self.running: dict[str, Scope] = {}
        """The invocations whose methods are running, by invocation key."""
        self.stopped_by: Callable[[BaseException], object] | None = None
        """Ends the run with an error; None before and after it is driven."""

    @property
    def flow_name(self) -> str:
        """The name of the flow, as shown to people."""
        return self._settings.name

    def stop(self, why: BaseException) -> None:
        """End the run with an error."""
        if self.stopped_by is not None:
            self.stopped_by(why)
        if self._substeps is not None:
            self._substeps.cut_all()

    def end_if_all_wait(self) -> None:
        super().end_if_all_wait()
        if self._substeps is not None and self.is_cancelled:
            self._substeps.cut_all()

    @property
    def is_cancelled(self) -> bool:
        """Whether all of the pass is cancelled."""
        return self.of_pass is not None and self.of_pass.cancel_called

    @property
    def winds_down(self) -> bool:
        """Whether the run ends at its next checkpoints, although nothing of it has failed or asked for the end."""
        progress = self._journal.progress
        return self.is_ended and not (progress.failed or progress.ending)

    @abstractmethod
    async def end_asked(self, happening: EndAsked | WaitDropped) -> tuple[Command, ...]:
        """Record that the end of the pass was asked for, or that it drops an invocation."""

    @abstractmethod
    def end_late(self, commands: tuple[Command, ...]) -> None:
        """Take the commands that follow from dropping an invocation."""

    async def sleep(self, scope: Scope, delay: float, at: float | None, key: str | None) -> None:
        """See `sleeping.sleep`."""
        waits = self.waits()
        if scope.step:
            await waits.within_step(scope, lambda: waits.sleep(scope, delay, at, key))
        else:
            await waits.sleep(scope, delay, at, key)

    async def wait_for(self, scope: Scope, signal: Signal[Any], limit: float | None, key: str | None) -> Any:
        """See `receiving.wait_for`."""
        waits = self.waits()
        if scope.step:
            kept = await waits.within_step(scope, lambda: waits.wait_for(scope, signal, limit, key))
        else:
            kept = await waits.wait_for(scope, signal, limit, key)
        return self._journal.results.received(f"{signal.name}:", kept)

    async def run_child(self, scope: Scope, child: Child, key: str | None) -> Any:
        """See `children.Children.run`."""
        waits = self.waits()
        children = self.children = self.children or Children(self.memos(), waits, self.end_if_all_wait, self.emit)
        if scope.step:
            return await waits.within_step(scope, lambda: children.run(scope, child, key))
        return await children.run(scope, child, key)

    async def substep(self, scope: Scope, call: Call) -> Any:
        """See `stepping.step`."""
        return await (self._substeps or self._made_substeps()).run(scope, call)

    def substep_sync(self, scope: Scope, call: Call) -> Any:
        """See `stepping.step_sync`. Called in a thread."""
        return (self._substeps or self._made_substeps()).run_sync(scope, call)

    def emit(self, scope: Scope, kind: type[Event], **fields: Any) -> None:
        """Emit a live event of an invocation, from its task or from any thread. The newest `Reported` is kept for later readers."""
        if not scope.is_open or (self.audience is None and kind is not Reported):
            return
        make = partial(live, kind, scope.run_id, self._settings.name, self._clock(), invocation=scope.key, **fields)
        if kind is Reported:
            if len(self._reports) > 2 * len(self.running) + KEPT:
                self._reports = {key: known for key, known in self._reports.items() if self._is_current(key, known[0])}
            self._reports[scope.key] = scope.whole, make
        if self.audience is None:
            return
        emitted = partial(self.audience.emit_made, scope.run_id, make)
        if threading.get_ident() == self._thread:
            emitted()
        else:
            self.audience.from_thread(emitted)

    def reports(self) -> list[Event]:
        """Return the newest report of each invocation that runs."""
        return [make() for key, (scope, make) in self._reports.items() if self._is_current(key, scope)]

    def _is_current(self, key: str, scope: Scope) -> bool:
        return self.running.get(key) is scope

    def cut(self, scope: Scope) -> None:
        """End what an invocation awaits in its thread: its task was cancelled, and waits for the thread."""
        if self._substeps is not None:
            self._substeps.cut(scope)

    def _made_substeps(self) -> Substeps:
        progress, memos, waits = self._journal.progress, self.memos(), self.waits()
        self._substeps = Substeps(memos, waits, progress, self._recorder, self._clock, self, self._thread)
        return self._substeps

    def waits(self) -> Waits:
        """Return the waits of the pass."""
        if self._waits is None:
            self._waits = Waits(self.memos(), self._journal.progress, self._clock, self)
        return self._waits

    def memos(self) -> Memos:
        """Return the memos of the pass."""
        if self._memos is None:
            self._memos = Memos(
                self._journal, self._recorder, self, self._thread, checkpoints_all=self._settings.checkpoints_all
            )
        return self._memos

    def leave(self, scope: Scope) -> None:
        """End what a method has left open that has ended."""
        if self._memos is not None:
            self._memos.leave(scope)
        if self._waits is not None:
            self._waits.leave(scope)
