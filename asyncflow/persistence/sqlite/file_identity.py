"""Detect whether the open database files were deleted or replaced: data written to a deleted file is lost.

A SQLite database in use consists of three files: the database, its write-ahead log (`-wal`), and the index of the log (`-shm`),
which processes share. A connection does not notice when any of them is deleted or replaced. This module only reads file attributes;
it opens none of the three, because closing a file would release the locks that SQLite has on it in this process.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from pathlib import Path
from typing import Final

from ...errors import StorageCorruptError, StorageNotFoundError

try:
    import fcntl
except ImportError:  # Windows, where a file in use can neither be deleted nor replaced
    fcntl = None  # type: ignore[assignment]  # see above

__all__ = ["FileIdentity"]

_HANDLES: Final = "/dev/fd"
"""The folder that lists the file descriptors of this process, on systems that have it."""

_VERSION: Final = 3007000
_HEADER: Final = struct.Struct("=IIIBBHI")
"""The start of the index: version, unused, change counter, is initialized, byte order of checksums, page size, frames in the log.

See https://sqlite.org/walformat.html, 2.1. The header is 48 bytes long and is stored twice.
"""
_HEADER_BYTES: Final = 48
_FRAMES: Final = 16
"""The offset of the number of frames in the header."""
_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_WRITING: Final = 120
"""The byte of the index that a writer locks."""

Identity = tuple[int, ...]
"""Inode and device: `found[1:3]` of the result of `os.stat`.

Next to them are the number of links ([3]) and the size ([6]). Accessing each of these fields by name takes as long as the system
call.
"""


class FileIdentity:
    """Remembers the identity of the database's files and detects changes. The check takes about 5 us before each transaction.

    A connection alone never notices such changes.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._log = self._index = self._path
        self._known: tuple[Identity | None, ...] = ()
        """The identities of the database, its log and the log's index, which has one link; empty while nothing is open."""
        self._handle = -1
        """SQLite's own file descriptor of the index; -1 if it was not found."""
        self._frame = 0
        self.advice = "Close the storage: what was saved before is in the log that is still open, and is then folded into the database"

    def keep(self) -> None:
        """Remember the present files, which have just been opened for writing."""
        real = os.path.realpath(self._path)
        self._log, self._index = f"{real}-wal", f"{real}-shm"
        file, log, index = map(_identity, (self._path, self._log, self._index))
        self._known = () if file is None or log is None else (file, log, None if index is None else (*index, 1))
        self._handle = self._found()
        head = self._read_index()
        self._frame = 0 if head is None else _frame(head)

    def check(self) -> None:
        """Raise `StorageNotFoundError` if a file was deleted or replaced, and `StorageCorruptError` if the log was truncated."""
        known = self._known
        if not known:
            return
        try:
            file, log, index = os.stat(self._path), os.stat(self._log), os.fstat(self._handle)
            frames = int.from_bytes(os.pread(self._handle, 4, _FRAMES), sys.byteorder)
        except (OSError, AttributeError):
            self._look_closely()
            return
        if (
            file[1:3] != known[0]
            or log[1:3] != known[1]
            or index[1:4] != known[2]
            or (frames and frames * self._frame + _LOG_HEADER > log[6])
        ):
            self._look_closely()

    def _look_closely(self) -> None:
        if _identity(self._path) != self._known[0]:
            raise StorageNotFoundError(
                f"{self._path} was moved, deleted or replaced while it was in use; nothing was saved. Restore the original file, "
                "or close the storage and open it again"
            )
        for name, path, is_kept in (
            ("log", self._log, _identity(self._log) == self._known[1]),
            ("index of the log", self._index, _identity(self._index) == self._known_index),
        ):
            if not is_kept:
                raise StorageNotFoundError(
                    f"{path}, the {name} of {self._path}, was moved, deleted or replaced while it was in use; nothing more was "
                    f"saved. {self.advice}. Then open it again, and never touch the files that belong to an open database"
                )
        if self.is_cut_off:
            raise StorageCorruptError(
                f"{self._log}, the log of {self._path}, was truncated while it was in use; nothing more was saved, and what was saved "
                "since the log was last folded into the database is lost. Close the storage, and check it with verify()"
            )
        self._handle = self._found()

    @property
    def _known_index(self) -> Identity | None:
        index = self._known[2]
        return None if index is None else index[:2]

    @property
    def is_cut_off(self) -> bool:
        """Whether the log was truncated: it lacks frames that its index counts.

        If SQLite restarts the log at this moment, the index changes, too.
        """
        before = self._read_index()
        try:
            size = os.stat(self._log).st_size
        except OSError:
            return False
        return before is not None and _least(before) > size and before == self._read_index()

    def _read_index(self) -> bytes | None:
        """Return the header of the index, or None if its two copies differ at this moment or SQLite no longer has it open."""
        with contextlib.suppress(OSError, AttributeError):
            if self._known and os.fstat(self._handle)[1:3] == self._known_index:
                head = os.pread(self._handle, 2 * _HEADER_BYTES, 0)
                if head[:_HEADER_BYTES] == head[_HEADER_BYTES:]:
                    return head[:_HEADER_BYTES]
        return None

    @property
    def can_fold(self) -> bool:
        """Whether the deleted log can be folded into the database: no process has started another log."""
        if not self._known or _identity(self._path) != self._known[0]:
            return False
        return not os.path.lexists(self._log) and _identity(self._index) in (None, self._known_index)

    @property
    def files(self) -> str:
        """The inodes of the three present files, 0 for a missing one. An owner publishes them as the files that it has open."""
        real = os.path.realpath(self._path)
        found = (_identity(path) for path in (self._path, f"{real}-wal", f"{real}-shm"))
        return " ".join("0" if each is None else str(each[0]) for each in found)

    @property
    def writer(self) -> int | None:
        """The pid of the other process that holds the write lock, None if there is none or it cannot be determined."""
        if sys.platform != "linux" or fcntl is None or self._read_index() is None:
            return None
        flock = struct.Struct("hhqqi4x")
        with contextlib.suppress(OSError):
            asked = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, _WRITING, 1, 0)
            kind, _, _, _, pid = flock.unpack(fcntl.fcntl(self._handle, fcntl.F_GETLK, asked))
            return pid if kind != fcntl.F_UNLCK and pid > 0 else None
        return None

    def _found(self) -> int:
        """Return SQLite's own file descriptor of the index, -1 if it is not found. This class never closes or duplicates it."""
        if not self._known or self._known_index is None:
            return -1
        with contextlib.suppress(OSError):
            for name in os.listdir(_HANDLES):
                with contextlib.suppress(OSError, ValueError):
                    if os.fstat(int(name))[1:3] == self._known_index:
                        return int(name)
        return -1


def _frame(head: bytes) -> int:
    """Return the size in bytes of a frame of the log, from its index's header; 0 if that is not initialized or has another version."""
    version, _, _, is_made, _, page, _ = _HEADER.unpack_from(head)
    return _FRAME_HEADER + (page if page > 1 else 65536) if version == _VERSION and is_made else 0


def _least(head: bytes) -> int:
    """Return the minimum size in bytes of the log, from its index's header."""
    *_, frames = _HEADER.unpack_from(head)
    return int(frames * _frame(head) + _LOG_HEADER if frames else 0)


def _identity(path: str) -> Identity | None:
    try:
        return os.stat(path)[1:3]
    except OSError:
        return None
