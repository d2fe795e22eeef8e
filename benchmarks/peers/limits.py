"""What no library can beat: Python's own sqlite3 with a commit for each so many rows, the same through aiosqlite, one fsync a
step, and writing a state as JSON.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Self

import aiosqlite
from pydantic_core import to_json

from . import STEPS, Large, Peer, Record, Turns, put

ROW = b"x" * 500
SCHEMA = (
    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
    "CREATE TABLE steps (run BLOB, seq INTEGER, data BLOB); CREATE UNIQUE INDEX by_run ON steps (run, seq);"
)
INSERT = "INSERT INTO steps VALUES (?, ?, ?)"


class Rows(Peer):
    """Rows of 500 bytes, so many to a transaction, in the loop's own thread."""

    def __init__(self, folder: Path, batch: int) -> None:
        super().__init__(folder)
        self.batch = batch
        self.waiting: list[tuple[bytes, int, bytes]] = []

    async def __aenter__(self) -> Self:
        self.database = sqlite3.connect(self.folder / "rows.db", isolation_level=None)
        self.database.executescript(SCHEMA)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.database.close()

    async def chain(self, pause: float = 0.0) -> str:
        run = uuid.uuid4()
        for seq in range(STEPS):
            self.waiting.append((run.bytes, seq, ROW))
            if len(self.waiting) >= self.batch:
                self.commit()
        return str(run)

    def commit(self) -> None:
        self.database.execute("BEGIN IMMEDIATE")
        self.database.executemany(INSERT, self.waiting)
        self.database.execute("COMMIT")
        self.waiting.clear()


class Hops(Peer):
    """Such rows through aiosqlite: a statement is a transaction of its own, and one hop to the connection's thread.

    `Rows` begins and ends its transactions, besides. A load reads all rows of a run.
    """

    async def __aenter__(self) -> Self:
        self.database = await aiosqlite.connect(self.folder / "rows.db", isolation_level=None)
        await self.database.executescript(SCHEMA)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.database.close()

    async def chain(self, pause: float = 0.0) -> str:
        run = uuid.uuid4()
        for seq in range(STEPS):
            await self.database.execute(INSERT, (run.bytes, seq, ROW))
        return str(run)

    async def load(self, run_id: str) -> int:
        run = uuid.UUID(run_id).bytes
        return len(list(await self.database.execute_fetchall("SELECT data FROM steps WHERE run = ?", (run,))))


class Syncs(Peer):
    """One write and one fsync a step."""

    async def __aenter__(self) -> Self:
        self.file = os.open(self.folder / "file", os.O_CREAT | os.O_WRONLY)
        return self

    async def __aexit__(self, *error: object) -> None:
        os.close(self.file)

    async def chain(self, pause: float = 0.0) -> str:
        for _ in range(STEPS):
            os.write(self.file, ROW)
            os.fsync(self.file)
        return ""


class AsJson(Peer):
    """Each turn writes the state as JSON, to nowhere."""

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        state = Large(records=records)
        while not turns.done:
            change = turns.turn()
            if change is not None:
                put(state.records, change)
            to_json(state)
        return len(state.records)


WAYS: dict[str, Callable[[Path], Peer]] = {
    "1": partial(Rows, batch=1),
    "100": partial(Rows, batch=100),
    "1000": partial(Rows, batch=1_000),
    "aiosqlite": Hops,
    "fsync": Syncs,
    "json": AsJson,
}
