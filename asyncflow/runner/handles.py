"""A run that a runner owns, and the handles on such a run, or on a run that another owner drives."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import anyio
import anyio.lowlevel

from .._runs import call_errors as refusals
from .._runs.ownership import is_driven
from .._runtime.observe import events_from
from .._runtime.tracebacks import from_here
from .._waiting import in_cancelled_scope
from ..errors import CapabilityMissingError, MethodError, RunCancelledError, RunFencedError, StorageError
from ..events import Event
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import CheckpointHistory, FlowPersistence, offers
from ..persistence.status import Status, status_of
from .capacity import Places
from .flag import Flag

logger = logging.getLogger("asyncflow")

__all__ = ["Live", "RunFailure", "RunHandle", "RunView"]

SOON: Final = 0.05
LATE: Final = 1.0
"""Seconds between two polls of a run that another owner drives: at first, and after a while."""

ENDED: Final = (MethodError, RunCancelledError)
"""Errors that are the outcome of a run, and do not mean that its start was refused."""


class Live:
    """A run that a task of the runner drives in this process. Thousands live at once, so rarely needed parts are created on demand."""

    __slots__ = (
        "_change",
        "_has_slot",
        "_on_ended",
        "_parents",
        "_slots",
        "_waiting",
        "_waits",
        "admitted",
        "again",
        "awaited",
        "ended",
        "error",
        "flow",
        "inputs",
        "is_new",
        "refusal",
        "result",
        "run_id",
        "winds_down",
    )

    def __init__(
        self,
        flow: Any,
        run_id: str | None,
        inputs: dict[str, Any] | None,
        places: Places,
        on_ended: Callable[[Live], None],
        *,
        again: bool = False,
    ) -> None:
        self.flow = flow
        self.again = again
        """Whether to resume the run also if it has failed."""
        self.is_new = run_id is None
        self.run_id: str = flow.run_id if run_id is None else run_id
        self.admitted = Flag()
        """Set when the run is stored, or has been refused."""
        self.ended = Flag()
        self.refusal: Exception | None = None
        """Why the run did not start."""
        self.error: BaseException | None = None
        self.result: Any = None
        self.awaited = 0
        """The number of handles that await its result."""
        self.inputs = inputs
        """None for a run that is resumed or recovered: it is stored already, and a run that is no longer stored is not started."""
        self._slots = places.slots
        self._parents = places.parents
        self._on_ended = on_ended
        self._change: anyio.Event | None = None
        self._waiting: anyio.CancelScope | None = None
        self._waits = True
        self._has_slot = self.winds_down = False

    @property
    def epoch(self) -> int:
        """The fencing epoch of this owner; 0 while nothing is driven."""
        return self.flow._instance.epoch  # type: ignore[no-any-return]  # of any flow

    @property
    def next_change(self) -> anyio.Event:
        """An event that is set at the next checkpoint of the run, and at its end; later reads return a new event."""
        self._change = self._change or anyio.Event()
        return self._change

    async def drive(self) -> None:
        """Drive the run to its end, and keep its result or error. If this is cancelled, the run can be resumed."""
        instance = self.flow._instance
        instance.on_started, instance.is_read = self._acquire_slot, False
        instance.watch(self._notify)
        try:
            if self.again:
                self.result = await instance.resume(self.run_id)
            elif self.is_new and self.inputs is not None:
                self.result = await instance.kickoff(self.inputs, None)
            else:
                self.result = await instance.start(self.run_id, self.inputs)
        except Exception as error:  # a flow's error belongs to that flow, and ends nothing else
            self.error = error
            self._log_unless_awaited(error)
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

    def _log_unless_awaited(self, error: Exception) -> None:
        """Log a failure of this run, not one that was only read from the storage, if no caller awaits its result."""
        if isinstance(error, MethodError) and self._has_slot and not self.awaited:
            name = self.flow._instance.setup.settings.name
            logger.error("run failed: %s of %s, and no caller awaits its result", self.run_id, name, exc_info=error)

    async def _acquire_slot(self) -> None:
        """Report that the run is stored, and wait for a slot."""
        self.admitted.set()
        try:
            self._slots.acquire_nowait()
            self._has_slot = True
            await anyio.lowlevel.checkpoint()  # let its starter continue first, as when the run has to wait
        except anyio.WouldBlock:
            await self._wait_for_slot()
        if self.winds_down:
            self.flow._instance.wind_down()  # the request to wind down came before the run was stored

    async def _wait_for_slot(self) -> None:
        if not self._waits:
            return
        with anyio.CancelScope() as self._waiting:
            await self._slots.acquire()
            self._has_slot = True
        self._waiting = None

    def waited_for(self) -> AbstractContextManager[None]:
        """Record that the caller awaits the end of this run. The caller may be a run of the same runner, which keeps its own slot."""
        return self._parents.awaiting(lambda: not self._has_slot and not self.ended.is_set())

    def wind_down(self) -> None:
        """Stop the run at its next checkpoints."""
        self.winds_down = True
        self.flow._instance.wind_down()
        self._wait_no_longer()

    def stop(self) -> None:
        """Stop the run at once."""
        self.winds_down = True
        self.flow._instance.stop()
        self._wait_no_longer()

    def fence(self) -> None:
        """Stop the run at once: it belongs to another owner."""
        self.flow._instance.fence()
        self._wait_no_longer()

    async def cancel(self) -> None:
        """Cancel the run permanently."""
        self._wait_no_longer()
        await self.flow._instance.cancel()

    def _wait_no_longer(self) -> None:
        self._waits = False
        if self._waiting is not None:
            self._waiting.cancel()

    def _notify(self, _: Checkpoint | None) -> None:
        next_change, self._change = self._change, None
        if next_change is not None:
            next_change.set()


def _ends_program(error: BaseException) -> bool:
    crashes = (KeyboardInterrupt, SystemExit)
    return isinstance(error, crashes) or (isinstance(error, BaseExceptionGroup) and error.subgroup(crashes) is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailure:
    """The stored description of the exception that a run failed with."""

    method: str
    """The name of the method."""
    type: str
    """The type with its module, such as `builtins.KeyError`."""
    message: str
    """The exception as text."""
    invocation_id: str = ""
    """The id of the invocation that raised."""
    traceback: str = field(default="", repr=False, compare=False)
    """The traceback as text. Not shown over HTTP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A snapshot of a run, as it was stored at one moment."""

    run_id: str
    """The id of the run."""
    flow: str
    """The name of its flow."""
    status: Status
    """As `RunHandle.status` returns it. `RunHandle.decode`, which sees only a checkpoint, shows an interrupted run as running."""
    pass_number: int
    """The number of the pass, from 1."""
    seq: int
    """The seq of the newest checkpoint."""
    at: float
    """When that checkpoint was stored, in seconds since the Unix epoch."""
    inputs: Mapping[str, Any]
    """The inputs that the pass was started with, as JSON."""
    state: Any
    """Typed if the runner knows the flow, else as JSON."""
    result: Any = None
    """The result of a finished run, typed as the state is."""
    error: RunFailure | None = None
    """The failure of the method that raised last."""


class RunHandle:
    """A caller's handle on a run. Dropping it, or being cancelled while awaiting it, does not affect the run."""

    def __init__(
        self,
        run_id: str,
        persistence: FlowPersistence,
        live: Live | None,
        outcome: Callable[[Checkpoint], Awaitable[Any]],
        cancel: Callable[[], Awaitable[None]],
        decode: Callable[[Checkpoint, bool], RunView],
        *,
        is_elsewhere: bool = False,
    ) -> None:
        """`is_elsewhere`: another process was found to drive the run."""
        self.run_id = run_id
        self._persistence = persistence
        self._live = live
        self._outcome = outcome
        self._cancel = cancel
        self._decode = decode
        self._is_elsewhere = is_elsewhere

    async def snapshot(self) -> RunView:
        """Load the run as it is stored now: status, state, result or error, all from one checkpoint.

        Raises `StateSchemaError` if the stored state no longer fits the flow's model, and `StorageError`s.
        """
        status, stored = await self.status_and_checkpoint()
        return self.decode(stored, status=status)

    def decode(self, checkpoint: Checkpoint, *, status: Status | None = None, as_stored: bool = False) -> RunView:
        """Decode a checkpoint of the run. Raises `StateSchemaError`, `CheckpointCorruptError`.

        - `checkpoint`: the checkpoint, as `checkpoint()` returns it.
        - `status`: the status of the run, if it is known; otherwise the view has the stored one.
        - `as_stored`: return state and result as the stored JSON, independent of the flow's current types.
        """
        view = self._decode(checkpoint, as_stored)
        return view if status is None else replace(view, status=status)

    async def checkpoint(self) -> Checkpoint:
        """Load the newest checkpoint of the run, as it is stored: to read the status of the run without decoding its state.

        Raises `RunNotFoundError` if the run has been deleted, and `StorageError`s.
        """
        stored = await self._persistence.load(self.run_id)
        if stored is None:
            raise refusals.unknown_run(self._persistence, self.run_id, None)
        return stored

    async def status(self) -> Status:
        """Return "running", "interrupted", "failed", "finished" or "cancelled", according to the newest checkpoint.

        A run is running while it has an owner, here or elsewhere, as far as the storage has a catalog that reports it.
        """
        return (await self.status_and_checkpoint())[0]

    async def status_and_checkpoint(self) -> tuple[Status, Checkpoint]:
        """Return the status of the run, and its newest checkpoint. Raises what `checkpoint` raises."""
        stored = await self.checkpoint()
        is_live = stored.status == "running" and await is_driven(self._persistence, self.run_id)
        if stored.status == "running" and not is_live:
            stored = await self.checkpoint()  # it may have ended in the meantime
        return status_of(stored.status, is_live), stored

    async def result(self) -> Any:
        """Wait until the run has ended, here or elsewhere, and return its result. After a takeover, wait for the new owner's result.

        Raises `MethodError`, `RunCancelledError`, and any other error that stopped the run here, unless the run has ended since then.
        """
        live = self._live
        if live is not None:
            live.awaited += 1
            try:
                with live.waited_for():
                    await live.ended.wait()
            finally:
                live.awaited -= 1
            if live.error is None:
                return live.result
            if isinstance(live.error, ENDED):
                raise from_here(live.error) from live.error.__cause__
            if not isinstance(live.error, RunFencedError):
                return await self._ended_since(live.error)
        return await self._outcome(await self._ended())

    async def _ended_since(self, stopped: BaseException) -> Any:
        """Return the outcome of a run that stopped here before its end. Raises the error that stopped it, if it has not ended since."""
        try:
            stored = await self.checkpoint()
        except StorageError:
            raise stopped from None
        if stored.status == "running":
            raise stopped
        return await self._outcome(stored)

    async def cancel(self) -> None:
        """Cancel the run permanently and durably, whichever process drives it."""
        await self._cancel()

    async def events(self, *, after: tuple[int, int] = (-1, 0)) -> AsyncGenerator[Event, None]:
        """Iterate over the past and future events of the run until it has ended, each once and in order.

        - `after`: the (seq, n) of the last event that is already known; the default is none.

        Raises `CapabilityMissingError` if the backend keeps no history.
        """
        persistence = self._persistence
        if not offers(persistence, CheckpointHistory):
            raise CapabilityMissingError(
                f"{type(persistence).__name__} keeps no history, so it has no events: it lacks the capability CheckpointHistory",
                capability="CheckpointHistory",
            )
        seq, n = after
        pause = SOON
        while True:
            is_live = self._live is not None and not self._live.ended.is_set()
            next_change = None if self._live is None else self._live.next_change  # set by checkpoints from now on
            rows = await persistence.history(self.run_id, after=max(-1, seq - 1))
            for row in rows:
                for event in events_from(row):
                    if (event.seq, event.n) > (seq, n):
                        seq, n, pause = event.seq, event.n, SOON
                        yield event
            if not is_live and (rows[-1] if rows else await self.checkpoint()).status != "running":
                return
            pause = min(pause * 1.5, LATE)
            if is_live and next_change is not None:
                await next_change.wait()
            else:
                await anyio.sleep(pause)

    async def _ended(self) -> Checkpoint:
        """Wait for the last checkpoint of a run that another owner drives, and return it. A failed run may still be being resumed."""
        pause = SOON
        while True:
            is_still_driven = self._is_elsewhere and await is_driven(
                self._persistence, self.run_id
            )  # checked before the load: the run may end between the two
            stored = await self.checkpoint()
            if stored.status != "running" and not (stored.status == "failed" and is_still_driven):
                return stored
            await anyio.sleep(pause)
            pause = min(pause * 1.5, LATE)
