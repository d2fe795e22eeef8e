"""R27: real servers under uvicorn, two processes on one SQLite file. One is killed, one receives SIGTERM, clients go away.

The oracle is the log of `orders.py`, outside the database: a method whose completion was reported to a client has begun once only; what was
accepted ends; a method is repeated only if its process was killed within it.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from figures import FACTOR, SEED, tell
from httpx2 import HTTPError

ORDERS = Path(__file__).with_name("orders.py")
GOING_ON = ("running", "interrupted")
"""What a run is that has not ended: no process drives it from the end of one process until another recovers it."""

STEPS = ["price", "pay", "pack", "ship"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


def rounds(of_every_run: int) -> int:
    return max(2, round(of_every_run * FACTOR))


class Server:
    """A process of the service. It imports while others work, and is waited for when it is needed."""

    def __init__(self, folder: Path) -> None:
        names = {"ORDERS_DB": "orders.db", "ORDERS_LOG": "log"}
        env = {**os.environ, **{name: str(folder / file) for name, file in names.items()}}
        self.process = subprocess.Popen([sys.executable, ORDERS], env=env, stdout=subprocess.PIPE, text=True)
        self._url = ""

    @property
    def url(self) -> str:
        if not self._url:
            assert self.process.stdout is not None
            self._url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"
        return self._url

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, within: float) -> int:
        code = self.process.wait(within)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


class World:
    """Two servers, or more; what was reported to clients; and what the log says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = [Server(folder), Server(folder)]
        self.accepted: set[str] = set()
        self.keys: dict[str, str] = {}
        """The key of each run that was accepted."""
        self.told: dict[str, set[tuple[str, str]]] = defaultdict(set)
        """By server: what it reported as completed."""
        self.repeated = 0

    def spare(self) -> None:
        self.servers.append(Server(self.folder))

    def log(self) -> dict[str, list[tuple[str, str, str]]]:
        """By run: what, method, process."""
        lines: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for line in (self.folder / "log").read_text().splitlines():
            what, run_id, method, process = line.split()
            lines[run_id].append((what, method, process))
        return lines

    # ---- clients -----------------------------------------------------------------------------------------------

    async def place(self, http: httpx2.AsyncClient, urls: Sequence[str], **inputs: Any) -> None:
        """A client that orders, and where that fails orders again elsewhere, under the same key."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        for url in urls:
            with contextlib.suppress(HTTPError):
                answer = await http.post(f"{url}/flows/Ship", json={"n": 0, **inputs}, headers=headers)
                if answer.status_code != 503:
                    assert answer.status_code == 202, answer.text
                    self.accepted.add(answer.json()["run_id"])
                    self.keys[answer.json()["run_id"]] = headers["Idempotency-Key"]
                    await self.watch(http, url, answer.headers["location"])
                    return

    async def place_again(self, http: httpx2.AsyncClient, url: str, run_id: str, after: float) -> None:
        """A client that does not trust its answer, and asks once more: wherever its run is by then, it is the same."""
        await anyio.sleep(after)
        headers = {"Idempotency-Key": self.keys[run_id]}
        answer = await http.post(f"{url}/flows/Ship", json={"n": 0}, headers=headers)
        assert (answer.status_code, answer.json().get("run_id")) == (202, run_id), answer.text

    async def has_accepted(self, count: int) -> None:
        with anyio.fail_after(120):
            while len(self.accepted) < count:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)

    async def watch(self, http: httpx2.AsyncClient, url: str, where: str) -> None:
        try:
            async with http.stream("GET", f"{url}{where}/events") as stream:
                async for line in stream.aiter_lines():
                    if '"MethodFinished"' in line:
                        data = httpx2.Response(200, content=line.removeprefix("data: ")).json()
                        self.told[url].add((data["run_id"], data["invocation"].partition(":")[0]))
        except HTTPError:
            return

    async def all_end(self, http: httpx2.AsyncClient, url: str) -> None:
        with anyio.fail_after(120):
            for run_id in self.accepted:
                while (run := (await http.get(f"{url}/runs/{run_id}")).json())["status"] in GOING_ON:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
                assert (run["status"], run["result"]) == ("finished", 4), run

    # ---- the oracle --------------------------------------------------------------------------------------------

    def check(self, victim: int | None, acknowledged: set[tuple[str, str]]) -> None:
        """What ran, and how often. `victim`: the process that was killed with SIGKILL; none but it has methods repeated.

        `acknowledged`: what was reported as completed by it, or before it was killed.
        """
        log = self.log()
        for run_id in self.accepted:
            begun = Counter(method for what, method, _ in log[run_id] if what == "begin")
            ended = Counter(method for what, method, _ in log[run_id] if what == "end")
            again = [method for method in STEPS if begun[method] > 1]
            assert sorted(begun) == sorted(ended) == sorted(STEPS), log[run_id]
            assert len(again) <= (victim is not None), log[run_id]
            for method in again:
                first, *others = [process for what, m, process in log[run_id] if (what, m) == ("begin", method)]
                assert first == str(victim)
                assert str(victim) not in others
                assert (run_id, method) not in acknowledged, "its completion was told before"
            self.repeated += len(again)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for server in world.servers:
        if server.process.poll() is None:
            server.signal(signal.SIGKILL)
            server.ended(10)


def test_runs_of_a_killed_server_are_finished_by_the_other(world: World) -> None:
    dice, trials, in_flight, acknowledged = random.Random(SEED), rounds(10), 0, 0

    async def one() -> tuple[int, set[tuple[str, str]]]:
        """Kill the first of the servers at a random moment, while both have runs."""
        victim, other = world.servers[:2]
        urls = victim.url, other.url
        world.accepted.clear()
        async with httpx2.AsyncClient(timeout=120) as http:
            async with anyio.create_task_group() as group:
                for n in range(10):
                    group.start_soon(world.place, http, urls if n < 6 else urls[::-1])
                await world.has_accepted(dice.randrange(1, 11))
                await anyio.sleep(dice.uniform(0.0, 0.08))
                before = set(world.told[urls[1]])
                victim.signal(signal.SIGKILL)
                victim.ended(10)
                for run_id in world.accepted:
                    group.start_soon(world.place_again, http, urls[1], run_id, dice.uniform(0.0, 0.4))
            assert len(world.accepted) == 10
            await world.all_end(http, urls[1])
        return victim.process.pid, before | world.told[urls[0]]

    for _ in range(trials):
        world.spare()
        pid, told = anyio.run(one)
        world.check(pid, told)
        acknowledged += len(told)
        by = {run_id: {process for _, _, process in lines} for run_id, lines in world.log().items()}
        in_flight += sum(len(by[run_id]) > 1 for run_id in world.accepted)
        del world.servers[0]
    print(f"in flight {in_flight}, methods repeated {world.repeated}")
    tell("R27", trials=trials, faults=trials, acknowledged=acknowledged, taken_up=in_flight)
    assert in_flight >= trials // 2
    assert acknowledged >= trials


def test_a_server_that_receives_sigterm_loses_nothing_and_leaves_in_time(world: World) -> None:
    dice, trials, interrupted = random.Random(SEED + 1), rounds(3), 0

    async def one() -> None:
        leaver, other = world.servers[:2]
        urls = leaver.url, other.url
        world.accepted.clear()
        async with httpx2.AsyncClient(timeout=120) as http:
            async with anyio.create_task_group() as group:
                for n in range(6):  # some end within the grace, and some stop at a checkpoint
                    group.start_soon(partial(world.place, http, urls, seconds=(0.01, 0.6)[n % 2]))
                await world.has_accepted(dice.randrange(3, 7))
                await anyio.sleep(dice.uniform(0.0, 0.1))
                leaver.signal(signal.SIGTERM)
                began = time.monotonic()
                code = await anyio.to_thread.run_sync(leaver.ended, 120)
            assert code in (0, -signal.SIGTERM), code
            assert time.monotonic() - began < 60  # of some 2 s
            assert len(world.accepted) == 6
            await world.all_end(http, urls[1])

    for _ in range(trials):
        world.spare()
        anyio.run(one)
        world.check(None, set())  # nothing was begun twice
        by = {run_id: {process for _, _, process in lines} for run_id, lines in world.log().items()}
        interrupted += sum(len(by[run_id]) > 1 for run_id in world.accepted)
        del world.servers[0]
    tell("R27", trials=trials, faults=trials, taken_up=interrupted)
    assert interrupted >= trials // 2


def test_clients_that_go_away_leave_no_task_behind(world: World) -> None:
    dice, trials, left = random.Random(SEED + 2), rounds(7), 0

    async def leaves(http: httpx2.AsyncClient, url: str, seconds: float) -> None:
        nonlocal left
        with anyio.move_on_after(seconds) as scope:
            async with http.stream("GET", f"{url}/events") as stream:
                async for _ in stream.aiter_lines():
                    pass
        left += scope.cancelled_caught

    async def waits(http: httpx2.AsyncClient, url: str, seconds: float) -> None:
        nonlocal left
        with anyio.move_on_after(seconds) as scope:
            await http.post(f"{url}/flows/Ship?wait=60", json={"n": 0, "seconds": 1})
        left += scope.cancelled_caught

    async def one() -> None:
        url = world.servers[0].url
        async with httpx2.AsyncClient(timeout=120) as http:
            before = (await http.get(f"{url}/tasks")).json()
            run = (await http.post(f"{url}/flows/Ship", json={"n": 0, "seconds": 30})).headers["location"]
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(leaves, http, url + run, dice.uniform(0.0, 0.1))
                    group.start_soon(waits, http, url, dice.uniform(0.0, 0.1))
            runs = (await http.get(f"{url}/runs?status=running")).json()["runs"]
            for begun in runs:
                await http.post(f"{url}/runs/{begun['run_id']}/cancel")
            with anyio.fail_after(120):
                while (await http.get(f"{url}/tasks")).json() > before:  # noqa: ASYNC110 - no event to wait for
                    await anyio.sleep(0.02)

    for _ in range(trials):
        anyio.run(one)
    tell("R27", trials=trials, faults=left)
    assert left >= 8 * trials


@pytest.mark.found("R12")
def test_a_request_that_waits_when_its_server_receives_sigterm_is_answered_with_its_run(world: World) -> None:
    leaver, other = world.servers

    async def one() -> list[httpx2.Response]:
        answers: list[httpx2.Response] = []

        async def wait(key: str | None) -> None:
            headers = {} if key is None else {"Idempotency-Key": key}
            url = f"{leaver.url}/flows/Ship?wait=60"
            answers.append(await http.post(url, json={"n": 0, "seconds": 0.7}, headers=headers))

        async with httpx2.AsyncClient(timeout=120) as http:
            async with anyio.create_task_group() as group:
                for key in ("k", None):
                    group.start_soon(wait, key)
                with anyio.fail_after(120):
                    while len((await http.get(f"{other.url}/runs?status=running")).json()["runs"]) < 2:  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                leaver.signal(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(leaver.ended, 120) in (0, -signal.SIGTERM)
            for answer in answers:
                assert answer.status_code == 202, answer.text
                assert answer.headers["location"] == f"/runs/{answer.json()['run_id']}"
                world.accepted.add(answer.json()["run_id"])
            await world.all_end(http, other.url)
        return answers

    answers = anyio.run(one)

    assert {answer.json()["status"] for answer in answers} == {"running"}
    assert len(world.accepted) == 2
    world.check(None, set())
