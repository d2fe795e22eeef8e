"""Errors of a class or of a call: nothing was run and nothing was written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._base import AsyncflowError

__all__ = [
    "ArgumentsError",
    "CallError",
    "CapabilityMissingError",
    "ChildRunError",
    "FlowBusyError",
    "FlowDefinitionError",
    "InvalidRunIdError",
    "NoOutputError",
    "PersistenceLoopError",
    "RunCancelledError",
    "RunFlowMismatchError",
    "RunInputsError",
    "RunLockedError",
    "RunNotFoundError",
    "RunnerClosedError",
    "RunnerOverloadedError",
    "RunningLoopError",
    "UnknownLabelError",
]


class FlowDefinitionError(AsyncflowError):
    """A flow class is invalid, or no longer has a method that a stored run is waiting for.

    `problems` lists every mistake found, each with its fix.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.problems: tuple[str, ...] = tuple(problems)


class UnknownLabelError(AsyncflowError):
    """A router returned a label that it does not declare, or a label that is the name of a method."""


class CallError(AsyncflowError):
    """A call cannot be served as made; nothing was run and nothing was written."""


class ArgumentsError(CallError, TypeError):
    """A call received arguments that it does not accept. `unknown` holds the keywords; the message states where they belong."""

    def __init__(self, message: str, *, unknown: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.unknown: tuple[str, ...] = tuple(unknown)


class InvalidRunIdError(CallError, ValueError):
    """A run id is neither a UUID nor 1 to 128 printable characters without surrounding spaces."""


class RunNotFoundError(CallError, LookupError):
    """No run is stored under this id (or the run has no checkpoint with this seq)."""


class NoOutputError(CallError, KeyError):
    """`method_outputs` has no output of a method that has not completed here; or it was indexed by position, as if it were a list."""

    def __str__(self) -> str:
        return str(self.args[0])


class RunFlowMismatchError(CallError):
    """The id belongs to a run of another flow."""


class RunInputsError(CallError, ValueError):
    """The inputs do not fit the state's model, or differ from those that an interrupted run was started with.

    `places` lists where the model rejects them, as pydantic names locations (`loc`).
    """

    def __init__(self, message: str, *, places: Sequence[tuple[str | int, ...]] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.places: tuple[tuple[str | int, ...], ...] = tuple(places)


class RunCancelledError(CallError):
    """The run was cancelled permanently, with `cancel()`."""


class RunLockedError(CallError):
    """Another live owner is executing this run. `owner` names it; its lease expires in `seconds` unless it is renewed."""

    def __init__(self, message: str, *, owner: str | None = None, seconds: float | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.owner = owner
        self.seconds = seconds


class ChildRunError(CallError):
    """The call cannot be made for a child run alone, such as its deletion: a run is deleted together with all its descendants.

    `parent` is the id of the parent.
    """

    def __init__(self, message: str, *, parent: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.parent = parent


class FlowBusyError(CallError):
    """This flow instance is already executing a run; one instance executes one run at a time."""


class RunningLoopError(CallError, RuntimeError):
    """`asyncflow.run` was called inside a running event loop."""


class RunnerClosedError(CallError, RuntimeError):
    """The runner has not been entered, is shutting down, or is in use on another event loop: it starts nothing."""


class RunnerOverloadedError(CallError):
    """Backpressure: the runner has as many runs as it accepts. Nothing was started; retry later."""


class CapabilityMissingError(CallError):
    """The backend lacks a capability that this call needs. `capability` names the protocol."""

    def __init__(self, message: str, *, capability: str, **where: Any) -> None:
        super().__init__(message, **where)
        self.capability = capability


class PersistenceLoopError(CallError, RuntimeError):
    """A session of a backend was exited on a different event loop than it was entered on. It is still open there.

    Using one backend on several event loops at the same time is fine: it is opened once for each.
    """
