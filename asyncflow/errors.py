"""All exceptions of asyncflow, in one hierarchy, grouped by where the fault lies.

Each message states what happened, what was and was not saved, and what to do next. The fields `run_id`, `method`
and `seq` are set where they exist. No message of asyncflow contains a value of the user's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from ._failure import FailedAttempt, Failure, portable

__all__ = [
    "ArgumentsError",
    "AsyncflowError",
    "CallError",
    "CapabilityMissingError",
    "CheckpointCorruptError",
    "CheckpointWithdrawnError",
    "DraftClosedError",
    "FailedAttempt",
    "Failure",
    "FlowBusyError",
    "FlowDefinitionError",
    "ForeignDatabaseError",
    "ForkedProcessError",
    "InvalidRunIdError",
    "LimitExceededError",
    "MethodError",
    "MethodErrorGroup",
    "MethodTimeoutError",
    "NoOutputError",
    "NotStorableError",
    "PersistenceLoopError",
    "RecordedException",
    "ResultNotStorableError",
    "RunCancelledError",
    "RunError",
    "RunFencedError",
    "RunFlowMismatchError",
    "RunInputsError",
    "RunInterruptedError",
    "RunLockedError",
    "RunNotFoundError",
    "RunTimeoutError",
    "RunnerClosedError",
    "RunnerOverloadedError",
    "RunningLoopError",
    "StaleCheckpoint",
    "StateConflictError",
    "StateError",
    "StateNotStorableError",
    "StateSchemaError",
    "StepKeyError",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageNotADatabaseError",
    "StorageNotFoundError",
    "StorageReadOnlyError",
    "StorageUnreachableError",
    "StorageVersionError",
    "StorageWriteError",
    "UnknownLabelError",
]


class AsyncflowError(Exception):
    """The base class of all exceptions of asyncflow.

    `run_id`, `method` and `seq` name the run, the method and the checkpoint that the error concerns; None where there is none.
    """

    def __init__(
        self, message: str, *, run_id: str | None = None, method: str | None = None, seq: int | None = None
    ) -> None:
        super().__init__(message)
        self.run_id = run_id
        self.method = method
        self.seq = seq

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        return _blank, (type(self), self.args), self.__dict__


def _blank(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Create an exception as unpickling does: without its constructor, whose keywords `args` does not hold."""
    error = cls.__new__(cls, *args)
    error.args = args
    return error


# ---- the class -------------------------------------------------------------------------------------------------


class FlowDefinitionError(AsyncflowError):
    """A flow class is invalid, or no longer has a method that a stored run is waiting for.

    `problems` lists every mistake found, each with its fix.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.problems = tuple(problems)


class UnknownLabelError(AsyncflowError):
    """A router returned a label that it does not declare, or a label that is the name of a method."""


# ---- the call --------------------------------------------------------------------------------------------------


class CallError(AsyncflowError):
    """A call cannot be served as made; nothing was run and nothing was written."""


class ArgumentsError(CallError, TypeError):
    """A call received arguments that it does not accept. `unknown` holds the keywords; the message states where they belong."""

    def __init__(self, message: str, *, unknown: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.unknown = tuple(unknown)


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
        self.places = tuple(places)


class RunCancelledError(CallError):
    """The run was cancelled permanently, with `cancel()`."""


class RunLockedError(CallError):
    """Another live owner is executing this run. `owner` names it; its lease expires in `seconds` unless it is renewed."""

    def __init__(self, message: str, *, owner: str | None = None, seconds: float | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.owner = owner
        self.seconds = seconds


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


# ---- the run ---------------------------------------------------------------------------------------------------


class RunError(AsyncflowError):
    """A run could not continue."""


class MethodError(RunError):
    """One or more methods of a run raised an exception.

    `failures` holds one `Failure` (method, invocation_id, exception) for each; `__cause__` is the first user exception.
    Completed methods are saved, and `resume` runs only methods that failed or never started.
    """

    def __init__(self, message: str, *, failures: Sequence[Failure] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.failures = tuple(failures)


class MethodErrorGroup(MethodError, ExceptionGroup[Exception]):  # noqa: N818 - the contract's name
    """Several methods of one run raised: both a `MethodError` and an `ExceptionGroup` of the user's exceptions."""

    def __new__(cls, message: str, exceptions: Sequence[Exception], **_: Any) -> Self:  # noqa: D102 - see the docstring of the class
        return ExceptionGroup.__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception], **fields: Any) -> None:
        super().__init__(message, **fields)
        self.args = (message, tuple(exceptions))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        message, exceptions = self.args
        return _blank, (type(self), (message, tuple(map(portable, exceptions)))), self.__dict__

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
    """A method began a step, such as a sleep, while another one of that name was in progress: give each a key."""


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


# ---- the state -------------------------------------------------------------------------------------------------


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
        self.paths = tuple(paths)


# ---- the storage -----------------------------------------------------------------------------------------------


class StorageError(AsyncflowError):
    """The storage could not perform an operation."""


class StaleCheckpoint(StorageError):  # noqa: N818 - the protocol's term: an answer of a backend, not a fault
    """Raised by a backend: the checkpoint does not follow the stored one (compare and set failed). Nothing was written."""


class CheckpointCorruptError(StorageError):
    """A checkpoint fails its digest, its chain or its decoding. Only this run is affected; the rows are kept."""


class StorageCorruptError(StorageError):
    """The database itself is corrupt."""


class StorageWriteError(StorageError):
    """A commit failed. `outcome` states whether the checkpoint was saved: "not saved" or "unknown"."""

    def __init__(self, message: str, *, outcome: str = "unknown", **where: Any) -> None:
        super().__init__(message, **where)
        self.outcome = outcome


class CheckpointWithdrawnError(StorageWriteError):
    """A checkpoint was not saved because a cancellation withdrew the one before it, in the same run."""


class StorageBusyError(StorageError):
    """The database cannot respond at this moment; retry later.

    Another process held its lock for longer than the busy timeout, or the system has no file handles or threads left.
    """


class StorageReadOnlyError(StorageError):
    """The database, or its folder, is not writable."""


class StorageNotFoundError(StorageError):
    """The database was not found: its server cannot be reached, its folder cannot be created, or the path is a folder.

    Also raised if its file was moved, deleted or replaced while it was in use.
    """


class StorageUnreachableError(StorageNotFoundError):
    """The database server cannot be reached at this moment, or has closed the connection: it may be starting. Retry later."""


class StorageNotADatabaseError(StorageError):
    """The file is not a SQLite database."""


class ForeignDatabaseError(StorageError):
    """The file is a database of another program. It was not changed."""


class StorageVersionError(StorageError):
    """A newer version of asyncflow wrote the database. It was not changed."""


class ForkedProcessError(StorageError):
    """A backend that was opened before a fork was used after it."""
