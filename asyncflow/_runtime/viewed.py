"""A stored run as others see it: what a runner's handles show of a checkpoint, with types where the flow is known, else as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from ..persistence.checkpoint import Checkpoint
from ..persistence.marks import TAGGED
from ..persistence.tagged import untagged
from . import refusals
from .failures import stored_failure, stored_failures
from .handles import RunFailure, RunView
from .inputs import inputs_shown
from .runs import outcome_of

__all__ = ["Viewed"]


class Viewed:
    """Runs as a runner's handles show them. `instance_of`: makes an instance of a stored run's flow, or None for an unknown one."""

    def __init__(self, instance_of: Callable[[Checkpoint], Any]) -> None:
        self._instance_of = instance_of

    def view(self, c: Checkpoint, as_stored: bool) -> RunView:
        """A run from a checkpoint."""
        return _view_of(c, None if as_stored else self._instance_of(c))

    async def outcome(self, ended: Checkpoint) -> Any:
        """What a run came to that somebody else has driven."""
        return _ended_with(ended, self._instance_of(ended))


def _view_of(c: Checkpoint, instance: Any) -> RunView:
    """A run from a checkpoint. `instance`: of its flow, which reads state and result; or None."""
    outcome, result = outcome_of(c), None
    if instance is not None:
        state = instance.show_checkpoint(c).state
        result = instance.result
    else:
        state = _untyped(c.state or b"{}")
        result = _untyped(outcome["result"].encode()) if "result" in outcome else None
    return RunView(
        run_id=c.run_id,
        flow=c.flow,
        status=c.status,
        number=c.number,
        seq=c.seq,
        at=c.at,
        inputs=inputs_shown(c.inputs),
        state=state,
        result=result,
        error=_failure_of(c),
    )


def _failure_of(c: Checkpoint) -> RunFailure | None:
    """What the last method that raised has raised, if one did."""
    known = stored_failures(c)
    if not known:
        return None
    f = known[-1]
    return RunFailure(
        method=f.method, type=f.type, message=f.message, invocation_id=f.invocation_id, traceback=f.traceback
    )


def _ended_with(ended: Checkpoint, instance: Any) -> Any:
    """What a run came to. Raises what it failed with, or `RunCancelledError`."""
    if instance is not None:
        return instance.outcome(instance.show_checkpoint(ended))
    if ended.status == "finished":
        return _untyped(outcome_of(ended)["result"].encode())
    raise refusals.cancelled(ended.run_id) if ended.status == "cancelled" else stored_failure(ended.flow, ended)


def _untyped(data: bytes) -> Any:
    """A stored value without its annotation: its JSON, and what was tagged as what it is."""
    tree = from_json(data)
    if data[:1] != TAGGED:
        return tree
    try:
        return untagged(tree)
    except (ValueError, KeyError, TypeError, ArithmeticError):  # tags that this version does not know
        return tree
