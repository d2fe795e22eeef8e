"""Detect which owners are alive on this host: each owner locks a side file of its own; the kernel releases the lock when it dies.

The lock is a POSIX lock (`fcntl.lockf`): it belongs to the process, a forked child does not inherit it, and it is never taken on
the database file itself. Where `fcntl` is not available, an owner of another process counts as alive.

Each process that opens the database removes the side files of dead owners. It removes a file while it holds the file's lock. If an
owner's file is removed between creating and locking it, the owner creates another. So an owner that has entered is never treated as
dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from ...errors import StorageBusyError, StorageReadOnlyError
from .._database.handle_limit import no_handles_left
from .._database.ownership_rules import Liveness

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # see above

__all__ = ["Owner", "lives_here"]

TRIES = 50
"""How often the owners' folder, or the file in it, may disappear while an owner enters before that counts as an error."""

_LIVING: dict[str, str] = {}
"""The owners of this process, and the content of their files. A POSIX lock protects them only against other processes."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIVING.clear)  # the parent's owners are not the child's


def lives_here(owner: str) -> bool:
    """Whether an owner is one of this process."""
    return owner in _LIVING


class Owner:
    """An owner of runs: one use of a database by this process."""

    def __init__(self, database: Path) -> None:
        self.id: str = uuid.uuid4().hex
        self._folder = database.with_name(database.name + ".owners")
        self._file: int | None = None

    def enter(self, files: str) -> None:
        """Create and lock the side file, and remove the files of dead owners. `files`: see `note`."""
        _LIVING[self.id] = ""  # first, so that another thread of this process does not take the file for a dead owner's
        try:
            if fcntl is not None:
                self._file = self._locked()
        except BaseException:
            _LIVING.pop(self.id, None)
            raise
        self.note(files)
        self.sweep()

    def note(self, files: str) -> None:
        """Write into the side file which process this is and which files it has open: "PID HOST INODES" (`FileIdentity.files`).

        Does nothing before `enter`.
        """
        if self.id not in _LIVING:
            return
        said = _LIVING[self.id] = f"{os.getpid()} {socket.gethostname()} {files}"
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: then others do not know it
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, said.encode(), 0)

    def _locked(self) -> int:
        """Create and lock the side file, and create it again if it is removed meanwhile. Return its file descriptor."""
        path = self._folder / self.id
        try:
            for left in reversed(range(TRIES)):
                try:
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
                except (FileNotFoundError, FileExistsError):
                    if not left:
                        raise
                    continue  # another owner has just left and removed the folder
                if self._is_locked(file, path):
                    return file
                os.close(file)
            raise OSError(f"{path} was removed repeatedly while it was locked")
        except OSError as error:
            raise no_handles_left(error, self._folder) or StorageReadOnlyError(
                f"{self._folder} cannot be created or written ({error.strerror or error}); asyncflow records living owners of runs in it. "
                "Change the permissions of its parent folder. Nothing was written"
            ) from error

    def _is_locked(self, file: int, path: Path) -> bool:
        """Lock the file. Return whether that succeeded and the path still refers to this file."""
        assert fcntl is not None, "asked only where files can be locked"
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(file), os.stat(path))
        except (BlockingIOError, PermissionError, FileNotFoundError):
            return False  # another process is removing it under its lock, or has removed it

    def leave(self) -> None:
        """Release the lock and remove the file; the last owner also removes the folder."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                (self._folder / self.id).unlink(missing_ok=True)
                self._folder.rmdir()
            os.close(self._file)
            self._file = None
        _LIVING.pop(self.id, None)

    def liveness(self, other: str) -> Liveness:
        """Return what is known of an owner. It is dead if its file does not exist or is not locked; the file is then removed.

        Raises `StorageBusyError` if no file handle is left.
        """
        if other == self.id or other in _LIVING:
            return Liveness.HERE
        if fcntl is None or not other.isalnum():
            return Liveness.UNPROVEN
        path = self._folder / other
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return Liveness.DEAD
        except OSError as error:
            translated = no_handles_left(error, path)
            if translated is not None:
                raise translated from error
            return Liveness.UNPROVEN
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return Liveness.ALIVE
        finally:
            os.close(file)
        return Liveness.DEAD

    # ---- all owners ----------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove the files of dead owners, as far as possible."""
        with contextlib.suppress(StorageBusyError):
            for other in self._names():
                self.liveness(other)

    def others(self) -> list[tuple[str, str]]:
        """Return the living owners except this one: "process PID on HOST", and the files that it has open, as far as known."""
        found: list[tuple[str, str]] = []
        with contextlib.suppress(StorageBusyError):
            others = (other for other in self._names() if other != self.id)
            found += (self._read_note(other) for other in others if self.liveness(other) is not Liveness.DEAD)
        return found

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from (name for name in os.listdir(self._folder) if len(name) == len(self.id) and name.isalnum())

    def name_of(self, other: str) -> str:
        """Return the process that an owner belongs to, such as "process 4711 on host"; '' if that is unknown."""
        name, _ = self._read_note(other) if other.isalnum() else ("", "")
        return name if name.startswith("process ") else ""

    def _read_note(self, other: str) -> tuple[str, str]:
        """Return what an owner has noted. Files of this process's owners are not opened: closing one would release its lock."""
        said = _LIVING.get(other)
        if said is None:
            with contextlib.suppress(OSError, ValueError):
                said = (self._folder / other).read_text("utf-8")
        match (said or "").split(" ", 2):
            case [pid, host, files]:
                return f"process {pid} on {host}", files
        return f"owner {other}", ""
