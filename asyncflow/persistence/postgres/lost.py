"""Fencing of lost connections: after it, nothing that was sent over one can commit, however late the server gets it.

Each connection of a writer has a random number, its *session*. Every transaction that writes locks that number (an advisory
lock, which ends with the transaction) and then looks for it among the fences. So whoever commits a fence, and then has had the lock,
knows: a transaction that came first has ended, and any later one is refused. The server's process is not ended, and need not
be known: behind a pooler it may serve somebody else by now.
"""

from __future__ import annotations

import secrets
from typing import Final

from . import rows
from .database import BUSY_SECONDS, Connection, Target, rows_of

__all__ = ["IDLE_SECONDS", "fence", "new_session"]

IDLE_SECONDS: Final = 2 * BUSY_SECONDS
"""How long the server keeps a transaction of several statements whose client says nothing more: then it ends it by itself."""

_WAIT_SECONDS: Final = IDLE_SECONDS + 1
"""How long the end of a lost transaction is waited for."""


def new_session() -> int:
    """A number for a connection that no other one has: 63 random bits, a positive BIGINT."""
    return secrets.randbits(63)


async def fence(connection: Connection, target: Target, session: int) -> None:
    """Keep what was sent over a lost connection from committing, or wait for the end of its transaction; on another connection.

    Raises psycopg's `LockNotAvailable` if that transaction is still open after some seconds.
    """
    await rows_of(connection, target.sql(rows.FENCE), (session,))
    await rows_of(connection, target.sql(rows.AWAIT_END), (str(int(_WAIT_SECONDS * 1000)), session))
