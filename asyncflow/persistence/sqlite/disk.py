"""File operations outside SQLite that make the disk hold what readers see. They never touch the database file itself.

Closing a file releases all POSIX locks that the process has on it, including SQLite's. SQLite has no locks on the log and on
folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import StorageError
from .._database.handle_limit import no_handles_left

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # `os.fsync` flushes the drive's cache there

__all__ = ["has_content", "sync_folders", "write_again"]

CHUNK: Final = 1 << 20
"""The number of bytes that are read and written at a time."""

_FLAGS: Final = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""The flags for opening the log. Like SQLite, this module follows no symbolic link there."""


def write_again(log: Path) -> None:
    """Overwrite a file with its own bytes, and sync it.

    After a failed write, the kernel marks the data as written: later syncs skip it unless it is written again. Raises
    `StorageError`.
    """
    try:
        with _opened(log, _FLAGS) as file:
            while chunk := os.read(file, CHUNK):
                os.lseek(file, -len(chunk), os.SEEK_CUR)
                while chunk:
                    chunk = chunk[os.write(file, chunk) :]
            _sync(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise no_handles_left(error, log) or StorageError(
            f"{log} cannot be written ({error.strerror}), and the disk may lack data that readers already see; nothing was saved. "
            "Try again once the disk works and has space"
        ) from error


def has_content(file: Path) -> bool:
    """Whether a file exists and is not empty."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size > 0
    return False


def sync_folders(folders: list[Path]) -> None:
    """Sync folders to make the names in them durable. Raises `StorageError`.

    Windows and some file systems do not support that, which is ignored.
    """
    for folder in folders if fcntl is not None else ():
        try:
            with _opened(folder, os.O_RDONLY) as file:
                _sync(file)
        except OSError as error:
            if translated := no_handles_left(error, folder):
                raise translated from error
            if error.errno == errno.EIO:
                raise StorageError(f"{folder} cannot be synced ({error.strerror}); nothing was saved") from error


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    file = os.open(path, flags)
    try:
        yield file
    finally:
        os.close(file)


def _sync(file: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync does not flush the drive's cache
    if fcntl is None or full is None:
        os.fsync(file)
    else:
        fcntl.fcntl(file, full)
