"""What a command says when it fails: one line on stderr, and an exit code. No traceback, and no value of a state or of inputs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Final

import typer

from .. import errors
from ..errors import AsyncflowError
from .safe_text import one_line

__all__ = ["CLOSED_PIPE", "FAILED", "MISUSED", "NOT_FOUND", "Refusal", "exit_code", "said", "silenced"]

FAILED, MISUSED, NOT_FOUND = 1, 2, 3
CLOSED_PIPE: Final = 141
"""As a shell reports a process that SIGPIPE has ended."""


class Refusal(Exception):  # noqa: N818 - not an error of the program
    """The command cannot do what was asked: a line that says what to do."""

    def __init__(self, line: str, code: int = MISUSED) -> None:
        super().__init__(line)
        self.code = code


_CODES: Final = (
    (errors.StorageUnreachableError, FAILED),
    (errors.StorageNotFoundError, NOT_FOUND),
    (errors.RunNotFoundError, NOT_FOUND),
    (errors.StorageVersionError, MISUSED),
    (errors.StorageOutdatedError, MISUSED),
    (errors.ForeignDatabaseError, MISUSED),
    (errors.StorageNotADatabaseError, MISUSED),
    (errors.TransferError, MISUSED),
    (errors.StorageError, FAILED),
    (errors.RunLockedError, FAILED),
    (errors.RunCancelledError, FAILED),
    (errors.RunEndedError, FAILED),
    (errors.NotWaitingError, FAILED),
    (errors.InboxFullError, FAILED),
    (errors.CallError, MISUSED),
    (errors.FlowDefinitionError, MISUSED),
    (errors.StateSchemaError, MISUSED),
)
"""The exit code of each kind of error; the first one that fits counts. All others: failed."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, ImportError):
        return MISUSED
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def said(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"asyncflow: {line}\n")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Turn the errors that a command expects into a line on stderr and an exit code. A closed pipe and Ctrl-C say nothing."""
    try:
        yield
    except BrokenPipeError:
        raise typer.Exit(CLOSED_PIPE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except errors.StorageNotFoundError as error:
        hint = "" if isinstance(error, errors.StorageUnreachableError) else " (--db or $ASYNCFLOW_DB names the storage)"
        said(one_line(str(error)) + hint)
        raise typer.Exit(exit_code(error)) from None
    except (AsyncflowError, Refusal) as error:
        said(one_line(str(error)))
        raise typer.Exit(exit_code(error)) from None
    except BaseExceptionGroup as group:  # of a task group: its first error says what is wrong
        known = [each for each in _flat(group) if isinstance(each, AsyncflowError | Refusal)]
        if not known:
            raise
        said(one_line(str(known[0])))
        raise typer.Exit(exit_code(known[0])) from None


def _flat(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _flat(each)
        else:
            yield each
