"""A storage that a service and its plain routes share."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

import asyncflow
from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, start


@pytest.mark.found("B4")
def test_a_plain_route_runs_a_flow_on_the_storage_that_the_runner_holds() -> None:
    storage = SQLiteFlowPersistence("runs.db")

    class Double(Flow[dict[str, Any]]):
        persistence = storage

        @start()
        def double(self) -> int:
            return 2 * int(self.state["n"])

    runner = FlowRunner(storage, flows=[Double])

    async def lifespan(app: FastAPI) -> Any:
        async with runner:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/plain/{n}")
    def plain(n: int) -> int:
        return int(asyncflow.run(Double(), {"n": n}))

    @app.get("/owned/{n}")
    async def owned(n: int) -> int:
        return int(await (await runner.start(Double, {"n": n})).result())

    with TestClient(app) as client:
        answers = [client.get(f"/{how}/{n}").json() for n in range(3) for how in ("plain", "owned")]

    assert answers == [0, 0, 2, 2, 4, 4]
