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
import time
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
_SALT: Final = slice(32, 40)
"""The salt of the log in the header. Each frame of the log repeats it, at `_SALT_OF_FRAME` of the frame's header."""
_SALT_OF_FRAME: Final = slice(8, 16)
_LOG_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_WRITING: Final = 120
"""The byte of the index that a writer locks."""

_SETTLED: Final = 0.1
"""Seconds after which a folder's ctime is trusted: a second change within one tick of the kernel's clock (at most 10 ms) keeps it."""
_TICKS: Final = 1_000_000
"""Nanoseconds. A ctime that is a multiple of this comes from a file system with coarse times, and is not trusted."""

Identity = tuple[int, ...]
"""Inode and device: `found[1:3]` of the result of `os.stat`.

Next to them are the number of links ([3]) and the size ([6]). Accessing each of these fields by name takes as long as the system
call.
"""


class FileIdentity:
    """Remembers the identity of the database's files and detects changes. The check takes some 5 us before each transaction.

    A connection alone never notices such changes. While the folder's ctime is unchanged, no file in it was created, deleted or
    renamed, and the check examines no file by its path. (A file system mounted over one of the files is not noticed.) This also
    saves I/O: since Linux 6.13, `stat` of a file makes the next write store new times, which the next fsync waits for
    (https://docs.kernel.org/filesystems/multigrain-ts.html).
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._log = self._index = self._path
        self._known: tuple[Identity | None, ...] = ()
        """The identities of the database, its log and the log's index, which has one link; empty while nothing is open."""
        self._folder = os.path.dirname(self._path) or os.curdir
        self._unchanged: tuple[int, ...] = ()
        """Inode, device and ctime of the folder when the files were examined last; empty if they have to be examined again."""
        self._handle = self._log_handle = -1
        """File descriptors that SQLite has of the index and of the log; -1 if they were not found."""
        self._others: frozenset[int] = frozenset()
        """File descriptors that the process had of the log before it was opened for writing."""
        self._frame = 0
        self.advice = "Close the storage: what was saved before is in the log that is still open, and is then folded into the database"

    def expect(self) -> None:
        """Remember which file descriptors of the log there are, before it is opened for writing: others may close these."""
        log = _identity(f"{os.path.realpath(self._path)}-wal")
        self._others = frozenset() if log is None else frozenset(_handles_of(log))

    def keep(self) -> None:
        """Remember the present files, which have just been opened for writing."""
        real = os.path.realpath(self._path)
        self._log, self._index = f"{real}-wal", f"{real}-shm"
        file, log, index = map(_identity, (self._path, self._log, self._index))
        self._known = () if file is None or log is None else (file, log, None if index is None else (*index, 1))
        self._unchanged, self._frame = (), 0
        self._find_handles()

    def check(self) -> None:
        """Raise `StorageNotFoundError` if a file was deleted or replaced, and `StorageCorruptError` if the log was truncated."""
        if not self._known:
            return
        try:
            folder = os.stat(self._folder)
            if (*folder[1:3], folder.st_ctime_ns) == self._unchanged and self._has_last_frame():
                return
        except (OSError, AttributeError):  # Windows has no `pread`
            pass
        self._examine()

    def _has_last_frame(self) -> bool:
        """Whether the log contains the last frame that its index counts, to its last byte."""
        head = os.pread(self._handle, _SALT.stop, 0)
        frames = int.from_bytes(head[_FRAMES : _FRAMES + 4], sys.byteorder)
        if not frames or not self._frame:
            return not frames
        frame = os.pread(self._log_handle, self._frame, (frames - 1) * self._frame + _LOG_HEADER)
        return len(frame) == self._frame and frame[_SALT_OF_FRAME] == head[_SALT]

    def _examine(self) -> None:
        before = _folder(self._folder)
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
        self._find_handles()
        # A link may be replaced in its own folder, or lead to another one.
        self._unchanged = () if os.path.islink(self._path) else before

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

    def _find_handles(self) -> None:
        """Find file descriptors that SQLite has of the log and of its index. This class never closes or duplicates them."""
        if not self._known or self._known_index is None:
            self._handle = self._log_handle = -1
        elif not (_is_open(self._handle, self._known_index) and _is_open(self._log_handle, self._known[1])):
            self._look_for_handles()
        if not self._frame:
            head = self._read_index()
            self._frame = 0 if head is None else _frame(head)

    def _look_for_handles(self) -> None:
        self._handle = min(_handles_of(self._known_index), default=-1)
        found = _handles_of(self._known[1])
        self._log_handle = min(found - self._others or found, default=-1)


def _handles_of(known: Identity | None) -> set[int]:
    """Return the file descriptors that this process has of the file with that identity."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(_HANDLES):
            with contextlib.suppress(OSError, ValueError):
                if os.fstat(int(name))[1:3] == known:
                    found.add(int(name))
    return found


def _is_open(handle: int, known: Identity | None) -> bool:
    """Whether a file descriptor is still one of the file with that identity."""
    try:
        return known is not None and os.fstat(handle)[1:3] == known
    except OSError:
        return False


def _frame(head: bytes) -> int:
    """Return the size in bytes of a frame of the log, from its index's header; 0 if that is not known.

    It is not in another version of the header, nor before the first frame is written. A page size of 1 stands for 65536.
    """
    version, _, _, is_made, _, page, _ = _HEADER.unpack_from(head)
    is_known = version == _VERSION and is_made and page
    return _FRAME_HEADER + (page if page > 1 else 65536) if is_known else 0


def _least(head: bytes) -> int:
    """Return the minimum size in bytes of the log, from its index's header."""
    *_, frames = _HEADER.unpack_from(head)
    return int(frames * _frame(head) + _LOG_HEADER if frames else 0)


def _folder(path: str) -> tuple[int, ...]:
    """Return inode, device and ctime of a folder, or nothing if a further change might not change the ctime."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    is_settled = time.time() - found.st_ctime > _SETTLED and found.st_ctime_ns % _TICKS
    return (*found[1:3], found.st_ctime_ns) if is_settled else ()


def _identity(path: str) -> Identity | None:
    try:
        return os.stat(path)[1:3]
    except OSError:
        return None
