"""What the routes show of a run: its history, what it does and waits for, who drives it, its relatives, and its links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from pydantic import Field
from shop import Serve, gate, gates
from test_redaction import Enter, go, served

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, Signal, after, listen, or_, start
from asyncflow.integrations.fastapi import flow_router, lifespan
from asyncflow.persistence import Checkpoint


@asynccontextmanager
async def serving(flow: type[Flow[Any]], persistence: Any = None, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    runner = FlowRunner(persistence or MemoryFlowPersistence(), grace=0, **options)
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow], signals=[s for s in vars(flow).values() if isinstance(s, Signal)]))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http,
    ):
        yield http


async def test_the_history_shows_each_checkpoint_and_what_it_changed(serve: Serve) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5", fails=True)).headers["location"]
        page = (await service.http.get(f"{where}/history")).json()
        first = (await service.http.get(f"{where}/history", params={"limit": 2})).json()
        rest = (await service.http.get(f"{where}/history", params={"after": first["next"], "limit": 2})).json()
        nothing = (await service.http.get(f"{where}/history", params={"after": 9})).json()

    entries = page["entries"]
    assert [(e["seq"], e["kind"], e["method"], e["status"], e["error"]) for e in entries] == [
        (0, "started", None, "running", None),
        (1, "method", "price:1", "running", None),
        (2, "failed", "ship:1", "failed", "builtins.LookupError: no ship"),
    ]
    assert entries[0]["changed"]["item"] == "tea"
    assert entries[1]["changed"] == {}
    assert entries[0]["at"].endswith("Z")
    assert "Traceback" not in str(page)
    assert (first["next"], first["entries"] + rest["entries"], rest["next"]) == (1, entries, None)
    assert nothing == {"entries": [], "next": None}


@pytest.mark.parametrize(
    ("query", "status"), [("after=-2", 422), ("limit=0", 422), ("limit=201", 422), ("after=x", 422), ("limit=200", 200)]
)
async def test_a_page_of_the_history_that_cannot_be(serve: Serve, query: str, status: int) -> None:
    async with serve() as service:
        where = (await service.order("?wait=5")).headers["location"]
        assert (await service.http.get(f"{where}/history?{query}")).status_code == status
        assert (await service.http.get(f"/runs/unknown/history?{query}")).status_code == 404


class Account(FlowState):
    total: int = Field(0, serialization_alias="sum")
    due: timedelta = timedelta(minutes=1)


class Pay(Flow[Account]):
    @start()
    async def pay(self) -> None:
        self.state.total = 3
        self.state.due = timedelta(hours=1)

    @listen(pay)
    async def paid(self) -> None:
        self.state.total = 4


async def test_the_history_shows_values_as_the_run_does() -> None:
    async with serving(Pay) as http:
        where = (await http.post("/flows/Pay?wait=5")).headers["location"]
        shown = (await http.get(where)).json()["state"]
        first, second, third = (await http.get(f"{where}/history")).json()["entries"]
        last = (await http.get(f"{where}/history?after=1")).json()

    assert first["changed"] == {"id": shown["id"], "sum": 0, "due": "PT1M"}
    assert second["changed"] == {"sum": 3, "due": "PT1H"}
    assert third["changed"] == {"sum": 4} == {"sum": shown["sum"]}
    assert [entry["before"] for entry in (first, second, third)] == [{}, {"sum": 0, "due": "PT1M"}, {"sum": 3}]
    assert last["entries"] == [third]


class Loose(Flow[dict[str, int]]):
    initial_state = {"a": 1, "b": 2}  # noqa: RUF012 - as users write it

    @start()
    async def drop(self) -> None:
        del self.state["a"]


async def test_the_history_shows_which_keys_are_removed() -> None:
    async with serving(Loose) as http:
        where = (await http.post("/flows/Loose?wait=5")).headers["location"]
        last = (await http.get(f"{where}/history")).json()["entries"][-1]

    assert (last["changed"], last["before"], last["removed"]) == ({"a": None}, {"a": 1}, ["a"])


class Reading(MemoryFlowPersistence):
    """Notes what is read of a history."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[int | None] = []

    async def history(self, run_id: str, *, after: int = -1, until: int | None = None) -> list[Checkpoint]:
        self.read.append(None if until is None else until - after)
        return [row for row in await super().history(run_id, after=after) if until is None or row.seq <= until]


async def test_a_page_of_a_history_reads_no_more_than_the_page() -> None:
    storage = Reading()
    async with serving(Pay, storage) as http:
        where = (await http.post("/flows/Pay?wait=5")).headers["location"]
        whole = (await http.get(f"{where}/history")).json()["entries"]
        storage.read.clear()
        pages = [(await http.get(f"{where}/history?limit=1&after={n}")).json() for n in range(-1, len(whole))]

    assert [size for size in storage.read if size is not None] == [1] * len(whole)
    assert [page["entries"] for page in pages] == [[entry] for entry in whole] + [[]]
    assert [page["next"] for page in pages] == [*range(len(whole) - 1), None, None]


async def test_a_run_that_was_compacted_has_a_history_that_begins_later() -> None:
    storage = MemoryFlowPersistence()
    async with serving(Pay, storage) as http:
        where = (await http.post("/flows/Pay?wait=5")).headers["location"]
        run_id = where.rpartition("/")[2]
        for _ in range(2):
            await Pay(persistence=storage).kickoff({"id": run_id})
        async with FlowRunner(storage, flows=[Pay]) as runner:
            assert await runner.compact(run_id) > 2
        page = (await http.get(f"{where}/history?limit=2")).json()
        rest = (await http.get(f"{where}/history?limit=200&after={page['next']}")).json()

    entries = page["entries"] + rest["entries"]
    assert [entry["pass_number"] for entry in entries] == [3] * len(entries)
    assert [entry["seq"] for entry in entries] == [*range(entries[0]["seq"], entries[0]["seq"] + len(entries))]
    assert (len(page["entries"]), page["next"], rest["next"]) == (2, page["entries"][-1]["seq"], None)


async def test_a_copy_shows_which_checkpoint_it_is_a_copy_of() -> None:
    storage = MemoryFlowPersistence()
    async with serving(Pay, storage) as http:
        where = (await http.post("/flows/Pay?wait=5")).headers["location"]
        run_id = where.rpartition("/")[2]
        copy = await Pay.fork(run_id, seq=1, persistence=storage)
        await copy.kickoff()
        shown = (await http.get(f"/runs/{copy.run_id}")).json()
        original = (await http.get(where)).json()

    assert shown["forked_from"] == {"run_id": run_id, "seq": 1}
    assert original["forked_from"] is None


async def test_a_backend_without_history_is_a_501() -> None:
    class Plain:
        def __init__(self) -> None:
            self.kept = MemoryFlowPersistence()
            self.save, self.load = self.kept.save, self.kept.load

    async with serving(Pay, Plain()) as http:
        where = (await http.post("/flows/Pay?wait=5")).headers["location"]
        assert (await http.get(f"{where}/history")).status_code == 501
        shown = (await http.get(where)).json()

    assert (shown["status"], shown["children"], shown["driver"]) == ("finished", [], None)


class Ask(Flow):
    decided = Signal("decided", str)

    @start()
    async def ask(self) -> None: ...

    @listen(or_(after(ask, timedelta(hours=1)), decided))
    async def decide(self) -> None: ...


async def test_a_run_that_waits_shows_for_what_and_where_to_send_it() -> None:
    async with serving(Ask, park_after=0) as http:
        where = (await http.post("/flows/Ask")).headers["location"]
        with anyio.fail_after(60):
            while (run := (await http.get(where)).json())["status"] != "waiting":  # noqa: ASYNC110
                await anyio.sleep(0.01)
        listed = (await http.get("/runs?status=waiting")).json()["runs"]
        sent = await http.post(run["links"]["signals"]["decided"], json="yes")

    assert [(wait["kind"], wait["name"]) for wait in run["waits"]] == [("timer", "after(ask)"), ("signal", "decided")]
    assert run["waits"][0]["due_at"] == run["due_at"] == listed[0]["due_at"]
    assert run["pending"] == []
    assert run["driver"] is None
    assert sent.status_code == 202


async def test_a_run_shows_what_is_pending_who_drives_it_and_what_may_be_done(serve: Serve) -> None:
    gate("g")
    async with serve() as service:
        where = (await service.order(gate="g")).headers["location"]
        run = (await service.http.get(where)).json()
        gates["g"].set()
        ended = await service.ended(where)
        for link in ("run", "events", "history", "children"):
            assert (await service.http.get(ended["links"][link])).status_code == 200

    assert run["pending"] == [
        {"invocation": "price:1", "method": "price", "doing": "running", "attempts_failed": 0, "error": None}
    ]
    assert run["links"]["cancel"] == f"{where}/cancel"
    assert run["links"]["resume"] is None
    assert (ended["pending"], ended["links"]["cancel"]) == ([], None)


async def test_a_failed_run_shows_where_it_is_resumed_and_the_errors_of_attempts(serve: Serve) -> None:
    async with serve() as service:
        run = (await service.order("?wait=5", fails=True)).json()
        resumed = await service.http.post(run["links"]["resume"] + "?wait=5")

    assert [(each["invocation"], each["doing"]) for each in run["pending"]] == [("ship:1", "failed")]
    assert resumed.json()["status"] == "failed"


async def test_relatives_are_linked() -> None:
    async with served() as (http, _):
        assert go == []
        parent = (await http.post("/flows/Enter?wait=20", json={})).json()
        (child,) = parent["children"]
        shown = (await http.get(f"/runs/{child.replace('/', '%2F')}")).json()
        listed = (await http.get(parent["links"]["children"])).json()["runs"]
        back = (await http.get(shown["links"]["parent"])).json()

    assert shown["parent"] == parent["run_id"] == back["run_id"]
    assert [run["run_id"] for run in listed] == [child]
    assert Enter.__name__ == back["flow"]
