"""What is left of owners that died, who holds a lock, and openings of one file by many at once."""

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, errors, start
from asyncflow.persistence.sqlite import database
from asyncflow.persistence.sqlite import owners as owners_module
from asyncflow.persistence.sqlite.explain import is_stopped
from asyncflow.persistence.sqlite.owners import Owner

DEAD = "d" * 32


class Echo(Flow[dict[str, Any]]):
    @start()
    async def work(self) -> int:
        return 1


def sql(statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect("runs.db")) as connection, connection:
        return connection.execute(statement, values).fetchall()


@pytest.fixture
def in_another_process() -> Iterator[Any]:
    """Runs a program with the storage's folder as its own; it has printed a line, and lives on."""
    running: list[subprocess.Popen[str]] = []

    def begun(program: str) -> subprocess.Popen[str]:
        env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=env)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begun
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


OPEN = """
import time
import anyio
from asyncflow import SQLiteFlowPersistence
from asyncflow.testing._checkpoints import Chain

async def main():
    async with SQLiteFlowPersistence("runs.db") as storage:
        await storage.append(Chain("of another process").add())
        print("ready", flush=True)
        time.sleep(100)

anyio.run(main)
"""


@pytest.mark.found("R11")
async def test_what_killed_processes_have_left_goes_with_the_next_opening(in_another_process: Any) -> None:
    storage = SQLiteFlowPersistence("runs.db")
    killed = in_another_process(OPEN)
    killed.kill()
    killed.wait()
    ((dead,),) = sql("SELECT owner FROM owners")
    sql("UPDATE owners SET expires = 1")
    async with storage:
        files = os.listdir("runs.db.owners")
        await Echo(persistence=storage).kickoff()
        rows = [owner for (owner,) in sql("SELECT owner FROM owners")]

    assert len(files) == 1
    assert dead not in [*files, *rows]
    assert sorted(os.listdir()) == ["runs.db"]


@pytest.mark.found("R11")
async def test_an_owner_that_lives_keeps_its_file_and_its_row(in_another_process: Any) -> None:
    in_another_process(OPEN)
    ((alive,),) = sql("SELECT owner FROM owners")
    sql("UPDATE owners SET expires = 1")
    storage = SQLiteFlowPersistence("runs.db")
    async with storage, SQLiteFlowPersistence("runs.db") as other:
        await Echo(persistence=storage).kickoff()
        await Echo(persistence=other).kickoff()
        rows = [owner for (owner,) in sql("SELECT owner FROM owners")]
        files = os.listdir("runs.db.owners")

    assert alive in rows
    assert alive in files
    assert len(files) == 3


@pytest.mark.found("R11")
def test_an_owner_whose_file_is_swept_before_it_is_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(tmp_path / "runs.db")
    lock, swept = fcntl.lockf, 0

    def sweeping(file: int, kind: int) -> None:
        nonlocal swept
        if swept < 3:
            swept += 1
            os.unlink(tmp_path / "runs.db.owners" / owner.id)
        lock(file, kind)

    monkeypatch.setattr(owners_module.fcntl, "lockf", sweeping)
    owner.enter("1 2 3")

    assert os.listdir(tmp_path / "runs.db.owners") == [owner.id]
    assert (
        Path(tmp_path / "runs.db.owners" / owner.id).read_text("utf-8") == f"{os.getpid()} {socket.gethostname()} 1 2 3"
    )
    owner.leave()
    assert os.listdir(tmp_path) == []


@pytest.mark.found("R11")
def test_another_thread_of_this_process_sweeps_no_owner_that_is_entering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A POSIX lock shows nothing within one process."""
    entering, other = Owner(tmp_path / "runs.db"), Owner(tmp_path / "runs.db")
    made = entering._locked

    def locked() -> int:
        file = made()
        other.sweep()
        return file

    monkeypatch.setattr(entering, "_locked", locked)
    entering.enter("")

    assert os.listdir(tmp_path / "runs.db.owners") == [entering.id]
    entering.leave()


# ---- locks -----------------------------------------------------------------------------------------------------------

HOLD = """
import sqlite3, time
connection = sqlite3.connect("runs.db", isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
time.sleep(100)
"""


def until_stopped(pid: int) -> None:
    while not is_stopped(pid):
        time.sleep(0.001)


@pytest.mark.found("T2")
@pytest.mark.skipif(sys.platform != "linux", reason="the holder of a lock is asked for on Linux")
@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_busy_error_names_the_process_that_holds_the_lock(
    is_stopped: bool, in_another_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.3)
    storage = SQLiteFlowPersistence("runs.db")
    async with storage:
        await Echo(persistence=storage).kickoff()
        holder = in_another_process(HOLD)
        if is_stopped:
            holder.send_signal(signal.SIGSTOP)
            await anyio.to_thread.run_sync(until_stopped, holder.pid)
        with pytest.raises(errors.StorageBusyError) as caught:
            await Echo(persistence=storage).kickoff()
        holder.kill()
        holder.wait()
        await Echo(persistence=storage).kickoff()

    assert f"process {holder.pid}" in str(caught.value)
    assert (f"kill -CONT {holder.pid}" in str(caught.value)) == is_stopped
    assert "0.3 seconds" in str(caught.value)


@pytest.mark.found("T2")
async def test_a_busy_error_names_the_host_of_an_owner(
    in_another_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.3)
    owner = in_another_process(OPEN)
    storage = SQLiteFlowPersistence("runs.db")
    async with storage:
        await Echo(persistence=storage).kickoff()
        assert (f"process {owner.pid} on {socket.gethostname()}") in storage._shared.current.holders()  # type: ignore[union-attr]


# ---- many openings ---------------------------------------------------------------------------------------------------


@pytest.mark.found("R9")
async def test_an_opening_that_sqlite_refuses_at_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, refused = database._opened, 0

    async def busy(*how: Any) -> Any:
        nonlocal refused
        if refused < 3:
            refused += 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return await opened(*how)

    monkeypatch.setattr(database, "_opened", busy)
    flow = Echo(persistence=SQLiteFlowPersistence("runs.db"))
    await flow.kickoff()

    assert (refused, flow.status) == (3, "finished")


@pytest.mark.found("R9")
async def test_an_opening_that_is_refused_says_how_long_it_really_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY

    async def busy(*how: Any) -> Any:
        await anyio.sleep(0.4)
        raise error

    monkeypatch.setattr(database, "_opened", busy)
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    with pytest.raises(errors.StorageBusyError) as caught:
        await Echo(persistence=SQLiteFlowPersistence("runs.db")).kickoff()

    assert float(str(caught.value).partition(" for ")[2].partition(" seconds")[0]) >= 0.4
