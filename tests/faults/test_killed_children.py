"""R36: parents with children and grandchildren, in a process that is killed at random moments and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import families
import pytest
from families import RUNS
from figures import FACTOR, SEED, tell

import asyncflow
from asyncflow import SQLiteFlowPersistence

KILLS = max(6, round(10 * FACTOR))
LONGEST_LIFE = 0.4
HANGS = 120.0

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


def lines_of(folder: Path) -> list[list[str]]:
    log = folder / "effects.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def lives(folder: Path, loop: str, driver: str, seconds: float) -> int:
    """How a process ended that is killed so long after it has opened the database."""
    opened = sum(line[1] == "opened" for line in lines_of(folder))
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    command = (sys.executable, families.__file__, str(folder), loop, driver)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        deadline = time.monotonic() + HANGS
        while sum(line[1] == "opened" for line in lines_of(folder)) == opened and started.poll() is None:
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.002)
        try:
            said, _ = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGKILL)
            said, _ = started.communicate()
    assert said == "", said
    return started.returncode


async def complaints(folder: Path) -> list[str]:
    """What is wrong with the stored runs, and with what has begun."""
    found = list[str]()
    begun = [(float(at), run_id, method) for at, run_id, method in lines_of(folder) if run_id != "opened"]
    async with SQLiteFlowPersistence(folder / "runs.db") as storage:
        entries = await storage.runs(limit=1_000)
        found += [
            f"{entry.run_id} of {entry.flow} is {entry.status}" for entry in entries if entry.status != "finished"
        ]
        flows = sorted(entry.flow for entry in entries)
        if flows != ["Child"] * 6 + ["Grandchild"] * 6 + ["Top"] * 2:
            found.append(f"these are not the runs: {flows}")
        for entry in entries:
            found += await repeated(storage, entry.run_id, begun)
        found += [str(error) for error in await storage.verify()]
    return found


async def repeated(storage: Any, run_id: str, begun: list[tuple[float, str, str]]) -> list[str]:
    """The methods of a run that began after they had completed."""
    found = list[str]()
    for row in await storage.history(run_id):
        method = row.method.rpartition(":")[0]
        if row.kind in ("method", "finished") and method:
            found += [
                f"{run_id} {name} ran again" for at, of, name in begun if (of, name) == (run_id, method) and at > row.at
            ]
    return found


@pytest.mark.clauses("K5", "K6")
@pytest.mark.parametrize("driver", ["calls", "runner"])
def test_children_survive_kills_and_nothing_of_them_runs_again_after_it_has_completed(
    driver: str, tmp_path: Path
) -> None:
    began, kills, trials, begun = time.monotonic(), 0, 0, 0
    chance = random.Random(SEED)
    while kills < KILLS:
        folder = tmp_path / f"trial {trials}"
        folder.mkdir()
        loop = ("asyncio", "trio")[trials % 2]
        here = 0
        while (ended := lives(folder, loop, driver, chance.uniform(0, LONGEST_LIFE) if here < 5 else HANGS)) != 0:
            assert ended == -signal.SIGKILL, ended
            kills, here = kills + 1, here + 1
        broken = anyio.run(complaints, folder)
        assert not broken, "\n".join([f"trial {trials}, seed {SEED}, {loop}, {driver}", *broken])
        trials, begun = trials + 1, begun + len(lines_of(folder))

    print(
        f"{driver}: {kills} kills in {trials} trials of {len(RUNS)} parents; {begun} bodies; {time.monotonic() - began:.0f} s"
    )
    tell("R36", trials=trials, faults=kills, acknowledged=begun)
