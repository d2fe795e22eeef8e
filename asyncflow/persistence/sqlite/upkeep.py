"""Look after a SQLite database that may be in use: copy it, and return its free space to the file system."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import anyio.to_thread

from ...errors import StorageCorruptError, StorageWriteError
from .database import BUSY_SECONDS
from .disk import sync_folders
from .explain import explain

__all__ = ["back_up", "vacuum"]

PAGES: Final = 2_048
"""Pages that one step of a backup copies."""


async def back_up(path: Path, copy: Path, *, on_pages: Callable[[int, int], object] = lambda done, total: None) -> int:
    """Copy a database, also while other processes use it, by SQLite's backup API. Return the number of runs in the copy.

    The copy is one snapshot, checked, complete and synced when its name appears. Raises `StorageWriteError` for a name that is taken
    or a folder that is missing, `StorageCorruptError`, and `StorageError`s.
    """
    if os.path.lexists(copy):  # noqa: ASYNC240 - one look
        raise StorageWriteError(
            f"{copy} exists; choose another name, or remove it. Nothing was copied", outcome="not saved"
        )
    if not copy.parent.is_dir():
        raise StorageWriteError(
            f"there is no folder {copy.parent}; create it, or choose another name. Nothing was copied",
            outcome="not saved",
        )
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    began = time.monotonic()
    try:
        count = await anyio.to_thread.run_sync(partial(_copied, path, part, on_pages))
        os.replace(part, copy)
        await anyio.to_thread.run_sync(sync_folders, [copy.parent])
        return count
    except sqlite3.Error as error:
        raise explain(error, path, time.monotonic() - began) from error
    except OSError as error:
        raise StorageWriteError(
            f"{copy} cannot be written ({error.strerror}); nothing was copied", outcome="not saved"
        ) from error
    finally:
        for ending in ("", "-journal", "-wal", "-shm"):
            Path(f"{part}{ending}").unlink(missing_ok=True)  # noqa: ASYNC240 - small


def _copied(path: Path, part: Path, on_pages: Callable[[int, int], object]) -> int:
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    source = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    target = sqlite3.connect(part, isolation_level=None)
    with contextlib.closing(source), contextlib.closing(target):
        source.execute("BEGIN")  # one snapshot: otherwise each commit of another process would begin the copy again
        (count,) = source.execute("SELECT count(*) FROM runs").fetchone()
        source.backup(target, pages=PAGES, progress=lambda _, left, total: on_pages(total - left, total))
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
        (copied,) = target.execute("SELECT count(*) FROM runs").fetchone()
        if verdict != "ok" or copied != count:
            raise StorageCorruptError(
                f"the copy of {path} is not complete ({verdict}); check the database. No copy was kept"
            )
        target.execute("PRAGMA journal_mode = DELETE")  # one file, and nothing next to it
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    return int(count)


async def vacuum(path: Path) -> tuple[int, int]:
    """Return the free space of a database to the file system. Return its size before and after, in bytes.

    Commits of other processes wait meanwhile. Raises `StorageBusyError`, and `StorageError`s.
    """
    began = time.monotonic()
    try:
        return await anyio.to_thread.run_sync(_vacuum, path)
    except sqlite3.Error as error:
        raise explain(error, path, time.monotonic() - began) from error


def _vacuum(path: Path) -> tuple[int, int]:
    before = os.stat(path).st_size
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, os.stat(path).st_size
