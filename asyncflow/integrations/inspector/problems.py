"""What a page says when something fails: what happened, and what to do."""

from __future__ import annotations

from typing import Final, NamedTuple

from ... import errors
from ...errors import AsyncflowError

__all__ = ["Problem", "problem_of"]


class Problem(NamedTuple):
    """A failure, in words."""

    status: int
    """The status of the response."""
    title: str
    advice: str = ""
    """What to do; '' if the error itself says it."""
    text: str = ""
    """The text of the error."""


AGAIN: Final = "Try again in a moment."

_KINDS: Final[tuple[tuple[type[AsyncflowError], int, str, str], ...]] = (
    (errors.RunNotFoundError, 404, "There is no such run", "It may have been deleted, or the address is wrong."),
    (errors.InvalidRunIdError, 404, "There is no such run", "The address is wrong."),
    (errors.CapabilityMissingError, 501, "The storage cannot do this", ""),
    (errors.StorageBusyError, 503, "The storage is busy", f"Another process holds its lock. {AGAIN}"),
    (
        errors.StorageUnreachableError,
        503,
        "The storage cannot be reached",
        "Check that its server runs, then try again.",
    ),
    (
        errors.StorageNotFoundError,
        503,
        "The storage is missing",
        "Check the path or the address that the inspector was started with.",
    ),
    (
        errors.CheckpointCorruptError,
        500,
        "The stored run is damaged",
        "Other runs are not affected. Restore the storage from a backup, or delete this run.",
    ),
    (errors.StorageCorruptError, 500, "The storage is damaged", "Restore it from a backup."),
    (
        errors.StorageVersionError,
        500,
        "A newer version of asyncflow wrote this storage",
        "Start the inspector with that version.",
    ),
    (errors.StorageError, 500, "The storage cannot be read", ""),
    (errors.RunnerOverloadedError, 503, "The runner is at capacity", f"Nothing was started. {AGAIN}"),
    (errors.RunnerClosedError, 503, "The runner does not run", "Nothing was started."),
    (errors.RunLockedError, 409, "Another process drives the run", "Nothing was done."),
    (errors.FlowBusyError, 409, "The run is running", "Nothing was done. Wait until it has ended, or cancel it."),
    (errors.RunFencedError, 409, "Another process has just taken the run over", AGAIN),
)


def problem_of(error: AsyncflowError) -> Problem:
    """Return what a page says about an error."""
    for kind, status, title, advice in _KINDS:
        if isinstance(error, kind):
            return Problem(status, title, advice, str(error))
    return Problem(409, "This was refused", "", str(error))
