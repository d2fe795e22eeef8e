"""Workers with runs are killed and replaced, on one SQLite file: the others recover their runs, at once and once only.

The same on PostgreSQL, where nothing proves a death and leases have to run out, is in `postgres/test_leases.py`.
"""

import random
import sys
from pathlib import Path

import anyio
import pytest
from crew import Crew, Work
from figures import FACTOR, SEED, tell

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@pytest.mark.clauses("L1", "L2", "E2")
def test_runs_of_a_killed_process_are_recovered_by_another_at_once(tmp_path: Path) -> None:
    runs, lease = 50, 120.0
    work = Work(f"{tmp_path}/log", f"{tmp_path}/runs.db", lease=lease, recover_every=0.2, seconds=600.0)
    with Crew(work) as crew:
        seconds = crew.taken_over(crew.begin((0, runs)), crew.begin(), runs)

        assert seconds < lease / 2, "it has waited for the lease"
        assert crew.complaints() == []
        assert crew.run_again == runs
        assert crew.dismiss() == [0]


@pytest.mark.clauses("L1", "L2", "E1", "E2")
def test_no_run_is_stuck_or_run_twice_when_workers_are_killed_and_replaced(tmp_path: Path) -> None:
    runs, workers, kills = max(80, int(80 * FACTOR)), 4, max(3, int(3 * FACTOR))
    work = Work(f"{tmp_path}/log", f"{tmp_path}/runs.db", lease=5.0, recover_every=0.2, steps=20, seconds=0.05)
    with Crew(work) as crew:
        crew.worked_through(runs, workers, kills, random.Random(SEED))

        assert crew.complaints() == []
        assert crew.dismiss() == [0] * workers
        assert anyio.run(work.storage().verify) == []
        saved = {line[2] for line in crew.logged() if line[0] == "saved"}
        tell("R12", trials=runs, faults=kills, acknowledged=len(saved), taken_up=crew.run_again)
        assert crew.run_again > 0, "nobody was at work when it was killed"
