"""What a command says when it fails: one line on stderr, and an exit code. No traceback, and no value of a state or of inputs."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any, Final

import typer

from .. import errors
from ..errors import AsyncflowError
from .safe_text import one_line

__all__ = [
    "CLOSED_PIPE",
    "FAILED",
    "MISUSED",
    "NOT_FOUND",
    "Refusal",
    "described",
    "exit_code",
    "reported",
    "said",
    "silenced",
]

FAILED, MISUSED, NOT_FOUND = 1, 2, 3
CLOSED_PIPE: Final = 141
"""As a shell reports a process that SIGPIPE has ended."""

_OF_OUTPUT: Final = (errno.ENOSPC, errno.EFBIG, errno.EIO)

TRACEBACK: Final = "ASYNCFLOW_TRACEBACK"
"""The environment variable that lets the traceback of an unexpected error through."""


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
    if isinstance(error, ImportError | UnicodeEncodeError) or hasattr(error, "format_message"):
        return MISUSED
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)


def said(line: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(f"asyncflow: {line}\n")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Turn errors into a line on stderr and an exit code."""
    try:
        yield
    except BaseException as error:
        raise typer.Exit(reported(error)) from None


def reported(error: BaseException) -> int:
    """Write a line about an error to stderr, and return the exit code. A closed pipe and Ctrl-C say nothing.

    Of an error that is not expected, the line has the kind and the place; `$ASYNCFLOW_TRACEBACK` lets it through.
    """
    first = _first(error)
    if isinstance(first, typer.Exit):
        return first.exit_code
    if (code := _ended_by(first)) is not None:
        return code
    if type(first).__name__ == "NoArgsIsHelpError":
        first.show()  # type: ignore[attr-defined]  # of typer
        return MISUSED
    if not _is_known(first) and os.environ.get(TRACEBACK):
        raise error
    said(_line(first))
    return exit_code(first)


def _ended_by(error: BaseException) -> int | None:
    """Return the exit code of a command that was ended from outside; None for an error."""
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    return 130 if isinstance(error, KeyboardInterrupt) else None


def _is_known(error: BaseException) -> bool:
    return isinstance(error, AsyncflowError | Refusal | OSError | UnicodeEncodeError) or hasattr(
        error, "format_message"
    )


def _line(error: BaseException) -> str:
    """Return what is said about an error. The text of an unknown one is left out, as it may hold values."""
    text = one_line(str(error))
    match error:
        case errors.RunNotFoundError():
            where = "asyncflow runs" if error.seq is None else f"asyncflow history {error.run_id}"
            return f"{text} ({one_line(where)} lists them)"
        case errors.StorageNotFoundError() if not isinstance(error, errors.StorageUnreachableError):
            return f"{text} (--db or $ASYNCFLOW_DB names the storage)"
        case AsyncflowError() | Refusal():
            return text
        case UnicodeEncodeError():
            return "an argument is not valid UTF-8, and nothing that is stored has such a name"
        case OSError():
            is_output = error.filename is None and error.errno in _OF_OUTPUT
            where = "the output cannot be written" if is_output else error.filename
            return one_line(": ".join(str(part) for part in (where, error.strerror or error) if part))
    if hasattr(error, "format_message"):
        return _usage(error)
    return f"unexpected {type(error).__name__}{_place_of(error)}; {TRACEBACK}=1 shows the traceback"


def _usage(error: Any) -> str:
    """Return what is said about words that typer does not understand."""
    text = str(error.format_message()).rstrip(".")
    see = "" if error.ctx is None else f"{' See' if text.endswith('?') else '; see'} {error.ctx.command_path} --help"
    return one_line(f"{text[:1].lower()}{text[1:]}{see}")


def described(error: BaseException) -> str:
    """Return kind, text and place of an error of a user's code that got no values, such as that of a module."""
    return f"{type(error).__name__}: {one_line(str(error), 300)}{_place_of(error)}"


def _place_of(error: BaseException) -> str:
    """Return where an error was raised, such as ` at shop.py, line 12`."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
    is_named = isinstance(error, SyntaxError | ModuleNotFoundError)  # in its text
    return (
        ""
        if is_named or not frames
        else f" at {one_line(os.path.basename(frames[-1].filename))}, line {frames[-1].lineno}"
    )


def _first(error: BaseException) -> BaseException:
    """Return the error that says what is wrong: of a task group, the first one that is known, or else the first one."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_first(each) for each in error.exceptions]
    return next((each for each in found if _is_known(each) or _ended_by(each)), found[0])
