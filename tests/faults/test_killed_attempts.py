"""R34: a flow that fails and is tried again all the time, in a process that is killed at random moments and started again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trying
from figures import FACTOR, SEED, tell
from trying import EXPECTED, RUNS, Reading, lines_of, parked, state_of

import asyncflow

KILLS = max(4, round(6 * FACTOR))
LONGEST_LIFE = 0.5
"""Seconds after the first look at the database: undisturbed, the runs take some 1.5."""
HANGS = 120.0

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


@contextmanager
def process(folder: Path, loop: str, driver: str) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    command = (sys.executable, trying.__file__, str(folder), loop, driver)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def lives(folder: Path, loop: str, driver: str, seconds: float, *, until_parked: bool) -> int:
    """How a process ended that is killed so long after it has opened the database, or, a little later, once a run is parked."""
    opened = sum(line[0] == "opened" for line in lines_of(folder))
    with process(folder, loop, driver) as started:
        deadline = time.monotonic() + HANGS
        while sum(line[0] == "opened" for line in lines_of(folder)) == opened and started.poll() is None:
            assert time.monotonic() < deadline, "it does not begin"
            time.sleep(0.005)
        try:
            said, _ = started.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            deadline = time.monotonic() + LONGEST_LIFE
            while until_parked and not parked(folder) and time.monotonic() < deadline:
                time.sleep(0.005)
            started.send_signal(signal.SIGKILL)
            said, _ = started.communicate()
    assert said == "", said
    return started.returncode


@pytest.mark.clauses("D1", "E1", "E2", "E4", "R1", "R2", "R4", "W1", "W2", "W5", "W11")
@pytest.mark.parametrize("driver", ["calls", "runner"])
def test_attempts_and_pauses_survive_kills_and_nothing_runs_again_after_it_has_completed(
    driver: str, tmp_path: Path
) -> None:
    """Where a runner drives the runs, each pause parks them, if nothing else runs."""
    began, kills, trials, begun_again, stored, waiting = time.monotonic(), 0, 0, 0, 0, 0
    chance = random.Random(SEED)
    while kills < KILLS:
        folder = tmp_path / f"trial {trials}"
        folder.mkdir()
        here = 0
        loop = ("asyncio", "trio", "uvloop")[trials % 3]
        while True:
            seconds = chance.uniform(0, LONGEST_LIFE) if kills < KILLS else HANGS
            ended = lives(folder, loop, driver, seconds, until_parked=driver == "runner" and here % 2 == 0)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL, ended
            assert kills < KILLS, "a run is stuck"
            kills, here, waiting = kills + 1, here + 1, waiting + parked(folder)
        reading = Reading(folder)
        broken = list(reading.complaints(here))
        assert not broken, "\n".join(
            [f"trial {trials}, seed {SEED}, {loop}, {driver}", *broken, *map(str, reading.lines)]
        )
        for run_id in RUNS:
            state = state_of(folder, run_id)
            assert (state["attempts"], state["total"]) == (EXPECTED, len(EXPECTED))
        trials, begun_again = trials + 1, begun_again + reading.begun_again
        stored += sum(reading.known.values())

    print(
        f"{driver}: {kills} kills in {trials} trials of {len(RUNS)} runs: {begun_again} attempts begun again; ", end=""
    )
    print(f"{stored} checkpoints, none lost; {time.monotonic() - began:.0f} s")
    tell("R34", trials=trials, faults=kills, acknowledged=stored, parked=waiting)
    hits = begun_again if driver == "calls" else waiting
    assert hits >= kills / 4, "the kills hit nothing"
