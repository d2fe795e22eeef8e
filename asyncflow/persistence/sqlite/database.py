"""Open the SQLite database file: check it, create and migrate its schema, and translate SQLite's errors into asyncflow's errors."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Final

import aiosqlite
import anyio.to_thread

from ..._version import VERSION
from ...errors import (
    ForeignDatabaseError,
    StorageCorruptError,
    StorageError,
    StorageNotADatabaseError,
    StorageNotFoundError,
    StorageReadOnlyError,
    StorageVersionError,
)
from .._database.handle_limit import no_handles_left
from .disk import has_content, sync_folders, write_again
from .explain import explain, primary_code

__all__ = [
    "BUSY_SECONDS",
    "PAUSE",
    "as_daemon",
    "check_identity",
    "close_database",
    "connected",
    "explained",
    "open_database",
    "reading",
    "stop",
    "waited_since",
]

_driver = logging.getLogger("aiosqlite")
if _driver.level == logging.NOTSET:
    # at DEBUG, aiosqlite logs every statement with its values: states, inputs and results. Set this logger's level to get that
    _driver.setLevel(logging.INFO)

APPLICATION_ID: Final = 0x61666C77
"""'aflw' in ASCII. SQLite's `application_id`, which distinguishes asyncflow's databases from those of other programs."""

MIGRATIONS: Final = (
    *("schema.sql", "leases.sql", "takeovers.sql", "formats.sql"),
    *("resumes.sql", "signals.sql", "parking.sql", "compaction.sql"),
    "children.sql",
)
"""The schema migrations, one file for each schema version, in order. `user_version` counts the applied ones."""

_NAMED: Final = 4
"""The first schema version that records which version of asyncflow created it."""

BUSY_SECONDS: Final = 5.0
"""The busy timeout: how many seconds to wait for a lock that another process holds."""

PAUSE: Final = 0.02
"""Seconds between two attempts to open a database that other connections open at the same time."""

LONGEST_PATH: Final = 504
LONGEST_NAME: Final = 247
"""The longest path and file name, in bytes.

SQLite accepts paths of 512 bytes and a folder accepts names of 255. The longest file name that SQLite derives from the database's
name ends in "-journal".
"""

_IDENTITY: Final = (
    "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "
    "(SELECT count(*) FROM sqlite_schema)"
)
"""One statement, because another process may be creating the database at the same time."""

_SETTINGS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA fullfsync = 1",
    "PRAGMA journal_size_limit = 67108864",
)


def prepare(path: Path) -> list[Path]:
    """Create the database file with mode 0600 if it is missing. Its folder must exist. Raise a typed storage error on failure.

    Return the folders that must be synced to make the file's name durable. SQLite syncs only the folder of its log, and only with
    its first commit.
    """
    try:
        refuse_unusable(path)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return [] if has_content(path) else [path.parent]
    except FileNotFoundError as error:
        raise StorageNotFoundError(
            f"{path} cannot be created: there is no folder {path.parent}. Create it, or correct the path. Nothing was written"
        ) from error
    except NotADirectoryError as error:
        raise StorageNotFoundError(
            f"{path} cannot be created: a part of the path is not a folder. Nothing was written"
        ) from error
    except OSError as error:
        raise no_handles_left(error, path) or StorageReadOnlyError(
            f"{path} cannot be created ({error.strerror}); choose a writable folder. Nothing was written"
        ) from error


def refuse_unusable(path: Path) -> None:
    """Refuse paths that SQLite would misinterpret: it reports "disk I/O error" for a pipe, and writes into a file of one byte."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) > LONGEST_PATH or len(os.fsencode(os.path.basename(real))) > LONGEST_NAME:
        raise StorageNotFoundError(f"{path} is too long for a database path; choose a shorter one. Nothing was written")
    if path.is_dir():
        raise StorageNotFoundError(f"{path} is a folder; name a file in it. Nothing was written")
    if path.is_symlink() and not path.exists():
        raise StorageNotFoundError(
            f"{path} is a link to a file that does not exist; create that file, or use another path. Nothing was written"
        )
    if path.exists() and not (path.is_file() and path.stat().st_size != 1):
        raise StorageNotADatabaseError(f"{path} is not a SQLite database; use another file. It was not changed")
    if has_content(_companion(path, "-wal")) and not has_content(_companion(path, "")):
        raise StorageCorruptError(
            f"{path} is missing or empty, but its log, {path.name}-wal, exists and would be deleted; restore the database "
            "that belongs to it, or delete the log. Nothing was written"
        )


async def open_database(path: Path, synchronous: str, after_error: bool) -> aiosqlite.Connection:
    """Open the only writing connection: checked, migrated and in WAL mode.

    With `after_error` (the disk has failed before), also make sure that the log which the connection reads is on the disk.

    When several connections open a new file at the same time, SQLite may fail at once instead of waiting. This function then
    retries until the busy timeout is over. Raises `ForeignDatabaseError`, `StorageVersionError`, `StorageNotADatabaseError` and
    related errors; the file is unchanged then.
    """
    folders = prepare(path)
    if folders:
        await anyio.to_thread.run_sync(sync_folders, folders)
    if not os.access(path, os.W_OK):
        raise StorageReadOnlyError(
            f"{path} is not writable; change its permissions, or use another file. Nothing was written"
        )
    until = time.monotonic() + BUSY_SECONDS
    with explained(path):
        while True:
            try:
                return await _opened(path, synchronous, after_error)
            except sqlite3.OperationalError as error:
                if primary_code(error) not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() >= until:
                    raise
            await anyio.sleep(PAUSE)


async def _opened(path: Path, synchronous: str, after_error: bool) -> aiosqlite.Connection:
    connection = aiosqlite.connect(path, isolation_level="IMMEDIATE", timeout=BUSY_SECONDS)
    as_daemon(connection)
    log = _companion(path, "-wal")
    async with _guarded(path, log), contextlib.AsyncExitStack() as undo:
        await connected(connection)
        undo.push_async_callback(connection.close)
        await check_identity(connection, path)
        ((mode,),) = await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        if mode != "wal":  # SQLite returns the mode instead of raising; without WAL, synchronous = FULL is not enough
            raise StorageError(
                f"{path} cannot be switched to a write-ahead log (it is in mode {mode!r}); nothing was saved"
            )
        for setting in (*_SETTINGS, f"PRAGMA synchronous = {synchronous}"):
            await connection.execute(setting)
        if after_error:
            await _settle_log(connection, log)
        elif has_content(log):
            await _settle_old_log(connection, log)
        await _migrate(connection)
        await _check_schema(connection, path)
        undo.pop_all()
    return connection


def _companion(path: Path, ending: str) -> Path:
    """Return the path of one of SQLite's companion files. SQLite resolves symbolic links of the database path for it."""
    return Path(os.path.realpath(path) + ending)


@contextlib.asynccontextmanager
async def _guarded(path: Path, log: Path) -> AsyncIterator[None]:
    """If a log or a journal was left over, check the database with a read-only connection first, and keep that connection open.

    While it is open, closing another connection does not fold the log into the database. Without it, the last connection to close
    would fold in the log and remove it, whatever that log is and wherever it comes from. A read-only connection never does that.
    """
    if not has_content(log) and not has_content(_companion(path, "-journal")):
        yield
        return
    guard = reading(path)
    async with contextlib.AsyncExitStack() as closing:
        await connected(guard)
        closing.push_async_callback(guard.close)
        try:
            await check_identity(guard, path)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
                raise
            await _check_before_rollback(path)
        yield


async def _check_before_rollback(path: Path) -> None:
    """Check the identity of a database that has a transaction to roll back, whichever program wrote it.

    If the database cannot be read in this state, it may be asyncflow's, so errors of SQLite are ignored.
    """
    connection = reading(path, "&immutable=1")
    async with contextlib.AsyncExitStack() as closing:
        await connected(connection)
        closing.push_async_callback(connection.close)
        with contextlib.suppress(sqlite3.Error):
            await check_identity(connection, path)


def reading(path: Path, how: str = "") -> aiosqlite.Connection:
    """Return a read-only connection that is not connected yet (await it)."""
    connection = aiosqlite.connect(
        f"{path.absolute().as_uri()}?mode=ro{how}", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    as_daemon(connection)
    return connection


async def check_identity(connection: aiosqlite.Connection, path: Path) -> None:
    """Raise `ForeignDatabaseError` for another program's database, and `StorageVersionError` for one of a newer asyncflow."""
    ((application, version, tables),) = await connection.execute_fetchall(_IDENTITY)
    if application != APPLICATION_ID and (tables or application or version):
        raise ForeignDatabaseError(f"{path} is a database of another program; use another file. It was not changed")
    if version > len(MIGRATIONS):
        try:
            ((writer,),) = await connection.execute_fetchall(
                "SELECT version FROM upgrades ORDER BY schema DESC LIMIT 1"
            )
        except (sqlite3.Error, ValueError):
            writer = "a newer version"
        raise StorageVersionError(
            f"{path} was upgraded by asyncflow {writer} to schema {version}; this is asyncflow {VERSION}, which reads schemas up to "
            f"{len(MIGRATIONS)}; update asyncflow here. It was not changed"
        )


async def _number(connection: aiosqlite.Connection, sql: str) -> int:
    ((number,),) = await connection.execute_fetchall(sql)
    return int(number)


async def _migrate(connection: aiosqlite.Connection) -> None:
    """Apply the missing migrations, together with the new `user_version`, in one transaction."""
    if await _number(connection, "PRAGMA user_version") == len(MIGRATIONS):
        return
    async with contextlib.AsyncExitStack() as undo:
        await connection.execute("BEGIN IMMEDIATE")
        undo.push_async_callback(connection.rollback)
        done = await _number(
            connection, "PRAGMA user_version"
        )  # read it again under the lock: another process may have migrated first
        for version, name in enumerate(MIGRATIONS[done:], done + 1):
            for statement in _statements(name):
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version = {version}")
        if len(MIGRATIONS) >= _NAMED:
            await connection.execute("INSERT OR REPLACE INTO upgrades VALUES (?, ?)", (len(MIGRATIONS), VERSION))
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        await connection.commit()
        undo.pop_all()


@functools.cache  # reading the files of the package blocks the event loop
def _statements(migration: str) -> list[str]:
    return resources.files("asyncflow.persistence.sqlite").joinpath(migration).read_text("utf-8").split("\n\n")


@functools.cache
def _schema() -> dict[str, str]:
    """Return the expected tables, views, triggers and indexes: names, and SQL texts as SQLite stores them."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for migration in MIGRATIONS:
            for statement in _statements(migration):
                connection.execute(statement)
        return dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


async def _check_schema(connection: aiosqlite.Connection, path: Path) -> None:
    """Raise `StorageCorruptError` if the schema differs from the original, because its triggers do the compare and set.

    Objects that others have added to the schema are ignored.
    """
    found = dict(map(tuple, await connection.execute_fetchall("SELECT name, sql FROM sqlite_schema")))
    damaged = sorted(name for name, sql in _schema().items() if _unquoted(found.get(name)) != _unquoted(sql))
    if damaged:
        raise StorageCorruptError(
            f"{path} is damaged: its schema differs from the original ({', '.join(damaged)}); restore it from a backup. It is kept as it is"
        )


def _unquoted(sql: str | None) -> str | None:
    """Return a statement without quotes: depending on its version, SQLite quotes names or not when it renames something."""
    return sql and sql.replace('"', "")


async def _settle_old_log(connection: aiosqlite.Connection, log: Path) -> None:
    """Make a left-over log durable and fold it into the database, so that new commits do not depend on data that the disk does not have.

    It does not wait for locks: if another process is using the file, that process also uses the log.
    """
    await connection.execute("PRAGMA busy_timeout = 0")
    try:
        await _settle_log(connection, log)
        await connection.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        if primary_code(error) != sqlite3.SQLITE_BUSY:
            raise
    finally:
        await connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


async def _settle_log(connection: aiosqlite.Connection, log: Path) -> None:
    """Make the log on the disk the same as the log that readers see. After a failed fsync it is not, and no later fsync would write it.

    This happens before the log is folded in, and not by folding it in: a power cut while the database has new pages but the log on
    the disk lacks some of its end leaves neither of them whole. It happens under the write lock, without which no process writes,
    truncates or removes the log. Uncommitted frames that are still behind the log's end are overwritten by a commit that changes
    nothing.
    """
    await connection.execute("BEGIN IMMEDIATE")
    try:
        await anyio.to_thread.run_sync(write_again, log)
        version = await _number(connection, "PRAGMA user_version")
        await connection.execute(f"PRAGMA user_version = {version}")
        await connection.commit()
    finally:
        await connection.rollback()


async def close_database(connection: aiosqlite.Connection) -> None:
    """Fold the write-ahead log into the file (checkpoint with TRUNCATE), and close the connection."""
    try:
        with contextlib.suppress(sqlite3.Error):
            await connection.execute("PRAGMA busy_timeout = 0")  # maintenance: not worth waiting for a lock
            await connection.execute("PRAGMA optimize")
            await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    finally:
        await connection.close()


def as_daemon(connection: aiosqlite.Connection) -> None:
    """Make the connection's thread a daemon, so that a leaked connection does not block process exit. Call it before the first await."""
    thread: Any = getattr(connection, "_thread", connection)  # in 0.22 the connection has a thread, in 0.21 it is one
    thread.daemon = True


async def connected(connection: aiosqlite.Connection) -> None:
    """Connect. If that fails, wait until the connection's thread has ended: it would report to an event loop that may be closed."""
    with contextlib.ExitStack() as undo:
        thread: Any = getattr(connection, "_thread", connection)
        undo.callback(thread.join)
        await connection
        undo.pop_all()


def stop(connection: aiosqlite.Connection | None) -> None:
    """Close a connection after its event loop was closed, and end its thread. Uncommitted changes are rolled back."""
    end = getattr(connection, "stop", None)  # since aiosqlite 0.22; before, the thread lives until the process ends
    if end is not None:
        end()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into asyncflow's errors."""
    began = time.monotonic()
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explain(error, path, waited_since(began)) from error


def waited_since(began: float) -> float:
    """Return the seconds spent waiting for a lock, rounded to the busy timeout if SQLite waited for the whole of it."""
    waited = time.monotonic() - began
    return BUSY_SECONDS if BUSY_SECONDS <= waited < 1.5 * BUSY_SECONDS else waited
