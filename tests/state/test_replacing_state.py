"""Replacing the whole state, in a method and from outside."""

from typing import Any

import anyio
import pytest
from pydantic import BaseModel, ConfigDict
from racing import Address, Wide

from asyncflow import Flow, MethodError, errors, listen, start

pytestmark = pytest.mark.usefixtures("size")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int = 0


async def test_a_frozen_state_is_written_by_replacing_it() -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = self.state.model_copy(update={"count": 1})

        @listen(first)
        def second(self) -> None:
            self.state = self.state.model_copy(update={"count": self.state.count + 1})

    flow = Replacing()
    await flow.kickoff()

    assert flow.state.count == 2
    assert flow.state.id == flow.run_id


async def test_a_replacement_without_an_id_keeps_the_runs() -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = Frozen(count=5)

    class DictReplacing(Flow[dict]):
        @start()
        async def first(self) -> None:
            self.state = {"count": 5}

    model, dictionary = Replacing(), DictReplacing()
    await model.kickoff()
    await dictionary.kickoff()

    assert (model.state.count, model.state.id) == (5, model.run_id)
    assert dictionary.state == {"count": 5, "id": dictionary.run_id}


async def test_a_replacement_is_merged_like_any_draft() -> None:
    class Replacing(Flow[Wide]):
        def __init__(self) -> None:
            super().__init__()
            self.committed = anyio.Event()

        @start()
        async def early(self) -> None:
            self.state.number = 1

        @start()
        async def late(self) -> None:
            self.state = self.state.model_copy(update={"other": 2})
            await self.committed.wait()

        @listen(early)
        async def after(self) -> None:
            self.committed.set()

    flow = Replacing()
    await flow.kickoff()

    assert (flow.state.number, flow.state.other) == (1, 2)


async def test_the_replaced_object_cannot_change_the_state_later() -> None:
    mine = {"items": [1]}

    class Replacing(Flow[dict]):
        @start()
        async def first(self) -> None:
            self.state = mine

    flow = Replacing()
    await flow.kickoff()
    mine["items"].append(2)

    assert flow.state["items"] == [1]
    assert mine == {"items": [1, 2]}


@pytest.mark.parametrize("value", [{"count": 1}, Address(), None, 3])
async def test_a_replacement_of_another_type_is_refused(value: Any) -> None:
    class Replacing(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            self.state = value

    with pytest.raises(MethodError) as caught:
        await Replacing().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateError)


async def test_the_state_of_an_idle_flow_may_be_replaced() -> None:
    class Show(Flow[Frozen]):
        @start()
        async def first(self) -> int:
            return self.state.count

    flow = Show()
    flow.state = Frozen(count=8)

    assert await flow.kickoff() == 8


async def test_the_state_of_a_running_flow_is_not_set_from_outside() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Flow[Frozen]):
        @start()
        async def first(self) -> None:
            inside.set()
            await go_on.wait()

    flow = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await inside.wait()
        with pytest.raises(errors.StateError):
            flow.state = Frozen(count=1)
        go_on.set()

    assert flow.state.count == 0
