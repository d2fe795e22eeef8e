"""The files next to a SQLite database (`-wal`, `-shm`) are deleted, replaced or cut off while it is in use: R3."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, errors, start

RUNS = 20
DB, LOG, INDEX = "runs.db", "runs.db-wal", "runs.db-shm"


class Pay(Flow[dict[str, Any]]):
    @start()
    async def pay(self) -> int:
        self.state["paid"] = 100
        return 100


def deleted(*names: str) -> None:
    for name in names:
        os.unlink(name)


def replaced(name: str) -> None:
    """By a copy: the same bytes, another file."""
    shutil.copy(name, "copy")
    os.replace("copy", name)


FAULTS: dict[str, Callable[[], None]] = {
    "log deleted": lambda: os.unlink(LOG),
    "log moved": lambda: os.rename(LOG, "elsewhere"),
    "log replaced": lambda: replaced(LOG),
    "index deleted": lambda: os.unlink(INDEX),
    "index replaced": lambda: replaced(INDEX),
    "both deleted": lambda: deleted(LOG, INDEX),
}


async def paid(storage: SQLiteFlowPersistence, count: int = RUNS) -> list[str]:
    """Runs that were acknowledged."""
    flows = [Pay(persistence=storage) for _ in range(count)]
    for flow in flows:
        await flow.kickoff()
    return [flow.run_id for flow in flows]


def is_recognized(storage: SQLiteFlowPersistence) -> bool:
    """Whether the next commit examines no file by its path."""
    files = storage._shared.current.file  # type: ignore[union-attr]  # it is open
    return bool(files._unchanged) and files._has_last_frame()


async def settled(storage: SQLiteFlowPersistence) -> list[str]:
    """Runs that were acknowledged, the last ones while the files are recognized by their unchanged folder."""
    acknowledged = await paid(storage, RUNS - 2)
    await anyio.sleep(0.15)
    acknowledged += await paid(storage, 2)
    assert is_recognized(storage)
    return acknowledged


AGES = pytest.mark.parametrize("fill", [paid, settled], ids=["just opened", "settled"])


async def stored(run_ids: list[str]) -> int:
    """How many of these runs a new process finds finished, in a sound database."""
    fresh = SQLiteFlowPersistence(DB)
    async with fresh:
        found = [await fresh.load(run_id) for run_id in run_ids]
        assert await fresh.verify() == []
    return sum(each is not None and each.status == "finished" for each in found)


@pytest.mark.found("R3")
@AGES
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_log_that_goes_in_mid_run_is_noticed_and_nothing_acknowledged_is_lost(fault: str, fill: Any) -> None:
    storage = SQLiteFlowPersistence(DB)
    async with storage:
        acknowledged = await fill(storage)
        FAULTS[fault]()
        for again in range(2):
            with pytest.raises(errors.StorageNotFoundError, match="while it was in use") as caught:
                await Pay(persistence=storage).kickoff({"id": f"after {again}"})
        with pytest.raises(errors.StorageNotFoundError):
            await storage.load(acknowledged[0])
        assert ("index" if "index" in fault else LOG) in str(caught.value)

    assert await stored(acknowledged) == RUNS
    assert [await SQLiteFlowPersistence(DB).load(f"after {again}") for again in range(2)] == [None, None]


KILLED = """
import os, sys
import anyio
sys.path.insert(0, {tests!r})
from test_lost_logs import *

async def main():
    storage = SQLiteFlowPersistence(DB)
    async with storage:
        acknowledged = await paid(storage)
        FAULTS[{fault!r}]()
        try:
            await Pay(persistence=storage).kickoff()
        except errors.StorageNotFoundError:
            print(*acknowledged, flush=True)
        os._exit(0)

anyio.run(main)
"""


@pytest.mark.found("R3")
@pytest.mark.parametrize("fault", ["log deleted", "both deleted", "log replaced"])
def test_nothing_acknowledged_is_lost_where_the_process_is_killed_after_its_log_has_gone(fault: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    program = KILLED.format(tests=str(Path(__file__).parent), fault=fault)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)
    acknowledged = done.stdout.split()

    assert len(acknowledged) == RUNS, done.stderr
    assert anyio.run(stored, acknowledged) == RUNS


@pytest.mark.found("R3")
@pytest.mark.parametrize("size", [0, 5_000, -1], ids=["to nothing", "to a part", "by a byte"])
@pytest.mark.parametrize("reads", [True, False])
@AGES
async def test_a_log_that_is_cut_off_is_noticed_and_what_was_folded_in_before_is_left_alone(
    size: int, reads: bool, fill: Any
) -> None:
    storage = SQLiteFlowPersistence(DB)
    before = await paid(storage, 2)
    async with storage:
        await fill(storage)
        os.truncate(LOG, size if size >= 0 else os.stat(LOG).st_size - 1)
        with pytest.raises(errors.StorageCorruptError, match="was truncated while it was in use"):
            await Pay(persistence=storage).kickoff({"id": "after"})
        if reads:
            with pytest.raises(errors.StorageCorruptError):
                await storage.load("after")

    assert await stored(before) == 2
    assert await SQLiteFlowPersistence(DB).load("after") is None


@pytest.mark.found("R3")
@AGES
async def test_a_log_that_sqlite_itself_cuts_off_is_no_fault(fill: Any) -> None:
    storage = SQLiteFlowPersistence(DB)
    async with storage:
        acknowledged = await fill(storage)
        for _ in range(5):
            acknowledged += await paid(storage, 3)
            with closing(sqlite3.connect(DB)) as other:
                assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            assert os.stat(LOG).st_size == 0

    assert await stored(acknowledged) == RUNS + 15


def restored_with_its_times(folder: Path) -> None:
    """As a copy of a backup with all its times: the folder's mtime is the same afterwards."""
    before = os.stat(folder)
    replaced(str(folder / DB))
    os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced_whole(folder: Path) -> None:
    os.rename(folder, "before")
    shutil.copytree("before", folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "moved": lambda folder: os.rename(folder, "elsewhere"),
    "replaced": replaced_whole,
    "restored": restored_with_its_times,
    "without the database": lambda folder: os.unlink(folder / DB),
}


@pytest.mark.found("R3")
@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("fault", FOLDERS)
async def test_a_database_whose_folder_changes_is_noticed(fault: str, is_linked: bool) -> None:
    """Also through a symbolic link, whose own folder does not change."""
    os.mkdir("data")
    await paid(SQLiteFlowPersistence(Path("data", DB)), 1)
    os.mkdir("links")
    os.symlink(Path("../data", DB), Path("links", "link.db"))
    storage = SQLiteFlowPersistence(Path("links", "link.db") if is_linked else Path("data", DB))
    async with storage:
        await paid(storage, 2)
        await anyio.sleep(0.15)
        await paid(storage, 2)
        assert is_recognized(storage) != is_linked
        FOLDERS[fault](Path("data"))
        with pytest.raises(errors.StorageNotFoundError, match="while it was in use"):
            await Pay(persistence=storage).kickoff()


@pytest.mark.found("R3")
@pytest.mark.parametrize("is_lower", [True, False])
async def test_the_log_is_read_through_the_descriptor_that_stays_open(is_lower: bool) -> None:
    """Not through one of another connection, which is closed earlier: its number may then name another file."""
    await paid(SQLiteFlowPersistence(DB), 1)
    lower = [] if is_lower else [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    with closing(sqlite3.connect(DB)) as inspection:
        inspection.execute("SELECT count(*) FROM runs").fetchall()
        for number in lower:
            os.close(number)
        async with SQLiteFlowPersistence(DB) as storage:
            await settled(storage)
            files = storage._shared.current.file  # type: ignore[union-attr]  # it is open
            before = files._log_handle
            inspection.close()

            assert is_recognized(storage)
            os.truncate(LOG, 5_000)
            with pytest.raises(errors.StorageCorruptError):
                await Pay(persistence=storage).kickoff()
            assert files._log_handle == before


@pytest.mark.found("R3")
async def test_a_settled_folder_in_which_others_write_is_examined_and_is_no_fault() -> None:
    storage = SQLiteFlowPersistence(DB)
    async with storage:
        acknowledged = await settled(storage)
        for number in range(5):
            shutil.copy(DB, f"copy {number}")
            acknowledged += await paid(storage, 1)

    assert await stored(acknowledged) == RUNS + 5


OTHER = """
import sys
import anyio
sys.path.insert(0, {tests!r})
from test_lost_logs import *
from asyncflow.persistence.sqlite import database, persistence
persistence.BUSY_SECONDS = 0.3

async def main():
    try:
        await paid(SQLiteFlowPersistence(DB), 1)
        print("done")
    except errors.StorageBusyError as error:
        print(error)

anyio.run(main)
"""


def another_process() -> str:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    program = OTHER.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)
    return done.stdout.strip() or done.stderr


@pytest.mark.found("R3")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("fault", ["log deleted", "both deleted"])
async def test_no_other_process_opens_a_database_whose_log_has_gone_while_its_owner_lives(fault: str) -> None:
    storage = SQLiteFlowPersistence(DB)
    async with storage:
        acknowledged = await paid(storage)
        FAULTS[fault]()
        said = await anyio.to_thread.run_sync(another_process)
        assert "deleted or replaced while" in said, said
        assert f"process {os.getpid()} on " in said
        with pytest.raises(errors.StorageNotFoundError):
            await paid(storage, 1)

    assert await anyio.to_thread.run_sync(another_process) == "done"
    assert await stored(acknowledged) == RUNS


@pytest.mark.found("R3")
def test_looking_after_the_files_takes_a_few_calls_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than four, and none that opens anything: closing it would free SQLite's locks."""

    async def main() -> int:
        storage = SQLiteFlowPersistence(DB)
        async with storage:
            await paid(storage, 1)
            place = storage._shared.current.file  # type: ignore[union-attr]  # it is open
            calls: list[str] = []

            def hook(event: str, args: tuple[Any, ...]) -> None:
                if watching and event in ("open", "os.listdir"):
                    calls.append(event)

            watching = False
            sys.addaudithook(hook)
            watching = True
            place.check()
            watching = False
            began = time.perf_counter()
            for _ in range(1_000):
                place.check()
            assert time.perf_counter() - began < 1
            return len(calls)

    assert anyio.run(main) == 0
