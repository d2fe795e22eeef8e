"""Opening the database file: what it must be, how it is set up, and what each of SQLite's errors means to a user."""

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
from ..handles import no_handles_left
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
    # at DEBUG it logs every statement with its values: states, inputs and results. Whoever wants that says so, to that logger
    _driver.setLevel(logging.INFO)

APPLICATION_ID: Final = 0x61666C77
"""'aflw': tells our databases from other programs'."""

MIGRATIONS: Final = ("schema.sql", "leases.sql", "takeovers.sql", "formats.sql")
"""One file for each version, in order; `user_version` counts those that were applied."""

_NAMED: Final = 4
"""The first version of the schema that says which asyncflow has made it."""

BUSY_SECONDS: Final = 5.0
"""How long a lock of another process is waited for."""

PAUSE: Final = 0.02
"""Seconds between two tries to open a database that others open, too."""

LONGEST_PATH: Final = 504
LONGEST_NAME: Final = 247
"""Bytes: SQLite takes 512, a folder 255, and the longest of the names beside the database ends in "-journal"."""

_IDENTITY: Final = (
    "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), "
    "(SELECT count(*) FROM sqlite_schema)"
)
"""Asked in one statement: another process may be making the database at this moment."""

_SETTINGS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA fullfsync = 1",
    "PRAGMA journal_size_limit = 67108864",
)


def prepare(path: Path) -> list[Path]:
    """Make the file with mode 0600, where it is missing. Its folder has to be there. Raises the typed error if that fails.

    Returns the folders of which the names are to be made durable: SQLite does so beside its log only, and with its first commit.
    """
    try:
        _refuse_what_is_no_file(path)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return [] if has_content(path) else [path.parent]
    except FileNotFoundError as error:
        raise StorageNotFoundError(
            f"{path} cannot be made: there is no folder {path.parent}. Make it, or correct the path. Nothing was written"
        ) from error
    except NotADirectoryError as error:
        raise StorageNotFoundError(f"{path} cannot be: a part of it is no folder. Nothing was written") from error
    except OSError as error:
        raise no_handles_left(error, path) or StorageReadOnlyError(
            f"{path} cannot be made ({error.strerror}); choose a folder that can be written. Nothing was written"
        ) from error


def _refuse_what_is_no_file(path: Path) -> None:
    """What SQLite would take for something else: it says "disk I/O error" of a pipe, and writes into a file of one byte."""
    real = os.path.realpath(path)
    if len(os.fsencode(real)) > LONGEST_PATH or len(os.fsencode(os.path.basename(real))) > LONGEST_NAME:
        raise StorageNotFoundError(
            f"{path} is too long a name for a database; choose a shorter one. Nothing was written"
        )
    if path.is_dir():
        raise StorageNotFoundError(f"{path} is a folder; name a file in it. Nothing was written")
    if path.is_symlink() and not path.exists():
        raise StorageNotFoundError(
            f"{path} is a link to what is not there; make that, or name a file. Nothing was written"
        )
    if path.exists() and not (path.is_file() and path.stat().st_size != 1):
        raise StorageNotADatabaseError(f"{path} is not a SQLite database; name another file. It was not touched")
    if has_content(_beside(path, "-wal")) and not has_content(_beside(path, "")):
        raise StorageCorruptError(
            f"{path} is missing or empty, but its log, {path.name}-wal, is there, and would be deleted; put back the database "
            "that belongs to it, or remove the log. Nothing was written"
        )


async def open_database(path: Path, synchronous: str, after_error: bool) -> aiosqlite.Connection:
    """The one writing connection: checked, migrated, in WAL mode. After an error of the disk, what it finds is on the disk.

    Where others open a fresh file at the same time, SQLite may refuse at once instead of waiting: then it is tried again, within
    the time that any lock is waited for. Raises `ForeignDatabaseError`, `StorageVersionError`, `StorageNotADatabaseError` and
    their kin; the file is then as it was.
    """
    folders = prepare(path)
    if folders:
        await anyio.to_thread.run_sync(sync_folders, folders)
    if not os.access(path, os.W_OK):
        raise StorageReadOnlyError(
            f"{path} cannot be written; change its permissions, or name another. Nothing was written"
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
    log = _beside(path, "-wal")
    async with _looked_at(path, log), contextlib.AsyncExitStack() as undo:
        await connected(connection)
        undo.push_async_callback(connection.close)
        await check_identity(connection, path)
        ((mode,),) = await connection.execute_fetchall("PRAGMA journal_mode = WAL")
        if mode != "wal":  # SQLite says so instead of raising; without the log, synchronous = FULL is not enough
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


def _beside(path: Path, ending: str) -> Path:
    """A file of SQLite's beside the database: it follows links to that."""
    return Path(os.path.realpath(path) + ending)


@contextlib.asynccontextmanager
async def _looked_at(path: Path, log: Path) -> AsyncIterator[None]:
    """Where a log or a journal was left, check the database by reading first; and as long as this lasts, closing does not fold the log in.

    The last connection to be closed folds it in and removes it, whatever it is and wherever it comes from, unless it is one
    that only reads.
    """
    if not has_content(log) and not has_content(_beside(path, "-journal")):
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
            await _check_as_it_is(path)
        yield


async def _check_as_it_is(path: Path) -> None:
    """Check a database of which a transaction is to be rolled back, by whoever made it. What cannot be read so may be ours."""
    connection = reading(path, "&immutable=1")
    async with contextlib.AsyncExitStack() as closing:
        await connected(connection)
        closing.push_async_callback(connection.close)
        with contextlib.suppress(sqlite3.Error):
            await check_identity(connection, path)


def reading(path: Path, how: str = "") -> aiosqlite.Connection:
    """A connection that only reads, to be awaited."""
    connection = aiosqlite.connect(
        f"{path.absolute().as_uri()}?mode=ro{how}", uri=True, isolation_level=None, timeout=BUSY_SECONDS
    )
    as_daemon(connection)
    return connection


async def check_identity(connection: aiosqlite.Connection, path: Path) -> None:
    """Refuse another program's database, and one of a newer asyncflow. Raises `ForeignDatabaseError`, `StorageVersionError`."""
    ((application, version, tables),) = await connection.execute_fetchall(_IDENTITY)
    if application != APPLICATION_ID and (tables or application or version):
        raise ForeignDatabaseError(f"{path} is a database of another program; name another file. It was not touched")
    if version > len(MIGRATIONS):
        try:
            ((writer,),) = await connection.execute_fetchall(
                "SELECT version FROM upgrades ORDER BY schema DESC LIMIT 1"
            )
        except (sqlite3.Error, ValueError):
            writer = "a newer version"
        raise StorageVersionError(
            f"{path} was upgraded by asyncflow {writer} to schema {version}; this is asyncflow {VERSION}, which reads schemas up to "
            f"{len(MIGRATIONS)}; update asyncflow here. It was not touched"
        )


async def _number(connection: aiosqlite.Connection, sql: str) -> int:
    ((number,),) = await connection.execute_fetchall(sql)
    return int(number)


async def _migrate(connection: aiosqlite.Connection) -> None:
    """Apply the migrations that are missing, each in one transaction with its version."""
    if await _number(connection, "PRAGMA user_version") == len(MIGRATIONS):
        return
    async with contextlib.AsyncExitStack() as undo:
        await connection.execute("BEGIN IMMEDIATE")
        undo.push_async_callback(connection.rollback)
        done = await _number(
            connection, "PRAGMA user_version"
        )  # again, under the lock: another process may have been first
        for version, name in enumerate(MIGRATIONS[done:], done + 1):
            for statement in _statements(name):
                await connection.execute(statement)
            await connection.execute(f"PRAGMA user_version = {version}")
        if len(MIGRATIONS) >= _NAMED:
            await connection.execute("INSERT OR REPLACE INTO upgrades VALUES (?, ?)", (len(MIGRATIONS), VERSION))
        await connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        await connection.commit()
        undo.pop_all()


def _statements(migration: str) -> list[str]:
    return resources.files("asyncflow.persistence.sqlite").joinpath(migration).read_text("utf-8").split("\n\n")


@functools.cache
def _schema() -> dict[str, str]:
    """The tables, views, triggers and indexes that there are to be, as SQLite keeps their texts."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for migration in MIGRATIONS:
            for statement in _statements(migration):
                connection.execute(statement)
        return dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


async def _check_schema(connection: aiosqlite.Connection, path: Path) -> None:
    """That what compares and sets is as it was made. What others have added is theirs."""
    found = dict(map(tuple, await connection.execute_fetchall("SELECT name, sql FROM sqlite_schema")))
    damaged = sorted(name for name, sql in _schema().items() if _unquoted(found.get(name)) != _unquoted(sql))
    if damaged:
        raise StorageCorruptError(
            f"{path} is damaged: its schema is not as it was made ({', '.join(damaged)}); restore it from a backup. It is kept as it is"
        )


def _unquoted(sql: str | None) -> str | None:
    """A statement without the quotes around names: a version of SQLite that renames one may put them there, or not."""
    return sql and sql.replace('"', "")


async def _settle_old_log(connection: aiosqlite.Connection, log: Path) -> None:
    """Settle what was left in the log, and fold it in, so that nothing is built upon what the disk does not have.

    Not waited for: where another process is at work on the file, the log is that one's, and in use.
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
    """Let the disk have the log as it reads: after a failed fsync it has not, and no later one would write it.

    Before it is folded in, and not by folding: a power cut between the database's new pages and the end of a log that lacks
    some of them leaves neither whole. Under the lock of writers, without which nobody writes, cuts or removes the log. What
    was not committed, and stands behind its end all the same, is written over by a commit that changes nothing.
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
    """Fold the write-ahead log into the file, and close."""
    try:
        with contextlib.suppress(sqlite3.Error):
            await connection.execute("PRAGMA busy_timeout = 0")  # upkeep: not worth waiting for
            await connection.execute("PRAGMA optimize")
            await connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            await connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    finally:
        await connection.close()


def as_daemon(connection: aiosqlite.Connection) -> None:
    """Let a leaked connection not keep the process from leaving. To be called before it is awaited."""
    thread: Any = getattr(connection, "_thread", connection)  # 0.22 has a thread, 0.21 is one
    thread.daemon = True


async def connected(connection: aiosqlite.Connection) -> None:
    """Connect. Where that fails the connection's thread ends first: it would report to a loop that may be closed."""
    with contextlib.ExitStack() as undo:
        thread: Any = getattr(connection, "_thread", connection)
        undo.callback(thread.join)
        await connection
        undo.pop_all()


def stop(connection: aiosqlite.Connection | None) -> None:
    """Close a connection whose event loop is closed, and end its thread; what it had not committed is rolled back."""
    end = getattr(connection, "stop", None)  # since aiosqlite 0.22; before, the thread is left to the process's end
    if end is not None:
        end()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    began = time.monotonic()
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise explain(error, path, waited_since(began)) from error


def waited_since(began: float) -> float:
    """The seconds that a lock was waited for: those that SQLite was told to wait, where it did."""
    waited = time.monotonic() - began
    return BUSY_SECONDS if BUSY_SECONDS <= waited < 1.5 * BUSY_SECONDS else waited
