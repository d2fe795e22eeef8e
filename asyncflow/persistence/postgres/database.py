"""Connections to the server: how they are made, what the schema must be, and what each of its errors means to a user."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo, ConnStatus, TransactionStatus

from ..._version import VERSION
from ...errors import (
    AsyncflowError,
    ForeignDatabaseError,
    StorageBusyError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
    StorageReadOnlyError,
    StorageUnreachableError,
    StorageVersionError,
    StorageWriteError,
)
from ..handles import no_handles_left

__all__ = ["BUSY_SECONDS", "Connection", "Target", "explain", "explained", "is_alive", "is_lost", "is_settled"]

Connection = AsyncConnection[tuple[Any, ...]]

MIGRATIONS: Final = ("schema.sql", "takeovers.sql", "formats.sql", "retention.sql")
"""One file for each version, in order."""

_NAMED: Final = 3
"""The first version of the schema that says which asyncflow has made it."""

BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for another's lock, and a reader or writer for a server that is restarting."""

CONNECT_SECONDS: Final = 10
"""How long connecting may take, unless the conninfo says otherwise."""

_LOCK: Final = 0x61666C77
"""'aflw': the advisory lock under which a schema is made."""

_OUTDATED: Final = ("42703", "42883", "42P01", "P0001")
"""What the server says to a statement of an older version: an unknown column, function or table, or in our own words."""

_IDENTITY: Final = (
    "SELECT (SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = %(name)s), "
    "(SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %(name)s), to_regclass(%(table)s) IS NOT NULL"
)

_ABOUT: Final = b"SELECT pg_backend_pid(), current_setting('default_transaction_isolation')"


@dataclass(frozen=True)
class Target:
    """A schema of a database of a server. `conninfo` holds the password, and is never told to anybody."""

    conninfo: str
    schema: str
    host: str
    port: str
    database: str

    @classmethod
    def of(cls, conninfo: str, schema: str) -> Target:
        """What a connection string names. Raises `ValueError`, without the string, which may hold a password."""
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,62}", schema) is None or schema.startswith("pg_"):
            raise ValueError(f"a schema is named by letters, digits and _, at most 63, not {schema!r}")
        try:
            given = conninfo_to_dict(conninfo)
        except (psycopg.Error, UnicodeError, ValueError, TypeError):
            given = None
        if given is None:  # not from the error: it quotes what it cannot read
            raise ValueError("the conninfo cannot be read; write postgresql://user@host:port/database")
        known = {option.keyword.decode(): option.val for option in Conninfo.get_defaults()}

        def value(name: str) -> str:
            default = known.get(name)
            return str(given.get(name) or (default.decode() if default else ""))

        host = value("host") or value("hostaddr") or "localhost"
        return cls(conninfo, schema, host, value("port"), value("dbname") or value("user"))

    def __str__(self) -> str:
        return f"database {self.database!r} at {self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Target({self.database!r}, {self.host!r}, {self.port!r}, {self.schema!r})"

    def sql(self, text: str) -> bytes:
        """A statement for this schema."""
        return text.replace("{schema}", f'"{self.schema}"').encode()

    async def connected(self) -> Connection:
        """A new connection. Raises what `explain` makes of it."""
        given = conninfo_to_dict(self.conninfo)
        given.setdefault("connect_timeout", CONNECT_SECONDS)
        given.setdefault("application_name", "asyncflow")
        conninfo = make_conninfo("", **{**given, "client_encoding": "utf8"})
        try:
            return await AsyncConnection.connect(conninfo, autocommit=True)
        except (psycopg.Error, OSError) as error:
            raise _unreachable(error, self) from error

    async def opened(self) -> Connection:
        """A connection, with the schema as it must be. Raises the typed error if it is not; the schema is then as it was.

        Behind a pooler its `prepare_threshold` is None: see `_adapted`.
        """
        connection = await self.connected()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(connection.close)
            with explained(self):
                await _adapted(connection)
                if await self._version(connection) < len(MIGRATIONS):
                    await self._migrate(connection)
            undo.pop_all()
        return connection

    async def _version(self, connection: Connection) -> int:
        names = {"name": self.schema, "table": f'"{self.schema}".asyncflow'}
        ((schemas, relations, is_ours),) = await rows_of(connection, _IDENTITY.encode(), names)
        if not is_ours:
            if relations:
                raise ForeignDatabaseError(
                    f"schema {self.schema!r} of {self} holds another program's tables; name another schema. It was not touched"
                )
            return 0 if schemas else -1
        ((version,),) = await rows_of(connection, self.sql("SELECT max(version) FROM {schema}.asyncflow"))
        if version > len(MIGRATIONS):
            raise StorageVersionError(
                f"schema {self.schema!r} of {self} was upgraded by asyncflow {await self._upgraded_by(connection)} to version "
                f"{version}; this is asyncflow {VERSION}, which reads versions up to {len(MIGRATIONS)}; update asyncflow here. "
                "It was not touched"
            )
        return int(version)

    async def _upgraded_by(self, connection: Connection) -> str:
        """The version of asyncflow that made the newest version of the schema."""
        text = self.sql("SELECT made_by FROM {schema}.asyncflow ORDER BY version DESC LIMIT 1")
        try:
            ((made_by,),) = await rows_of(connection, text)
        except (psycopg.Error, ValueError):
            return "a newer version"
        return str(made_by)

    async def newer(self, connection: Connection, error: Exception) -> AsyncflowError | None:
        """The error for a schema that a newer asyncflow has upgraded since it was opened, if that is why a statement failed."""
        if getattr(error, "sqlstate", None) not in _OUTDATED or not is_settled(connection):
            return None
        try:
            await self._version(connection)
        except AsyncflowError as newer:
            return newer
        except (psycopg.Error, OSError):
            return None
        return None

    async def _migrate(self, connection: Connection) -> None:
        """Apply the migrations that are missing, all in one transaction."""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, self.schema))
            version = await self._version(connection)  # again, under the lock: another process may have been first
            if version < 0:
                await connection.execute(self.sql("CREATE SCHEMA {schema}"))
            for name in MIGRATIONS[max(version, 0) :]:
                text = resources.files("asyncflow.persistence.postgres").joinpath(name).read_text("utf-8")
                await connection.execute(self.sql(text))
            if len(MIGRATIONS) >= _NAMED:
                newest = self.sql("UPDATE {schema}.asyncflow SET made_by = %s WHERE version = %s")
                await connection.execute(newest, (VERSION, len(MIGRATIONS)))


async def _adapted(connection: Connection) -> None:
    """Adapt a connection to what lies between it and the server, and to how the server isolates transactions.

    A pooler answers with a process id of its own making. One that pools transactions gives each transaction whichever session is free,
    so nothing may depend on the session: there are no prepared statements then (another program's may have the same name).
    One that pools statements ends the first transaction. A fence (lost.py) needs READ COMMITTED.
    """
    ((pid, isolation),) = await rows_of(connection, _ABOUT)
    if isolation != "read committed":
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None
        async with connection.transaction():
            await connection.execute(_ABOUT)


async def rows_of(connection: Connection, statement: bytes, values: Any = None) -> list[tuple[Any, ...]]:
    """What a statement finds; bytes and numbers in their binary form."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


def is_alive(connection: Connection) -> bool:
    """Whether the server has not hung up, as far as this side of the wire knows. Asks nothing of the server."""
    if connection.closed:
        return False
    try:
        for _ in range(2):  # the server's last words, and then the end of what it says
            connection.pgconn.consume_input()
    except psycopg.Error:
        return False
    return connection.pgconn.status == ConnStatus.OK and is_settled(connection)


def is_settled(connection: Connection) -> bool:
    """Whether the connection is whole and no transaction is open on it: what failed on it has surely been rolled back."""
    return connection.info.transaction_status == TransactionStatus.IDLE


# ---- errors --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(target: Target) -> Iterator[None]:
    """Turn psycopg's errors into ours."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise explain(error, target) from error


def is_lost(error: Exception) -> bool:
    """Whether an error says that the connection was lost, or was ended by the server or a pooler."""
    state = getattr(error, "sqlstate", None)
    return isinstance(error, psycopg.OperationalError) and (
        state is None or state.startswith("08") or state in ("57P01", "57P02", "57P05")
    )


_REFUSED = ("authentication failed", "pg_hba.conf", "no password supplied", "is not permitted", "role ")
_BUSY = (
    "starting up",
    "shutting down",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "recovery",
    "query_wait_timeout",
    "max_client_conn",
)
_MISSING = ("does not exist", "no such database", "unsupported startup parameter")
"""What waiting does not change."""
_NOT_IN_TIME = "query_wait_timeout"
"""PgBouncer: no connection to the server was free for so long."""


def _unreachable(error: Exception, target: Target) -> AsyncflowError:
    """Why there is no connection. libpq says so in words alone."""
    said = _last_line(error)
    if told := no_handles_left(error, target):
        return told
    if isinstance(error, psycopg.InterfaceError) and "EventLoop" in said:
        return StorageError(
            f"psycopg cannot use this event loop ({said}); nothing was saved. On Windows, run the program in "
            "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)"
        )
    if any(part in said for part in _BUSY):
        return StorageBusyError(f"{target} takes no connections now ({said}); nothing was saved. Try again")
    if any(part in said for part in _REFUSED):
        return StorageReadOnlyError(f"{target} lets nobody in by this name and password ({said}); nothing was saved")
    kind = StorageNotFoundError if any(part in said for part in _MISSING) else StorageUnreachableError
    return kind(
        f"{target} cannot be reached ({said}); nothing was saved. Check that the server runs, and the name of the database"
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def explain(error: Exception, target: Target) -> AsyncflowError:
    """What an error of the server means to a user, and what to do."""
    said, state = _last_line(error), getattr(error, "sqlstate", None) or ""
    if is_lost(error) and "statement pooling" in said:  # psycopg 3.2.1 tells no SQLSTATE of it
        return StorageError(
            f"{target} is reached through a connection pooler that pools statements ({said}), so that there are no transactions. "
            "Nothing was saved; let it pool transactions or sessions (PgBouncer: pool_mode = transaction)"
        )
    if is_lost(error) and _NOT_IN_TIME in said:
        return StorageBusyError(
            f"{target}: the connection pooler had no connection to the server free in time ({said}). Nothing was saved; try again, or "
            "let it hold more: a process uses 1 + `readers` of them"
        )
    if is_lost(error):
        return StorageUnreachableError(f"{target} has ended the connection ({said}); nothing was saved. Try again")
    match state[:2], state:
        case _, "55P03" | "57014" | "40P01" | "40001" | "53300" | "57P03":
            return StorageBusyError(
                f"{target} did not come to it in time ({said}): another transaction holds its locks, for up to "
                f"{BUSY_SECONDS:g} seconds, or a timeout is set. Nothing was saved; try again, and look for who holds them"
            )
        case (_, "25006" | "42501") | ("28", _):
            return StorageReadOnlyError(
                f"{target} cannot be written, or not by this role ({said}); nothing was saved. Grant it what it needs, or "
                "name the primary server"
            )
        case (_, "3F000" | "3D000" | "42P01" | "42883"):
            return StorageNotFoundError(
                f"{target} holds no schema {target.schema!r} of ours any more ({said}); nothing was saved"
            )
        case (_, "26000" | "42P05"):
            return StorageError(
                f"{target} is reached through a connection pooler that looks like the server and does not keep sessions ({said}). "
                "Nothing was saved; let it pool sessions"
            )
        case (_, "XX001" | "XX002"):
            return StorageCorruptError(f"{target} is damaged ({said}); restore it from a backup. It is kept as it is")
        case ("53" | "58", _):
            return StorageWriteError(
                f"{target} cannot be written ({said}); nothing was saved. Try again once there is space and the disk is well",
                outcome="not saved",
            )
        case _:
            return StorageError(f"{target}: PostgreSQL says: {said}. Nothing was saved")
