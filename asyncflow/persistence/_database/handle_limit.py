"""Detect that the system has no file handles or threads left. This is a separate error, because no folder and no server is at fault."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from ...errors import StorageBusyError

__all__ = ["no_handles_left"]

_NO_HANDLES: Final = (errno.EMFILE, errno.ENFILE)

AT_ONCE: Final = 8
"""The number of handles that a connection opens at the same time, plus a reserve: the database, its log, its index, a folder to sync."""

_SAID: Final = tuple(map(os.strerror, _NO_HANDLES))
"""The system's messages for these errors, for libraries that report no error number."""

_NO_THREADS: Final = "can't start new thread"
"""CPython's message; this error has no type of its own."""


def no_handles_left(error: Exception | None, where: object) -> StorageBusyError | None:
    """Return the error for an operation that failed because no file handle or no thread is left, None for any other failure.

    If `error` is None, check whether handles are exhausted at this moment, because SQLite's errors do not report that.
    """
    if error is None:
        number = _missing()
    elif isinstance(error, RuntimeError) and _NO_THREADS in str(error):
        return StorageBusyError(
            f"{where} cannot be used: the system starts no more threads for this process. Nothing was saved; raise the limit "
            "(ulimit -u), or end other threads or processes, and try again"
        )
    else:
        said = str(error)
        number = getattr(error, "errno", None) or next(
            (n for n, t in zip(_NO_HANDLES, _SAID, strict=True) if t in said), None
        )
    if number not in _NO_HANDLES:
        return None
    holder = "this process" if number == errno.EMFILE else "the system"
    return StorageBusyError(
        f"{where} cannot be used: {holder} has no file handles left ({os.strerror(number)}). Nothing was saved; raise the limit "
        "(ulimit -n), or close other files and connections, and try again"
    )


def _missing() -> int | None:
    """Return the errno with which opening more files fails at this moment, None if it succeeds.

    When opening a database has failed, the handles that it had opened are closed again. So one free handle proves nothing.
    """
    with contextlib.ExitStack() as opened:
        try:
            for _ in range(AT_ONCE):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return error.errno
    return None
