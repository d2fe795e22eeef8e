"""The handles on a run, whichever process drives it, and what they show of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, Protocol, TypeVar

import anyio
import anyio.lowlevel
import typing_extensions

from .._definition.signals import Signal
from .._pace import Pace
from .._runs import call_errors as refusals
from .._runs.ownership import catalog_entry, is_driven, status_now
from .._runs.parked import until_woken
from .._runs.sending import JsonPayload
from .._runs.stored_events import StoredEvents
from .._runtime.readers import Reader
from .._runtime.timing import clock_of
from .._runtime.tracebacks import from_here
from ..errors import RunFencedError, RunInterruptedError, StorageError
from ..events import Event
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import FlowPersistence, session
from ..persistence.status import Status, has_ended
from .live import ENDED, Live
from .owned import OwnedRuns

__all__ = ["RunFailure", "RunHandle", "RunView"]

P = TypeVar("P")
R = typing_extensions.TypeVar("R", covariant=True, default=Any)

SOON: Final = 0.05
LATE: Final = 1.0
"""Seconds between two polls of a run that another owner drives: the first pause, and the longest."""


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
    waits_for: tuple[str, ...] = ()
    """The names of the signals that the run waits for, unless it has ended."""
    due_at: float | None = None
    """When the next of its timers, sleeps and further attempts is due, in seconds since the Unix epoch; None if it waits for no time."""
    forked_from: tuple[str, int] | None = None
    """(run id, seq) of the checkpoint that the run is a copy of; None if it is no copy."""


class Views(Protocol):
    """What a handle asks of a stored run."""

    async def outcome(self, ended: Checkpoint, /) -> Any: ...
    def view(self, c: Checkpoint, as_stored: bool, /) -> RunView: ...
    async def send(
        self, c: Checkpoint, signal: Signal[Any] | str, payload: Any, key: str | None, sender: str
    ) -> bool: ...
    async def finish(self, c: Checkpoint, /) -> None: ...


class RunHandle(Generic[R]):
    """A caller's handle on a run. Dropping it, or being cancelled while awaiting it, does not affect the run."""

    def __init__(
        self,
        run_id: str,
        persistence: FlowPersistence,
        live: Live | None,
        cancel: Callable[[], Awaitable[None]],
        views: Views,
        owned: OwnedRuns,
        *,
        is_elsewhere: bool = False,
    ) -> None:
        """`owned`: the runs that are driven here. `is_elsewhere`: another process was found to drive the run."""
        self.run_id = run_id
        self._persistence = persistence
        self._live = live
        self._outcome: Callable[[Checkpoint], Awaitable[R]] = views.outcome
        self._cancel = cancel
        self._decode = views.view
        self._views = views
        self._owned = owned
        self._is_elsewhere = is_elsewhere

    def __repr__(self) -> str:
        return f"<RunHandle of run {self.run_id}>"

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
        """Return "running", "waiting", "interrupted", "failed", "finished" or "cancelled", according to the newest checkpoint.

        A run is running while it has an owner, here or elsewhere, and waiting while it is parked, as far as the storage has a catalog
        that reports it. Raises what `checkpoint` raises.
        """
        return (await self.status_and_checkpoint())[0]

    async def status_and_checkpoint(self) -> tuple[Status, Checkpoint]:
        """Return the status of the run, and its newest checkpoint. Raises what `checkpoint` raises."""
        stored = await self.checkpoint()
        status = await status_now(self._persistence, self.run_id, stored.status)
        if status == "interrupted":
            stored = await self.checkpoint()  # it may have ended in the meantime
            status = stored.status if has_ended(stored.status) else status
        return status, stored

    async def result(self) -> R:
        """Wait until the run has ended, here or elsewhere, and return its result. After a takeover, wait for the new owner's result.

        Raises `MethodError`, `RunCancelledError`, and any other error that stopped the run here, unless the run has ended since then;
        `RunNotFoundError` if the run has been deleted, and `StorageError`s.
        """
        live = self._live
        while live is not None:
            live.awaited += 1
            try:
                with live.waited_for():
                    await live.ended.wait()
            finally:
                live.awaited -= 1
            if live.is_parked:
                self._live = live = await self._woken()
                continue
            if live.error is None:
                result: R = live.result
                return result
            if isinstance(live.error, ENDED):
                raise from_here(live.error) from live.error.__cause__
            if not isinstance(live.error, RunFencedError):
                return await self._ended_since(live.error)
            break
        return await self._outcome(await self._ended())

    async def _woken(self) -> Live | None:
        """Wait while the run is parked. Return it if this runner has woken it. Raises `RunInterruptedError` once the runner ends."""
        async with session(self._persistence):
            with self._owned.waiting(self.run_id) as woken:
                while True:
                    await until_woken(self._persistence, self.run_id, clock_of(self._persistence), woken)
                    entry = await catalog_entry(self._persistence, self.run_id)
                    live = self._owned.get(self.run_id)
                    if live is not None or entry is None or entry.wake_at is None:
                        return live
                    if self._owned.is_closed:
                        raise refusals.interrupted(self.run_id)
                    await anyio.sleep(SOON)  # it is due, and a runner is about to wake it

    async def _ended_since(self, stopped: BaseException) -> R:
        """Return the outcome of a run that stopped here before its end. Raises the error that stopped it, if it has not ended since."""
        try:
            stored = await self.checkpoint()
        except StorageError:
            raise stopped from None
        if stored.status == "running":
            raise stopped
        return await self._outcome(stored)

    async def cancel(self) -> None:
        """Cancel the run permanently and durably, whichever process drives it. Raises what `FlowRunner.cancel` raises."""
        await self._cancel()

    async def finish(self) -> None:
        """Ask for the end of the run, in order. The request is durable when this returns; `result()` waits for the end.

        Nothing starts any more, all waits are dropped, and the methods that run finish. A finished run stays as it is. Raises what
        `Flow.finish_run` raises.
        """
        if self._live is None or not await self._live.finish():
            await self._views.finish(await self.checkpoint())

    async def signal(
        self,
        signal: Signal[P] | str,
        payload: P | JsonPayload | None = None,
        /,
        *,
        key: str | None = None,
        sender: str = "",
    ) -> bool:
        """Send a signal to the run, whichever process drives it. It is durable when this returns, and is taken exactly once.

        - `signal`: the signal, or its name.
        - `payload`: what is sent with it, of the type that the signal declares; or `JsonPayload`, which is validated by that type.
        - `key`: an idempotency key: a call that is repeated with the same key sends nothing again.
        - `sender`: who sends it, to be stored with the signal.

        Returns False if the run has received a signal with this key already, else True. Raises what `Flow.signal` raises.
        """
        return await self._views.send(await self.checkpoint(), signal, payload, key, sender)

    async def events(self, *, after: tuple[int, int] = (-1, 0), live: bool = True) -> AsyncGenerator[Event, None]:
        """Iterate over the past and future events of the run until it has ended: each stored event once and in order.

        - `after`: the (seq, n) of the last stored event that is already known; the default is none.
        - `live`: whether to include the live events, from now on, of a run that this runner drives. A slow reader loses the oldest of
          them; then an `EventsLost` says how many.

        Raises `CapabilityMissingError` if the backend keeps no history, `RunNotFoundError` if the run has been deleted, and
        `StorageError`s.
        """
        stored = StoredEvents(self._persistence, self.run_id, after, SOON)
        reports = [] if self._live is None else self._live.driver.reports()
        reader = self._owned.audience.reader(self.run_id, rereads=True, reports=reports)
        is_woken, looked_after = False, after
        while True:
            is_here = self._is_here
            if not is_woken:  # else the reader may have what followed, live events included
                reader.has_gap, looked_after = False, stored.position
                for event in await stored.unread():
                    yield event
                reader.forget_until(stored.position)
                if stored.has_ended and not is_here:
                    return
            while (heard := await self._heard(reader, stored, is_here)) is not None:
                if live or not heard.is_live:
                    yield heard
            if is_here and reader.has_gap and stored.position == looked_after:  # the catalog does not show it yet
                await stored.pause()
            is_woken = not is_woken and not is_here
            if is_woken and not await self._until_driven(stored, reader):
                return

    @property
    def _is_here(self) -> bool:
        """Whether this runner drives the run."""
        return self._live is not None and not self._live.ended.is_set()

    async def _heard(self, reader: Reader, stored: StoredEvents, waits: bool) -> Event | None:
        """Return the next event that a reader has, and that was not read from the storage; None if the storage has to be read.

        `waits`: whether to wait for one while this runner drives the run.
        """
        while True:
            event = reader.take(stored.seq)
            if event is not None:
                if event.is_live or stored.pass_over(event):
                    return event
            elif not waits or reader.has_gap or not self._is_here:
                return None
            else:
                await reader.next_change.wait()

    async def _until_driven(self, stored: StoredEvents, reader: Reader) -> bool:
        """Wait until this runner has woken the run, or until it is time to read the storage. Return False once the runner ends."""
        try:
            self._live = await self._woken()
        except RunInterruptedError:
            return False
        if self._live is None:
            await stored.pause(reader.next_change)
        return True

    async def _ended(self) -> Checkpoint:
        """Wait for the last checkpoint of a run that another owner drives, and return it.

        A run stored as failed may be about to be resumed by its owner: wait while it is driven.
        """
        pause, pace = SOON, Pace()
        while True:
            is_still_driven = self._is_elsewhere and await is_driven(
                self._persistence, self.run_id
            )  # checked before the load: the run may end between the two
            stored = await self.checkpoint()
            if stored.status != "running" and not (stored.status == "failed" and is_still_driven):
                return stored
            await self._woken()
            await pace.pause(pause)
            pause = min(pause * 1.5, LATE)
