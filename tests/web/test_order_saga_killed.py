"""R37: the order saga under uvicorn, two workers on one file, one of which is killed in every round; every request is sent twice."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from figures import FACTOR, SEED, tell
from pydantic_core import from_json
from workers import ROOT, Worker

from asyncflow import SQLiteFlowPersistence

APP = "saga:app"
ROUNDS = max(4, round(4 * FACTOR))
SECONDS = 0.05
"""That a call takes."""
MOMENTS = ("children", "parked", "undoing", "aborting")
"""When a worker is killed, round by round: in the middle of children; while orders are parked; once it has begun to undo; or right after
it was asked to abort orders in the middle of children."""
UNDO = ("recall", "refund", "release")
OVER = ("finished", "failed", "cancelled")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")


class Order:
    """An order, what is sent to it, and how it has to end."""

    def __init__(self, name: str, signal: str = "", ends_with: str = "release", **inputs: str) -> None:
        self.name, self.signal, self.ends_with, self.inputs = name, signal, ends_with, inputs
        self.run_id = ""

    @property
    def is_aborted(self) -> bool:
        return self.ends_with == "aborted"

    async def begin(self, http: httpx2.AsyncClient, url: str) -> None:
        body = {"item": "tea", "card": "visa", "address": "here", **self.inputs}
        sent = await http.post(f"{url}/flows/Sell", json=body, headers={"Idempotency-Key": self.name})
        assert sent.status_code in (202, 409), sent.text  # 409: it was aborted meanwhile
        assert self.run_id in ("", sent.headers["location"].rpartition("/")[2])
        self.run_id = sent.headers["location"].rpartition("/")[2]

    async def send(self, http: httpx2.AsyncClient, url: str) -> None:
        """Send its signal, which may be stored already, and found again even after its end."""
        if self.signal:
            body = {"reference": "bank"} if self.signal == "confirmed" else {"reason": "too dear"}
            path = f"{url}/runs/{self.run_id}/signals/{self.signal}"
            sent = await http.post(path, json=body, headers={"Idempotency-Key": self.name})
            assert sent.status_code in ((200, 202, 409) if self.is_aborted else (200, 202)), sent.text

    async def abort(self, http: httpx2.AsyncClient, url: str) -> None:
        if self.is_aborted:
            sent = await http.delete(f"{url}/runs/{self.run_id}")
            assert (sent.status_code, sent.json()) == (202, {"run_id": f"abort-{self.run_id}"})


def orders_of(turn: int) -> list[Order]:
    """One order for each way to end, and another one of those that the round is about."""
    name = str(turn)
    kinds: list[tuple[str, str, dict[str, str]]] = [
        ("confirmed", "ship", {}),
        ("cancelled", "release", {}),
        ("", "release", {"card": "declined"}),
        ("confirmed", "release", {"address": "nowhere"}),
        ("", "release", {"confirm_within": "PT0.3S"}),
        ("", "aborted", {}),
        ("confirmed", "aborted", {}),
    ]
    kinds += [kinds[0] if turn % 4 == 1 else kinds[1] if turn % 4 == 2 else kinds[6]]
    return [Order(f"{name}.{n}", signal, end, **inputs) for n, (signal, end, inputs) in enumerate(kinds)]


class Line:
    """Of the log: a call, or that a child is stored as finished."""

    def __init__(self, line: str) -> None:
        self.process, self.what, self.of = line.split()


class World:
    """Two workers, the log of the outside world, and what was counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.dice = folder, folder / "outside", random.Random(SEED)
        self.log.touch()
        self.workers = [self.worker(), self.worker()]
        self.counts = Counter[str]()

    def worker(self) -> Worker:
        path = os.pathsep.join((str(ROOT), str(Path(__file__).parent)))
        env = {"SAGA_LOG": str(self.log), "SAGA_SECONDS": str(SECONDS), "SAGA_UNRELIABLE": "0.05"}
        return Worker(self.folder, APP, PYTHONPATH=path, **env)

    def lines(self, start: int) -> list[Line]:
        with self.log.open("rb") as file:
            file.seek(start)
            return [Line(line) for line in file.read().decode().splitlines()]

    async def round(self, http: httpx2.AsyncClient, turn: int) -> None:
        """Begin some orders, kill a worker meanwhile, send everything again, and look at the end of each order."""
        moment, start = MOMENTS[turn % 4], self.log.stat().st_size
        victim = self.workers.pop(self.dice.randrange(2))
        (other,) = self.workers
        orders = orders_of(turn)
        with anyio.fail_after(120):
            await each(orders, lambda order: order.begin(http, (victim, other)[orders.index(order) % 2].url))
            await self.until_ripe(http, moment, victim, other, orders, start)
            self.counts["parked"] += await self.parked(http, other, orders) if moment == "parked" else 0
            victim.kill()
            self.workers.append(self.worker())
            for _ in range(2):
                await each(orders, lambda order: order.begin(http, other.url))
                await each(orders, lambda order: order.send(http, other.url))
                await each(orders, lambda order: order.abort(http, other.url))
            runs = [await self.ended(http, other, order) for order in orders]
        await self.check(http, other, runs, str(victim.process.pid), start)
        await self.workers[1].ready(http)

    async def until_ripe(
        self, http: httpx2.AsyncClient, moment: str, victim: Worker, other: Worker, orders: list[Order], start: int
    ) -> None:
        """Wait until the moment for the kill has come."""

        def are_called(*calls: str) -> Callable[[], Awaitable[bool]]:
            async def have_arrived() -> bool:
                return any(line.what in calls and line.process == str(victim.process.pid) for line in self.lines(start))

            return have_arrived

        async def wait_all() -> bool:
            waiting = [order for order in orders if order.is_aborted or order.inputs.keys() <= {"address"}]
            return await self.parked(http, other, orders) == len(waiting)

        if moment in ("parked", "undoing"):
            await until(wait_all)
        if moment == "undoing":
            await each(orders, lambda order: order.send(http, victim.url))
            with anyio.move_on_after(5):  # the other worker may have taken them all
                await until(are_called(*UNDO))
        if moment in ("children", "aborting"):
            await until(are_called(self.dice.choice(("reserve", "charge"))))
        if moment == "aborting":
            with anyio.move_on_after(self.dice.uniform(0, 2 * SECONDS)), suppress(httpx2.HTTPError):
                await each(orders, lambda order: order.abort(http, victim.url))
        await anyio.sleep(self.dice.uniform(0, 2 * SECONDS))

    async def parked(self, http: httpx2.AsyncClient, worker: Worker, orders: list[Order]) -> int:
        """How many of the orders are parked."""
        page = (await http.get(f"{worker.url}/runs", params={"status": "waiting", "flow": "Sell"})).json()
        return len({run["run_id"] for run in page["runs"]} & {order.run_id for order in orders})

    async def ended(self, http: httpx2.AsyncClient, worker: Worker, order: Order) -> tuple[Order, Any, Any]:
        """An order when it has ended, and the run that has aborted it."""

        async def end_of(run_id: str) -> Any:
            while (run := (await http.get(f"{worker.url}/runs/{run_id}")).json())["status"] not in OVER:  # noqa: ASYNC110
                await anyio.sleep(0.01)
            return run

        abort = await end_of(f"abort-{order.run_id}") if order.is_aborted else None
        return order, await end_of(order.run_id), abort

    async def check(
        self, http: httpx2.AsyncClient, worker: Worker, runs: list[tuple[Order, Any, Any]], victim: str, start: int
    ) -> None:
        lines = self.lines(start)
        async with SQLiteFlowPersistence(self.folder / "runs.db") as storage:
            for order, run, abort in runs:
                calls = [line.what for line in lines if line.of == order.run_id and line.what != "stored"]
                told = order.name, run, abort, calls
                self.counts["taken_over"] += (
                    victim in {line.process for line in lines if line.of == order.run_id} != {victim}
                )
                self.check_end(order, run, abort, list(dict.fromkeys(calls)), told)
                parents = [order.run_id, *([f"abort-{order.run_id}"] if abort else ())]
                children = [child for parent in parents for child in await storage.children(parent)]
                assert {child.status for child in children} <= set(OVER), told
                for child in children:
                    stored = await storage.load(child.run_id)
                    assert stored is not None
                    about = from_json(stored.inputs or b"{}")["about"]
                    call = about if child.flow == "Undo" else child.flow.lower()
                    self.check_calls(call, order, child.run_id, lines, victim, told)
                    self.counts["acknowledged"] += child.status == "finished"
                self.counts["cancelled"] += sum(child.status == "cancelled" for child in children)

    def check_end(self, order: Order, run: Any, abort: Any, calls: list[str], told: Any) -> None:
        """Check how an order ended. `calls`: that have arrived outside, the first of each, which is the one that counts."""

        def is_done(call: str, opposite: str) -> bool:
            return call in calls and opposite not in calls[: calls.index(call)]

        is_shipped, is_charged = is_done("ship", "recall"), is_done("charge", "refund")
        is_refunded = is_charged and "refund" in calls
        assert is_charged == (is_shipped or is_refunded), told
        assert not (is_shipped and is_refunded), told
        assert not is_done("reserve", "release") or is_shipped != ("release" in calls), told
        undone = [call for call in calls if call in UNDO]
        assert undone == sorted(undone), told  # recall, refund, release
        if order.is_aborted:
            assert abort["status"] == "finished", told
            is_late = abort["result"][0].startswith("too late")
            assert run["status"] == ("finished" if "finished" in abort["result"][0] else "cancelled"), told
            assert is_late == is_shipped, told
            self.counts["aborted"] += run["status"] == "cancelled"
        else:
            assert run["status"] == "finished", told
            assert run["state"]["happened"][-1] == order.ends_with, told

    def check_calls(self, call: str, order: Order, child: str, lines: list[Line], victim: str, told: Any) -> None:
        """Check that a child made no call after it was stored as finished, and repeated one only because of the kill."""
        made = [line.process for line in lines if line.what == call and line.of == order.run_id]
        if order.is_aborted and call in UNDO:
            return  # the run that aborts it may have repeated them
        if child in {line.of for line in lines if line.what == "stored"}:
            at = next(n for n, line in enumerate(lines) if line.what == "stored" and line.of == child)
            assert not any(line.what == call and line.of == order.run_id for line in lines[at:]), ("AGAIN", told)
        assert len(made) <= 2, told
        if len(made) == 2:
            assert made[0] == victim != made[1], (call, made, told)
            self.counts["cut_off"] += 1


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():  # noqa: ASYNC110 - no event reports what another process does
        await anyio.sleep(0.005)


async def each(orders: list[Order], call: Callable[[Order], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        for order in orders:
            group.start_soon(call, order)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for worker in world.workers:
        worker.kill()


@pytest.mark.clauses("K5", "K6", "K7", "K8", "R2", "W9")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_order_is_shipped_or_undone_once_though_a_worker_is_killed_in_every_round(
    world: World, anyio_backend: str
) -> None:
    async with httpx2.AsyncClient(timeout=60) as http:
        for worker in world.workers:
            await worker.ready(http)
        for turn in range(ROUNDS):
            await world.round(http, turn)

    tell("R37", trials=ROUNDS, faults=ROUNDS, **world.counts)
    assert world.counts["parked"] >= 6 * (ROUNDS // 4)
    assert world.counts["taken_over"] >= ROUNDS // 2  # four times as many as rounds on average
    assert world.counts["cut_off"] >= ROUNDS // 8  # 17 of 20 rounds on average
    assert world.counts["aborted"] >= ROUNDS // 4
