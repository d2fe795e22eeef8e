"""The events of a run, as they happen, from any of them on, until its end."""

from typing import Any

import anyio
from owned import Steps, gate, gates

from asyncflow import FlowRunner, events


def told(event: events.Event) -> str:
    name = type(event).__name__
    return f"{name} {event.invocation}" if isinstance(event, events.MethodFinished | events.MethodFailed) else name


ALL = ["RunStarted", "MethodFinished first:1", "MethodFinished second:1", "RunFinished"]


async def test_events_are_reported_as_they_occur_and_until_the_end(storage: Any) -> None:
    gate("g")
    seen: list[str] = []
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        with anyio.fail_after(120):
            async for event in handle.events(live=False):
                seen.append(told(event))
                if seen == ALL[:1]:
                    gates["g"].set()

        assert seen == ALL
        assert [told(event) async for event in (await runner.get("x")).events()] == ALL


async def test_events_resume_after_a_given_one(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        all_events = [event async for event in handle.events(live=False)]
        for n, last in enumerate(all_events):
            rest = [event async for event in handle.events(after=(last.seq, last.n))]
            assert rest == all_events[n + 1 :]


async def test_events_of_a_run_that_fails_end(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"fails": True})
        with anyio.fail_after(120):
            seen = [told(event) async for event in handle.events(live=False)]

    assert seen == [*ALL[:2], "MethodFailed second:1", "RunFailed"]


async def test_events_of_a_run_elsewhere_are_reported(storage: Any) -> None:
    gate("g")
    seen: list[str] = []
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with anyio.fail_after(120):
            async for event in (await other.get("x")).events():
                seen.append(told(event))
                gates["g"].set()

    assert seen == ALL


async def test_events_after_one_that_there_never_was_end_with_the_run(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        with anyio.fail_after(120):
            assert [event async for event in handle.events(after=(99, 0))] == []
