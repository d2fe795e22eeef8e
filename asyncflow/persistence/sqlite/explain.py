"""Translate SQLite's errors into asyncflow's errors, whose messages say what they mean and what to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from ...errors import (
    AsyncflowError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageNotADatabaseError,
    StorageNotFoundError,
    StorageReadOnlyError,
)
from .._database.handle_limit import no_handles_left

__all__ = ["explain", "is_stopped", "primary_code"]


def primary_code(error: Exception) -> int:
    """Return SQLite's primary result code of an error, 0 if it has none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def explain(
    error: sqlite3.Error | UnicodeDecodeError, path: Path, waited: float, holders: Sequence[str] = ()
) -> AsyncflowError:
    """Translate an error of SQLite into asyncflow's error, whose message says what it means and what to do.

    A UnicodeDecodeError counts as damage: SQLite's message quoted damaged text. `waited`: the seconds spent waiting for a lock.
    `holders`: the possible holders of that lock.
    """
    match sqlite3.SQLITE_CORRUPT if isinstance(error, UnicodeDecodeError) else primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            known = f" In use by {', '.join(holders)}." if holders else ""
            return StorageBusyError(
                f"{path} was locked by another process for {round(waited, 1):g} seconds; nothing was saved. Try again, and look for a "
                f"process that keeps a transaction open, or was stopped in one.{known}"
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StorageReadOnlyError(
                f"{path} or its folder is not writable; nothing was saved. Change the permissions"
            )
        case sqlite3.SQLITE_CANTOPEN:
            return no_handles_left(None, path) or StorageNotFoundError(
                f"{path} cannot be opened; nothing was saved. Check that its folder is writable"
            )
        case sqlite3.SQLITE_NOTADB:
            return StorageNotADatabaseError(f"{path} is not a SQLite database; use another file. It was not changed")
        case sqlite3.SQLITE_CORRUPT:
            return StorageCorruptError(
                f"{path} is damaged ({error}); restore it from a backup. The file is kept as it is"
            )
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return no_handles_left(None, path) or StorageError(
                f"{path} cannot be used ({error}); nothing was saved. Try again once the disk works and has space"
            )
        case _:
            return StorageError(f"{path}: SQLite reported: {error}. Nothing was saved")


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP, a debugger), as far as this host reports it."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] in ("T", "t")
    return False
