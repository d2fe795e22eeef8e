"""Who is alive on this host: each owner holds a lock on a side file of its own, which the kernel frees when it dies.

The lock is POSIX (`fcntl.lockf`): it belongs to the process, a forked child does not inherit it, and it is never taken
on the database file itself. Where there is no `fcntl`, an owner of another process counts as alive.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from ...errors import StorageReadOnlyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # see above

__all__ = ["Owner"]

TRIES = 50
"""Times that the folder of owners may go while one enters it, before that is taken for an error."""

_LIVING: set[str] = set()
"""The owners of this process: a POSIX lock tells only other processes about them."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_LIVING.clear)  # the parent's owners are not the child's


class Owner:
    """This process's use of one database, as an owner of runs."""

    def __init__(self, database: Path) -> None:
        self.id = uuid.uuid4().hex
        self._folder = database.with_name(database.name + ".owners")
        self._file: int | None = None

    def enter(self) -> None:
        """Make the side file and lock it."""
        if fcntl is not None:
            self._file = self._made()
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _LIVING.add(self.id)

    def _made(self) -> int:
        try:
            for _ in range(TRIES):
                with contextlib.suppress(
                    FileNotFoundError, FileExistsError
                ):  # another has just left, the folder with it
                    self._folder.mkdir(mode=0o700, exist_ok=True)
                    return os.open(self._folder / self.id, os.O_CREAT | os.O_RDWR, 0o600)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            return os.open(self._folder / self.id, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise StorageReadOnlyError(
                f"{self._folder} cannot be made or written ({error.strerror}); it is where asyncflow keeps who drives which run. "
                "Change the permissions of its folder. Nothing was written"
            ) from error

    def leave(self) -> None:
        """Free the lock and remove the file, and the folder with the last one."""
        _LIVING.discard(self.id)
        if self._file is not None:
            with contextlib.suppress(OSError):
                (self._folder / self.id).unlink(missing_ok=True)
                self._folder.rmdir()
            os.close(self._file)
            self._file = None

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
        """Whether an owner is provably dead."""
        if self.is_here(other):
            return False
        if fcntl is None or not other.isalnum():
            return False
        path = self._folder / other
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except OSError:
            return False
        finally:
            os.close(file)
        return True
