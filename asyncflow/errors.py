"""Every exception of asyncflow, in one tree, in families by whose fault it is.

Each message says what happened, what was and was not saved, and what to do next. The fields `run_id`, `method`
and `seq` are set where they exist. No message of ours holds a value of the user's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from ._failure import Failure, portable

__all__ = [
    "ArgumentsError",
    "AsyncflowError",
    "CallError",
    "CapabilityMissingError",
    "CheckpointCorruptError",
    "CheckpointWithdrawnError",
    "DraftClosedError",
    "FlowBusyError",
    "FlowDefinitionError",
    "ForeignDatabaseError",
    "ForkedProcessError",
    "InvalidRunIdError",
    "LimitExceededError",
    "MethodError",
    "MethodErrorGroup",
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
    "RunnerClosedError",
    "RunnerOverloadedError",
    "RunningLoopError",
    "StaleCheckpoint",
    "StateConflictError",
    "StateError",
    "StateNotStorableError",
    "StateSchemaError",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageNotADatabaseError",
    "StorageNotFoundError",
    "StorageReadOnlyError",
    "StorageVersionError",
    "StorageWriteError",
    "UnknownLabelError",
]


class AsyncflowError(Exception):
    """The base of all errors of asyncflow."""

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
    """Make an exception as unpickling does: without its constructor, whose keywords `args` does not hold."""
    error = cls.__new__(cls, *args)
    error.args = args
    return error


# ---- the class -------------------------------------------------------------------------------------------------


class FlowDefinitionError(AsyncflowError):
    """A flow class is wrong, or no longer holds a method that a stored run is waiting for.

    `problems` lists every mistake found, each with its cure.
    """

    def __init__(self, message: str, *, problems: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.problems = tuple(problems)


class UnknownLabelError(AsyncflowError):
    """A router returned a label that it does not declare, or that is the name of a method."""


# ---- the call --------------------------------------------------------------------------------------------------


class CallError(AsyncflowError):
    """A call that cannot be served as made; nothing was run and nothing was written."""


class ArgumentsError(CallError, TypeError):
    """A call with arguments that it does not take. `unknown` holds the keywords; the message says where they belong."""

    def __init__(self, message: str, *, unknown: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.unknown = tuple(unknown)


class InvalidRunIdError(CallError, ValueError):
    """A run id that is neither a UUID nor 1 to 128 printable characters without surrounding spaces."""


class RunNotFoundError(CallError, LookupError):
    """No run is stored under this id (or no checkpoint of this seq)."""


class NoOutputError(CallError, KeyError):
    """`method_outputs` was asked for a method that has not completed here, or for a place, as if it were a list."""

    def __str__(self) -> str:
        return str(self.args[0])


class RunFlowMismatchError(CallError):
    """The id belongs to a run of another flow."""


class RunInputsError(CallError, ValueError):
    """The inputs do not fit the state's model, or differ from those that an interrupted run was started with.

    `places`: where the model finds them wrong, as pydantic names places.
    """

    def __init__(self, message: str, *, places: Sequence[tuple[str | int, ...]] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.places = tuple(places)


class RunCancelledError(CallError):
    """The run was cancelled for good, with `cancel()`."""


class RunLockedError(CallError):
    """Somebody else who is alive drives this run. `owner` names it; its lease ends in `seconds`, if it is not renewed."""

    def __init__(self, message: str, *, owner: str | None = None, seconds: float | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.owner = owner
        self.seconds = seconds


class FlowBusyError(CallError):
    """This instance drives a run already; one instance drives one run at a time."""


class RunningLoopError(CallError, RuntimeError):
    """`asyncflow.run` was called inside a running event loop."""


class RunnerClosedError(CallError, RuntimeError):
    """The runner has not been entered, or is ending: it starts nothing."""


class RunnerOverloadedError(CallError):
    """The runner has as many runs as it takes. Try again in a while; nothing was started."""


class CapabilityMissingError(CallError):
    """The persistence does not offer what this call needs. `capability` names the protocol."""

    def __init__(self, message: str, *, capability: str, **where: Any) -> None:
        super().__init__(message, **where)
        self.capability = capability


class PersistenceLoopError(CallError, RuntimeError):
    """A session of a persistence is left on another event loop than it was entered on. It is still open there.

    Using one object on several event loops at the same time is fine: it is opened once for each.
    """


# ---- the run ---------------------------------------------------------------------------------------------------


class RunError(AsyncflowError):
    """A run could not go on."""


class MethodError(RunError):
    """One or more methods of a run raised.

    `failures` holds one `Failure` (method, invocation_id, exception) each; `__cause__` is the first user exception.
    What had completed is saved, and `resume` runs only what failed or never started.
    """

    def __init__(self, message: str, *, failures: Sequence[Failure] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.failures = tuple(failures)


class MethodErrorGroup(MethodError, ExceptionGroup[Exception]):  # noqa: N818 - the contract's name
    """Several methods of one run raised: a `MethodError` and an `ExceptionGroup` of the user's exceptions."""

    def __new__(cls, message: str, exceptions: Sequence[Exception], **_: Any) -> Self:  # noqa: D102 - the class says it
        return ExceptionGroup.__new__(cls, message, exceptions)

    def __init__(self, message: str, exceptions: Sequence[Exception], **fields: Any) -> None:
        super().__init__(message, **fields)
        self.args = (message, tuple(exceptions))

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        message, exceptions = self.args
        return _blank, (type(self), (message, tuple(map(portable, exceptions)))), self.__dict__

    def derive(self, excs: Sequence[Exception]) -> MethodErrorGroup:  # type: ignore[override]  # the stub is generic
        """Make the group of some of the failures, as `except*` and `split` ask for."""
        kept = {id(e) for e in excs}
        left = [f for f in self.failures if id(f.exception) in kept]
        return MethodErrorGroup(self.message, excs, failures=left, run_id=self.run_id, method=self.method, seq=self.seq)


class RecordedException(RunError):  # noqa: N818 - it stands for an exception of any kind
    """What a method raised in another process, or before, as it is stored: the exception itself is gone.

    Its text is the message. `recorded_type` names the type, with its module; `recorded_traceback` is the traceback's text, which
    is printed with it as a note.
    """

    def __init__(self, message: str, *, recorded_type: str, recorded_traceback: str, **where: Any) -> None:
        super().__init__(message, **where)
        self.recorded_type = recorded_type
        self.recorded_traceback = recorded_traceback
        self.add_note(f"It was a {recorded_type}, raised here:\n{recorded_traceback}".rstrip())


class RunFencedError(RunError):
    """Another owner has taken over the run. Nothing was written since, and nothing more was started here."""


class RunInterruptedError(RunError):
    """The run was stopped at a checkpoint, because what drives it is ending. It can be resumed, here or elsewhere."""


class LimitExceededError(RunError):
    """A limit was passed: calls of one method in a pass, or the size or depth of what is stored."""


# ---- the state -------------------------------------------------------------------------------------------------


class StateError(AsyncflowError):
    """Something about the state of a flow."""


class StateConflictError(StateError):
    """Two methods that ran at the same time changed the same thing in two ways.

    `path` is where, `method` the later committer (whose changes were dropped) and `other` the earlier one.
    """

    def __init__(self, message: str, *, path: str = "", other: str | None = None, **where: Any) -> None:
        super().__init__(message, **where)
        self.path = path
        self.other = other


class DraftClosedError(StateError, RuntimeError):
    """`self.state` was used by code that outlived its method: the draft had been committed or dropped."""


class NotStorableError(StateError, TypeError):
    """A value does not load back equal and of the same type. `path`, `type_name` and `reason` say what and why."""

    def __init__(
        self, message: str, *, path: str = "", type_name: str = "", reason: str = "", cure: str = "", **where: Any
    ) -> None:
        super().__init__(message, **where)
        self.path = path
        self.type_name = type_name
        self.reason = reason
        self.cure = cure


class StateNotStorableError(NotStorableError):
    """The state holds something that cannot be stored. Nothing was written."""


class ResultNotStorableError(NotStorableError):
    """A method returned something that cannot be stored. Nothing was written."""


class StateSchemaError(StateError):
    """The stored state does not fit the model of the flow; nothing was changed. `paths` names the fields."""

    def __init__(self, message: str, *, paths: Sequence[str] = (), **where: Any) -> None:
        super().__init__(message, **where)
        self.paths = tuple(paths)


# ---- the storage -----------------------------------------------------------------------------------------------


class StorageError(AsyncflowError):
    """The storage could not do what was asked."""


class StaleCheckpoint(StorageError):  # noqa: N818 - the protocol's word: a verdict of a backend, not a fault
    """Raised by a backend: the checkpoint does not follow the one that is stored. Nothing was written."""


class CheckpointCorruptError(StorageError):
    """A checkpoint fails its digest, its chain or its decoding. Only this run is affected; the rows are kept."""


class StorageCorruptError(StorageError):
    """The database itself is damaged."""


class StorageWriteError(StorageError):
    """A commit failed. `outcome` says whether the checkpoint was saved: 'not saved' or 'unknown'."""

    def __init__(self, message: str, *, outcome: str = "unknown", **where: Any) -> None:
        super().__init__(message, **where)
        self.outcome = outcome


class CheckpointWithdrawnError(StorageWriteError):
    """A checkpoint was not saved because the one before it, in the same run, was withdrawn by a cancellation."""


class StorageBusyError(StorageError):
    """The database cannot serve at this moment; try again later.

    Another process held its lock for longer than the busy timeout, or the system has no file handles or threads left.
    """


class StorageReadOnlyError(StorageError):
    """The database, or its folder, cannot be written."""


class StorageNotFoundError(StorageError):
    """The database is not there: its server cannot be reached, its folder cannot be made, or the path is a folder.

    Or its file was moved, deleted or replaced while it was in use.
    """


class StorageUnreachableError(StorageNotFoundError):
    """The database's server cannot be reached at this moment, or has ended the connection: it may be starting. Try again."""


class StorageNotADatabaseError(StorageError):
    """The file is not a SQLite database."""


class ForeignDatabaseError(StorageError):
    """The file is a database of another program. It was not touched."""


class StorageVersionError(StorageError):
    """The database was written by a newer asyncflow. It was not touched."""


class ForkedProcessError(StorageError):
    """A persistence that was opened before a fork is used after it."""
