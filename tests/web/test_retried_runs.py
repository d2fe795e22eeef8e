"""Retries and time limits behind HTTP: events of attempts, and a run whose time limit passed."""

from __future__ import annotations

from typing import Any

import anyio
from shop import Serve

from asyncflow import Flow, FlowState, Retry, start, this_invocation
from asyncflow.integrations.fastapi import flow_router


class Ring(Flow[FlowState]):
    @start(retry=Retry(initial=0))
    async def ring(self) -> int:
        if this_invocation().attempt < 3:
            raise ConnectionError("no answer")
        return this_invocation().attempt


class Late(Flow[FlowState]):
    run_timeout = 0.05

    @start()
    async def wait(self) -> None:
        await anyio.sleep_forever()


def add(service: Any) -> None:
    service.app.include_router(flow_router(service.runner, [Ring, Late], prefix="/bell"))


async def test_the_events_of_a_run_show_its_failed_attempts(serve: Serve) -> None:
    async with serve() as service:
        add(service)
        answer = await service.http.post("/bell/flows/Ring?wait=60")
        stream = await service.http.get(f"{answer.headers['location']}/events")

    assert (answer.json()["status"], answer.json()["result"]) == ("finished", 3)
    assert stream.text.count('"event":"MethodRetrying"') == 2
    assert '"attempt":1' in stream.text
    assert '"type":"builtins.ConnectionError"' in stream.text


async def test_a_run_whose_time_limit_passed_is_shown_as_failed(serve: Serve) -> None:
    async with serve() as service:
        add(service)
        answer = await service.http.post("/bell/flows/Late?wait=60")
        shown = await service.http.get(answer.headers["location"])

    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert shown.json() == answer.json()
    assert "RunTimeoutError" in str(shown.json()["error"])
