"""A state whose model has changed since a run was stored: used, or named while nothing is lost."""

from typing import Any

import pytest
from flows import Steps, Work, run_that_is
from pydantic import BaseModel, Field, model_validator

from asyncflow import Flow, FlowState, errors, listen, start


@pytest.mark.clauses("V2")
async def test_a_stored_field_that_the_model_lacks_is_named_and_nothing_is_lost(store: Any) -> None:
    class Less(FlowState):
        done: list[str] = Field(default_factory=list)

    class Narrow(Flow[Less]):
        name = "Steps"
        first, second, third = Steps.first, Steps.second, Steps.third

    run_id = await run_that_is("interrupted", store)
    for call in (Narrow.resume, Narrow.load):
        with pytest.raises(errors.StateSchemaError, match="before-validator") as caught:
            await call(run_id, persistence=store)
        assert caught.value.paths == ("size",)

    assert (await Steps.load(run_id, persistence=store)).state.size == 1


@pytest.mark.clauses("V2")
async def test_a_stored_field_of_a_nested_model_that_is_gone_is_named(store: Any) -> None:
    class Inner(BaseModel):
        a: int = 1
        b: int = 2

    class Outer(FlowState):
        inner: Inner = Field(default_factory=Inner)
        many: list[Inner] = Field(default_factory=lambda: [Inner()])

    class Before(Flow[Outer]):
        name = "nested"

        @start()
        async def first(self) -> None: ...

    class LessInner(BaseModel):
        a: int = 1

    class LessOuter(FlowState):
        inner: LessInner = Field(default_factory=LessInner)
        many: list[LessInner] = Field(default_factory=list)

    class After(Flow[LessOuter]):
        name = "nested"

        @start()
        async def first(self) -> None: ...

    flow = Before(persistence=store)
    await flow.kickoff()
    with pytest.raises(errors.StateSchemaError) as caught:
        await After.load(flow.run_id, persistence=store)

    assert caught.value.paths == ("inner.b", "many[0].b")


@pytest.mark.clauses("V2")
async def test_a_stored_value_that_does_not_fit_is_named_without_showing_it(store: Any) -> None:
    class Stricter(FlowState):
        done: list[int] = Field(default_factory=list)
        size: int = 0

    class Strict(Flow[Stricter]):
        name = "Steps"
        first, second, third = Steps.first, Steps.second, Steps.third

    run_id = await run_that_is("interrupted", store)
    with pytest.raises(errors.StateSchemaError) as caught:
        await Strict.load(run_id, persistence=store)

    assert caught.value.paths == ("done.0",)
    assert "'first'" not in str(caught.value)


async def test_an_added_field_takes_its_default(store: Any) -> None:
    class More(Work):
        colour: str = "blue"

    class Wider(Steps, Flow[More]):
        name = "Steps"

    run_id = await run_that_is("interrupted", store)
    flow = await Wider.load(run_id, persistence=store)

    assert (flow.state.colour, flow.state.size) == ("blue", 1)


@pytest.mark.clauses("V2")
async def test_a_before_validator_cures_an_old_state(store: Any) -> None:
    class Cured(FlowState):
        done: list[str] = Field(default_factory=list)
        length: int = 0

        @model_validator(mode="before")
        @classmethod
        def rename(cls, data: Any) -> Any:
            if isinstance(data, dict) and "size" in data:
                data = {**data, "length": data["size"]}
                del data["size"]
            return data

    class Migrated(Flow[Cured]):
        name = "Steps"
        first = Steps.first

        @listen(first)
        async def second(self, value: str) -> int:
            self.state.length += 1
            return self.state.length

    run_id = await run_that_is("interrupted", store)

    assert await Migrated.resume(run_id, persistence=store) == 2
