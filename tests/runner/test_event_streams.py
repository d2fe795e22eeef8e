"""The streams of a runner's events: of all its runs, and of one, past and live, also for a reader that is slow."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from owned import Steps, gate, gates, ran, until

import asyncflow
from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, events, listen, start
from asyncflow._runtime import readers
from asyncflow.persistence import Checkpoint, RunEntry


def short(event: events.Event) -> str:
    return " ".join([type(event).__name__, *filter(None, [getattr(event, "invocation", "")])])


ALL = [
    "RunStarted",
    *("MethodStarted first:1", "MethodFinished first:1", "MethodStarted second:1", "MethodFinished second:1"),
    "RunFinished",
]


async def test_a_runner_streams_the_events_of_all_its_runs(storage: Any) -> None:
    seen: dict[str, list[str]] = {}
    async with FlowRunner(storage) as runner:
        stream = runner.events()
        for _ in range(3):
            await runner.run(Steps)
    with anyio.fail_after(60):
        async for event in stream:
            seen.setdefault(event.run_id, []).append(short(event))

    assert list(seen.values()) == [ALL] * 3


async def test_a_handle_gets_live_events_of_a_run_that_its_runner_drives(storage: Any) -> None:
    gate("g")
    seen: list[str] = []
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        with anyio.fail_after(60):
            async for event in handle.events():
                seen.append(short(event))
                gates["g"].set()
        elsewhere = [short(event) async for event in (await other.get("x")).events()]

    stored = [name for name in ALL if not name.startswith("MethodStarted")]
    assert [name for name in seen if not name.startswith("MethodStarted")] == elsewhere == stored
    assert seen[-3:] == ALL[-3:]


class Chatty(Flow[dict[str, Any]]):
    """Each turn is a stored event and many live ones."""

    @start()
    async def go(self) -> int:
        for n in range(300):
            for _ in range(20):
                asyncflow.stream(n)
            await asyncflow.step(step, n)
        return 300

    @listen(go)
    async def end(self) -> None:
        pass


async def step(n: int) -> int:
    return n


@pytest.mark.clauses("O3")
async def test_a_slow_handle_gets_every_stored_event_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch, storage: Any
) -> None:
    monkeypatch.setattr(readers, "LIMIT", 20)
    stored: list[tuple[int, int]] = []
    lost = streamed = 0
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Chatty)
        with anyio.fail_after(120):
            async for event in handle.events():
                if isinstance(event, events.EventsLost):
                    lost += event.count
                elif isinstance(event, events.Streamed):
                    streamed += 1
                elif not event.is_live:
                    stored.append(event.position)
                if len(stored) < 5:
                    await anyio.sleep(0.02)
        everything = [event.position async for event in handle.events(live=False)]

    assert stored == everything
    assert len(stored) > 300
    assert lost > 100
    assert streamed + lost <= 20 * 300 + 2


async def test_a_reader_of_one_run_costs_the_others_no_events(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        gate("g")
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        stream = handle.events()
        await anext(stream)
        heard = runner._live.audience
        assert heard.hears("x")
        assert not heard.hears("y")
        await stream.aclose()
        assert not heard.hears("x")
        gates["g"].set()
        await handle.result()


class Answering(MemoryFlowPersistence):
    """Answers late: a checkpoint is stored for a while before its owner knows it."""

    async def append(self, checkpoint: Checkpoint) -> None:
        await super().append(checkpoint)
        await anyio.sleep(0.05)


@pytest.mark.clauses("O3")
async def test_an_event_that_is_read_before_its_commit_is_answered_comes_once() -> None:
    storage = Answering()
    gate("g")
    gates["g"].set()
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        while (stored := await storage.load("x")) is None or stored.seq < 1:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        with anyio.fail_after(60):
            seen = [short(event) async for event in handle.events(live=False)]

    assert seen == [name for name in ALL if not name.startswith("MethodStarted")]


@pytest.mark.clauses("O3")
def test_a_reader_that_lost_a_part_of_a_checkpoint_has_a_gap() -> None:
    reader = readers.Reader("x", rereads=True)
    for n in range(readers.LIMIT + 1):
        reader.put(events.RunFinished(run_id="x", flow="F", seq=n // 2, n=n % 2, at=0.0))

    assert reader.take(-1) is None
    assert reader.has_gap


class Quiet(Flow):
    """Emits many stored events and no live one, once its gate is open."""

    @start()
    async def go(self) -> None:
        ran.append("go")
        await gates["g"].wait()
        for n in range(100):
            await asyncflow.step(step, n)


@pytest.mark.clauses("O3")
async def test_what_is_dropped_while_the_history_is_read_out_is_read_again(
    monkeypatch: pytest.MonkeyPatch, storage: Any
) -> None:
    monkeypatch.setattr(readers, "LIMIT", 20)
    gate("g")
    seen: list[tuple[int, int]] = []
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Quiet)
        await until(lambda: ran)
        with anyio.fail_after(60):
            async for event in handle.events(live=False):
                seen.append(event.position)
                if len(seen) == 1:
                    gates["g"].set()
                    await handle.result()
        everything = [event.position async for event in handle.events(live=False)]

    assert seen == everything
    assert len(seen) > 100


class Late(MemoryFlowPersistence):
    """Lists a run as it first was, as long as `is_late`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_late = True
        self.looks = 0
        self.frozen: list[RunEntry] = []

    async def runs(self, **query: Any) -> list[RunEntry]:
        self.looks += 1
        await anyio.lowlevel.checkpoint()
        found = await super().runs(**query)
        self.frozen = self.frozen or found
        return self.frozen if self.is_late else found


class Halfway(Flow):
    @start()
    async def go(self) -> None:
        await gates["g"].wait()
        for n in range(100):
            await asyncflow.step(step, n)
        ran.append("steps")
        await gates["end"].wait()


@pytest.mark.clauses("O3")
async def test_a_catalog_that_lags_behind_is_not_asked_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LIMIT", 20)
    gate("g")
    gate("end")
    seen: list[tuple[int, int]] = []
    looks = 0

    async def catch_up() -> None:
        nonlocal looks
        before = storage.looks
        await anyio.sleep(0.3)
        looks = storage.looks - before
        storage.is_late = False
        gates["end"].set()

    storage = Late()
    async with FlowRunner(storage, recover_every=None) as runner, anyio.create_task_group() as group:
        handle = await runner.start(Halfway)
        with anyio.fail_after(60):
            async for event in handle.events(live=False):
                seen.append(event.position)
                if len(seen) == 1:
                    gates["g"].set()
                    await until(lambda: ran == ["steps"])
                    group.start_soon(catch_up)
        everything = [event.position async for event in handle.events(live=False)]

    assert seen == everything
    assert len(seen) > 100
    assert 1 <= looks <= 40  # some ten pauses that become longer; thousands without
