"""Looking at a run by its id: its state, its failure, its flow known or not."""

import contextlib
from typing import Any

from owned import Steps, Work, gate, gates

from asyncflow import FlowRunner, errors
from asyncflow.runner import RunFailure


async def test_a_run_is_looked_at(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        begun = await handle.snapshot()
        gates["g"].set()
        await handle.result()
        ended = await (await runner.get("x")).snapshot()

    assert (begun.status, begun.seq, begun.pass_number, begun.inputs) == ("running", 0, 1, {"gate": "g"})
    assert (ended.status, ended.seq, ended.result, ended.error) == ("finished", 2, 2, None)
    assert ended.state == Work(id="x", n=2, gate="g")


async def test_the_snapshot_of_a_failed_run_shows_its_failure(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"fails": True})
        with contextlib.suppress(errors.MethodError):
            await handle.result()
        view = await handle.snapshot()

    assert view.status == "failed"
    assert view.error == RunFailure(
        method="second", type="builtins.LookupError", message="told to", invocation_id=f"{handle.run_id}/1/second:1"
    )
    assert view.error.traceback.startswith("Traceback")


async def test_a_run_of_an_unknown_flow_is_looked_at_as_json(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        await runner.run(Steps, {"n": 1}, run_id="x")
    async with FlowRunner(storage) as runner:
        view = await (await runner.get("x")).snapshot()

    assert (view.flow, view.state["n"], view.result) == ("Steps", 3, 3)
