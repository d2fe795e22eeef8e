"""The approval service under uvicorn: two workers on one file, one of them killed while runs are parked, and answers that are repeated."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from figures import FACTOR, tell
from workers import Worker

ROUNDS = max(3, round(4 * FACTOR))
RUNS = 5
APP = "examples.approval_service:app"
UNFINISHED = ("running", "waiting", "interrupted")
KILLED = ("parked", "answered", "asked")
"""When the worker is killed, round by round: all runs are parked; it has just stored all answers, for which the runs are woken; or the
runs have just asked, and some are being parked."""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started = [Worker(tmp_path, APP), Worker(tmp_path, APP)]
    yield started
    for worker in started:
        worker.kill()


async def run_of(http: httpx2.AsyncClient, url: str, run_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = (await http.get(f"{url}/runs/{run_id}")).json()
    return shown


async def waiting(http: httpx2.AsyncClient, url: str, run_id: str, remarks: int, *, parked: bool) -> bool:
    """Wait until a run waits for the next answer, and is parked if it has to be. Return whether it is parked."""
    with anyio.fail_after(120):
        while True:
            run = await run_of(http, url, run_id)
            is_parked = run["status"] == "waiting"
            if run["waits_for"] and len(run["state"]["remarks"]) == remarks and (is_parked or not parked):
                return is_parked
            await anyio.sleep(0.01)


async def answer(http: httpx2.AsyncClient, url: str, runs: list[str], turn: int, *, is_new: bool) -> None:
    """Answer each run, and check that its answer is new, or was stored before."""
    body = {"approved": turn == ROUNDS - 1, "remark": f"remark {turn}"}
    for run_id in runs:
        where = f"{url}/runs/{run_id}/signals/decided"
        sent = await http.post(where, json=body, headers={"Idempotency-Key": f"answer-{turn}"})
        assert (sent.status_code, sent.json()["is_new"]) == (202 if is_new else 200, is_new)


@pytest.mark.clauses("W6", "W9", "W11")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_articles_are_revised_and_published_once_though_a_worker_is_killed_in_every_round(
    workers: list[Worker], tmp_path: Path, anyio_backend: str
) -> None:
    chosen = random.Random(7)
    async with httpx2.AsyncClient(timeout=60) as http:
        for worker in workers:
            await worker.ready(http)
        runs = []
        for n in range(RUNS):
            begun = await http.post(f"{workers[n % 2].url}/flows/Publish", json={"title": f"article {n}"})
            runs.append(begun.json()["run_id"])

        parked = 0
        for turn in range(ROUNDS):
            when = KILLED[turn % 3]
            for run_id in runs:
                is_parked = await waiting(http, workers[0].url, run_id, turn, parked=when != "asked")
                parked += is_parked and when != "answered"
            victim = workers.pop(chosen.randrange(2))
            if when == "answered":
                await answer(http, victim.url, runs, turn, is_new=True)
            victim.kill()
            if when != "answered":
                await answer(http, workers[0].url, runs, turn, is_new=True)
            await answer(http, workers[0].url, runs, turn, is_new=False)  # a second click
            workers.append(Worker(tmp_path, APP))
            await workers[1].ready(http)

        for n, run_id in enumerate(runs):
            with anyio.fail_after(120):
                while (run := await run_of(http, workers[0].url, run_id))["status"] in UNFINISHED:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
            said = [f"remark {turn}" for turn in range(ROUNDS - 1)]
            assert (run["status"], run["result"]) == ("finished", " ".join((f"About article {n}.", *said)))
            assert (run["state"]["remarks"], run["state"]["published"]) == (said, 1)
            late = await http.post(f"{workers[0].url}/runs/{run_id}/signals/decided", json={"approved": True})
            assert late.status_code == 409
        page = (await http.get(workers[0].url)).text
        assert "/signals/decided" in page
    tell("R33", trials=ROUNDS, faults=ROUNDS, acknowledged=ROUNDS * RUNS, parked=parked)
    assert parked >= RUNS * (ROUNDS // 3), "the kills hit no parked runs"
