"""Who is alive on this host: each owner holds a lock on a side file of its own, which the kernel frees when it dies.

The lock is POSIX (`fcntl.lockf`): it belongs to the process, a forked child does not inherit it, and it is never taken
on the database file itself. Where there is no `fcntl`, an owner of another process counts as alive.

Whoever opens the database removes the files of dead owners. A file is removed under its lock, and an owner whose file was removed
between making and locking it makes another: so no owner that has entered is ever taken for dead.
"""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from ...errors import StorageBusyError, StorageReadOnlyError
from ..handles import no_handles_left

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # see above

__all__ = ["IS_PROVEN", "Owner"]

IS_PROVEN = fcntl is not None
"""Whether it is known of an owner of another process that it lives, or is dead."""

TRIES = 50
"""Times that the folder of owners, or the file in it, may go while an owner enters, before that is taken for an error."""

_LIVING: dict[str, str] = {}
"""The owners of this process, and what their files hold: a POSIX lock tells only other processes about them."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIVING.clear)  # the parent's owners are not the child's


class Owner:
    """This process's use of one database, as an owner of runs."""

    def __init__(self, database: Path) -> None:
        self.id = uuid.uuid4().hex
        self._folder = database.with_name(database.name + ".owners")
        self._file: int | None = None

    def enter(self, files: str) -> None:
        """Make the side file and lock it; remove what dead owners have left. `files`: see `note`."""
        _LIVING[self.id] = ""  # first: another thread of this process must not take its file for a dead one's
        try:
            if fcntl is not None:
                self._file = self._locked()
        except BaseException:
            _LIVING.pop(self.id, None)
            raise
        self.note(files)
        self.sweep()

    def note(self, files: str) -> None:
        """Say in the side file who this is, and which files it has open (`Place.files`): "PID HOST INODES". Only once it is entered."""
        if self.id not in _LIVING:
            return
        said = _LIVING[self.id] = f"{os.getpid()} {socket.gethostname()} {files}"
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: then it is not known
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, said.encode(), 0)

    def _locked(self) -> int:
        """The side file, locked. One that is removed at this moment is made again."""
        path = self._folder / self.id
        try:
            for left in reversed(range(TRIES)):
                try:
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
                except (FileNotFoundError, FileExistsError):
                    if not left:
                        raise
                    continue  # another has just left, the folder with it
                if self._is_held(file, path):
                    return file
                os.close(file)
            raise OSError(f"{path} is removed again and again")
        except OSError as error:
            raise no_handles_left(error, self._folder) or StorageReadOnlyError(
                f"{self._folder} cannot be made or written ({error.strerror or error}); it is where asyncflow keeps who drives which "
                "run. Change the permissions of its folder. Nothing was written"
            ) from error

    def _is_held(self, file: int, path: Path) -> bool:
        """Lock the file. Whether it is still the one under its name."""
        assert fcntl is not None, "asked only where files can be locked"
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(file), os.stat(path))
        except (BlockingIOError, PermissionError, FileNotFoundError):
            return False  # whoever removes it holds its lock, or has removed it

    def leave(self) -> None:
        """Free the lock and remove the file, and the folder with the last one."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                (self._folder / self.id).unlink(missing_ok=True)
                self._folder.rmdir()
            os.close(self._file)
            self._file = None
        _LIVING.pop(self.id, None)

    def may_replace(self, other: str) -> bool:
        """Whether the runs of another owner are free.

        They are if it belongs to this process (which knows which runs it drives), or is provably dead: its file is gone,
        or its lock is free.
        """
        return self.is_here(other) or self.is_dead(other)

    def is_here(self, other: str) -> bool:
        """Whether an owner is of this process."""
        return other == self.id or other in _LIVING

    def is_dead(self, other: str) -> bool:
        """Whether an owner is provably dead. Its file is removed then. Raises `StorageBusyError` where no file handle is left."""
        if self.is_here(other):
            return False
        if fcntl is None or not other.isalnum():
            return False
        path = self._folder / other
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError as error:
            told = no_handles_left(error, path)
            if told is not None:
                raise told from error
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    # ---- all of them ---------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Remove the files of dead owners, as far as there is no obstacle."""
        with contextlib.suppress(StorageBusyError):
            for other in self._names():
                self.is_dead(other)

    def others(self) -> list[tuple[str, str]]:
        """The owners that live, besides this one: "process PID on HOST", and the files that it has open, as far as that is known."""
        found: list[tuple[str, str]] = []
        with contextlib.suppress(StorageBusyError):
            found += (self._told(other) for other in self._names() if other != self.id and not self.is_dead(other))
        return found

    def _names(self) -> Iterator[str]:
        with contextlib.suppress(OSError):
            yield from (name for name in os.listdir(self._folder) if len(name) == len(self.id) and name.isalnum())

    def _told(self, other: str) -> tuple[str, str]:
        """What an owner has noted. The files of this process are left alone: closing one would free its lock."""
        said = _LIVING.get(other)
        if said is None:
            with contextlib.suppress(OSError, ValueError):
                said = (self._folder / other).read_text("utf-8")
        match (said or "").split(" ", 2):
            case [pid, host, files]:
                return f"process {pid} on {host}", files
        return f"owner {other}", ""
