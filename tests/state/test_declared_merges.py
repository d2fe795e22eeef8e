"""Fields and keys whose annotation says how they are merged."""

from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from racing import DictRace, Edit, Racing, conflict_of, do, put

from asyncflow import Flow, FlowState, MethodError, merge, start

pytestmark = pytest.mark.usefixtures("size")


def highest(base: int, ours: int, theirs: int) -> int:
    return max(ours, theirs)


class Declared(FlowState):
    total: Annotated[int, merge.add] = 10
    ratio: Annotated[float, merge.add] = 1.5
    winner: Annotated[str, merge.last] = ""
    log: Annotated[list[str], merge.append] = Field(default_factory=lambda: ["begin"])
    top: Annotated[int, highest] = 0
    top_again: Annotated[int, lambda base, ours, theirs: max(ours, theirs)] = 0


class DeclaredRace(Racing[Declared]): ...


@pytest.mark.parametrize(
    ("early", "late", "name", "expected"),
    [
        (do("s.total += 1"), do("s.total += 2"), "total", 13),
        (do("s.total += 1"), do("s.total += 1"), "total", 12),
        (do("s.ratio += 1"), do("s.ratio += 0.5"), "ratio", 3.0),
        (put(winner="early"), put(winner="late"), "winner", "late"),
        (do("s.log.append('e')"), do("s.log.append('l')"), "log", ["begin", "e", "l"]),
        (do("s.log.clear()"), do("s.log.append('l')"), "log", ["l"]),
        (put(top=9), put(top=4), "top", 9),
        (put(top_again=4), put(top_again=9), "top_again", 9),
    ],
)
async def test_a_field_can_say_how_it_is_merged(early: Edit, late: Edit, name: str, expected: Any) -> None:
    flow = DeclaredRace(early, late)
    await flow.kickoff()

    assert getattr(flow.state, name) == expected


class Totals(BaseModel):
    sum: Annotated[int, merge.add] = 0


class Nested(FlowState):
    totals: Totals = Field(default_factory=Totals)


async def test_a_field_of_a_nested_model_can_say_how_it_is_merged() -> None:
    class NestedRace(Racing[Nested]): ...

    flow = NestedRace(do("s.totals.sum += 1"), do("s.totals.sum += 2"))
    await flow.kickoff()

    assert flow.state.totals.sum == 3


async def test_a_declared_append_is_still_a_conflict_when_more_was_done() -> None:
    conflict = await conflict_of(DeclaredRace(do("s.log.append('e')"), do("s.log[0] = 'changed'")))

    assert conflict.path == "log"


@pytest.mark.parametrize(
    ("key", "early", "late", "expected"),
    [
        ("total", 11, 12, 13),
        ("log", ["begin", "e"], ["begin", "l"], ["begin", "e", "l"]),
        ("winner", "early", "late", "late"),
        ("top", 9, 4, 9),
    ],
)
async def test_a_flow_with_dict_state_can_say_how_its_keys_are_merged(
    key: str, early: Any, late: Any, expected: Any
) -> None:
    initial = {"total": 10, "log": ["begin"], "winner": "", "top": 0}
    flow = DictRace(lambda s: s.update({key: early}), lambda s: s.update({key: late}), initial_state=initial)
    await flow.kickoff()

    assert flow.state == {**initial, "id": flow.run_id, key: expected}


async def test_a_declared_merge_of_a_key_that_both_created() -> None:
    flow = DictRace(lambda s: s.update(total=1, log=["e"]), lambda s: s.update(total=2, log=["l"]))
    await flow.kickoff()

    assert (flow.state["total"], flow.state["log"]) == (3, ["e", "l"])


async def test_a_declared_merge_that_raises_fails_the_later_method() -> None:
    def careless(base: int, ours: int, theirs: int) -> int:
        raise ZeroDivisionError

    class Careless(FlowState):
        number: Annotated[int, careless] = 0

    class CarelessRace(Racing[Careless]): ...

    flow = CarelessRace(put(number=1), put(number=2))
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert caught.value.method == "late"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert flow.state.number == 1


class Span(FlowState):
    low: int = 0
    high: int = 10

    @model_validator(mode="after")
    def ordered(self) -> "Span":
        if self.low > self.high:
            raise ValueError("low above high")
        return self


class SpanRace(Racing[Span]): ...


async def test_a_merge_that_breaks_the_models_validator_is_a_conflict() -> None:
    flow = SpanRace(put(low=8), put(high=5))
    conflict = await conflict_of(flow)

    assert (conflict.method, conflict.other) == ("late", "early")
    assert (flow.state.low, flow.state.high) == (8, 10)


class Assigned(BaseModel):
    model_config = ConfigDict(validate_assignment=True)
    id: str = "unset"
    low: int = 0
    high: int = 10
    both: int = Field(default=0, le=100)

    @model_validator(mode="after")
    def ordered(self) -> "Assigned":
        if self.low > self.high:
            raise ValueError("low above high")
        return self


async def test_the_merged_state_is_built_without_assignment_hooks() -> None:
    class AssignedRace(Racing[Assigned]): ...

    def up(state: Assigned) -> None:
        state.high = 30

    def low(state: Assigned) -> None:
        state.both = 1

    flow = AssignedRace(up, low)
    await flow.kickoff()

    assert (flow.state.high, flow.state.both) == (30, 1)


async def test_extra_fields_are_merged_like_keys() -> None:
    class Open(FlowState):
        model_config = ConfigDict(extra="allow")

    class OpenRace(Racing[Open]): ...

    flow = OpenRace(put(a=1), put(b=2))
    await flow.kickoff()

    assert (flow.state.a, flow.state.b) == (1, 2)


async def test_three_methods_merge_one_after_the_other() -> None:
    class Three(Flow[Declared]):
        @start()
        async def a(self) -> None:
            await self.add()

        @start()
        async def b(self) -> None:
            await self.add()

        @start()
        def c(self) -> None:
            self.state.total += 1
            self.state.log.append("x")

        async def add(self) -> None:
            self.state.total += 1
            await anyio.lowlevel.checkpoint()
            self.state.log.append("x")

    flow = Three()
    await flow.kickoff()

    assert flow.state.total == 13
    assert flow.state.log == ["begin", "x", "x", "x"]
