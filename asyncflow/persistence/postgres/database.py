"""Connect to the PostgreSQL server: check and migrate the schema, and translate the server's errors into asyncflow's errors."""

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
    StorageOutdatedError,
    StorageReadOnlyError,
    StorageUnreachableError,
    StorageVersionError,
    StorageWriteError,
)
from .._database.handle_limit import no_handles_left
from .._database.lease import now
from .clock import ServerClock
from .rows import CLOCK

__all__ = ["BUSY_SECONDS", "Connection", "Target", "explain", "explained", "is_alive", "is_lost", "is_settled"]

Connection = AsyncConnection[tuple[Any, ...]]

MIGRATIONS: Final = (
    "schema.sql",
    "takeovers.sql",
    "formats.sql",
    "retention.sql",
    "resumes.sql",
    "signals.sql",
    "parking.sql",
    "compaction.sql",
    "children.sql",
)
"""The schema migrations, one file for each schema version, in order."""

_NAMED: Final = 3
"""The first schema version that records which version of asyncflow created it."""

BUSY_SECONDS: Final = 5.0
"""How many seconds a transaction waits for another's lock, and a reader or writer for a server that is restarting."""

CONNECT_SECONDS: Final = 10
"""The connection timeout in seconds, unless the conninfo sets one."""

_LOCK: Final = 0x61666C77
"""'aflw' in ASCII: the key of the advisory lock under which a schema is created or migrated."""

_OUTDATED: Final = ("42703", "42883", "42P01", "P0001")
"""SQLSTATEs that a statement of an older asyncflow gets from a newer schema.

They mean an unknown column, function or table, or come from the exception that the newer schema itself raises.
"""

_IDENTITY: Final = (
    "SELECT (SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = %(name)s), "
    "(SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = %(name)s), to_regclass(%(table)s) IS NOT NULL"
)

_ABOUT: Final = f"SELECT pg_backend_pid(), current_setting('default_transaction_isolation'), {CLOCK}".encode()


@dataclass(frozen=True)
class Target:
    """A schema in a database on a server. `conninfo` contains the password and is never shown."""

    conninfo: str
    schema: str
    host: str
    port: str
    database: str

    @classmethod
    def of(cls, conninfo: str, schema: str) -> Target:
        """Parse a connection string. Raises `ValueError` without quoting the string, which may contain a password."""
        if re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,62}", schema) is None or schema.startswith("pg_"):
            raise ValueError(f"a schema name has letters, digits and _, at most 63, not {schema!r}")
        try:
            given = conninfo_to_dict(conninfo)
        except (psycopg.Error, UnicodeError, ValueError, TypeError):
            given = None
        if given is None:  # not raised from the original error, which quotes the string
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
        """Return a statement for this schema, encoded."""
        return text.replace("{schema}", f'"{self.schema}"').encode()

    async def connected(self) -> Connection:
        """Return a new connection. Raises `explain`'s translation of an error."""
        given = conninfo_to_dict(self.conninfo)
        given.setdefault("connect_timeout", CONNECT_SECONDS)
        given.setdefault("application_name", "asyncflow")
        conninfo = make_conninfo("", **{**given, "client_encoding": "utf8"})
        try:
            return await AsyncConnection.connect(conninfo, autocommit=True)
        except (psycopg.Error, OSError) as error:
            raise _unreachable(error, self) from error

    async def opened(self, clock: ServerClock, *, upgrades: bool = True) -> Connection:
        """Return a connection after checking and migrating the schema. Raises a typed storage error; the schema is unchanged then.

        `upgrades`: False: raise for a schema that is missing or of an older version.

        It measures the server's clock. Behind a connection pooler, its `prepare_threshold` is None: see `_adapted`.
        """
        connection = await self.connected()
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(connection.close)
            with explained(self):
                await _adapted(connection, clock)
                version = await self._version(connection)
                if version < len(MIGRATIONS) and not upgrades:
                    raise self._outdated(version)
                if version < len(MIGRATIONS):
                    await self._migrate(connection)
            undo.pop_all()
        return connection

    async def _version(self, connection: Connection) -> int:
        names = {"name": self.schema, "table": f'"{self.schema}".asyncflow'}
        ((schemas, relations, is_ours),) = await rows_of(connection, _IDENTITY.encode(), names)
        if not is_ours:
            if relations:
                raise ForeignDatabaseError(
                    f"schema {self.schema!r} of {self} holds another program's tables; use another schema. It was not changed"
                )
            return 0 if schemas else -1
        ((version,),) = await rows_of(connection, self.sql("SELECT max(version) FROM {schema}.asyncflow"))
        if version > len(MIGRATIONS):
            raise StorageVersionError(
                f"schema {self.schema!r} of {self} was upgraded by asyncflow {await self._upgraded_by(connection)} to version "
                f"{version}; this is asyncflow {VERSION}, which reads versions up to {len(MIGRATIONS)}; update asyncflow here. "
                "It was not changed"
            )
        return int(version)

    def _outdated(self, version: int) -> AsyncflowError:
        """Return the error for a schema that has to be created or upgraded, and is to be read only. `version`: below 1 for none."""
        if version < 1:
            return StorageNotFoundError(
                f"{self} has no schema {self.schema!r}: no run was ever stored in it; check the URL. Nothing was created"
            )
        return StorageOutdatedError(
            f"schema {self.schema!r} of {self} has version {version} of an older asyncflow; this is asyncflow {VERSION}, which reads "
            f"version {len(MIGRATIONS)}. Opening it to write upgrades it, as `asyncflow db migrate` does. It was not changed"
        )

    async def _upgraded_by(self, connection: Connection) -> str:
        """Return the version of asyncflow that created the newest version of the schema."""
        text = self.sql("SELECT * FROM {schema}.asyncflow ORDER BY version DESC LIMIT 1")
        try:
            ((_, made_by, *_),) = await rows_of(connection, text)
        except (psycopg.Error, ValueError):
            return "a newer version"
        return str(made_by)

    async def newer(self, connection: Connection, error: Exception) -> AsyncflowError | None:
        """Return the error for a schema that a newer asyncflow has upgraded since it was opened, else None.

        It is None, too, if that is not why the statement failed.
        """
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
        """Apply the missing migrations, all in one transaction."""
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, self.schema))
            version = await self._version(connection)  # again under the lock: another process may have been first
            if version < 0:
                await connection.execute(self.sql("CREATE SCHEMA {schema}"))
            for name in MIGRATIONS[max(version, 0) :]:
                text = resources.files("asyncflow.persistence.postgres").joinpath(name).read_text("utf-8")
                await connection.execute(self.sql(text))
            if len(MIGRATIONS) >= _NAMED:
                # By position: some schemas have the second column, `made_by`, under another name.
                newest = len(MIGRATIONS)
                await connection.execute(self.sql("DELETE FROM {schema}.asyncflow WHERE version = %s"), (newest,))
                await connection.execute(self.sql("INSERT INTO {schema}.asyncflow VALUES (%s, %s)"), (newest, VERSION))


async def _adapted(connection: Connection, clock: ServerClock) -> None:
    """Adapt a connection to a connection pooler, and to the server's default isolation level.

    A pooler reports a backend process id of its own. One that pools transactions gives each transaction any free session, so
    nothing may depend on the session, and prepared statements are disabled (another program's may have the same name). One that
    pools statements aborts the first transaction. Fences (lost.py) need READ COMMITTED.
    """
    sent = now()
    ((pid, isolation, at),) = await rows_of(connection, _ABOUT)
    clock.measured(at, sent, now())
    if isolation != "read committed":
        await connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None
        async with connection.transaction():
            await connection.execute(_ABOUT)


async def rows_of(connection: Connection, statement: bytes, values: Any = None) -> list[tuple[Any, ...]]:
    """Return the rows of a statement, fetched in binary format."""
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall()


def is_alive(connection: Connection) -> bool:
    """Whether the connection is still open, as far as the client side knows. It sends nothing to the server."""
    if connection.closed:
        return False
    try:
        for _ in range(2):  # first the server's last message, then the end of the stream
            connection.pgconn.consume_input()
    except psycopg.Error:
        return False
    return connection.pgconn.status == ConnStatus.OK and is_settled(connection)


def is_settled(connection: Connection) -> bool:
    """Whether the connection is intact and has no open transaction, so that whatever failed on it was certainly rolled back."""
    return connection.info.transaction_status == TransactionStatus.IDLE


# ---- errors --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def explained(target: Target) -> Iterator[None]:
    """Translate psycopg's errors into asyncflow's errors."""
    try:
        yield
    except (psycopg.Error, OSError) as error:
        raise explain(error, target) from error


def is_lost(error: Exception) -> bool:
    """Whether an error means that the connection was lost, or was ended by the server or a pooler."""
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
"""Parts of messages about errors that waiting does not resolve."""
_NOT_IN_TIME = "query_wait_timeout"
"""PgBouncer's error when no server connection became free in time."""


def _unreachable(error: Exception, target: Target) -> AsyncflowError:
    """Return the error for a failed connection attempt. libpq reports the reason only in its message."""
    said = _last_line(error)
    if translated := no_handles_left(error, target):
        return translated
    if isinstance(error, psycopg.InterfaceError) and "EventLoop" in said:
        return StorageError(
            f"psycopg cannot use this event loop ({said}); nothing was saved. On Windows, run the program in "
            "asyncio.Runner(loop_factory=asyncio.SelectorEventLoop)"
        )
    if any(part in said for part in _BUSY):
        return StorageBusyError(f"{target} accepts no connections now ({said}); nothing was saved. Try again")
    if any(part in said for part in _REFUSED):
        return StorageReadOnlyError(
            f"{target} refused the user or password ({said}); nothing was saved. Check them, and the server's pg_hba.conf"
        )
    kind = StorageNotFoundError if any(part in said for part in _MISSING) else StorageUnreachableError
    return kind(
        f"{target} cannot be reached ({said}); nothing was saved. Check that the server runs, and the host, port and database name"
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def explain(error: Exception, target: Target) -> AsyncflowError:
    """Translate an error of the server into asyncflow's error, whose message says what it means and what to do."""
    said, state = _last_line(error), getattr(error, "sqlstate", None) or ""
    if is_lost(error) and "statement pooling" in said:  # psycopg 3.2.1 reports no SQLSTATE for it
        return StorageError(
            f"{target} is reached through a connection pooler that pools statements ({said}), so there are no transactions. "
            "Nothing was saved; configure it to pool transactions or sessions (PgBouncer: pool_mode = transaction)"
        )
    if is_lost(error) and _NOT_IN_TIME in said:
        return StorageBusyError(
            f"{target}: the connection pooler had no free connection to the server in time ({said}). Nothing was saved; try again, or "
            "raise its pool size: a process uses 1 + `readers` connections"
        )
    if is_lost(error):
        return StorageUnreachableError(f"{target} closed the connection ({said}); nothing was saved. Try again")
    match state[:2], state:
        case _, "55P03" | "57014" | "40P01" | "40001" | "53300" | "57P03":
            return StorageBusyError(
                f"{target} did not respond in time ({said}): another transaction held a lock for longer than asyncflow waits "
                f"({BUSY_SECONDS:g} seconds at most), or a timeout is set. Nothing was saved; try again, and look for the transaction "
                "that holds the lock"
            )
        case (_, "25006" | "42501") | ("28", _):
            return StorageReadOnlyError(
                f"{target} is read-only, or this role may not write to it ({said}); nothing was saved. Grant the role its "
                "privileges, or connect to the primary server"
            )
        case (_, "3F000" | "3D000" | "42P01" | "42883"):
            return StorageNotFoundError(
                f"{target} no longer has asyncflow's schema {target.schema!r}, or a part of it ({said}); nothing was saved. Restore it "
                "from a backup"
            )
        case (_, "26000" | "42P05"):
            return StorageError(
                f"{target} is reached through a connection pooler that looks like the server and does not keep sessions ({said}). "
                "Nothing was saved; configure it to pool sessions"
            )
        case (_, "XX001" | "XX002"):
            return StorageCorruptError(f"{target} is damaged ({said}); restore it from a backup. It is kept as it is")
        case ("53" | "58", _):
            return StorageWriteError(
                f"{target} cannot be written ({said}); nothing was saved. Try again once the disk works and has space",
                outcome="not saved",
            )
        case _:
            return StorageError(f"{target}: PostgreSQL reported: {said}. Nothing was saved")
