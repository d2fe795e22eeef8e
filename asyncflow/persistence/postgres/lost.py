"""Fencing of lost connections: after it, nothing that was sent over a lost connection can commit, however late the server gets it.

Each connection of a writer has a random number, its *session*. Every transaction that writes locks that number (with an advisory
lock, which ends with the transaction) and then looks for it among the fences. So a client that commits a fence and then gets the
lock knows that any earlier transaction of the session has ended, and that any later one will be refused. The server process is not
terminated, and need not be known: behind a pooler, it may serve another client by now.
"""

from __future__ import annotations

import secrets
from typing import Final

from . import rows
from .database import BUSY_SECONDS, Connection, Target, rows_of

__all__ = ["IDLE_SECONDS", "fence", "new_session"]

IDLE_SECONDS: Final = 2 * BUSY_SECONDS
"""Seconds after which the server ends a transaction of several statements if its client is idle (idle_in_transaction_session_timeout)."""

_WAIT_SECONDS: Final = IDLE_SECONDS + 1
"""How many seconds to wait for the end of a lost transaction."""


def new_session() -> int:
    """Return a unique number for a connection: 63 random bits, a positive BIGINT."""
    return secrets.randbits(63)


async def fence(connection: Connection, target: Target, session: int) -> None:
    """Prevent what was sent over a lost connection from committing, or wait until its transaction ends. Uses another connection.

    Raises psycopg's `LockNotAvailable` if that transaction is still open after the waiting time.
    """
    await rows_of(connection, target.sql(rows.FENCE), (session,))
    await rows_of(connection, target.sql(rows.AWAIT_END), (str(int(_WAIT_SECONDS * 1000)), session))
