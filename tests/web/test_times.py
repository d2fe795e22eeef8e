"""Times that a datetime cannot express are shown as null, by every route."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from shop import Serve
from test_streams import told

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Retry,
    RetryAfter,
    Signal,
    SQLiteFlowPersistence,
    after,
    listen,
    or_,
    sleep,
    start,
    wait_for,
)
from asyncflow._runtime.timing import virtual_clock
from asyncflow.integrations.fastapi import flow_router

TIMES = (
    ("RunLine", "created_at"),
    ("RunLine", "updated_at"),
    ("ByTimedeltaRun", "updated_at"),
    ("ByTimedeltaRun", "due_at"),
)


class ByTimedelta(Flow[dict]):
    @start()
    async def a(self) -> None: ...

    @listen(after(a, timedelta.max))
    async def b(self) -> None: ...


class ByFunction(Flow[dict]):
    @start()
    async def a(self) -> None: ...

    @listen(after(a, lambda state: 3e11))
    async def b(self) -> None: ...


class Asleep(Flow[dict]):
    @start()
    async def a(self) -> None:
        await sleep(sys.float_info.max)


class Patient(Flow[dict]):
    answer = Signal("answer")

    @start()
    async def a(self) -> None:
        await wait_for(self.answer, timeout=timedelta.max)


class Retried(Flow[dict]):
    @start(retry=Retry())
    async def a(self) -> None:
        raise RetryAfter(timedelta.max)


class Limited(Flow[dict]):
    run_timeout = timedelta.max
    answer = Signal("answer")

    @start()
    async def a(self) -> None: ...

    @listen(or_(answer, after(a, 1e300)))
    async def b(self) -> None: ...


@pytest.mark.parametrize("flow", [ByTimedelta, ByFunction, Asleep, Patient, Retried, Limited])
async def test_a_due_time_out_of_range_is_null(serve: Serve, tmp_path: Path, flow: type[Flow[Any]]) -> None:
    name = flow.__name__
    async with serve(SQLiteFlowPersistence(tmp_path / "runs.db")) as service:
        service.app.include_router(flow_router(service.runner, [flow], prefix="/far"))
        where = (await service.http.post(f"/far/flows/{name}")).headers["location"]
        handle = await service.runner.get(where.rpartition("/")[2])
        with anyio.fail_after(60):
            while (await handle.snapshot()).due_at is None:  # noqa: ASYNC110 - no event reports it
                await anyio.sleep(0.002)
        shown = await service.http.get(where)
        listed = await service.http.get("/far/runs")
        await service.http.post(f"{where}/cancel")
        events = await service.http.get(f"{where}/events")

    assert (shown.status_code, shown.json()["due_at"]) == (200, None)
    assert shown.json()["updated_at"] is not None
    assert listed.json()["runs"][0]["run_id"] == handle.run_id
    assert "RunCancelled" in events.text
    assert ("MethodRetrying" in events.text) == (flow is Retried)


@pytest.mark.parametrize("time", [3e11, -1e11, sys.float_info.max])
async def test_the_times_of_a_clock_out_of_range_are_null(serve: Serve, time: float) -> None:
    virtual_clock.set(lambda: time)
    async with serve() as service:
        begun = await service.http.post("/flows/Count?wait=60")
        shown = await service.http.get(begun.headers["location"])
        listed = await service.http.get("/runs")
        events = await service.http.get(f"{begun.headers['location']}/events")

    assert shown.json() == begun.json()
    assert (shown.json()["status"], shown.json()["updated_at"]) == ("finished", None)
    (line,) = listed.json()["runs"]
    assert (line["created_at"], line["updated_at"]) == (None, None)
    assert [block["data"].count('"at":null') for block in told(events.text)] == [1, 1, 1]


def test_the_schema_says_when_a_time_is_null() -> None:
    router = flow_router(FlowRunner(MemoryFlowPersistence()), [ByTimedelta])
    app = FastAPI()
    app.include_router(router)
    schemas = app.openapi()["components"]["schemas"]

    times = [schemas[name]["properties"][field] for name, field in TIMES]
    assert all({"type": "null"} in time["anyOf"] for time in times)
    assert all("A time outside of the years 1 to 9999 is null" in time["description"] for time in times)
