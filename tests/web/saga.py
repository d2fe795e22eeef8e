"""The order saga, for workers that are killed: the log also tells which of its children are stored as finished."""

import os
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

from asyncflow import SQLiteFlowPersistence
from asyncflow.persistence import Checkpoint
from examples.order_saga import LOG, app

__all__ = ["app"]

log_file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(run_id: str) -> None:
    os.write(log_file, f"{os.getpid()} stored {run_id}\n".encode())


def noting(
    append: Callable[[SQLiteFlowPersistence, Checkpoint], Coroutine[Any, Any, None]],
) -> Callable[[SQLiteFlowPersistence, Checkpoint], Coroutine[Any, Any, None]]:
    """Note the end of a run once the storage says that it is stored, before anything can act on it."""

    async def noted(self: SQLiteFlowPersistence, checkpoint: Checkpoint) -> None:
        await append(self, checkpoint)
        if checkpoint.status == "finished":
            note(checkpoint.run_id)

    return noted


SQLiteFlowPersistence.append = noting(SQLiteFlowPersistence.append)  # type: ignore[method-assign]


def note_stored(path: str) -> None:
    """Note what a killed worker has stored, and could not note. The other worker may be about to create the file and its tables."""
    if os.path.exists(path):
        with closing(sqlite3.connect(path)) as database:
            if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
                for (stored,) in database.execute("SELECT run_id FROM runs WHERE status = 'finished'"):
                    note(stored)


note_stored(os.environ["ASYNCFLOW_DB"])
