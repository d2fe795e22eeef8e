"""Lists of runs: by the signal that they wait for, and in pages of bounded cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Signal,
    SQLiteFlowPersistence,
    listen,
    start,
    wait_for,
)
from asyncflow.inspection import listing
from asyncflow.integrations.fastapi import flow_router, lifespan
from asyncflow.persistence import Checkpoint


class Article(FlowState):
    by_method: bool = False


class Publish(Flow[Article]):
    decided = Signal("decided", str)
    called = Signal("called", str)

    @start()
    async def draft(self) -> None:
        if self.state.by_method:
            await wait_for(self.called)

    @listen(decided, keep_open=True)
    async def publish(self, how: str) -> str:
        return how


class Nap(Flow):
    rung = Signal("rung", str)

    @start()
    async def nap(self) -> None:
        await wait_for(self.rung)


class Quick(Flow):
    @start()
    async def only(self) -> None: ...


@asynccontextmanager
async def serving(storage: Any, *flows: Any) -> AsyncIterator[httpx2.AsyncClient]:
    runner = FlowRunner(storage, grace=0, park_after=0, recover_every=None)
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, flows or [Publish, Nap, Quick]))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http,
    ):
        yield http


async def begun(http: httpx2.AsyncClient, flow: str, **inputs: Any) -> str:
    """Start a run, and return its id once it waits for a signal: parked, or in a method."""
    answer = await http.post(f"/flows/{flow}", json=inputs)
    status = "running" if flow == "Nap" or inputs.get("by_method") else "waiting"
    with anyio.fail_after(60):
        while (run := (await http.get(answer.headers["location"])).json())["status"] != status or not run["waits"]:  # noqa: ASYNC110
            await anyio.sleep(0.002)
    run_id: str = answer.json()["run_id"]
    return run_id


async def ids(http: httpx2.AsyncClient, **asked: Any) -> list[str]:
    """The ids of all pages."""
    found: list[str] = []
    while True:
        page = (await http.get("/runs", params=asked)).json()
        found += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            return found
        asked["cursor"] = page["next"]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_waiting_runs_are_found_by_the_signal_that_they_wait_for(kind: str) -> None:
    storage = MemoryFlowPersistence() if kind == "memory" else SQLiteFlowPersistence("runs.db")
    async with serving(storage) as http:
        first, both, last = [await begun(http, "Publish", by_method=n == 1) for n in range(3)]
        nap = await begun(http, "Nap")
        await http.post("/flows/Quick?wait=5")

        for limit in (1, 2, 50):
            assert await ids(http, signal="decided", limit=limit) == [last, both, first]
            assert await ids(http, signal="called", limit=limit) == [both]
            assert await ids(http, signal="rung", limit=limit) == [nap]
            assert await ids(http, signal="decided", status="waiting", limit=limit) == [last, first]
            assert await ids(http, signal="decided", status="running", limit=limit) == [both]
            assert await ids(http, signal="decided", flow="Publish", limit=limit) == [last, both, first]
        await http.post(f"/runs/{last}/cancel")
        assert await ids(http, signal="decided") == [both, first]


async def test_a_page_by_a_signal_looks_at_some_runs_and_the_next_one_at_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from asyncflow.integrations.fastapi import listing as served

    monkeypatch.setattr(served, "LOADED", 1)
    async with serving(MemoryFlowPersistence()) as http:
        wanted = await begun(http, "Publish", by_method=True)
        others = [await begun(http, "Publish") for _ in range(7)]
        page = (await http.get("/runs?signal=called")).json()

        assert page["runs"] == []
        assert page["next"] is not None
        assert await ids(http, signal="called") == [wanted]
        newest = await begun(http, "Publish", by_method=True)
        assert await ids(http, signal="decided") == [newest, *reversed(others), wanted]


async def test_a_run_that_cannot_be_read_is_not_found_by_a_signal_and_hides_no_other() -> None:
    class Damaged(MemoryFlowPersistence):
        broken = ""

        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            found = await super().load(run_id, seq)
            return found and (found._replace(progress=b"{") if run_id == self.broken else found)

    storage = Damaged()
    async with serving(storage) as http:
        first, broken, last = [await begun(http, "Publish") for _ in range(3)]
        storage.broken = broken
        assert await ids(http, signal="decided") == [last, first]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("signal=decidd", "Input should be 'called', 'decided' or 'rung'"),
        ("signal=decided&status=failed", "a run that is failed waits for no signal"),
        ("signal=decided&flow=Nap", "Nap: no such signal is declared"),
    ],
)
async def test_a_filter_by_a_signal_that_makes_no_sense_is_a_422_that_says_why(query: str, says: str) -> None:
    async with serving(MemoryFlowPersistence()) as http:
        answer = await http.get(f"/runs?{query}")

    (fault,) = answer.json()["detail"]
    assert (answer.status_code, fault["loc"]) == (422, ["query", "signal"])
    assert says in fault["msg"]


async def test_flows_without_signals_have_a_list_too() -> None:
    async with serving(MemoryFlowPersistence(), Quick) as http:
        await http.post("/flows/Quick?wait=5")
        assert len(await ids(http)) == 1
        assert (await http.get("/runs?signal=decided")).status_code == 422


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_page_looks_at_a_bounded_number_of_runs(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryFlowPersistence() if kind == "memory" else SQLiteFlowPersistence("runs.db")
    async with serving(storage) as http:
        wanted = (await http.post("/flows/Quick?wait=5")).json()["run_id"]
        waiting = [await begun(http, "Publish") for _ in range(6)]
        monkeypatch.setitem(listing.list_runs.__kwdefaults__, "examine", 2)
        page = (await http.get("/runs?flow=Quick")).json()

        assert page["runs"] == []
        assert page["next"] is not None
        assert await ids(http, flow="Quick") == [wanted]
        assert await ids(http, status="finished") == [wanted]
        assert await ids(http) == [*reversed(waiting), wanted]
        assert await ids(http, status="waiting", limit=4) == [*reversed(waiting)]
