"""Dict states whose values have an annotation are stored by it."""

import pytest
from pydantic import BaseModel

from asyncflow import Flow, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, errors, listen, start


@pytest.mark.clauses("V1")
async def test_an_aware_datetime_from_pydantic_goes_into_a_dict_state() -> None:
    from datetime import datetime

    class When(Flow[dict[str, datetime]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> float:
            return self.state["when"].timestamp()

    assert await When().kickoff({"when": "2024-01-01T00:00:00Z"}) == 1704067200.0


class Item(BaseModel):
    sku: int
    amount: int = 0

    def __hash__(self) -> int:
        return hash(self.sku)


@pytest.mark.clauses("V1")
async def test_the_values_of_a_typed_dict_state_are_stored_by_their_annotation() -> None:
    class Items(Flow[dict[str, Item]]):
        @start()
        async def first(self) -> None:
            self.state["y"] = Item(sku=2)

        @listen(first)
        async def second(self) -> int:
            if not is_well:
                raise ValueError
            return sum(item.sku for key, item in self.state.items() if key != "id")

    is_well = False
    store = SQLiteFlowPersistence("runs.db")
    flow = Items(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff({"x": {"sku": 1}})
    loaded = await Items.load(flow.run_id, persistence=store)
    is_well = True

    assert loaded.state == {"id": flow.run_id, "x": Item(sku=1), "y": Item(sku=2)}
    assert await Items.resume(flow.run_id, persistence=store) == 3


@pytest.mark.clauses("V1")
async def test_a_value_of_another_type_in_a_typed_dict_state_is_refused() -> None:
    class Numbers(Flow[dict[str, int]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state["n"] = "text"

    with pytest.raises(MethodError) as caught:
        await Numbers().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateNotStorableError)
    assert caught.value.__cause__.path == "n"
