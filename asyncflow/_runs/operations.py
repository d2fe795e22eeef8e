"""What a flow does with runs that it need not drive: observe and end them, send signals, and delete their earlier passes."""

from __future__ import annotations

from typing import Any, Self, TypeVar

from .._definition.signals import Signal
from .._runtime.readers import EventStream
from ..state import parse_run_id
from .compacting import compact
from .edits import fork, load_into
from .finishing import finish_stored
from .instance import Instance
from .sending import send

__all__ = ["Operations"]

P = TypeVar("P")


class Operations:
    """The operations; a base of `Flow`."""

    _instance: Instance

    def events(self) -> EventStream:
        """Return the events of the run of this object as they come, to iterate over: `async for event in flow.events()`.

        They begin at this call; called before `kickoff` or `resume`, it waits for that. They end when that call ends. A reader that is
        slow never slows the run: it loses events, and an `events.EventsLost` says how many. Past events are in `history`.
        """
        return EventStream(self._instance.events())

    @classmethod
    async def load(cls, run_id: object, /, *, seq: int | None = None, **init: Any) -> Self:
        """Load a stored run into a new instance: state, status, result. Run nothing.

        - `run_id`: the id of the run.
        - `seq`: the number of an older checkpoint, as `history` has it; None: the newest one.
        - `init`: arguments of the constructor, such as `persistence`.

        Raises `InvalidRunIdError`, `RunNotFoundError`, `RunFlowMismatchError`, `StateSchemaError`, `CapabilityMissingError` if the class
        has no persistence, `FlowDefinitionError`, `ArgumentsError` and `ValueError` as the constructor does, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        flow = cls(**init)
        await load_into(flow._instance, known, seq)
        return flow

    @classmethod
    async def fork(cls, run_id: object, /, *, seq: int | None = None, **init: Any) -> Self:
        """Copy a run, as of a checkpoint, and store the copy under a new id. `kickoff()` on the copy continues from there.

        - `run_id`: the id of the run to copy.
        - `seq`: the number of an older checkpoint, as `history` has it; None: the newest one.
        - `init`: arguments of the constructor, such as `persistence`.

        Raises `InvalidRunIdError`, `RunNotFoundError`, `RunFlowMismatchError`, `StateSchemaError`, `CapabilityMissingError` if the class
        has no persistence, `FlowDefinitionError`, `ArgumentsError` and `ValueError` as the constructor does, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        flow = cls(**init)
        await fork(flow._instance, known, seq)
        return flow

    async def cancel(self) -> None:
        """Cancel the run permanently and durably: it cannot be resumed. Its kickoff, if one is awaited, raises `RunCancelledError`.

        A finished run stays finished, also if it finishes at this moment. In one of the run's own methods it returns at once, and the
        method is cancelled.

        Raises `RunLockedError` while another instance or process drives the run (`FlowRunner.cancel` ends it there, too),
        `RunNotFoundError`, `CapabilityMissingError` if the flow is not stored and not running, `InvalidRunIdError` (of an id in the
        state), `RunFlowMismatchError`, `StateSchemaError`, `RunFencedError` if another owner takes the run over at this moment, and
        `StorageError`s.
        """
        await self._instance.cancel()

    @classmethod
    async def signal(
        cls,
        run_id: object,
        signal: Signal[P] | str,
        payload: P | None = None,
        /,
        *,
        key: str | None = None,
        **init: Any,
    ) -> bool:
        """Send a signal to a run, whichever process drives it. It is durable when this returns, and is taken exactly once.

        - `run_id`: the id of the run. Without persistence, the run must be running in this process.
        - `signal`: the signal, or its name.
        - `payload`: what is sent with it, of the type that the signal declares.
        - `key`: an idempotency key: a call that is repeated with the same key sends nothing again.
        - `init`: arguments of the constructor, such as `persistence`.

        Returns False if the run has received a signal with this key already, else True. Raises `UnknownSignalError`,
        `SignalPayloadError`, `SignalKeyError` for a key that stands for another signal, `RunEndedError` for a finished or cancelled run,
        `NotWaitingError` for a signal with `early="refuse"` that nothing waits for, `InboxFullError`, `RunNotFoundError`,
        `RunFlowMismatchError`, `InvalidRunIdError`, `CapabilityMissingError` if the backend stores no signals, `ValueError` for an
        invalid key, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        return await send(cls(**init)._instance.setup, known, signal, payload, key)

    @classmethod
    async def finish_run(cls, run_id: object, /, **init: Any) -> None:
        """Ask for the end of a run, whichever process drives it. The request is durable when this returns. A finished run stays as it is.

        A run that is driven ends in order, as with `finish()` in a method. It is asked by a signal, so its flow must declare signals; on a
        handle of the runner that drives it, `RunHandle.finish` needs none. A run that no process drives ends at once, and drops what was
        interrupted. The output is that of the method with `output=True` or, without one, of the method that completed last.

        - `run_id`: the id of the run.
        - `init`: arguments of the constructor, such as `persistence`.

        Raises `RunLockedError` for a run that is driven by another call, and whose flow declares no signals; `RunCancelledError`, the
        `MethodError` of a run that has failed, `RunNotFoundError`, `RunFlowMismatchError`, `InvalidRunIdError`, `InboxFullError`,
        `CapabilityMissingError` if the class has no persistence, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        await finish_stored(cls(**init)._instance.setup, known)

    @classmethod
    async def compact(cls, run_id: object, /, **init: Any) -> int:
        """Delete the checkpoints of the earlier passes of a run, also while it is driven. Return how many were deleted.

        What is left begins with the first checkpoint of the present pass, which holds the whole state.

        - `run_id`: the id of the run.
        - `init`: arguments of the constructor, such as `persistence`.

        Raises `RunNotFoundError`, `RunFlowMismatchError`, `InvalidRunIdError`, `CapabilityMissingError` if the class has no persistence,
        or its backend cannot delete a part of a run, and `StorageError`s.
        """
        known = parse_run_id(run_id)
        return await compact(cls(**init)._instance.setup, known)
