"""File handles and threads that the system has no more of: an error of its own, as no folder and no server is at fault."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from ..errors import StorageBusyError

__all__ = ["no_handles_left"]

_NO_HANDLES: Final = (errno.EMFILE, errno.ENFILE)

AT_ONCE: Final = 8
"""Handles that a connection takes at the same time, and some more: the database, its log, its index, a folder to be synced."""

_SAID: Final = tuple(map(os.strerror, _NO_HANDLES))
"""What libraries say that pass no number on."""

_NO_THREADS: Final = "can't start new thread"
"""What CPython says; it has no type of its own."""


def no_handles_left(error: Exception | None, where: object) -> StorageBusyError | None:
    """The error for an operation that failed because no file handle, or no thread, is left. None for another failure.

    `error`: None asks whether that is so at this moment, as SQLite's errors do not tell.
    """
    if error is None:
        number = _missing()
    elif isinstance(error, RuntimeError) and _NO_THREADS in str(error):
        return StorageBusyError(
            f"{where} cannot be used: the system starts no more threads for this process. Nothing was saved; raise the limit "
            "(ulimit -u), or end what runs, and try again"
        )
    else:
        said = str(error)
        number = getattr(error, "errno", None) or next(
            (n for n, t in zip(_NO_HANDLES, _SAID, strict=True) if t in said), None
        )
    if number not in _NO_HANDLES:
        return None
    whose = "this process" if number == errno.EMFILE else "the system"
    return StorageBusyError(
        f"{where} cannot be used: {whose} has no file handles left ({os.strerror(number)}). Nothing was saved; raise the limit "
        "(ulimit -n), or close what is open, and try again"
    )


def _missing() -> int | None:
    """The number of the error with which no more files can be opened at this moment; None if some can.

    A failed opening of a database has closed what it had opened, so one handle alone says nothing.
    """
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(AT_ONCE):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno
    return None
