"""Whether the file that is open is still the one under its name: one that was deleted or replaced takes what is written with it."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import StorageNotFoundError

__all__ = ["Place"]


class Place:
    """Where a database is. Looking there takes 2 us, before each transaction; a connection alone never notices."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None

    def keep(self) -> None:
        """Know the file that is there now: it has just been opened for writing."""
        self._file = self._found()

    def check(self) -> None:
        """Raise `StorageNotFoundError` if another file is there now, or none."""
        if self._file is not None and self._found() != self._file:
            raise StorageNotFoundError(
                f"{self._path} was moved, deleted or replaced while it was in use; nothing was saved. Put the file back that was "
                "there, or close the storage and open it again"
            )

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino
