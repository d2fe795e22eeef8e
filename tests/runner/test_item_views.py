"""What others see of a run that works on a list: events, also over HTTP and from any of them on; its history; its text."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    each,
    events,
    listen,
    start,
    this_invocation,
)
from asyncflow.integrations.fastapi import flow_router, lifespan

STEPS = [
    "MethodFinished fetch:1",
    "MethodFinished work:1[0]",
    "MethodRetrying work:1[1]",
    "MethodFinished work:1[1]",
    "MethodFinished work:1[2]",
    "MethodFinished work:1",
    "MethodFinished add:1",
]
ALL = ["RunStarted", *STEPS, "RunFinished"]


class Listed(Flow[dict]):
    """One item after the other; the second has to be tried again, and fails for good if it is told so."""

    @start()
    async def fetch(self) -> list[int]:
        return [1, 2, 3]

    @listen(each(fetch), limit=1, retry=Retry(attempts=2, initial=0.001, jitter=0.0))
    async def work(self, n: int) -> int:
        if n == 2 and (this_invocation().attempt == 1 or self.state.get("fails")):
            raise ValueError(n)
        return n

    @listen(work)
    async def add(self, results: list[int]) -> int:
        return sum(results)


def told(event: events.Event) -> str:
    return f"{type(event).__name__} {getattr(event, 'invocation', '')}".strip()


async def test_events_name_each_item_and_then_the_whole_list_and_resume_after_any_of_them(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Listed)
        assert await handle.result() == 6
        found = [event async for event in handle.events()]
        assert [told(event) for event in found] == ALL
        for n, last in enumerate(found):
            assert [event async for event in handle.events(after=(last.seq, last.n))] == found[n + 1 :]


async def test_what_a_list_has_enabled_is_in_the_event_of_the_whole(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Listed)
        await handle.result()
        ends = [event async for event in handle.events() if isinstance(event, events.MethodFinished)]

    assert [(event.invocation, event.enabled) for event in ends if event.enabled] == [
        ("fetch:1", ("work:1",)),
        ("work:1", ("add:1",)),
    ]


async def test_a_failed_item_is_named_by_its_event_the_history_and_the_pending_invocations(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Listed, {"fails": True})
        with pytest.raises(MethodError, match=r"work:1\[1\]"):
            await handle.result()
        last = [told(event) async for event in handle.events()][-2:]
        view = await handle.snapshot()
    flow = await Listed.load(handle.run_id, persistence=storage)

    assert last == ["MethodFailed work:1[1]", "RunFailed"]
    assert view.error is not None
    assert view.error.invocation_id.endswith("/work:1[1]")
    assert [entry.method for entry in await flow.history()][1:] == ["fetch:1", "work:1[0]", "work:1[1]", "work:1[1]"]
    assert flow.pending == ("work:1", "work:1[1]")
    assert handle.run_id in repr(flow)


def test_a_stream_continues_between_the_last_item_and_its_list() -> None:
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [Listed]))
    with TestClient(app) as client:
        run_id = client.post("/flows/Listed?wait=30", json={}).json()["run_id"]
        stream = client.get(f"/runs/{run_id}/events").text
        ids = [line.removeprefix("id: ") for line in stream.splitlines() if line.startswith("id: ")]
        rests = [client.get(f"/runs/{run_id}/events", headers={"Last-Event-ID": each}).text for each in ids[:-1]]

    assert len(ids) == len(ALL)
    assert all(stream.endswith(rest) for rest in rests)
    assert [rest.count("id: ") for rest in rests] == list(range(len(ids) - 1, 0, -1))
