"""R12, R14: many processes want the same runs, and owners that were stopped come back: one driver each, at any moment.

The oracle is a log outside the database: one appending system call for each method that has done its work.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from figures import FACTOR, tell

import asyncflow
from asyncflow import Flow, FlowState, SQLiteFlowPersistence, errors, router, start

PATH, LOG = Path("runs.db"), Path("effects.log")
STEPS = 10
SECONDS = 120
"""A process that takes longer hangs."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")


class Count(FlowState):
    done: int = 0


class Steps(Flow[Count]):
    """A loop of some steps, each with an effect outside."""

    name = "Steps"
    pause = 0.0

    @start()
    @router()
    async def begin(self) -> str:
        return "again"

    @router("again")
    async def step(self) -> str | None:
        await anyio.sleep(self.pause)
        effect(self.invocation_id)
        self.state.done += 1
        return "again" if self.state.done < STEPS else None


def effect(what: str) -> None:
    file = os.open(LOG, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{what} {os.getpid()}\n".encode())
    os.close(file)


def effects() -> list[list[str]]:
    return [line.split() for line in LOG.read_text().splitlines()] if LOG.exists() else []


async def drive(lease: float, pause: float) -> None:
    """What a child does with one run."""
    Steps.pause = pause
    await Steps(persistence=SQLiteFlowPersistence(PATH, lease=lease)).kickoff({"id": "run"})


async def contend(number: int, runs: int) -> None:
    """What one of many does: it drives every run that no other process drives, until all have ended."""
    left = {f"run-{n}" for n in range(runs)}
    async with SQLiteFlowPersistence(PATH, durability="process") as storage:
        while left:
            for run_id in sorted(left, key=lambda run_id: hash((run_id, number, len(left)))):
                flow = Steps(persistence=storage)
                with contextlib.suppress(errors.RunLockedError):
                    await flow._instance.start(run_id, {})
                    left.discard(run_id)
            await anyio.sleep(0.002)


def child(call: str) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    places = os.pathsep.join((str(Path(asyncflow.__file__).parents[1]), str(here), str(here.parent)))
    program = f"import anyio, test_owners as owners; anyio.run(lambda: owners.{call})"
    env = {**os.environ, "PYTHONPATH": places}
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=env)


def until(condition: Any) -> None:
    limit = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < limit, "it does not come"
        time.sleep(0.005)


def stop_outside_a_transaction(process: "subprocess.Popen[str]") -> None:
    """One that is stopped within one holds the file's lock, and nothing can be done about that."""
    for _ in range(100):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.005)  # until it has
        with contextlib.closing(sqlite3.connect(PATH, timeout=0, isolation_level=None)) as connection:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.003)
    raise AssertionError("it is always within a transaction")


# ---- R14 -------------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("L1", "L2", "L3", "E2")
@pytest.mark.parametrize("round_", range(max(1, int(5 * FACTOR))))
def test_an_owner_that_was_stopped_past_its_lease_is_fenced_when_it_comes_back(round_: int) -> None:
    lease = 0.3
    stopped = child(f"drive({lease}, 0.02)")
    storage = SQLiteFlowPersistence(PATH, lease=lease)

    async def steal() -> Any:
        left: list[float | None] = []
        flow = Steps(persistence=storage)
        with anyio.fail_after(SECONDS):
            while flow.status != "finished":
                try:
                    await flow._instance.start("run", {})
                except errors.RunLockedError as error:
                    left.append(error.seconds)
                    await anyio.sleep(0.01)
        return left

    try:
        until(lambda: len(effects()) >= 1 + round_ % 5)
        stop_outside_a_transaction(stopped)
        done = len(effects())
        left = anyio.run(steal)
        stolen = effects()
        stopped.send_signal(signal.SIGCONT)
        _, said = stopped.communicate(timeout=SECONDS)
    finally:
        stopped.kill()
        stopped.wait()

    mine = str(os.getpid())
    counts = Counter(what for what, _ in effects())
    assert "RunFencedError" in said, said
    assert all(seconds is not None and seconds <= lease for seconds in left)
    assert len(stolen) > done
    assert len(effects()) - len(stolen) <= 1, "it went on after it was fenced"
    assert len(counts) == STEPS
    assert sum(n - 1 for n in counts.values()) <= 1, "only what it was at when it was stopped is run again"
    assert {pid for _, pid in stolen[done:]} == {mine}
    stored = anyio.run(storage.history, "run")
    assert [c.kind for c in stored].count("method") == STEPS
    assert anyio.run(storage.verify) == []
    tell("R14", trials=1, faults=1, acknowledged=len(stored), refused=len(left))


# ---- R12 -------------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("L1", "L2", "L4", "E1", "E2")
def test_of_sixteen_processes_that_want_the_same_runs_each_is_driven_by_one() -> None:
    runs, processes = max(30, int(30 * FACTOR)), 16
    children = [child(f"contend({number}, {runs})") for number in range(processes)]
    try:
        said = [process.communicate(timeout=SECONDS * max(1, FACTOR))[1] for process in children]
    finally:
        for process in children:
            process.kill()
            process.wait()

    counts = Counter(what for what, _ in effects())
    drivers = Counter(pid for _, pid in effects())
    assert [process.returncode for process in children] == [0] * processes, said
    assert set(counts.values()) == {1}, "a method was run by two"
    assert len(counts) == runs * STEPS
    assert len(drivers) >= processes / 4, "one process had it all: nothing was tested"
    assert anyio.run(SQLiteFlowPersistence(PATH).verify) == []
    tell("R12", trials=runs * STEPS, faults=len(drivers), acknowledged=len(counts))
