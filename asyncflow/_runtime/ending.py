"""`finish` and `continue_as` in a method: ask for the end of the pass. The request takes effect when the method returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ..errors import RunInputsError, StateError
from ..state import StateType
from .scope import Scope, current_invocation

__all__ = ["Asked", "asked_by", "continue_as", "finish"]


class Asked(NamedTuple):
    """What an invocation has asked for."""

    ending: Literal["finish", "continue"]
    inputs: dict[str, Any]
    """The fields of the state to set for the next pass."""


def finish() -> None:
    """Ask, in a method of a flow, for the end of the run when the method returns.

    From then on nothing starts. Timers, signals, pauses before further attempts, `sleep` and `wait_for` are no longer waited for, and
    the invocations that wait are dropped. Methods that run at that time finish. The output is the result of the method that asked,
    unless the flow has a method with `output=True`. An attempt that raises has asked for nothing. A later call in the same attempt
    replaces an earlier one; of several methods, the first that returns counts.

    Raises `LookupError` outside of a method, and `StateError` in code that still runs after its method has ended.
    """
    scope = _scope("finish")
    scope.of_pass.ask(scope, "finish", None)


def continue_as(inputs: Mapping[str, Any] | object | None = None, /) -> None:
    """Ask, in a method of a flow, for the end of the pass when the method returns, and for the next pass of the run.

    The pass ends as with `finish`, but the run continues: its next pass begins in the same commit, over the state of this one. Counts of
    calls and the `run_timeout` begin again, and signals that nothing has taken stay in the inbox. So a run may continue for years without
    growing; `Flow.compact` deletes its earlier passes. `kickoff` returns when a pass ends without `continue_as`.

    - `inputs`: fields of the state to set, as in `kickoff`; the method's own changes, and are merged like these.

    Raises `RunInputsError` for inputs that do not fit the state, `LookupError` outside of a method, and `StateError` in code that still
    runs after its method has ended.
    """
    scope = _scope("continue_as")
    scope.of_pass.ask(scope, "continue", inputs)


def _scope(call: str) -> Scope:
    scope = current_invocation.get()
    if scope is None:
        raise LookupError(f"asyncflow.{call}() is available only inside a method of a flow")
    if scope.step:
        raise StateError(
            f"asyncflow.{call}() was called in the function of a step, which is not called again; call it in {scope.method.name} itself",
            run_id=scope.run_id,
            method=scope.method.name,
        )
    return scope.whole


def asked_by(
    scope: Scope, ending: Literal["finish", "continue"], inputs: Any, types: StateType, *, is_running: bool
) -> Asked:
    """Return what an invocation asks for. Raises `StateError` if it no longer runs, and `RunInputsError`."""
    if not is_running:
        call = "finish" if ending == "finish" else "continue_as"
        raise StateError(
            f"asyncflow.{call}() was called in code that still ran after {scope.method.name} had ended",
            run_id=scope.run_id,
            method=scope.method.name,
        )
    given = dict(inputs) if isinstance(inputs, Mapping) else {} if inputs is None else types.inputs_of(inputs)
    if given is None or any(str(each) != scope.run_id for each in types.ids_taken(given)):
        raise RunInputsError(
            "continue_as() takes a dict that sets fields of the state, or the state's model, and keeps the id of the run",
            run_id=scope.run_id,
            method=scope.method.name,
        )
    if given:
        try:
            types.updated(scope.draft(), given)
        except RunInputsError as error:  # the method fails with it, which says what is saved
            text = f"continue_as(): {str(error).partition('. Nothing was run')[0]}"
            where = {"run_id": scope.run_id, "method": scope.method.name}
            raise RunInputsError(text, places=error.places, **where) from error.__cause__
    return Asked(ending, given)
