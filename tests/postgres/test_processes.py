"""Several processes recover the same runs; some of them are killed. No run ever has two drivers, and all finish."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import anyio
import psycopg
import pytest
from contender import TURNS
from figures import FACTOR, SEED, tell
from loops import LOOPS

import asyncflow
from asyncflow.persistence.postgres import PostgresFlowPersistence

LEASE = 6.0
"""Seconds: longer than a process that lives may be kept from renewing it by a busy machine, and waited for once."""

RUNS = max(9, round(9 * FACTOR))
BODIES = 1 + 2 * TURNS
PROCESSES = 4
KILLED = 2


def complaints(log: list[list[str]], dead: set[str]) -> list[str]:
    """A body that is entered while another process, which was not killed, is in one of that run; or once a later one was."""
    found: list[str] = []
    inside: dict[str, str] = {}
    order: dict[str, int] = {}
    for word, invocation, pid in log:
        run_id, _, key = invocation.split("/")
        method, _, nth = key.partition(":")
        place = 0 if method == "begin" else 2 * int(nth) - (method == "turn")
        if word == "leave":
            if inside.get(run_id) == pid:
                del inside[run_id]
            continue
        if run_id in inside and inside[run_id] not in dead:
            found.append(f"{pid} has entered {invocation} while {inside[run_id]} was in that run")
        if place < order.get(run_id, 0):
            found.append(f"{pid} has entered {invocation} again, after what follows it")
        inside[run_id], order[run_id] = pid, place
    return found


@pytest.mark.clauses("L1", "L2", "L3", "L4", "E2")
@pytest.mark.parametrize("anyio_backend", [LOOPS["asyncio"], LOOPS["trio"]], ids=["asyncio", "trio"], indirect=True)
async def test_processes_that_recover_the_same_runs_are_never_two_in_one(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, tmp_path: Path, anyio_backend_name: str
) -> None:
    rng = random.Random(SEED)
    log, target = tmp_path / "log", persistence._target
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    async with persistence:
        await persistence.load("none")  # the schema is there

    def begun(kill: int) -> subprocess.Popen[bytes]:
        arguments = (target.conninfo, target.schema, log, RUNS, LEASE, kill, anyio_backend_name)
        command = [sys.executable, Path(__file__).with_name("contender.py"), *map(str, arguments)]
        return subprocess.Popen(command, env=env)

    def at_work() -> set[str]:
        return {line.split(" ")[2] for line in log.read_text().splitlines()} if log.exists() else set()

    processes = [begun(rng.randint(4, 20)) for _ in range(KILLED)]
    try:
        with anyio.fail_after(120):
            while len(at_work()) < KILLED:  # noqa: ASYNC110 - else the others might leave nothing for them to die in
                await anyio.sleep(0.01)
        processes += [begun(0) for _ in range(PROCESSES - KILLED)]
        codes = [process.wait(60 * max(1, FACTOR)) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    dead = {str(process.pid) for process, code in zip(processes, codes, strict=True) if code == -9}
    lines = [line.split(" ") for line in log.read_text().splitlines()]
    entered = Counter(line[1] for line in lines if line[0] == "enter")
    drivers = {line[2] for line in lines}
    async with persistence:
        verdicts = await persistence.verify()
    schema = target.schema
    resumes = f"(SELECT count(*) FROM {schema}.checkpoints c WHERE c.run = runs.id AND kind = 'resumed')"
    ended = sql.execute(f"SELECT status, head - {resumes}, owner FROM {schema}.runs").fetchall()
    commits = sql.execute(f"SELECT run, method FROM {schema}.checkpoints WHERE kind <> 'resumed'").fetchall()
    owners = sql.execute(f"SELECT count(*) FROM {schema}.owners").fetchone()

    tell("R13", trials=len(commits), faults=len(dead), acknowledged=len(commits), lost=0, drivers=len(drivers))
    assert complaints(lines, dead) == []
    assert verdicts == []
    assert ended == [("finished", BODIES, None)] * RUNS
    assert len(commits) == len(set(commits)) == RUNS * (1 + BODIES) >= 100 * min(FACTOR, 1)
    assert sum(entered.values()) - RUNS * BODIES <= len(dead)
    assert owners == (len(dead),)
    assert sorted(codes) == [-9] * KILLED + [0] * (PROCESSES - KILLED)
    assert len(drivers) >= 3
