"""Workers with runs are killed and replaced, on PostgreSQL: their runs are recovered when their leases have run out."""

import random
from pathlib import Path

import anyio
import psycopg
import pytest
from crew import Crew, Work
from figures import FACTOR, SEED, tell

from asyncflow.persistence.postgres import PostgresFlowPersistence


@pytest.mark.clauses("L1", "L2", "L3", "E1", "E2")
def test_runs_of_killed_workers_wait_for_a_lease_and_are_never_run_by_two(
    persistence: PostgresFlowPersistence, conninfo: str, sql: psycopg.Connection, tmp_path: Path
) -> None:
    runs, workers, kills = max(30, int(30 * FACTOR)), 3, max(2, int(2 * FACTOR))
    schema = persistence._target.schema
    work = Work(f"{tmp_path}/log", conninfo, schema, lease=3.0, recover_every=0.2, steps=15, seconds=0.05)
    with Crew(work) as crew:
        crew.worked_through(runs, workers, kills, random.Random(SEED))

        assert crew.complaints() == []
        assert crew.dismiss() == [0] * workers
        assert anyio.run(work.storage().verify) == []
        assert sql.execute(f"SELECT count(*) FROM {schema}.runs WHERE owner IS NOT NULL").fetchone() == (0,)
        saved = {line[2] for line in crew.logged() if line[0] == "saved"}
        tell("R13", trials=runs, faults=kills, acknowledged=len(saved), taken_up=crew.run_again)
        assert crew.run_again > 0, "nobody was at work when it was killed"
