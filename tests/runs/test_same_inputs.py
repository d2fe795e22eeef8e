"""A second `kickoff` with inputs: the same ones continue an unfinished run, others are refused."""

import uuid
from typing import Any

import anyio
import pytest
from flows import UNFINISHED, Steps, run_that_is
from pydantic import BaseModel, Field, model_validator

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start


@UNFINISHED
async def test_the_same_line_of_code_continues_an_unfinished_run(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store, {"id": "mine", "size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})

    assert run_id == "mine"
    assert flow.ran == ["second", "third"]
    assert flow.state.size == 13


@pytest.mark.parametrize(
    "inputs", [{"size": 11}, {"done": ["x"]}, {"size": 10, "done": ["x"]}], ids=["value", "name", "one more"]
)
async def test_other_inputs_for_an_unfinished_run_are_refused(inputs: dict[str, Any], store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    with pytest.raises(errors.RunInputsError, match="update_state"):
        await flow.kickoff({"id": run_id, **inputs})

    assert flow.ran == []
    assert (await Steps.load(run_id, persistence=store)).state.size == 11


async def test_no_inputs_continue_a_run_that_was_started_with_some(store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    flow = Steps(persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state.size == 13


async def test_unknown_inputs_are_refused_for_a_stored_run(store: Any) -> None:
    run_id = await run_that_is("interrupted", store)

    with pytest.raises(errors.RunInputsError, match="sise"):
        await Steps(persistence=store).kickoff({"id": run_id, "sise": 3})


async def test_the_inputs_of_a_later_pass_are_its_own(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "mine", "size": 10})
    hanging = Steps("hang", persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(hanging.kickoff, {"id": "mine", "size": 20})
            await hanging.hanging.wait()
            scope.cancel()

    with pytest.raises(errors.RunInputsError):
        await Steps(persistence=store).kickoff({"id": "mine", "size": 10})
    again = Steps(persistence=store)
    await again.kickoff({"id": "mine", "size": 20})

    assert again.ran == ["second", "third"]
    assert again.state.size == 23


class Bounds(FlowState):
    low: int = 0
    high: int = 9
    items: list["Named"] = Field(default_factory=list)

    @model_validator(mode="after")
    def in_order(self) -> "Bounds":
        assert self.low <= self.high
        return self


class Named(BaseModel):
    name: str
    uid: uuid.UUID = Field(default_factory=uuid.uuid4)


@pytest.mark.parametrize("inputs", [{"low": 5}, {"items": [{"name": "q"}]}], ids=["state moved on", "made values"])
async def test_the_same_line_goes_on_whatever_became_of_the_state(inputs: dict[str, Any]) -> None:
    is_well = False

    class Moving(Flow[Bounds]):
        @start()
        async def a(self) -> None:
            self.state.low, self.state.high = 1, 2

        @listen(a)
        async def b(self) -> str:
            if not is_well:
                raise ValueError
            return "done"

    store = MemoryFlowPersistence()
    with pytest.raises(MethodError):
        await Moving(persistence=store).kickoff({"id": "x", **inputs})
    is_well = True

    assert await Moving(persistence=store).kickoff({"id": "x", **inputs}) == "done"
