"""The metrics of runs."""

from typing import Any

import anyio
import pytest

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, Signal, listen, start
from asyncflow.errors import MethodError
from asyncflow.events import Event
from asyncflow.runner.counting import Counting


class Half(Flow):
    @start()
    async def first(self) -> int:
        return 1

    @listen(first)
    async def second(self) -> None:
        raise ConnectionError


class Asks(Flow):
    approved = Signal("approved", bool)

    @start()
    async def ask(self) -> int:
        return 1

    @listen(approved, keep_open=True)
    async def go(self, approved: bool) -> bool:
        return approved


async def test_methods_and_commits_are_measured_in_seconds(told: Any) -> None:
    flow = Half(persistence=MemoryFlowPersistence(), observers=[told.observer()])
    with pytest.raises(MethodError):
        await flow.kickoff()

    points = told.points("asyncflow.method.duration")
    about = [dict(point.attributes) for point in points]
    assert {"asyncflow.flow": "Half", "asyncflow.method": "first"} in about
    assert {"asyncflow.flow": "Half", "asyncflow.method": "second", "error.type": "builtins.ConnectionError"} in about
    assert all(0 <= point.sum < 5 for point in points)
    (commits,) = told.points("asyncflow.checkpoint.duration")
    assert (commits.count, dict(commits.attributes)) == (3, {"asyncflow.flow": "Half"})  # a start, an end, a failure


async def test_the_buckets_distinguish_milliseconds_and_interrupted_attempts_are_not_counted(told: Any) -> None:
    class Waits(Flow):
        @start()
        async def first(self) -> None:
            pass

        @listen(first)
        async def wait(self) -> None:
            await anyio.sleep_forever()

    with anyio.move_on_after(0.05):
        await Waits(persistence=MemoryFlowPersistence(), observers=[told.observer()]).kickoff()

    (method,) = told.points("asyncflow.method.duration")
    assert method.attributes["asyncflow.method"] == "first"
    (commits,) = told.points("asyncflow.checkpoint.duration")
    assert method.explicit_bounds[0] == 0.005
    assert commits.explicit_bounds[0] == 0.0005


async def test_active_runs_are_counted_up_and_down(told: Any) -> None:
    release = anyio.Event()

    class Holds(Flow):
        @start()
        async def hold(self) -> None:
            await release.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(Holds(observers=[told.observer()]).kickoff)
        await anyio.wait_all_tasks_blocked()
        (during,) = told.points("asyncflow.runs.active")
        release.set()

    (after,) = told.points("asyncflow.runs.active")
    assert (during.value, after.value) == (1, 0)


async def test_a_runner_counts_what_it_recovers_and_what_is_parked(told: Any) -> None:
    storage, observer = MemoryFlowPersistence(), told.observer()
    flow = Asks(persistence=storage)
    await flow.kickoff(until="waiting")

    class Waits(Flow):
        @start()
        async def wait(self) -> None:
            await anyio.sleep_forever()

    with anyio.move_on_after(0.05):
        await Waits(persistence=storage).kickoff()
    async with FlowRunner(storage, flows=[Waits, Asks], observers=[observer], grace=0, patience=0) as runner:
        with anyio.fail_after(5):
            while not told.points("asyncflow.recovery.takeovers"):  # noqa: ASYNC110 - a metric sets no event
                await anyio.sleep(0.01)
        counting: Counting = runner._background.counting
        assert await counting.count() == 1
        observer.on_waiting(await counting.count())

    (taken,) = told.points("asyncflow.recovery.takeovers")
    assert (taken.value, dict(taken.attributes)) == (1, {"asyncflow.flow": "Waits"})
    (waiting,) = told.points("asyncflow.runs.waiting")
    assert waiting.value == 1


async def test_a_runner_counts_parked_runs_for_observers_that_measure(monkeypatch: Any) -> None:
    monkeypatch.setattr("asyncflow.runner.counting.FIRST", 0.0)
    counts: list[int] = []

    class Measures:
        def on_event(self, event: Event) -> None: ...

        def on_commit(self, run_id: str, flow: str, seconds: float) -> None: ...

        def on_recovery(self, run_id: str, flow: str) -> None: ...

        def on_waiting(self, count: int) -> None:
            counts.append(count)

    storage = MemoryFlowPersistence()
    await Asks(persistence=storage).kickoff(until="waiting")
    async with FlowRunner(storage, flows=[Asks], observers=[Measures()]):
        with anyio.fail_after(5):
            while not counts:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.01)

    assert counts[0] == 1
