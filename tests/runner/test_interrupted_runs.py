"""A runner looks for interrupted runs of the flows that it knows, and resumes them."""

from functools import partial
from typing import Any

import anyio
from owned import Other, Steps, gate, gates, left_behind, ran, until

from asyncflow import FlowRunner, MemoryFlowPersistence


async def test_interrupted_runs_of_known_flows_are_recovered(storage: Any) -> None:
    await left_behind(storage)

    async with FlowRunner(storage, flows=[Steps]) as runner:
        await until(lambda: len(ran) == 4 and not runner.running)

    assert sorted(ran) == ["x first", "x second", "y first", "y second"]
    assert (await Other.load("other", persistence=storage)).status == "interrupted"


async def test_interrupted_runs_are_looked_for_again_and_again(storage: Any) -> None:
    async with FlowRunner(storage, flows=[Steps], recover_every=0.01) as runner:
        await left_behind(storage)  # one may be recovered before what ran is forgotten
        await until(lambda: {"x second", "y second"} <= set(ran) and not runner.running)

        assert await runner.run(Steps, run_id="x") == 2


async def test_a_run_that_is_driven_is_left_alone(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, flows=[Steps], recover_every=0.005) as runner:
        async with FlowRunner(storage) as one:
            handle = await one.start(Steps, {"gate": "g"}, run_id="x")
            await anyio.sleep(0.05)
            assert await (await runner.get("x")).status() == "running", "whoever drives it"
            gates["g"].set()
            assert await handle.result() == 2

    assert ran == ["x first", "x second"]


class Slow(MemoryFlowPersistence):
    """A catalog that is out of date when it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = anyio.Event(), anyio.Event()

    async def runs(self, **which: Any) -> Any:
        page = await super().runs(**which)
        self.asked.set()
        await self.may_answer.wait()
        return page


async def test_a_runner_that_ends_while_it_looks_for_runs_drains_all_the_same() -> None:
    storage = Slow()
    await left_behind(storage)
    gate("g")

    async def open_later() -> None:
        storage.may_answer.set()
        await anyio.sleep(0.01)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, flows=[Steps], recover_every=0) as runner:
            await storage.asked.wait()
            handle = await runner.start(Steps, {"gate": "g"})
            group.start_soon(open_later)

    assert await handle.result() == 2


async def test_a_run_that_was_started_while_it_was_to_be_recovered_is_not_recovered_too(storage: Any) -> None:
    await left_behind(storage)
    async with FlowRunner(storage, flows=[Steps], max_running=2, max_queued=0, recover_every=None) as runner:
        for name in ("one", "two", "g"):
            gate(name)
        for name in ("one", "two"):
            await runner.start(Steps, {"gate": name})
        async with anyio.create_task_group() as group:
            for waits_for_a_place in (partial(runner.start, Steps, run_id="y"), runner.recover):
                group.start_soon(waits_for_a_place)
                await anyio.wait_all_tasks_blocked()
            for name in ("one", "two", "g"):
                gates[name].set()
                await anyio.wait_all_tasks_blocked()
        await until(lambda: not runner.running)

    assert sorted(line for line in ran if line[1] == " ") == ["x first", "x second", "y first", "y second"]
