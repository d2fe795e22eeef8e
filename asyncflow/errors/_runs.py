"""Errors of a run and of its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from .._failure import Failure, portable
from ._base import AsyncflowError, blank

__all__ = [
    "ChildCancelledError",
    "ChildError",
    "ChildFailedError",
    "DraftClosedError",
    "LimitExceededError",
    "MethodError",
    "MethodErrorGroup",
    "MethodTimeoutError",
    "NotStorableError",
    "ParentEndedError",
    "RecordedException",
    "ResultNotStorableError",
    "RunError",
    "RunFencedError",
    "RunInterruptedError",
    "RunTimeoutError",
    "SignalTimeoutError",
    "StateConflictError",
    "StateError",
    "StateNotStorableError",
    "StateSchemaError",
    "StepKeyError",
    "StepMismatchError",
]


class RunError(AsyncflowError):
    """A run could not continue."""


class ParentEndedError(RunError):
    """The parent of a child run is finished, cancelled or not stored: the child was not stored.

    `parent` is the id of the parent.
    """

    def __init__(self, message: str, *, parent: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.parent = parent


class MethodError(RunError):
    """One or more methods of a run raised an exception.

    `failures` holds one `Failure` (method, invocation_id, exception) for each; `__cause__` is the first user exception.
    Completed methods are saved, and `resume` runs only methods that failed or never started.
    """

    def __init__(self, message: str, *, failures: Sequence[Failure] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.failures: tuple[Failure, ...] = tuple(failures)


class MethodErrorGroup(MethodError, ExceptionGroup[Exception]):  # noqa: N818 - the contract's name
    """Several methods of one run raised: both a `MethodError` and an `ExceptionGroup` of the user's exceptions."""

    def __new__(cls, message: str, exceptions: Sequence[Exception], **_: Any) -> Self:
        return ExceptionGroup.__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception], **fields: Any) -> None:
        super().__init__(message, **fields)
        self.args: tuple[Any, ...] = (message, tuple(exceptions))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        message, exceptions = self.args
        return blank, (type(self), (message, tuple(map(portable, exceptions)))), self.__dict__

    def derive(self, excs: Sequence[Exception]) -> MethodErrorGroup:  # type: ignore[override]  # the stub is generic
        """Return the group of some of the failures, as `except*` and `split` require."""
        kept = {id(e) for e in excs}
        left = [f for f in self.failures if id(f.exception) in kept]
        return MethodErrorGroup(self.message, excs, failures=left, run_id=self.run_id, method=self.method, seq=self.seq)


class RunTimeoutError(MethodError, TimeoutError):
    """The run did not finish within its `run_timeout`; what had completed is saved. `resume(run_id, run_timeout=...)` continues it."""


class MethodTimeoutError(RunError, TimeoutError):
    """An attempt of a method took longer than its `timeout`. An async method was cancelled; a plain one still runs in its thread."""


class StepKeyError(RunError):
    """A step within a method, such as a sleep, needs a key: another one of its name is in progress, or its name does not identify it."""


class StepMismatchError(RunError):
    """A method that runs again made another step under the name of a stored one, with other arguments. It is never retried."""


class ChildError(RunError):
    """A child run did not finish, in `run_child`. `child_id` is its run id, and `flow` the name of its flow."""

    def __init__(self, message: str, *, child_id: str = "", flow: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.child_id = child_id
        self.flow = flow


class ChildFailedError(ChildError):
    """A child run has failed; `__cause__` is its `MethodError`. The next attempt of the method, or its resume, resumes the child."""


class ChildCancelledError(ChildError):
    """A child run was cancelled permanently."""


class SignalTimeoutError(RunError, TimeoutError):
    """A signal did not come within the time that a method waits for it, in `wait_for`."""


class RecordedException(RunError):  # noqa: N818 - it represents an exception of any kind
    """The stored record of an exception that a method raised in another process, or earlier: the exception object itself is gone.

    Its message is the text of the exception. `recorded_type` names the type, with its module; `recorded_traceback` is the text of the
    traceback, which is printed with it as a note.
    """

    def __init__(self, message: str, *, recorded_type: str, recorded_traceback: str, **where: Any) -> None:
        super().__init__(message, **where)
        self.recorded_type = recorded_type
        self.recorded_traceback = recorded_traceback
        self.add_note(f"It was a {recorded_type}, raised here:\n{recorded_traceback}".rstrip())


class RunFencedError(RunError):
    """The run is fenced: another owner has taken it over. Nothing has been written or started here since."""


class RunInterruptedError(RunError):
    """The run was interrupted at a checkpoint, because what executes it is shutting down. It can be resumed, here or elsewhere."""


class LimitExceededError(RunError):
    """A limit was exceeded: the calls of one method in a pass, or the size or depth of a stored value."""


class StateError(AsyncflowError):
    """An error concerning the state of a flow."""


class StateConflictError(StateError):
    """Merge conflict: two methods that ran at the same time changed the same part of the state in different ways.

    `path` is the part, `method` the method that committed later (its changes were dropped) and `other` the one that committed earlier.
    """

    def __init__(self, message: str, *, path: str = "", other: str | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.path = path
        self.other = other


class DraftClosedError(StateError, RuntimeError):
    """Code that outlived its method used `self.state`: the draft had already been committed or dropped."""


class NotStorableError(StateError, TypeError):
    """A value does not load back equal and of the same type.

    `path` is the place of the value, `type_name` its type, `reason` why it cannot be stored, and `cure` what to do.
    """

    def __init__(
        self, message: str, *, path: str = "", type_name: str = "", reason: str = "", cure: str = "", **where: Any
    ) -> None:
        super().__init__(message, **where)
        self.path = path
        self.type_name = type_name
        self.reason = reason
        self.cure = cure


class StateNotStorableError(NotStorableError):
    """The state holds a value that cannot be stored. Nothing was written."""


class ResultNotStorableError(NotStorableError):
    """A method returned a value that cannot be stored. Nothing was written."""


class StateSchemaError(StateError):
    """The stored state does not fit the flow's model; nothing was changed. `paths` names the fields."""

    def __init__(self, message: str, *, paths: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.paths: tuple[str, ...] = tuple(paths)
