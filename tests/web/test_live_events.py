"""Live events in a stream of server-sent events: progress, emitted values, slow clients, heartbeats."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from shop import Serve, Service, gate, gates
from test_streams import Client, told

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, report, start, stream
from asyncflow.integrations.fastapi import flow_router, lifespan


class Say(Flow):
    @start()
    async def say(self) -> None:
        await gates["g"].wait()
        report(1, 4, "reading")
        stream({"token": "ha"})
        stream(b"\xff")
        stream("x" * 20_000)
        stream(["y"] * 10_000)


@asynccontextmanager
async def saying(flow: type[Flow[Any]]) -> AsyncIterator[Service]:
    gate("g")
    runner = FlowRunner(MemoryFlowPersistence(), grace=0)
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow]))
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http,
    ):
        yield Service(http, runner, app)


async def followed(service: Service, query: str) -> list[dict[str, Any]]:
    where = (await service.http.post("/flows/Say")).headers["location"]
    client = Client(service, f"{where}/events", query=query)
    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(client)
            await client.has("RunStarted")
            gates["g"].set()
    return [{**json.loads(event["data"]), "id": event.get("id")} for event in told(client.text)]


async def test_a_stream_has_what_methods_report_and_emit() -> None:
    async with saying(Say) as service:
        events = await followed(service, "")

    (reported,) = [event for event in events if event["event"] == "Reported"]
    streamed = [event for event in events if event["event"] == "Streamed"]
    values = [event["value"] for event in streamed]
    assert (reported["done"], reported["total"], reported["text"], reported["id"]) == (1, 4, "reading", None)
    assert reported["invocation"] == "say:1"
    assert reported["seq"] == -1
    assert values[:2] == [{"token": "ha"}, "/w=="]
    assert values[2] == "x" * 16_384
    assert values[3] == ("[" + '"y",' * 10_000)[:16_384]
    assert [event.get("note") for event in streamed] == [
        *(None, None, "value is cut: the first 16384 of 20000 characters"),
        "value is cut: the first 16384 of 40001 characters of its JSON",
    ]
    assert events[-1]["event"] == "RunFinished"


async def test_a_stream_without_live_events() -> None:
    async with saying(Say) as service:
        events = await followed(service, "live=false")

    assert [event["event"] for event in events] == ["RunStarted", "MethodFinished", "RunFinished"]
    assert all(event["id"] for event in events)


class Chatter(Flow):
    @start()
    async def say(self) -> None:
        await gates["g"].wait()
        for n in range(3_000):
            stream(n)


class SlowClient(Client):
    """Takes nothing more from `RunStarted` on, until `taken` is set."""

    def __init__(self, service: Service, path: str) -> None:
        super().__init__(service, path)
        self.taken = anyio.Event()

    async def _send(self, message: dict[str, Any]) -> None:
        await super()._send(message)
        if "RunStarted" in self.text:
            await self.taken.wait()


async def test_a_slow_client_holds_no_run_up_and_loses_live_events_alone() -> None:
    async with saying(Chatter) as service:
        where = (await service.http.post("/flows/Chatter")).headers["location"]
        client = SlowClient(service, f"{where}/events")
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                await client.has("RunStarted")
                gates["g"].set()
                assert (await service.ended(where))["status"] == "finished"
                client.taken.set()

    events = [json.loads(event["data"]) for event in told(client.text)]
    (lost,) = [event["count"] for event in events if event["event"] == "EventsLost"]
    values = [event["value"] for event in events if event["event"] == "Streamed"]
    assert lost >= 1_900
    assert values[-1] == 2_999
    assert [event["event"] for event in events if event["seq"] >= 0] == ["RunStarted", "MethodFinished", "RunFinished"]


async def test_a_stream_in_which_nothing_happens_has_heartbeats(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    gate("g")
    async with serve() as service:
        where = (await service.order(gate="g")).headers["location"]
        client = Client(service, f"{where}/events")
        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                group.start_soon(client)
                await client.has(": ping")
                gates["g"].set()

    assert "RunFinished" in client.text
