"""A run that has failed, or was interrupted, resumes when it is asked to: by its route, and by the runner."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from fastapi import FastAPI, Header, HTTPException
from shop import Order, Secret, Serve, gate, gates, ran

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    errors,
    listen,
    start,
)
from asyncflow.integrations.fastapi import flow_router, run_id_for
from asyncflow.runner import RunHandle

pytestmark = pytest.mark.found("T18")

is_broken: list[bool] = []
"""Whether the flow's last method fails."""


class Pay(Flow[FlowState]):
    @start()
    async def price(self) -> int:
        ran.append("price")
        return 3

    @listen(price)
    async def pay(self, price: int) -> int:
        ran.append("pay")
        if "pay" in gates:
            await gates["pay"].wait()
        if is_broken:
            raise ConnectionError("no bank")
        return price


@pytest.fixture(autouse=True)
def _broken() -> Iterator[None]:
    is_broken[:] = [True]
    yield
    is_broken.clear()


def add(service: Any) -> None:
    """Serve the flow, too."""
    service.app.include_router(flow_router(service.runner, [Pay], prefix="/bank"))


async def failed(service: Any, **headers: str) -> str:
    """Where a run is that has failed."""
    add(service)
    answer = await service.http.post("/bank/flows/Pay?wait=60", headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    where: str = answer.headers["location"]
    return where


@pytest.mark.parametrize("is_mended", [True, False])
async def test_a_failed_run_resumes_with_the_method_that_failed(serve: Serve, is_mended: bool) -> None:
    async with serve() as service:
        where = await failed(service)
        if is_mended:
            is_broken.clear()
        answer = await service.http.post(f"{where}/resume?wait=60")

        assert answer.status_code == 200
        assert answer.headers["location"] == where
        assert (answer.json()["status"], answer.json()["result"]) == (
            ("finished", 3) if is_mended else ("failed", None)
        )
        assert (await service.http.get(where)).json() == answer.json()
    assert ran == ["price", "pay", "pay"]


async def test_a_run_that_is_resumed_is_running_until_it_has_ended(serve: Serve) -> None:
    async with serve() as service:
        where = await failed(service, **{"idempotency-key": "k"})
        gate("pay")
        is_broken.clear()
        begun = await service.http.post(f"{where}/resume")
        again = await service.http.post(f"{where}/resume?wait=0.01")
        by_key = await service.http.post("/bank/flows/Pay", headers={"Idempotency-Key": "k"})
        shown = await service.http.get(where)
        gates["pay"].set()
        ended = await service.http.post(f"{where}/resume?wait=60")

    for answer in (begun, again, by_key):
        assert (answer.status_code, answer.json()) == (202, {"run_id": run_id_for("Pay", "k"), "status": "running"})
    assert shown.json()["status"] == "running"
    assert (ended.status_code, ended.json()["result"]) == (200, 3)
    assert ran == ["price", "pay", "pay"]


async def test_a_run_that_has_ended_permanently_is_not_run_again(serve: Serve) -> None:
    async with serve() as service:
        where = await failed(service)
        is_broken.clear()
        finished = await service.http.post(f"{where}/resume?wait=60")
        once_more = await service.http.post(f"{where}/resume?wait=60")
        told = await service.http.post(f"{where}/resume")
        is_broken[:] = [True]
        cancelled = (await service.http.post("/bank/flows/Pay?wait=60")).headers["location"]
        await service.http.post(f"{cancelled}/cancel")
        refused = await service.http.post(f"{cancelled}/resume")

    assert once_more.json() == finished.json()
    assert (told.status_code, told.json()["status"]) == (202, "finished")
    assert refused.status_code == 409
    assert ran == ["price", "pay", "pay", "price", "pay"]


async def test_an_interrupted_run_is_resumed(serve: Serve) -> None:
    gate("pay")
    is_broken.clear()
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage, grace=0, patience=0, recover_every=None) as runner:
        run_id = (await runner.start(Pay)).run_id
        while "pay" not in ran:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)
    gates["pay"].set()
    async with serve(storage, recover_every=None) as service:
        add(service)
        answer = await service.http.post(f"/bank/runs/{run_id}/resume?wait=60")

    assert (answer.status_code, answer.json()["result"]) == (200, 3)
    assert ran == ["price", "pay", "pay"]


@pytest.mark.parametrize("run_id", ["unknown", "%20", "x" * 200, "a/b", "a/events/resume", "%00"])
async def test_an_unknown_run_is_not_found(serve: Serve, run_id: str) -> None:
    async with serve() as service:
        assert (await service.http.post(f"/runs/{run_id}/resume")).status_code == 404
        await service.runner.run(Secret, run_id="other")
        assert (await service.http.post("/runs/other/resume")).status_code == 404


@pytest.mark.parametrize("run_id", ["order-7", "a/b", "a b", "é?#%"])
async def test_a_run_of_any_name_is_resumed_and_found_where_the_answer_says(serve: Serve, run_id: str) -> None:
    async with serve() as service:
        with pytest.raises(MethodError):
            await service.runner.run(Order, {"item": "tea", "fails": True}, run_id=run_id)
        answer = await service.http.post(f"/runs/{quote(run_id, safe='')}/resume?wait=60")

        assert (answer.status_code, answer.json()["run_id"]) == (200, run_id)
        assert (await service.http.get(answer.headers["location"])).json() == answer.json()


async def test_an_unauthorized_client_resumes_nothing(serve: Serve) -> None:
    may: list[bool] = [True]

    async def authorize(token: str = Header(default="")) -> None:
        if not may:
            raise HTTPException(403)

    async with serve(authorize=authorize) as service:
        where = (await service.order("?wait=60", fails=True)).headers["location"]
        may.clear()
        assert (await service.http.post(f"{where}/resume")).status_code == 403
    assert ran == ["price", "ship"]


class Gone(Flow[FlowState]):
    """`Pay`, when it has lost the method that its run waits for."""

    name = "Pay"

    @start()
    async def price(self) -> int:
        return 3


async def test_a_run_that_the_class_has_no_method_for_is_refused_and_stays(serve: Serve) -> None:
    storage = MemoryFlowPersistence()

    class Paying(Pay):
        name = "Pay"

    async with FlowRunner(storage) as runner:
        with pytest.raises(MethodError):
            await runner.run(Paying, run_id="7")
    async with serve(storage) as service:
        service.app.include_router(flow_router(service.runner, [Gone], prefix="/bank"))
        answer = await service.http.post("/bank/runs/7/resume?wait=60")

        assert answer.status_code == 409
        assert (await storage.load("7")).status == "failed"  # type: ignore[union-attr]


async def test_a_full_service_says_when_to_come_back(serve: Serve) -> None:
    gate("g")
    async with serve(max_running=1, max_queued=0, overload="raise") as service:
        where = (await service.order("?wait=60", fails=True)).headers["location"]
        await service.order(gate="g")
        answer = await service.http.post(f"{where}/resume")

        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        gates["g"].set()


# ---- the runner ------------------------------------------------------------------------------------------------------


async def test_a_runner_resumes_one_failed_run_once_however_many_callers_ask() -> None:
    async with FlowRunner(MemoryFlowPersistence()) as runner:
        with pytest.raises(MethodError):
            await runner.run(Pay, run_id="7")
        is_broken.clear()
        handles: list[RunHandle] = []

        async def ask() -> None:
            handles.append(await runner.resume("7"))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
        assert [await handle.result() for handle in handles] == [3] * 5
    assert ran == ["price", "pay", "pay"]


async def test_a_runner_that_does_not_know_a_flow_says_so() -> None:
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage) as runner:
        with pytest.raises(MethodError):
            await runner.run(Pay, run_id="7")
    async with FlowRunner(storage) as runner:
        with pytest.raises(errors.RunFlowMismatchError, match=r"belongs to the flow .*Pay, which .*runner\.add"):
            await runner.resume("7")
        with pytest.raises(errors.RunNotFoundError):
            await runner.resume("8")
        runner.add(Pay)
        is_broken.clear()
        assert await (await runner.resume("7")).result() == 3
    with pytest.raises(errors.RunnerClosedError):
        await runner.resume("7")


def test_the_schema_declares_the_route() -> None:
    app = FastAPI()
    app.include_router(flow_router(FlowRunner(MemoryFlowPersistence()), [Order, Pay]))

    told = app.openapi()["paths"]["/runs/{run_id}/resume"]["post"]

    assert set(told["responses"]) == {"200", "202", "404", "409", "422", "500", "503"}


# ---- next to the runner ----------------------------------------------------------------------------------------------


@pytest.mark.found("B4")
async def test_a_plain_route_runs_a_flow_of_its_own_on_the_storage_that_the_runner_holds(serve: Serve) -> None:
    """In a thread of the framework's, on an event loop of its own."""
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    is_broken.clear()
    async with serve(storage) as service:
        add(service)

        @service.app.post("/here")
        def here() -> int:
            return int(asyncflow.run(Pay(persistence=storage)))

        answers: list[int] = []

        async def ask() -> None:
            answers.append((await service.http.post("/here")).json())

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
        beside = await service.http.post("/bank/flows/Pay?wait=60")
        listed = (await service.http.get("/bank/runs")).json()["runs"]

    assert answers == [3] * 5
    assert beside.json()["result"] == 3
    assert [run["status"] for run in listed] == ["finished"] * 6
