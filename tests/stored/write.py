"""Write the test data of this folder with the asyncflow that is importable: `python tests/stored/write.py FOLDER [CONNINFO]`.

Run once for each stored format, by the commit that wrote it last; what it has written is kept permanently. FOLDER gets `runs.db`
(SQLite), `to_bytes/` (a backend of two verbs), `runs.json` (what is to come of each run) and, with a CONNINFO of an empty
PostgreSQL database, `runs.sql`. One run is left by a process that dies, so that it has an owner.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import stored_flows
from stored_flows import FLOWS, NEED_AN_INBOX

from asyncflow import MethodError
from asyncflow.persistence import SQLiteFlowPersistence
from asyncflow.persistence.checkpoint import Checkpoint

RUNS: dict[str, tuple[str, str, str]] = {
    # id: flow, where it stops, where it fails
    "linear-finished": ("Linear", "", ""),
    "linear-failed": ("Linear", "", "add"),
    "linear-interrupted": ("Linear", "add", ""),
    "linear-cancelled": ("Linear", "add", ""),
    "linear-edited": ("Linear", "", "add"),
    "linear-second-pass": ("Linear", "", ""),
    "join-half-full": ("Joining", "right", ""),
    "join-finished": ("Joining", "", ""),
    "cycle-midway": ("Cycle", "turn 3", ""),
    "cycle-finished": ("Cycle", "", ""),
    "patches-midway": ("Patched", "fourth", ""),
    "patches-finished": ("Patched", "", ""),
    "partly-midway": ("Partly", "after", ""),
    "partly-finished": ("Partly", "", ""),
    "untyped-midway": ("Untyped", "second", ""),
    "untyped-or-midway": ("Untyped", "slow", ""),
    "linear-failed-twice": ("Linear", "", "add"),
    "cycle-resumed": ("Cycle", "turn 2", ""),
    "join-failed-half": ("Joining", "", "right"),
    "partly-failed": ("Partly", "", "after"),
    "trying-paused": ("Trying", "pause", "ask"),
    "trying-failed": ("Trying", "", "ask"),
    "trying-resumed": ("Trying", "", "ask"),
    "timing-waits": ("Timing", "wait", ""),
    "sleeping-midway": ("Sleeping", "wait", ""),
    "approving-waits": ("Approving", "wait", ""),
    "approving-inbox": ("Approving", "wait", ""),
    "approving-noted": ("Approving", "wait", ""),
    "approving-set-aside": ("Approving", "wait", ""),
    "approving-taken": ("Approving", "wait", ""),
    "approving-failed": ("Approving", "wait", ""),
    "approving-finished": ("Approving", "wait", ""),
    "expiring-waits": ("Expiring", "wait", ""),
    "expiring-answered": ("Expiring", "wait", ""),
    "asking-waits": ("Asking", "wait", ""),
    "asking-inbox": ("Asking", "wait", ""),
    "asking-answered": ("Asking", "wait", ""),
    "limited-waits": ("Limited", "wait", ""),
    "ending-midway": ("Ending", "slow", ""),
    "ending-failed": ("Ending", "", "slow"),
    "approving-ending": ("Approving", "wait", ""),
    "endless-midway": ("Endless", "turn 3", ""),
    "endless-compacted": ("Endless", "turn 3", ""),
    "endless-finished": ("Endless", "", ""),
}
AGAIN: dict[str, tuple[str, str]] = {
    # those that are resumed: where they stop and fail then
    "linear-failed-twice": ("", "add"),
    "cycle-resumed": ("turn 4", ""),
    "trying-resumed": ("pause", "ask"),
    "approving-noted": ("wait", ""),
    "approving-set-aside": ("wait", ""),
    "approving-taken": ("publish", ""),
    "approving-failed": ("", "publish"),
    "approving-finished": ("", ""),
    "expiring-answered": ("decide", ""),
    "asking-answered": ("answered", ""),
    "approving-ending": ("publish", ""),
}
BY_ANN = ("approved", b'{"approved":true,"by":"Ann","on":"2026-01-02"}')
SENT: dict[str, dict[str, tuple[str, bytes]]] = {
    # those that are sent signals once they have stopped: name and payload, by key
    "approving-inbox": {"click": BY_ANN},
    "approving-noted": {"remark": ("note", b'"noted"')},
    "approving-set-aside": {"misfit": ("approved", b'{"by":7}')},
    "approving-taken": {"click": BY_ANN, "left": ("unheard", b"7")},
    "approving-failed": {"click": BY_ANN},
    "approving-finished": {"click": BY_ANN, "left": ("unheard", b"7"), "": ("unheard", b"8")},
    "expiring-answered": {"click": BY_ANN},
    "asking-inbox": {"click": BY_ANN, "later": BY_ANN},
    "asking-answered": {"click": BY_ANN},
    "approving-ending": {"click": BY_ANN},
}
"""A signal without a key has the key '' here."""
KILLED = "linear-killed"


class Kept:
    """A backend of two verbs: a file for each run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    async def save(self, checkpoint: Checkpoint) -> None:
        (self.folder / f"{checkpoint.run_id}.checkpoint").write_bytes(checkpoint.to_bytes())

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        path = self.folder / f"{run_id}.checkpoint"
        return Checkpoint.from_bytes(path.read_bytes()) if path.exists() else None


async def write(persistence: Any) -> None:
    """Make all runs but the killed one."""
    for run_id, (name, stops, fails) in RUNS.items():
        if name not in FLOWS or (name in NEED_AN_INBOX and isinstance(persistence, Kept)):
            continue  # this version, or the backend, does not have what it needs
        stored_flows.STOPS, stored_flows.FAILS = {stops}, {fails}
        flow = FLOWS[name](persistence=persistence)
        try:
            with anyio.move_on_after(0.3 if stops else None):
                await flow.kickoff({"id": run_id})
        except MethodError:
            assert fails
        if run_id in SENT:
            await send(persistence, run_id)
        if run_id in AGAIN:
            await resume(flow, run_id)
        stored_flows.STOPS, stored_flows.FAILS = set(), set()
        if run_id == "linear-cancelled":
            await flow.cancel()
        if run_id == "linear-edited":
            await flow.update_state(seen=["edited"])
        if run_id == "linear-second-pass":
            await flow.kickoff()
        if run_id == "endless-compacted" and not isinstance(persistence, Kept):
            await persistence.compact(run_id)


async def resume(flow: Any, run_id: str) -> None:
    """Resume a run that stops or fails again."""
    stops, fails = AGAIN[run_id]
    stored_flows.STOPS, stored_flows.FAILS = {stops}, {fails}
    persistence = flow._instance.setup.persistence
    async with anyio.create_task_group() as tasks:
        if run_id == "approving-ending":
            tasks.start_soon(finish, type(flow), run_id, persistence)
        with suppress(MethodError), anyio.move_on_after(0.3 if stops else None):
            await type(flow).resume(run_id, persistence=persistence)


async def finish(cls: Any, run_id: str, persistence: Any) -> None:
    """Ask a run to end once it runs a method."""
    await anyio.sleep(0.1)
    await cls.finish_run(run_id, persistence=persistence)


async def send(persistence: Any, run_id: str) -> None:
    """Send its signals to a run, as a process does that does not have its class: their payloads are not checked."""
    from asyncflow.persistence.inbox import NewSignal

    for key, (name, payload) in SENT[run_id].items():
        await persistence.send(run_id, NewSignal(name, payload, key or " made", "ann", time.time()))


def die(storage: Any) -> None:
    """Leave a run as a process does that is killed in the middle of it: it has an owner."""

    async def reached(place: str) -> None:
        if place == "add":
            os._exit(9)

    stored_flows.reached = reached
    anyio.run(FLOWS["Linear"](persistence=storage).kickoff, {"id": KILLED})


async def described(persistence: Any) -> dict[str, Any]:
    """What is stored, and what is to come of each run."""
    found = {}
    for run_id in (*RUNS, KILLED):
        stored = await persistence.load(run_id)
        if stored is not None:
            found[run_id] = {
                "flow": stored.flow,
                "status": stored.status,
                "seq": stored.seq,
                "pass": stored.pass_number,
                "state": json.loads(stored.state),
                "digest": stored.digest.hex(),
            }
            if hasattr(persistence, "parked"):  # since 0.5
                found[run_id]["first"] = (await persistence.history(run_id))[0].seq
                found[run_id]["shown"] = (await persistence.runs(run_id=run_id))[0].status
            if stored.flow in NEED_AN_INBOX:
                found[run_id]["inbox"] = [each.signal.key for each in await persistence.inbox(run_id)]
    return found


def dump(conninfo: str) -> Iterator[str]:
    """The tables of a database as SQL that makes them again in `{schema}`."""
    import psycopg

    from asyncflow.persistence.postgres.database import MIGRATIONS

    for name in MIGRATIONS:
        yield resources.files("asyncflow.persistence.postgres").joinpath(name).read_text("utf-8")
    with psycopg.connect(conninfo) as connection:
        for table, numbered in {"runs": True, "checkpoints": False, "owners": False, "signals": True}.items():
            if connection.execute("SELECT to_regclass(%s)", (f"asyncflow.{table}",)).fetchone() == (None,):
                continue  # this version does not have it
            cursor = connection.execute(f"SELECT * FROM asyncflow.{table} ORDER BY 1, 2")
            names = ", ".join(column.name for column in cursor.description or ())
            overriding = " OVERRIDING SYSTEM VALUE" if numbered else ""
            for row in cursor:
                yield f"INSERT INTO {{schema}}.{table} ({names}){overriding} VALUES ({', '.join(map(literal, row))});"
            if numbered:
                name = f"{{schema}}.{table}"
                yield f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), (SELECT max(id) FROM {name}));"


def literal(value: Any) -> str:
    """A value in SQL."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return str(value) if is_number else "'" + str(value).replace("'", "''") + "'"


async def main(folder: Path, conninfo: str | None) -> None:
    path = folder / "runs.db"
    async with SQLiteFlowPersistence(str(path)) as storage:
        await write(storage)
    await write(Kept(folder / "to_bytes"))
    await anyio.run_process([sys.executable, __file__, "--die", "sqlite", str(path)], check=False)
    async with SQLiteFlowPersistence(str(path)) as storage:
        (folder / "runs.json").write_text(json.dumps(await described(storage), indent=1) + "\n")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
    if conninfo is not None:
        from asyncflow.persistence.postgres import PostgresFlowPersistence

        async with PostgresFlowPersistence(conninfo) as postgres:
            await write(postgres)
        await anyio.run_process([sys.executable, __file__, "--die", "postgres", conninfo], check=False)
        (folder / "runs.sql").write_text("\n".join(dump(conninfo)) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--die":
        from asyncflow.persistence.postgres import PostgresFlowPersistence

        kind = SQLiteFlowPersistence if sys.argv[2] == "sqlite" else PostgresFlowPersistence
        die(kind(sys.argv[3]))
    Path(sys.argv[1]).mkdir(parents=True)
    anyio.run(main, Path(sys.argv[1]).absolute(), sys.argv[2] if len(sys.argv) > 2 else None)
