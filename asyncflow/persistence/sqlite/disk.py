"""What is done to the files past SQLite, so that the disk has what readers see. Never to the database file itself.

Whoever closes a file gives up all locks that its process has on it (POSIX), SQLite's, too. On the log and on folders it has none.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import StorageError
from ..handles import no_handles_left

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # `os.fsync` flushes the drive's cache there

__all__ = ["has_content", "sync_folders", "write_again"]

CHUNK: Final = 1 << 20
"""Bytes that are read and written at once."""

_FLAGS: Final = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
"""SQLite, too, follows no link at the log."""


def write_again(log: Path) -> None:
    """Write a file's own bytes over themselves, and sync it.

    The kernel takes what it failed to write for written: later syncs pass it over, unless it is written anew. Raises
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
            f"{log} cannot be written ({error.strerror}), and may not be on the disk as it reads; nothing was saved. Try again "
            "once there is space and the disk is well"
        ) from error


def has_content(file: Path) -> bool:
    """Whether a file is there and is not empty."""
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_size > 0
    return False


def sync_folders(folders: list[Path]) -> None:
    """Let the names in folders be durable, where that can be done: not on Windows, nor in each file system. Raises `StorageError`."""
    for folder in folders if fcntl is not None else ():
        try:
            with _opened(folder, os.O_RDONLY) as file:
                _sync(file)
        except OSError as error:
            if told := no_handles_left(error, folder):
                raise told from error
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
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync leaves the drive's cache alone
    if fcntl is None or full is None:
        os.fsync(file)
    else:
        fcntl.fcntl(file, full)
