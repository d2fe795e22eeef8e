"""What callers may give as inputs and as an id, in every call that takes them; all else is refused with what to write."""

import dataclasses
import datetime
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
import pytest
from pydantic import AfterValidator, AliasChoices, AliasPath, BaseModel, Field, field_validator, model_validator

import asyncflow
from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start


class Place(BaseModel):
    town: str = Field(default="", alias="townName")


class Order(FlowState):
    count: int = 0
    price: int = Field(default=0, alias="unitPrice")
    size: int = Field(default=0, validation_alias=AliasChoices("width", "breadth"))
    first: str = Field(default="", validation_alias=AliasPath("names", 0))
    place: Place = Place()
    places: dict[str, list[Place]] = Field(default_factory=dict)


class Take(Flow[Order]):
    @start()
    async def take(self) -> int:
        return self.state.count


class Plain(BaseModel):
    count: int = 0


class TakePlain(Flow[Plain]):
    @start()
    async def take(self) -> int:
        return self.state.count


class TakeDict(Flow[dict[str, int]]):
    @start()
    async def take(self) -> int:
        return self.state.get("count", 0)


@dataclasses.dataclass
class Data:
    count: int = 3


Call = Callable[[type[Flow[Any]], Any], Awaitable[Any]]


async def by_kickoff(flow: type[Flow[Any]], inputs: Any) -> Any:
    return await flow().kickoff(inputs)


async def by_run(flow: type[Flow[Any]], inputs: Any) -> Any:
    return await anyio.to_thread.run_sync(asyncflow.run, flow(), inputs)


async def by_runner(flow: type[Flow[Any]], inputs: Any) -> Any:
    async with FlowRunner(MemoryFlowPersistence()) as runner:
        return await runner.run(flow, inputs)


async def by_a_function(flow: type[Flow[Any]], inputs: Any) -> Any:
    async with FlowRunner(MemoryFlowPersistence()) as runner:
        return await runner.run(lambda: flow(), inputs)


async def by_restoring(flow: type[Flow[Any]], inputs: Any) -> Any:
    persistence = MemoryFlowPersistence()
    before = flow(persistence=persistence)
    await before.kickoff()
    return await flow(persistence=persistence).kickoff(inputs, restore_from_state_id=before.run_id)


async def by_update(flow: type[Flow[Any]], inputs: Any) -> Any:
    edited = flow(persistence=MemoryFlowPersistence())
    await edited.kickoff()
    await edited.update_state(inputs)
    return edited.state["count"] if isinstance(edited.state, dict) else edited.state.count


each_call = pytest.mark.parametrize(
    "call", [by_kickoff, by_run, by_runner, by_a_function, by_restoring, by_update], ids=lambda call: call.__name__
)
NO_INPUTS = [Data(), [], [("count", 3)], "count", Order, False, 0, 3, {"count"}, Place()]


@pytest.mark.found("B11")
@each_call
@pytest.mark.parametrize("inputs", NO_INPUTS, ids=repr)
async def test_inputs_that_are_no_mapping_are_refused(call: Call, inputs: Any) -> None:
    with pytest.raises(errors.RunInputsError, match=r"inputs must be a dict .* or a Order, not"):
        await call(Take, inputs)


@pytest.mark.found("B11")
@each_call
@pytest.mark.parametrize(
    ("flow", "inputs"),
    [
        (Take, Order(count=3)),
        (Take, MappingProxyType({"count": 3})),
        (TakePlain, Plain(count=3)),
        (TakeDict, {"count": 3}),
    ],
)
async def test_a_model_of_the_flows_own_type_or_any_mapping_is_taken(call: Call, flow: Any, inputs: Any) -> None:
    assert await call(flow, inputs) == 3


@pytest.mark.found("B11")
@each_call
@pytest.mark.parametrize("inputs", [None, {}])
async def test_no_inputs_are_none(call: Call, inputs: Mapping[str, Any] | None) -> None:
    assert await call(Take, inputs) == 0


@pytest.mark.found("B11")
async def test_a_model_that_is_taken_brings_what_was_changed_in_it_and_its_id() -> None:
    class Lists(FlowState):
        items: list[int] = Field(default_factory=list)

    class TakeLists(Flow[Lists]):
        @start()
        async def take(self) -> None: ...

    given = Lists(id="mine")
    given.items.append(1)
    flow = TakeLists(initial_state={"items": [7]})
    await flow.kickoff(given)
    other = TakeLists()
    await other.kickoff(Lists())

    assert (flow.run_id, flow.state.items) == ("mine", [1])
    assert other.run_id == other.state.id


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Dated(FlowState):
    count: int = 0
    other: int = 0
    at: datetime.datetime = Field(default_factory=now)
    place: Place = Field(default_factory=Place)
    hooks: list[str] = Field(default_factory=lambda: ["default"])


class TakeDated(Flow[Dated, int]):
    @start()
    async def take(self) -> int:
        if self.state.count == 13:
            raise ValueError
        return self.state.count + self.state.other


async def test_only_the_fields_that_a_given_state_sets_are_inputs() -> None:
    store = MemoryFlowPersistence()
    flow = TakeDated(initial_state={"other": 5}, persistence=store)

    assert await flow.kickoff(Dated(count=1)) == 6  # not the default of `other`, which it does not set
    assert await flow.kickoff(Dated(count=2, other=0, id=flow.run_id)) == 2
    await flow.update_state(Dated(other=7))
    assert (flow.state.count, flow.state.other) == (2, 7)


@pytest.mark.parametrize("driver", ["kickoff", "runner"])
async def test_a_given_state_is_recognized_although_its_factories_return_other_values(driver: str) -> None:
    store = MemoryFlowPersistence()

    def given(count: int) -> Dated:
        made = Dated(id="mine", count=count)
        made.hooks.clear()
        return made

    async def run(count: int) -> int:
        if driver == "kickoff":
            return await TakeDated(persistence=store).kickoff(given(count), once=True)
        async with FlowRunner(store) as runner:
            return await runner.run(TakeDated, given(count))

    assert await run(3) == 3
    assert await run(3) == 3
    with pytest.raises(errors.RunInputsError, match="other inputs"):
        await run(4)
    with pytest.raises(errors.RunInputsError, match="other inputs"):
        await TakeDated(persistence=store).kickoff(Dated(id="mine", count=3, other=1), once=True)


async def test_a_failed_run_resumes_with_the_same_given_state() -> None:
    store = MemoryFlowPersistence()
    for _ in range(2):
        with pytest.raises(MethodError):
            await TakeDated(persistence=store).kickoff(Dated(id="mine", count=13))

    with pytest.raises(errors.RunInputsError):
        await TakeDated(persistence=store).kickoff(Dated(id="mine", count=12))


async def test_a_run_whose_stored_inputs_have_the_defaults_too_is_recognized() -> None:
    store = MemoryFlowPersistence()
    every = {"count": 3, "price": 0, "size": 0, "first": "", "place": Place(), "places": {}}
    await Take(persistence=store).kickoff({"id": "of 0.5", **every})

    assert await Take(persistence=store).kickoff(Order(id="of 0.5", count=3), once=True) == 3
    with pytest.raises(errors.RunInputsError):
        await Take(persistence=store).kickoff(Order(id="of 0.5", unitPrice=1, count=3), once=True)


# ---- ids -----------------------------------------------------------------------------------------------------------


class Numbered(BaseModel):
    id: str = Field(default="", alias="number")


class TakeNumbered(Flow[Numbered]):
    @start()
    async def take(self) -> str:
        return self.run_id


def state_with(change: Callable[[Any], None], flow: Any) -> Any:
    change(flow)
    return flow


BAD_IDS: dict[str, Callable[[], Any]] = {
    "a dict": lambda: TakeDict(initial_state={"id": 7}),
    "a dict for a model": lambda: Take(initial_state={"id": 7}),
    "a model": lambda: Take(initial_state=Order.model_construct(id=7)),
    "an alias": lambda: TakeNumbered(initial_state={"number": 7}),
    "the class": type("Own", (TakeDict,), {"initial_state": {"id": 7}}),
    "bytes": lambda: TakeDict(initial_state={"id": b"7"}),
    "no text": lambda: TakeDict(initial_state={"id": ""}),
    "false": lambda: TakeDict(initial_state={"id": False}),
    "a field of the state": lambda: state_with(lambda flow: setattr(flow.state, "id", 7), Take()),
    "a key of the state": lambda: state_with(lambda flow: flow.state.update(id=7), TakeDict()),
    "another state": lambda: state_with(lambda flow: setattr(flow, "state", {"id": 7}), TakeDict()),
}


@pytest.mark.found("C3")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize("make", BAD_IDS.values(), ids=BAD_IDS)
async def test_an_id_that_is_none_is_refused_wherever_it_is_brought(make: Callable[[], Any], stored: bool) -> None:
    flow = make()
    if stored:
        flow._instance.store_in(MemoryFlowPersistence())

    with pytest.raises(errors.InvalidRunIdError):
        await flow.kickoff()


@pytest.mark.found("C3")
@pytest.mark.parametrize("call", [by_kickoff, by_run, by_runner, by_a_function])
async def test_an_id_may_be_brought_by_its_alias(call: Call) -> None:
    assert await call(TakeNumbered, {"number": "order-7"}) == "order-7"
    assert await TakeNumbered(initial_state={"number": "order-8"}).kickoff() == "order-8"


@pytest.mark.found("C3")
async def test_two_ids_for_one_run_are_refused() -> None:
    with pytest.raises(errors.RunInputsError, match="two ids"):
        await TakeNumbered().kickoff({"number": "a", "id": "b"})


# ---- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.found("D12")
@pytest.mark.parametrize(
    ("inputs", "name", "expected"),
    [
        ({"price": 3}, "price", 3),
        ({"unitPrice": 3}, "price", 3),
        ({"width": 3}, "size", 3),
        ({"breadth": 3}, "size", 3),
        ({"size": 3}, "size", 3),
        ({"names": ["Ada", "Grace"]}, "first", "Ada"),
        ({"first": "Ada"}, "first", "Ada"),
        ({"place": {"townName": "Ely"}}, "place", Place(townName="Ely")),
        ({"place": {"town": "Ely"}}, "place", Place(townName="Ely")),
        ({"places": {"a": [{"townName": "Ely"}]}}, "places", {"a": [Place(townName="Ely")]}),
    ],
)
async def test_fields_are_named_by_their_names_and_their_aliases_at_any_depth(
    inputs: Any, name: str, expected: Any
) -> None:
    persistence = MemoryFlowPersistence()
    flow = Take(persistence=persistence)
    await flow.kickoff(inputs)
    again = Take(initial_state=inputs)
    await again.kickoff()

    assert getattr(flow.state, name) == getattr(again.state, name) == expected
    assert getattr((await Take.load(flow.run_id, persistence=persistence)).state, name) == expected


@pytest.mark.found("D12")
async def test_values_of_a_dict_state_are_named_by_their_names_and_their_aliases() -> None:
    class Places(Flow[dict[str, Place]]):
        @start()
        async def take(self) -> list[str]:
            return [place.town for name, place in self.state.items() if name != "id"]

    assert await Places().kickoff({"a": {"townName": "Ely"}, "b": {"town": "Bath"}}) == ["Ely", "Bath"]


@pytest.mark.found("D12")
async def test_an_alias_that_is_another_fields_name_means_that_field() -> None:
    class Crossed(FlowState):
        a: int = Field(default=0, alias="b")
        b: int = Field(default=0, alias="c")

    class TakeCrossed(Flow[Crossed]):
        @start()
        async def take(self) -> tuple[int, int]:
            return self.state.a, self.state.b

    assert await TakeCrossed().kickoff({"a": 1, "c": 2}) == (1, 2)


CET = datetime.timezone(datetime.timedelta(hours=1), "CET")


class Timed(FlowState):
    at: datetime.datetime | None = None
    time: datetime.time | None = None
    many: list[datetime.datetime] = Field(default_factory=list)


@pytest.mark.found("D12")
@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    ("state", "name", "value"),
    [
        (Timed, "at", datetime.datetime(2026, 1, 1, tzinfo=CET)),
        (Timed, "time", datetime.time(1, tzinfo=CET)),
        (Timed, "many", [datetime.datetime(2026, 1, 1, tzinfo=CET)]),
        (dict, "at", datetime.datetime(2026, 1, 1, tzinfo=CET)),
        (dict, "at", [datetime.time(1, tzinfo=CET)]),
    ],
)
async def test_the_name_of_a_fixed_zone_is_not_lost_silently(state: Any, name: str, value: Any) -> None:
    class Keep(Flow[state]):
        @start()
        async def keep(self) -> None: ...

    with pytest.raises(errors.StateNotStorableError):
        await Keep(persistence=MemoryFlowPersistence()).kickoff({name: value})


@pytest.mark.found("D12")
@pytest.mark.clauses("V1")
@pytest.mark.parametrize("state", [Timed, dict])
@pytest.mark.parametrize(
    "zone",
    [
        datetime.UTC,
        datetime.timezone(datetime.timedelta(hours=1)),
        datetime.timezone(datetime.timedelta(0), "UTC"),
    ],
    ids=str,
)
async def test_a_fixed_zone_without_a_name_of_its_own_is_kept(state: Any, zone: datetime.timezone) -> None:
    class Keep(Flow[state]):
        @start()
        async def keep(self) -> None: ...

    await Keep(persistence=MemoryFlowPersistence()).kickoff({"at": datetime.datetime(2026, 1, 1, tzinfo=zone)})


# ---- what does not fit ---------------------------------------------------------------------------------------------


@pytest.mark.found("A1")
async def test_a_value_of_a_dict_state_that_does_not_fit_is_named_once() -> None:
    with pytest.raises(
        errors.RunInputsError, match="do not fit the state: count: Input should be a valid integer"
    ) as told:
        await TakeDict().kickoff({"count": "three"})

    assert told.value.places == (("count",),)


def broken(value: Any) -> Any:
    if value:
        raise KeyError("a value of the user's")
    return value


class Breaks(FlowState):
    ok: int = 0
    inside: Annotated[int, AfterValidator(broken)] = 0
    own: int = 0
    both: int = 0
    rows: list["Row"] = Field(default_factory=list)

    @field_validator("own")
    @classmethod
    def checked(cls, value: int) -> int:
        return value and value.missing  # type: ignore[attr-defined,no-any-return]  # an AttributeError

    @model_validator(mode="after")
    def together(self) -> "Breaks":
        if self.both:
            raise TypeError("a value of the user's")
        return self


class Row(BaseModel):
    number: int

    @field_validator("number")
    @classmethod
    def checked(cls, value: int) -> int:
        return broken(value)


@pytest.mark.found("D11")
@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"inside": 1}, "inside: its own code raised KeyError"),
        ({"own": 1}, "own: its own code raised AttributeError"),
        ({"both": 1}, "the state: its own code raised TypeError"),
        ({"rows": [{"number": 1}]}, "rows.number: its own code raised KeyError"),
    ],
)
@pytest.mark.parametrize("call", [by_kickoff, by_runner, by_restoring, by_update])
async def test_a_validator_that_raises_whatever_it_likes_refuses_the_inputs(call: Call, inputs: Any, told: str) -> None:
    class Break(Flow[Breaks]):
        @start()
        async def take(self) -> None: ...

    with pytest.raises(errors.RunInputsError, match=told) as caught:
        await call(Break, inputs)

    assert "of the user's" not in str(caught.value)


NESTING: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"a": value},
    "tuple": lambda value: (value,),
    "set": lambda value: frozenset((value,)),
}


@pytest.mark.found("D11")
@pytest.mark.parametrize("kind", NESTING)
@pytest.mark.parametrize("depth", [200, 900, 3_000])
@pytest.mark.parametrize("is_stored", [True, False])
async def test_inputs_that_are_nested_too_deeply_are_a_limit(kind: str, depth: int, is_stored: bool) -> None:
    class Keep(Flow[dict[str, Any]]):
        @start()
        async def keep(self) -> None: ...

    value: Any = 1
    for _ in range(depth):
        value = NESTING[kind](value)
    flow = Keep(persistence=MemoryFlowPersistence() if is_stored else None)
    if depth == 200 and not is_stored:
        await flow.kickoff({"value": value})
        return

    with pytest.raises(errors.LimitExceededError):
        await flow.kickoff({"value": value})


@pytest.mark.found("D11")
async def test_an_input_whose_repr_raises_is_refused_as_not_storable() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise OSError

        __str__ = __repr__

    class Keep(Flow[dict[str, Any]]):
        persistence = MemoryFlowPersistence()

        @start()
        async def keep(self) -> None: ...

    with pytest.raises(errors.StateNotStorableError):
        await Keep().kickoff({"value": Rude()})


@pytest.mark.found("D11")
async def test_a_validator_that_raises_about_a_merged_state_is_a_conflict() -> None:
    class Sum(FlowState):
        a: int = 0
        b: int = 0

        @model_validator(mode="after")
        def together(self) -> "Sum":
            if self.a and self.b:
                raise TypeError
            return self

    class Both(Flow[Sum]):
        @start()
        async def one(self) -> None:
            self.state.a = 1

        @start()
        async def two(self) -> None:
            self.state.b = 1
            await committed.wait()

        @listen(one)
        async def after(self) -> None:
            committed.set()

    committed = anyio.Event()
    with pytest.raises(MethodError) as caught:
        await Both().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateConflictError)


@pytest.mark.clauses("S5")
async def test_an_error_message_holds_no_part_of_an_input() -> None:
    class Cat(BaseModel):
        kind: Literal["cat"] = "cat"

    class Dog(BaseModel):
        kind: Literal["dog"] = "dog"

    class Pets(FlowState):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")] = Cat()

    class Keep(Flow[Pets]):
        @start()
        async def keep(self) -> None: ...

    with pytest.raises(errors.RunInputsError) as caught:
        await Keep().kickoff({"pet": {"kind": "SECRET"}})

    assert "SECRET" not in str(caught.value)
    assert "pet" in str(caught.value)
