"""Views of stored runs: what a runner's handles show of a checkpoint, typed where the flow is registered, else as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic_core import from_json

from .._codec.marks import TAGGED
from .._codec.tagged import untagged
from .._definition.signals import Signal
from .._runs import call_errors as refusals
from .._runs.finishing import finish_stored
from .._runs.inputs import inputs_shown
from .._runs.loading import outcome_of
from .._runs.sending import send
from .._runtime.audience import joined
from .._runtime.failures import stored_failure, stored_failures
from .._runtime.timing import clock_of
from .._runtime.waits import awaited_signals, next_due
from .._scheduling.signals import expected
from ..persistence.checkpoint import Checkpoint, decode_progress
from ..persistence.outcome import Finished
from ..persistence.protocol import FlowPersistence
from .handles import RunFailure, RunView
from .owned import OwnedRuns

__all__ = ["Viewed"]


class Viewed:
    """Views of stored runs for a runner's handles. `instance_of` creates an instance of a stored run's flow; None for an unknown flow.

    `on_sent`: called after a signal was sent. `owned`: the runs that the runner drives.
    """

    def __init__(
        self,
        persistence: FlowPersistence,
        instance_of: Callable[[Checkpoint], Any],
        on_sent: Callable[[], object],
        owned: OwnedRuns,
    ) -> None:
        self._instance_of = instance_of
        self._on_sent = on_sent
        self._owned = owned
        self._clock = clock_of(persistence)

    def view(self, c: Checkpoint, as_stored: bool) -> RunView:
        """Return a view of a run from a checkpoint."""
        return _view_of(c, None if as_stored else self._instance_of(c), self._clock())

    async def send(self, c: Checkpoint, signal: Signal[Any] | str, payload: Any, key: str | None, sender: str) -> bool:
        """Send a signal to a stored run. Return False if the run has received it already."""
        instance = self._instance_of(c)
        if instance is None:
            raise refusals.unknown_flow(c)
        is_new = await send(instance.setup, c.run_id, signal, payload, key, sender)
        self._on_sent()
        return is_new

    async def finish(self, c: Checkpoint) -> None:
        """Ask for the end of a stored run that this runner does not drive."""
        instance = self._instance_of(c)
        if instance is None:
            raise refusals.unknown_flow(c)
        setup = instance.setup
        await finish_stored(replace(setup, audience=joined(setup.audience, self._owned.audience)), c.run_id)

    async def outcome(self, ended: Checkpoint) -> Any:
        """Return the result of a run that another owner has driven, or raise its error."""
        return _ended_with(ended, self._instance_of(ended))


def _view_of(c: Checkpoint, instance: Any, now: float) -> RunView:
    """Return a view of a run from a checkpoint. `instance`: an instance of its flow, which decodes state and result; or None."""
    outcome, result = outcome_of(c), None
    if instance is not None:
        state = instance.show_checkpoint(c).state
        result = instance.result
    else:
        state = _untyped(c.state or b"{}")
        result = _untyped(outcome.result) if isinstance(outcome, Finished) else None
    return RunView(
        run_id=c.run_id,
        flow=c.flow,
        status=c.status,
        pass_number=c.pass_number,
        seq=c.seq,
        at=c.at,
        inputs=inputs_shown(c.inputs),
        state=state,
        result=result,
        error=_failure_of(c),
        forked_from=decode_progress(c.progress or b"").origin,
        **_waits_of(c, instance, now),
    )


def _waits_of(c: Checkpoint, instance: Any, now: float) -> dict[str, Any]:
    """Return the signals that a run waits for, and when the next of its waits for a time is due. `instance`: as for `_view_of`."""
    if c.status in ("finished", "cancelled"):
        return {}
    progress = decode_progress(c.progress or b"")
    names = awaited_signals(progress, now)
    if instance is not None:
        names |= expected(instance.setup.settings.definition, progress)
    return {"waits_for": tuple(sorted(names)), "due_at": next_due(progress, now)}


def _failure_of(c: Checkpoint) -> RunFailure | None:
    """Return the failure of the method that raised last; None if none raised."""
    known = stored_failures(c)
    if not known:
        return None
    f = known[-1]
    return RunFailure(
        method=f.method, type=f.type, message=f.message, invocation_id=f.invocation_id, traceback=f.traceback
    )


def _ended_with(ended: Checkpoint, instance: Any) -> Any:
    """Return the result of a run that has ended. Raises the error that it failed with, or `RunCancelledError`."""
    if instance is not None:
        return instance.outcome(instance.show_checkpoint(ended))
    outcome = outcome_of(ended)
    if isinstance(outcome, Finished):
        return _untyped(outcome.result)
    raise refusals.cancelled(ended.run_id) if ended.status == "cancelled" else stored_failure(ended.flow, ended)


def _untyped(data: bytes) -> Any:
    """Decode a stored value without its annotation: its JSON, with tagged values restored to their types."""
    tree = from_json(data)
    if data[:1] != TAGGED:
        return tree
    try:
        return untagged(tree)
    except (ValueError, KeyError, TypeError, ArithmeticError):  # tags that this version does not know
        return tree
