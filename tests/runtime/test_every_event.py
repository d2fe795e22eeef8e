"""Every kind of event occurs: under a bare kickoff and a runner, stored and not. And the ends of runs that no process drives."""

from typing import Any

import anyio
import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Retry,
    Signal,
    after,
    events,
    listen,
    or_,
    run_child,
    sleep,
    start,
    step,
)

KINDS = {
    name
    for name, kind in vars(events).items()
    if isinstance(kind, type) and issubclass(kind, events.Event) and kind is not events.Event
} - {"EventsLost"}
"""All of them but the one that is made for a slow reader."""

ONCE = Retry(attempts=2, initial=0)
STORAGES = pytest.mark.parametrize("storage", [None, MemoryFlowPersistence], ids=["forgets", "memory"])


class Seen:
    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def on_event(self, event: events.Event) -> None:
        self.events.append(event)

    @property
    def kinds(self) -> set[str]:
        return {type(event).__name__ for event in self.events}

    def of(self, flow: str) -> list[str]:
        return [type(event).__name__ for event in self.events if event.flow == flow]


class Child(Flow[dict[str, Any]]):
    @start()
    async def work(self) -> int:
        return 1


class All(Flow[dict[str, Any]]):
    answer = Signal("answer", str)
    tries: int

    @start(retry=ONCE)
    async def one(self) -> None:
        self.tries = getattr(self, "tries", 0) + 1
        asyncflow.report(1)
        asyncflow.stream(2)
        if self.tries == 1:
            raise OSError

    @start()
    async def two(self) -> None:
        pass

    @listen(or_(one, two))
    async def either(self) -> None:
        self.tries = 0
        await step(self.pay, retry=ONCE)
        await sleep(0.001)
        await run_child(Child)

    async def pay(self) -> None:
        self.tries += 1
        if self.tries == 1:
            raise OSError

    @listen(after(either, 0.001))
    async def late(self) -> None:
        pass

    @listen(answer, keep_open=True)
    async def take(self, text: str) -> str:
        return text


class Fails(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        raise ValueError


class Hangs(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        await anyio.sleep_forever()


class Asks(Flow[dict[str, Any]]):
    answer = Signal("answer", str)

    @start()
    async def go(self) -> None:
        pass

    @listen(answer, keep_open=True)
    async def take(self, text: str) -> str:
        return text


async def until(seen: Seen, kind: str) -> None:
    with anyio.fail_after(30):
        while kind not in seen.kinds:  # noqa: ASYNC110 - an observer is told of no end
            await anyio.sleep(0.001)


async def refused(call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises((asyncflow.MethodError, asyncflow.errors.RunCancelledError)):
        await call(*args, **options)


@pytest.mark.clauses("O1")
@STORAGES
async def test_a_bare_kickoff_has_every_event(storage: Any) -> None:
    seen, where = Seen(), storage and storage()
    options: dict[str, Any] = {"persistence": where, "observers": [seen]}
    async with anyio.create_task_group() as group:
        flow = All(**options)
        group.start_soon(flow.kickoff)
        await until(seen, "TimerFired")
        await All.signal(flow.run_id, "answer", "yes", persistence=where)
    async with anyio.create_task_group() as group:
        hangs = Hangs(**options)
        group.start_soon(refused, hangs.kickoff)
        await anyio.wait_all_tasks_blocked()
        await hangs.cancel()
    with anyio.move_on_after(0.02):
        await Hangs(**options).kickoff()
    fails = Fails(**options)
    await refused(fails.kickoff)
    missing = set[str]()
    if where is None:
        missing = {"RunResumed", "RunWaiting", "StateEdited"}  # of runs that are stored
    else:
        await fails.update_state(n=1)
        await refused(Fails.resume, fails.run_id, **options)
        await Asks(**options).kickoff(until="waiting")

    assert KINDS - seen.kinds == missing
    assert where is not None or all(event.is_live for event in seen.events)


@pytest.mark.clauses("O1")
async def test_a_runner_has_every_event_of_what_it_drives() -> None:
    seen = Seen()
    storage = MemoryFlowPersistence()
    async with FlowRunner(storage, observers=[seen], park_after=0.02, grace=0, patience=0) as runner:
        stream = runner.events()
        handle = await runner.start(All)
        await until(seen, "RunWaiting")
        await handle.signal("answer", "yes")
        assert await handle.result() == "yes"
        fails = await runner.start(Fails)
        await refused(fails.result)
        await refused((await runner.resume(fails.run_id)).result)
        hangs = await runner.start(Hangs)
        await anyio.wait_all_tasks_blocked()
        await hangs.cancel()
        await runner.start(Hangs)
        await anyio.wait_all_tasks_blocked()
    streamed = {type(event).__name__ async for event in stream}

    assert KINDS - seen.kinds == KINDS - streamed == {"StateEdited"}  # a runner edits no state


# ---- ends of runs that no process drives --------------------------------------------------------------------------------


@pytest.mark.clauses("O1")
async def test_a_runner_has_an_event_of_a_run_that_it_cancels_while_no_process_drives_it() -> None:
    seen, storage = Seen(), MemoryFlowPersistence()
    with anyio.move_on_after(0.02):
        await Hangs(persistence=storage).kickoff({"id": "x"})
    async with FlowRunner(storage, observers=[seen], recover_every=None) as runner:
        stream = runner.events()
        await runner.cancel("x")
        await runner.cancel("x")  # it is over: nothing happens
        told = [event async for event in (await runner.get("x")).events()]

    assert seen.of("Hangs") == ["RunCancelled"]
    assert [event async for event in stream] == seen.events == told[-1:]
    assert not seen.events[0].is_live


@pytest.mark.parametrize(("call", "end"), [("cancel", "RunCancelled"), ("finish", "RunFinished")])
async def test_a_parked_run_that_its_handle_ends_has_an_event_of_it(call: str, end: str) -> None:
    seen = Seen()
    async with FlowRunner(MemoryFlowPersistence(), observers=[seen], park_after=0) as runner:
        handle = await runner.start(Asks)
        await until(seen, "RunWaiting")
        with anyio.fail_after(30):
            while await handle.status() != "waiting":  # noqa: ASYNC110 - it is parked soon after the event
                await anyio.sleep(0.001)
        await getattr(handle, call)()

    assert seen.of("Asks")[-2:] == ["RunWaiting", end]


async def test_a_parked_run_that_its_flow_object_cancels_has_an_event_of_it() -> None:
    seen = Seen()
    flow = Asks(persistence=MemoryFlowPersistence(), observers=[seen])
    async with anyio.create_task_group() as group:
        group.start_soon(refused, flow.kickoff)
        await until(seen, "RunWaiting")
        await flow.cancel()

    assert seen.of("Asks")[-2:] == ["RunWaiting", "RunCancelled"]


class Above(Flow[dict[str, Any]]):
    @start()
    async def go(self) -> None:
        await run_child(Hangs)


async def test_observers_see_that_the_child_of_a_cancelled_run_is_cancelled_and_readers_of_its_parent_do_not() -> None:
    seen = Seen()
    flow = Above(persistence=MemoryFlowPersistence(), observers=[seen])
    stream = flow.events()
    async with anyio.create_task_group() as group:
        group.start_soon(refused, flow.kickoff)
        await until(seen, "ChildStarted")
        await anyio.wait_all_tasks_blocked()
        await flow.cancel()

    assert seen.of("Above")[-1] == seen.of("Hangs")[-1] == "RunCancelled"
    assert {event.flow async for event in stream} == {"Above"}
