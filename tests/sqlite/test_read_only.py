# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - the files are small
"""A database that is opened to read only: it shows runs, and nothing is created, upgraded, owned or removed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from asyncflow import Flow, SQLiteFlowPersistence, start
from asyncflow.errors import StorageNotFoundError, StorageOutdatedError, StorageReadOnlyError
from asyncflow.persistence import Checkpoint

PATH = Path("runs.db")


class Visit(Flow[dict[str, int]]):
    name = "Visit"

    @start()
    async def count(self) -> int:
        self.state["n"] = 1
        return 1


def reading() -> SQLiteFlowPersistence:
    return SQLiteFlowPersistence(PATH, read_only=True)


async def test_runs_are_shown_while_another_owner_writes() -> None:
    async with SQLiteFlowPersistence(PATH) as storage, reading() as shown:
        await Visit(persistence=storage).kickoff({"id": "visit-1"})
        owners = os.listdir("runs.db.owners")

        entries = await shown.runs()
        loaded = await shown.load("visit-1")

        assert [(entry.run_id, entry.status) for entry in entries] == [("visit-1", "finished")]
        assert loaded is not None
        assert loaded.seq == 1
        assert os.listdir("runs.db.owners") == owners


async def test_writing_is_refused_and_changes_nothing() -> None:
    async with SQLiteFlowPersistence(PATH) as storage:
        await Visit(persistence=storage).kickoff({"id": "visit-1"})
    before = PATH.read_bytes()
    new = Checkpoint(run_id="new", flow="F", seq=0, pass_number=1, kind="started", status="running", at=0.0)

    async with reading() as storage:
        for call in (storage.delete("visit-1"), storage.append(new), storage.acquire("visit-1")):
            with pytest.raises(StorageReadOnlyError, match="read_only=True; nothing was saved"):
                await call
        with pytest.raises(StorageReadOnlyError):
            await storage.prune(older_than=0)

    assert PATH.read_bytes() == before


async def test_a_missing_database_is_not_created() -> None:
    with pytest.raises(StorageNotFoundError, match="does not exist"):
        await reading().runs()

    assert os.listdir() == []


async def test_an_empty_file_is_no_database_yet() -> None:
    PATH.touch()

    with pytest.raises(StorageNotFoundError, match="is empty"):
        await reading().runs()

    assert PATH.stat().st_size == 0


async def test_a_database_of_an_older_version_is_not_upgraded() -> None:
    async with SQLiteFlowPersistence(PATH) as storage:
        await Visit(persistence=storage).kickoff()
    with closing(sqlite3.connect(PATH)) as connection:
        connection.execute("PRAGMA user_version = 8")

    with pytest.raises(StorageOutdatedError, match="older asyncflow"):
        await reading().runs()

    with closing(sqlite3.connect(PATH)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (8,)


async def test_the_side_file_of_a_dead_owner_stays_and_its_run_is_interrupted() -> None:
    program = (
        "import anyio, os\nfrom asyncflow import Flow, SQLiteFlowPersistence, start\n"
        "class Dies(Flow[dict]):\n    @start()\n    async def die(self): os._exit(3)\n"
        "anyio.run(Dies(persistence=SQLiteFlowPersistence('runs.db')).kickoff, {'id': 'dead'})"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 3
    left = os.listdir("runs.db.owners")

    async with reading() as storage:
        (entry,) = await storage.runs()

    assert entry.status == "interrupted"
    assert os.listdir("runs.db.owners") == left != []


async def test_the_run_of_a_living_process_is_running() -> None:
    program = (
        "import anyio\nfrom asyncflow import Flow, SQLiteFlowPersistence, start\n"
        "class Lives(Flow[dict]):\n    @start()\n    async def live(self):\n        print(flush=True); await anyio.sleep_forever()\n"
        "anyio.run(Lives(persistence=SQLiteFlowPersistence('runs.db')).kickoff, {'id': 'alive'})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        async with reading() as storage:
            (entry,) = await storage.runs()
    finally:
        process.kill()
        process.communicate()

    assert (entry.status, entry.is_driven) == ("running", True)


async def test_a_database_in_a_folder_that_cannot_be_written_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteFlowPersistence(PATH) as storage:
        await Visit(persistence=storage).kickoff({"id": "visit-1"})
    Path("frozen").mkdir()
    shutil.copy(PATH, "frozen/runs.db")
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode, **how: not (mode == os.W_OK and str(path).endswith("frozen")) and access(path, mode, **how),
    )

    entries = await SQLiteFlowPersistence("frozen/runs.db", read_only=True).runs()

    assert [entry.run_id for entry in entries] == ["visit-1"]
    assert os.listdir("frozen") == ["runs.db"]
