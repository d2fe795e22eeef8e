"""Runs that a runner parks and wakes, and what waiting runs hold of a runner: no slot, and no place."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest
from moments import later
from owned import Steps, until

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    Retry,
    Signal,
    after,
    and_,
    listen,
    sleep,
    start,
    wait_for,
)
from asyncflow.errors import FlowDefinitionError, RunInputsError
from asyncflow.events import RunFinished
from asyncflow.persistence import SQLiteFlowPersistence
from asyncflow.persistence.protocol import RunEntry
from asyncflow.runner.background import AT_ONCE, Background

HOUR = 3600.0
begun: list[str] = []


@pytest.fixture(autouse=True)
def _anew() -> None:
    begun.clear()


class Joins(Flow[dict]):
    name = "Joins"
    answered = Signal("answered", str)

    @start()
    async def draft(self) -> str:
        begun.append(self.run_id)
        return "a draft"

    @listen(and_(draft, answered))
    async def end(self, draft: str, answered: str) -> str:
        return f"{draft}: {answered}"


class Reminds(Flow[dict]):
    name = "Reminds"

    @start()
    async def ask(self) -> str:
        begun.append(self.run_id)
        return "well?"

    @listen(after(ask, HOUR))
    async def remind(self, question: str) -> str:
        return f"again: {question}"


class Within(Flow[dict]):
    """Waits in a method."""

    name = "Within"
    answered = Signal("answered", str)

    @start()
    async def ask(self) -> str:
        begun.append(self.run_id)
        return await wait_for(self.answered)


async def are(status: str, storage: Any, count: int) -> None:
    with anyio.fail_after(60):
        while len(await storage.runs(status=status, limit=1000)) < count:  # noqa: ASYNC110 - no event reports what is stored
            await anyio.sleep(0.005)


@pytest.mark.clauses("W11")
async def test_waiting_runs_starve_no_others(storage: Any) -> None:
    async with FlowRunner(storage, max_running=3, max_queued=0, overload="raise") as runner:
        for _ in range(10):
            handle = await runner.start(Joins)
            await are("waiting", storage, 1)
            await until(lambda: runner.running == 0)
            assert await handle.status() == "waiting"
        assert await runner.run(Steps) == 2
        assert len(await storage.runs(status="waiting")) == 10


@pytest.mark.clauses("W11")
async def test_a_signal_wakes_a_parked_run_and_its_handles_get_the_result(storage: Any) -> None:
    results: list[str] = []
    events: list[str] = []
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Joins)
        await are("waiting", storage, 1)
        other = await runner.get(handle.run_id)

        async def awaited(of: Any) -> None:
            results.append(await of.result())

        async def listened() -> None:
            events.extend([type(event).__name__ async for event in handle.events(live=False)])

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(awaited, handle)
                group.start_soon(awaited, other)
                group.start_soon(listened)
                await anyio.sleep(0.05)
                assert await handle.signal(Joins.answered, "yes")

    assert results == ["a draft: yes"] * 2
    assert events == ["RunStarted", "MethodFinished", "SignalTaken", "MethodFinished", RunFinished.__name__]
    assert begun == [handle.run_id]


@pytest.mark.clauses("W11", "W1")
async def test_any_runner_wakes_a_run_that_is_due(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        run_id = (await runner.start(Reminds)).run_id
        await are("waiting", storage, 1)
    with later(HOUR + 1):
        async with FlowRunner(storage, flows=[Reminds]) as runner:
            with anyio.fail_after(60):
                assert await (await runner.get(run_id)).result() == "again: well?"

    assert begun == [run_id]


@pytest.mark.clauses("W11")
@pytest.mark.parametrize("slots", [1_000, 3, 1])
async def test_of_many_due_runs_some_are_woken_at_once_and_the_next_when_these_have_begun(
    slots: int, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two periodic looks are an hour apart."""
    count, waking = 3 * AT_ONCE if slots > AT_ONCE else 30, list[int]()
    wake = Background._wake

    async def counted(self: Background, entry: RunEntry) -> bool:
        is_woken = await wake(self, entry)
        if is_woken:
            waking.append(len(self._woken))
        return is_woken

    monkeypatch.setattr(Background, "_wake", counted)
    storage.poll_seconds = HOUR
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(partial(Reminds(persistence=storage).kickoff, until="waiting"))
    with later(HOUR + 1):
        async with FlowRunner(storage, flows=[Reminds], max_running=slots):
            with anyio.fail_after(50):
                await are("finished", storage, count)

    assert len(waking) == count
    assert max(waking) <= AT_ONCE
    is_limited = slots < AT_ONCE or isinstance(storage, MemoryFlowPersistence)  # in memory, each begins at once
    assert is_limited or max(waking) > AT_ONCE // 2


@pytest.mark.clauses("W11")
async def test_a_runner_leaves_runs_of_other_flows_and_runs_that_are_not_due(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        for flow in (Joins, Reminds):
            await runner.start(flow)
        await are("waiting", storage, 2)
    async with FlowRunner(storage, flows=[Joins]) as runner:
        await anyio.sleep(0.6)
        assert runner.running == 0
    with later(HOUR + 1):
        async with FlowRunner(storage, flows=[Joins]) as runner:
            await anyio.sleep(0.6)
            assert [e.flow for e in await storage.runs(status="waiting")] == ["Reminds", "Joins"]


@pytest.mark.clauses("W11")
async def test_a_kickoff_follows_a_run_that_a_runner_wakes(storage: Any) -> None:
    run = Joins(persistence=storage)
    results: list[str] = []

    async def drive() -> None:
        results.append(await run.kickoff())

    with anyio.fail_after(60):
        async with FlowRunner(storage, flows=[Joins]) as runner, anyio.create_task_group() as group:
            group.start_soon(drive)
            await are("waiting", storage, 1)
            await (await runner.get(run.run_id)).signal(Joins.answered, "yes")

    assert results == ["a draft: yes"]
    assert begun == [run.run_id]


@pytest.mark.clauses("W11")
async def test_a_class_that_is_gone_leaves_its_parked_run_to_others(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with FlowRunner(storage) as runner:
        run_id = (await runner.start(Reminds)).run_id
        await are("waiting", storage, 1)

    class Changed(Flow[dict]):
        name = "Reminds"

        @start()
        async def ask(self) -> str:
            return ""

    with later(HOUR + 1):
        with caplog.at_level(logging.WARNING, "asyncflow"):
            async with FlowRunner(storage, flows=[Changed]):
                await until(lambda: "run stopped unexpectedly" in caplog.text)
        async with FlowRunner(storage, flows=[Reminds]) as runner:
            with anyio.fail_after(60):
                assert await (await runner.get(run_id)).result() == "again: well?"


async def test_a_failing_look_is_logged_once_and_repeated(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    looks = 0
    parked = storage.parked

    async def failing(*given: Any, **named: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks < 4:
            raise OSError("no answer")
        return await parked(*given, **named)

    storage.parked = failing
    async with FlowRunner(storage, flows=[Joins]) as runner:
        handle = await runner.start(Joins)
        await until(lambda: looks > 3)
        await are("waiting", storage, 1)
        await handle.signal(Joins.answered, "yes")
        assert await handle.result() == "a draft: yes"

    assert caplog.text.count("look for waiting runs failed") == 1


# ---- waits in memory ---------------------------------------------------------------------------------------------


@pytest.mark.clauses("W11")
async def test_runs_whose_methods_wait_hold_neither_a_slot_nor_a_place(storage: Any) -> None:
    async with FlowRunner(storage, max_running=2, max_queued=0, overload="raise") as runner:
        handles = []
        for n in range(6):
            handles.append(await runner.start(Within))
            await until(lambda n=n: len(begun) == n + 1 and not runner.is_full)
        assert runner.running == 6
        assert await runner.run(Steps) == 2
        for handle in handles:
            await handle.signal(Within.answered, "yes")
        with anyio.fail_after(60):
            assert [await handle.result() for handle in handles] == ["yes"] * 6
    assert len(begun) == 6


@pytest.mark.clauses("W11")
async def test_a_method_of_which_one_branch_still_waits_holds_no_slot_once_another_has_ended(storage: Any) -> None:
    has_ended = anyio.Event()

    class Branching(Flow[dict]):
        name = "Branching"

        @start()
        async def wait(self) -> None:
            async def short() -> None:
                await sleep(0.01, key="short")
                has_ended.set()

            async with anyio.create_task_group() as group:
                group.start_soon(short)
                group.start_soon(partial(sleep, 86_400, key="long"))

    async with FlowRunner(storage, max_running=1) as runner:
        await runner.start(Branching)
        with anyio.fail_after(60):
            await has_ended.wait()
            assert await runner.run(Steps) == 2


@pytest.mark.clauses("W11")
async def test_what_a_wait_ends_for_comes_before_new_runs(storage: Any) -> None:
    order: list[str] = []

    class Naps(Flow[dict]):
        name = "Naps"

        @start()
        async def nap(self) -> None:
            await sleep(0.2)
            order.append("woken")

    class Works(Flow[dict]):
        name = "Works"

        @start()
        async def work(self) -> None:
            await anyio.sleep(0.2)
            order.append("new")

    async with FlowRunner(storage, max_running=1) as runner:
        first = await runner.start(Naps)
        others = [await runner.start(Works) for _ in range(6)]
        for handle in (first, *others):
            await handle.result()

    assert order.index("woken") < 6  # those that queue up before it would come first
    assert len(order) == 7


@pytest.mark.clauses("W11", "R2")
@pytest.mark.parametrize("kind", ["retry", "timer", "sleep"])
async def test_no_more_methods_run_at_once_than_there_are_slots_also_after_waits(kind: str, storage: Any) -> None:
    at_once = most = 0

    async def work() -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(0.01)
        at_once -= 1

    class Retrying(Flow[dict]):
        name = "Retrying"

        @start(retry=Retry(initial=0.05, jitter=0))
        async def call(self) -> None:
            await work()
            if not self.state.get("x") and begun.count(self.run_id) < 2:
                begun.append(self.run_id)
                raise ConnectionError

    class Timed(Flow[dict]):
        name = "Timed"

        @start()
        async def call(self) -> None:
            await work()

        @listen(after(call, 0.05))
        async def again(self) -> None:
            await work()

    class Sleeping(Flow[dict]):
        name = "Sleeping"

        @start()
        async def call(self) -> None:
            await work()
            await sleep(0.05)
            await work()

    flow: Any = {"retry": Retrying, "timer": Timed, "sleep": Sleeping}[kind]
    async with FlowRunner(storage, max_running=2) as runner:
        handles = [await runner.start(flow) for _ in range(12)]
        with anyio.fail_after(60):
            for handle in handles:
                await handle.result()
        assert runner._places.slots.free == 2

    assert most == 2


async def test_a_run_that_waits_in_a_method_is_stopped_at_once_and_resumed_elsewhere(storage: Any) -> None:
    async with FlowRunner(storage, max_running=1) as runner:
        run_id = (await runner.start(Within)).run_id
        await until(lambda: len(begun) == 1 and not runner.is_full)
    async with FlowRunner(storage, flows=[Within], max_running=1) as runner:
        await until(lambda: len(begun) == 2)
        await (await runner.get(run_id)).signal(Within.answered, "yes")
        with anyio.fail_after(60):
            assert await (await runner.get(run_id)).result() == "yes"


async def test_two_runners_of_one_file_wake_each_run_once() -> None:
    here, there = SQLiteFlowPersistence("runs.db"), SQLiteFlowPersistence("runs.db")
    async with FlowRunner(here, flows=[Joins]) as one, FlowRunner(there, flows=[Joins]) as other:
        handles = [await (one if n % 2 else other).start(Joins) for n in range(40)]
        await are("waiting", here, 40)
        for n, handle in enumerate(handles):
            await (await (other if n % 2 else one).get(handle.run_id)).signal(Joins.answered, str(n))
        with anyio.fail_after(60):
            results = [await handle.result() for handle in handles]

    assert results == [f"a draft: {n}" for n in range(40)]
    assert len(begun) == 40


# ---- the daily sweep ---------------------------------------------------------------------------------------------


async def test_a_sweep_reports_runs_that_wait_for_long(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with FlowRunner(storage, waiting_warning=timedelta(days=7)) as runner:
        handles = [await runner.start(Joins) for _ in range(3)]
        await are("waiting", storage, 3)
        await runner._background.sweep.sweep()
        assert "wait for long" not in caplog.text
        with later(8 * 24 * HOUR):
            await runner._background.sweep.sweep()

    assert f"3 runs have waited for more than 7 days, the longest {handles[0].run_id} of Joins" in caplog.text


@pytest.mark.clauses("W11")
async def test_a_sweep_wakes_a_run_whose_wake_time_was_damaged(caplog: pytest.LogCaptureFixture) -> None:
    storage = SQLiteFlowPersistence("runs.db")
    async with FlowRunner(storage) as runner:
        good, bad = await runner.start(Reminds), await runner.start(Reminds)
        await are("waiting", storage, 2)
        due = {entry.run_id: entry.wake_at for entry in await storage.runs()}
        with closing(sqlite3.connect("runs.db")) as connection, connection:
            connection.execute("UPDATE runs SET wake_at = 9e15 WHERE run_id = ?", (bad.run_id,))
        await runner._background.sweep.sweep()
        await until(lambda: runner.running == 0)
        await are("waiting", storage, 2)
        assert {entry.run_id: entry.wake_at for entry in await storage.runs()} == due

    assert caplog.text.count("wake time wrong") == 1
    assert f"wake time wrong: {bad.run_id}" in caplog.text
    assert good.run_id not in caplog.text


@pytest.mark.parametrize(
    "setting", [{"waiting_warning": 0}, {"waiting_warning": "long"}, {"waiting_warning": -1}, {"park_after": -1}]
)
def test_settings_of_waiting_runs_are_checked(setting: Any) -> None:
    with pytest.raises(ValueError, match=r"waiting_warning|park_after"):
        FlowRunner(MemoryFlowPersistence(), **setting)


@pytest.mark.clauses("W11")
@pytest.mark.parametrize("is_due", [False, True])
async def test_a_refused_call_leaves_a_parked_run_parked(is_due: bool, storage: Any) -> None:
    run = Joins(persistence=storage)
    await run.kickoff(until="waiting")
    if is_due:
        await Joins.signal(run.run_id, Joins.answered, "yes", persistence=storage)

    class Lost(Flow[dict]):
        name = "Joins"

        answered = Signal("answered", str)

        @start()
        async def draft_again(self) -> None: ...

        @listen(and_(draft_again, answered))
        async def end_again(self) -> None: ...

    async def is_parked() -> bool:
        return [entry.status for entry in await storage.runs(run_id=run.run_id)] == ["waiting"]

    assert await is_parked()
    with pytest.raises(RunInputsError):
        await Joins(persistence=storage).kickoff({"id": run.run_id, "given": 1})
    assert await is_parked()
    with pytest.raises(FlowDefinitionError):
        await Lost.resume(run.run_id, persistence=storage)
    assert await is_parked()
    async with FlowRunner(storage, recover_every=None) as runner:
        with pytest.raises(RunInputsError):
            await runner.start(Joins, {"given": 1}, run_id=run.run_id)
        assert is_due or await is_parked()
        if not is_due:
            await Joins.signal(run.run_id, Joins.answered, "yes", persistence=storage)
        with anyio.fail_after(60):
            assert await (await runner.get(run.run_id)).result() == "a draft: yes"
