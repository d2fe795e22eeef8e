"""Open a SQLite database to read only: it creates no file, upgrades no schema, owns no run, and removes nothing of a dead owner."""

from __future__ import annotations

import os
from pathlib import Path

import aiosqlite

from ..._version import VERSION
from ...errors import StorageError, StorageNotFoundError, StorageOutdatedError
from .._database.ownership_rules import Liveness
from .database import MIGRATIONS, check_identity, connected, explained, reading, refuse_unusable
from .disk import has_content
from .owners import Owner, lives_here

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # see `owners`

__all__ = ["Onlooker", "open_to_read", "reading_options"]


class Onlooker(Owner):
    """Looks at the owners of runs, and is none: it has no side file, and leaves those of dead owners in place."""

    def enter(self, files: str) -> None:
        """Do nothing: nothing is owned."""

    def liveness(self, other: str) -> Liveness:
        """Return what is known of an owner. It is dead if its file does not exist or is not locked."""
        if lives_here(other):
            return Liveness.HERE
        if fcntl is None or not other.isalnum():
            return Liveness.UNPROVEN
        try:
            file = os.open(self._folder / other, os.O_RDONLY)
        except FileNotFoundError:
            return Liveness.DEAD
        except OSError:  # of another user
            return Liveness.UNPROVEN
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Liveness.ALIVE
        finally:
            os.close(file)
        return Liveness.DEAD


def reading_options(path: Path) -> str:
    """Return the options with which a database can be read where nothing can be written: SQLite cannot make its log's index there.

    Such a database does not change, unless it has a log, which another process writes.
    """
    real = os.path.realpath(path)
    folder = os.path.dirname(real)
    is_frozen = not os.access(folder, os.W_OK) and os.access(folder, os.X_OK) and not has_content(Path(real + "-wal"))
    return "&immutable=1" if is_frozen else ""


async def open_to_read(path: Path, after_error: bool) -> aiosqlite.Connection:
    """Open a connection that only reads, and check the database. `after_error` is not used: nothing is written.

    Raises `StorageNotFoundError`, `StorageOutdatedError`, and the errors of `open_database` for a file that is no database of asyncflow.
    """
    _refuse_missing(path)
    connection = reading(path, reading_options(path))
    with explained(path):
        await connected(connection)
        try:
            await check_identity(connection, path)
            ((version,),) = await connection.execute_fetchall("PRAGMA user_version")
            if not version:
                raise StorageNotFoundError(f"{path} is empty: no run was ever stored in it; check the path")
            if version < len(MIGRATIONS):
                raise StorageOutdatedError(
                    f"{path} has the schema {version} of an older asyncflow; this is asyncflow {VERSION}, which reads schema "
                    f"{len(MIGRATIONS)}. Opening it to write upgrades it, as `asyncflow db migrate` does. It was not changed"
                )
        except BaseException:
            await connection.close()
            raise
    return connection


def _refuse_missing(path: Path) -> None:
    try:
        os.stat(path)
    except PermissionError:  # of a folder on the way
        is_there, may_read = True, False
    except OSError:
        is_there, may_read = False, False
    else:
        is_there, may_read = True, os.access(path, os.R_OK)
    if is_there and not may_read:
        raise StorageError(f"{path} is not readable by this user; change its permissions or those of its folder")
    refuse_unusable(path)
    if not is_there:
        raise StorageNotFoundError(f"{path} does not exist; check the path. Nothing was created")
