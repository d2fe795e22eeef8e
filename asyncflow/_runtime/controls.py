"""What a pass shows while it is driven, how it is stopped from outside, and when it is parked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import anyio

from .._scheduling.messages import Command
from ..errors import RunCancelledError, RunTimeoutError
from ..events import Event
from .audience import Audience
from .failures import run_timeout_error
from .halting import Halt, HaltedError
from .journal import Journal
from .parking import Parked, only_waits, wakes_at
from .recorder import Recorder
from .scope import Scope
from .signals import Signals, Step
from .steps import Steps
from .unstored_events import Unstored
from .waits import next_due

__all__ = ["Controls"]


class Controls(ABC):
    """The controls of an engine, which drives the pass."""

    __slots__ = (
        "_clock",
        "_park_after",
        "_scope",
        "_signals",
        "_step",
        "_steps",
        "_stopped",
        "continues",
        "flow",
        "is_cancelled",
        "is_finished",
        "journal",
        "parked",
        "pass_number",
        "recorder",
        "run_id",
    )

    flow: Any
    run_id: str
    journal: Journal
    recorder: Recorder | None
    is_finished: bool
    continues: bool
    pass_number: int
    is_cancelled: bool
    parked: Parked | None
    _clock: Callable[[], float]
    _park_after: float | None
    _scope: anyio.CancelScope | None
    _signals: Signals | None
    _step: Step
    _steps: Steps
    _stopped: BaseException | None

    @abstractmethod
    def _obey(self, commands: tuple[Command, ...]) -> None:
        """Execute commands outside of a step."""

    def hear(self, audience: Audience) -> None:
        """Emit the events of the pass to these observers and readers."""
        self._steps.audience = audience
        if self.recorder is not None:
            self.recorder.audience = audience
        name, number = self._steps.flow_name, self.pass_number
        self.journal.unstored = Unstored(audience, self.run_id, name, number, self._clock)

    def reports(self) -> list[Event]:
        """Return the newest report of each invocation that runs."""
        return self._steps.reports()

    @property
    def running(self) -> Mapping[str, Scope]:
        """The invocations whose methods are running, by invocation key."""
        return self._steps.running

    def only_waits_for(self, seconds: float) -> bool:
        """Whether nothing runs, and nothing is due within some seconds."""
        progress, now = self.journal.progress, self._clock()
        due = next_due(progress, now)
        only_waits = not progress.running and not progress.failed and (due is None or due > now + seconds)
        return only_waits and (self._steps.children is None or self._steps.children.only_wait_for(seconds))

    @property
    def stopped(self) -> BaseException | None:
        """The error that ended the run from outside, or a backend's error; None if its methods ended it."""
        return self._stopped

    @property
    def pending(self) -> tuple[str, ...]:
        """The keys of the invocations that are to be completed."""
        return tuple(self.journal.progress.pending)

    @property
    def is_cut_short(self) -> bool:
        """Whether the engine cancelled its running tasks: a commit may then have been withdrawn after it was folded into the progress."""
        return self._scope is not None and self._scope.cancel_called and self.parked is None

    def stop(self, why: BaseException) -> None:
        """End the run now with this error: cancel everything that runs, and start and store nothing more."""
        if self._stopped is None:
            self._stopped = why
        if self._scope is not None:
            self._scope.cancel()

    def stop_as(self, before: Controls) -> None:
        """Before it is driven: stop this pass if the one before was stopped after it had ended."""
        self._stopped, self.is_cancelled = before._stopped, before.is_cancelled

    def wind_down(self, why: BaseException) -> None:
        """End the run at its next checkpoints: let running methods finish and store their ends, but start nothing more."""
        if self._stopped is None:
            self._stopped = why
        self._steps.is_ended = True
        if self._steps.children is not None:
            self._steps.children.wind_down()
        self._steps.end_waits()

    def halt(self, halt: Halt) -> None:
        """Before it is driven: stop it as by `wind_down` once so much has completed."""
        self._step = halt.stopping(self._step, self.journal.progress, self.wind_down)

    @property
    def _has_ended_anyway(self) -> bool:
        """Whether a pass that was stopped has ended all the same, with its result or with what its methods have raised."""
        if isinstance(self._stopped, HaltedError):
            return self.is_finished or bool(self.journal.failures)
        return (self.is_cancelled or self.is_timed_out) and self.is_finished

    async def finish(self) -> bool:
        """End the run in order, and store that this was asked for. Return False if the pass is over already."""
        return not self._is_over and self.journal.following is None and await self._steps.finish(self._obey, self.stop)

    def cancel(self, why: RunCancelledError) -> None:
        """Stop the run permanently: whatever else ends it meanwhile, it counts as cancelled, unless it has finished by then."""
        self.is_cancelled = True
        self.stop(why)

    def _time_out(self) -> None:
        self.stop(run_timeout_error(type(self.flow).__name__, self.run_id, self.journal.failures, self.recorder))

    @property
    def is_timed_out(self) -> bool:
        """Whether the pass ended because its time limit passed."""
        return isinstance(self._stopped, RunTimeoutError)

    @property
    def _is_over(self) -> bool:
        """Whether nothing more is to be started or stored."""
        return self._stopped is not None or self.is_finished or self.continues

    def _check_idle(self) -> None:
        """After something has ended: park the run if it only waits, or let others have its turn."""
        if not self._steps.tasks and self._signals is None:
            self._park_if_idle()
        self._steps.let_others_run()

    def _park_if_idle(self, newest: int = 0) -> bool:
        """Stop the pass here if it only waits, and long enough. Return whether it stops. `newest`: see `Parked`."""
        progress = self.journal.progress
        is_idle = only_waits(progress) and not (self._steps.tasks or self._is_over or progress.ending)
        is_idle = is_idle and self._steps.requested is None and (progress.is_open or self._signals is not None)
        if self._park_after is None or not is_idle or self._scope is None or self._scope.cancel_called:
            return False
        now = self._clock()
        wake_at = wakes_at(progress, now)
        if wake_at - now < self._park_after:
            return False
        self.parked = Parked(wake_at, newest)
        self._scope.cancel()
        return True
