"""Attaching to a run that this runner or another owner drives, by its id or by the same start."""

from typing import Any

import anyio
import pytest
from owned import Other, Steps, gate, gates, left_behind, ran, until

from asyncflow import FlowRunner, errors


async def test_a_run_is_attached_to_by_its_id(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        here, there = await runner.get("x"), await other.get("x")
        assert await here.status() == "running"
        gates["g"].set()

        assert await here.result() == 2
        assert await there.result() == 2
        with pytest.raises(errors.RunNotFoundError):
            await runner.get("unknown")


async def test_a_start_of_a_run_that_another_runner_drives_attaches(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        handle = await other.start(Steps, {"gate": "g"}, run_id="x")
        gates["g"].set()

        assert await handle.result() == 2
    assert ran == ["x first", "x second"]


async def test_a_run_that_was_recovered_is_attached_to_with_its_own_inputs(storage: Any) -> None:
    await left_behind(storage)
    gate("g")  # shut again
    async with FlowRunner(storage, flows=[Steps]) as runner:
        await until(lambda: len(ran) == 2)
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"gate": "g", "n": 1}, run_id="x")
        gates["g"].set()

        assert await handle.result() == 2


async def test_other_inputs_for_a_run_that_another_runner_drives_are_refused(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await other.start(Steps, {"gate": "g", "n": 1}, run_id="x")
        gates["g"].set()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_run_of_another_flow_is_not_attached_to(storage: Any, where: str) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunFlowMismatchError):
            await (runner if where == "here" else other).start(Other, {"gate": "g"}, run_id="x")
        gates["g"].set()


async def test_what_two_runners_start_at_once_is_stored_for_both(storage: Any) -> None:
    seen: list[str] = []

    async def ask(runner: FlowRunner) -> None:
        seen.append((await (await runner.start(Steps, {"n": 1}, run_id="x")).snapshot()).flow)

    async with FlowRunner(storage) as one, FlowRunner(storage) as other, anyio.create_task_group() as group:
        group.start_soon(ask, one)
        group.start_soon(ask, other)

    assert seen == ["Steps", "Steps"]
    assert ran == ["x first", "x second"]
