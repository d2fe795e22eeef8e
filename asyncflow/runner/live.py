"""A run that a runner drives in this process: a task of the runner, the slot that it has or waits for, and its end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import anyio
import anyio.lowlevel

from .._runs import call_errors as refusals
from .._runs.logged import log_failed
from .._runs.parked import Waiting
from .._runtime.audience import Audience
from .._runtime.turns import Turn
from .._waiting import in_cancelled_scope
from ..errors import MethodError, RunCancelledError, RunFencedError, RunLockedError
from ..persistence.checkpoint import Checkpoint
from .capacity import Places
from .driver import Driver
from .flag import Flag
from .slots import ChildTurn

__all__ = ["ELSEWHERE", "ENDED", "Live"]

ENDED: Final = (MethodError, RunCancelledError)
"""Errors that are the outcome of a run, and do not mean that its start was refused."""

ELSEWHERE: Final = (RunLockedError, RunFencedError)
"""Errors with which a start or a resume is refused because another owner has the run, or has taken it over or ended it meanwhile."""


class Live:
    """A run that a task of the runner drives in this process. Thousands live at once, so rarely needed parts are created on demand."""

    __slots__ = (
        "_audience",
        "_change",
        "_flow",
        "_has_slot",
        "_is_begun",
        "_is_queued",
        "_on_ended",
        "_parents",
        "_park_after",
        "_places",
        "_slots",
        "_taking",
        "_waiting",
        "_waits",
        "admitted",
        "again",
        "awaited",
        "driver",
        "ended",
        "error",
        "has_place",
        "inputs",
        "is_followed",
        "is_new",
        "is_parked",
        "on_begun",
        "refusal",
        "result",
        "run_id",
        "winds_down",
    )

    is_watched = True

    def __init__(
        self,
        driver: Driver,
        run_id: str | None,
        inputs: dict[str, Any] | None,
        places: Places,
        on_ended: Callable[[Live], None],
        audience: Audience,
        *,
        flow: object = None,
        again: bool = False,
    ) -> None:
        """Make a run that `drive` drives. `flow`: the driver's flow, which a driver holds weakly."""
        self._audience = audience
        self.driver: Driver = driver
        self._flow = flow
        self.again: bool = again
        """Whether to resume the run also if it has failed."""
        self.is_new: bool = run_id is None
        self.run_id: str = driver.run_id if run_id is None else run_id
        self.admitted: Flag = Flag()
        """Set when the run is stored, or has been refused."""
        self.ended: Flag = Flag()
        self.refusal: Exception | None = None
        """Why the run did not start."""
        self.error: BaseException | None = None
        self.result: Any = None
        self.awaited: int = 0
        """The number of handles that await its result."""
        self.inputs: dict[str, Any] | None = inputs
        """None for a run that is resumed or recovered: it is stored already, and a run that is no longer stored is not started."""
        self._places = places
        self._slots = places.slots
        self._parents = places.parents
        self._park_after = places.park_after
        self._on_ended = on_ended
        self._change: anyio.Event | None = None
        self._waiting: anyio.CancelScope | None = None
        self._waits = True
        self._has_slot = self._is_begun = self._is_queued = False
        self.winds_down: bool = False
        self._taking: anyio.Event | None = None
        self.has_place: bool = True
        self.is_followed: Callable[[], bool] = lambda: False
        """Whether a caller awaits the run, since before it was parked."""
        self.is_parked: bool = False
        """Whether the run has ended here because it was parked."""
        self.on_begun: Callable[[Live], object] = _ignore
        """Called with the run when it has begun, or has ended without that."""

    @property
    def epoch(self) -> int:
        """The fencing epoch of this owner; 0 while nothing is driven."""
        return self.driver.epoch

    @property
    def is_queued(self) -> bool:
        """Whether the run has not begun: it waits for its slot, or is about to."""
        return not self._is_begun and not self.ended.is_set()

    @property
    def next_change(self) -> anyio.Event:
        """An event that is set at the next checkpoint of the run, and at its end; later reads return a new event."""
        self._change = self._change or anyio.Event()
        return self._change

    async def drive(self) -> None:
        """Drive the run to its end, and keep its result or error. If this is cancelled, the run can be resumed."""
        driver = self.driver
        driver.serve(self._acquire_slot, self._notify, self, self._park_after, self._audience)
        try:
            if self.again:
                self.result = await driver.resume(self.run_id)
            elif self.is_new and self.inputs is not None:
                self.result = await driver.kickoff(self.inputs, None)
            else:
                self.result = await driver.start(self.run_id, self.inputs)
            self.is_parked = isinstance(self.result, Waiting)
        except Exception as error:  # a flow's error belongs to that flow, and ends nothing else
            self.error = error
            self._log_failure(error)
            if not self.admitted.is_set() and not isinstance(error, ENDED):
                self.refusal = error
        except BaseException as error:  # the runner ends, or the flow raised it itself, which ends nothing else either
            ends_program = _ends_program(error)
            self.winds_down = self.winds_down or ends_program or in_cancelled_scope()
            stopped = refusals.interrupted(self.run_id) if self.winds_down else refusals.stopped_by(self.run_id, error)
            self.error = stopped
            if not self.admitted.is_set():
                self.refusal = stopped  # it may not be stored yet
            if ends_program:
                raise
        finally:
            if self._has_slot:
                self._slots.release()
            self.admitted.set()
            self.ended.set()
            self._notify(None)
            self._on_ended(self)
            if not self._is_begun:
                self.on_begun(self)

    def _log_failure(self, error: Exception) -> None:
        """Log a failure of this run, not one that was only read from the storage: as an error, if no caller awaits its result."""
        if isinstance(error, MethodError) and self._is_begun:
            is_awaited = self.awaited or self.is_followed()
            log_failed(self.run_id, self.driver.flow_name, None if is_awaited else error)

    async def _acquire_slot(self) -> None:
        """Report that the run is stored, and wait for a slot."""
        self.admitted.set()
        try:
            self._slots.acquire_nowait()
            self._begin()
            await anyio.lowlevel.checkpoint()  # let its starter continue first, as when the run has to wait
        except anyio.WouldBlock:
            await self._wait_for_slot()
        if self.winds_down:
            self.driver.wind_down()  # the request to wind down came before the run was stored

    async def _wait_for_slot(self) -> None:
        if not self._waits:
            return
        self._is_queued = True
        with anyio.CancelScope() as self._waiting:
            await self._slots.acquire()
            self._begin()
        self._waiting, self._is_queued = None, False

    def _begin(self) -> None:
        self._has_slot = self._is_begun = True
        self.on_begun(self)

    # ---- the run's turn: see `Turn` ------------------------------------------------------------------------------

    async def take(self) -> bool:
        """Wait for a slot, if the run has released its slot. It goes ahead of runs that have not begun. Return whether it waited."""
        if self._has_slot or not self._is_begun:
            return False
        while self._is_begun and not self._has_slot:
            if self._taking is not None:  # another wait of the run has ended, too
                await self._taking.wait()
                continue
            taking = self._taking = anyio.Event()
            self._is_queued = True
            try:
                await self._slots.acquire(ahead=True)
                self._has_slot = True
            finally:
                self._taking, self._is_queued = None, False
                taking.set()
            self._places.take_anyway()
            self.has_place = True
        return True

    def release(self) -> None:
        """Release the slot while the run only waits, and its place, too: others can run meanwhile, however many wait."""
        if self._has_slot:
            self._has_slot = self.has_place = False
            self._slots.release()
            self._places.release()

    def of_child(self) -> Turn:
        """Return the turn of a child."""
        return ChildTurn(self._slots)

    def waited_for(self) -> AbstractContextManager[None]:
        """Record that the caller awaits the end of this run. The caller may be a run of the same runner, which keeps its own slot."""
        return self._parents.awaiting(lambda: self._is_queued and not self.ended.is_set())

    def wind_down(self) -> None:
        """Stop the run at its next checkpoints."""
        self.winds_down = True
        self.driver.wind_down()
        self._wait_no_longer()

    def stop(self) -> None:
        """Stop the run at once."""
        self.winds_down = True
        self.driver.stop()
        self._wait_no_longer()

    def fence(self) -> None:
        """Stop the run at once: it belongs to another owner."""
        self.driver.fence()
        self._wait_no_longer()

    async def cancel(self) -> None:
        """Cancel the run permanently."""
        self._wait_no_longer()
        await self.driver.cancel()

    async def finish(self) -> bool:
        """Ask for the end of the run, in order. Return whether it is running."""
        return not self.ended.is_set() and await self.driver.finish()

    def _wait_no_longer(self) -> None:
        self._waits = False
        if self._waiting is not None:
            self._waiting.cancel()

    def _notify(self, _: Checkpoint | None) -> None:
        next_change, self._change = self._change, None
        if next_change is not None:
            next_change.set()


def _ignore(run: Live) -> None:
    """Do nothing."""


def _ends_program(error: BaseException) -> bool:
    crashes = (KeyboardInterrupt, SystemExit)
    return isinstance(error, crashes) or (isinstance(error, BaseExceptionGroup) and error.subgroup(crashes) is not None)
