"""Models with private, excluded, computed or aliased fields, with serializers and validators of their own."""

import datetime as dt
import threading
from typing import Any

import pytest
from awkward import INF, Base, Colour, refusal
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
)

from asyncflow import Flow, FlowState, MemoryFlowPersistence, listen, start


async def kept(model: type[BaseModel], **fields: Any) -> tuple[Any, Any, bytes]:
    """A state of this model after a method has set some fields: live, loaded, and its bytes."""
    store = MemoryFlowPersistence()

    class Keep(Flow[model]):
        persistence = store

        @start()
        async def first(self) -> None:
            for name, value in fields.items():
                setattr(self.state, name, value)

    flow = Keep()
    await flow.kickoff()
    data = (await store.load(flow.run_id)).state
    return flow.state, (await Keep.load(flow.run_id)).state, data or b""


@pytest.mark.clauses("V1")
async def test_private_attributes_are_reset_on_load_and_not_compared() -> None:
    class Private(FlowState):
        count: int = 0
        _cache: Any = PrivateAttr(default="fresh")

    live, loaded, data = await kept(Private, count=1, _cache=object())

    assert (loaded.count, loaded._cache) == (1, "fresh")
    assert live.count == 1
    assert b"cache" not in data


@pytest.mark.clauses("V1")
async def test_excluded_fields_are_reset_on_load_and_may_hold_anything() -> None:
    class Excluding(FlowState):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        count: int = 0
        lock: Any = Field(default=None, exclude=True)

    _, loaded, data = await kept(Excluding, count=1, lock=threading.Lock())

    assert (loaded.count, loaded.lock) == (1, None)
    assert b"lock" not in data


@pytest.mark.clauses("V1")
async def test_computed_fields_are_not_stored() -> None:
    class Computing(FlowState):
        side: int = 1

        @computed_field
        @property
        def area(self) -> int:
            return self.side**2

    _, loaded, data = await kept(Computing, side=3)

    assert loaded.area == 9
    assert b"area" not in data


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    "field",
    [
        Field(default=0, alias="theAlias"),
        Field(default=0, validation_alias="theAlias"),
        Field(default=0, serialization_alias="theAlias"),
        Field(default=0, validation_alias=AliasChoices("one", "theAlias")),
    ],
    ids=["alias", "validation", "serialization", "choices"],
)
async def test_fields_with_aliases_round_trip(field: Any) -> None:
    model = create_model("Aliased", __base__=FlowState, count=(int, field))
    _, loaded, _ = await kept(model, count=5)

    assert loaded.count == 5


@pytest.mark.clauses("V1")
async def test_an_alias_generator_round_trips() -> None:
    class Generated(FlowState):
        model_config = ConfigDict(alias_generator=str.upper)
        count: int = 0
        inner: Base = Field(default_factory=Base)

    _, loaded, _ = await kept(Generated, count=5, inner=Base(a=7))

    assert (loaded.count, loaded.inner) == (5, Base(a=7))


@pytest.mark.clauses("V1")
async def test_extra_fields_round_trip_or_are_refused() -> None:
    class Open(FlowState):
        model_config = ConfigDict(extra="allow")

    _, loaded, _ = await kept(Open, a=1, b={"c": [None]})
    error = await refusal(kept(Open, a=Colour.RED))

    assert (loaded.a, loaded.b) == (1, {"c": [None]})
    assert (error.path, error.type_name) == ("a", "Colour")


@pytest.mark.clauses("V1")
async def test_strict_and_frozen_models_round_trip() -> None:
    class Strict(FlowState):
        model_config = ConfigDict(strict=True)
        when: dt.datetime = dt.datetime(2024, 1, 1)
        pair: tuple[int, int] = (0, 0)
        colour: Colour = Colour.RED

    _, loaded, _ = await kept(Strict, when=dt.datetime(2025, 1, 1), pair=(1, 2), colour=Colour.BLUE)

    assert (loaded.when, loaded.pair, loaded.colour) == (dt.datetime(2025, 1, 1), (1, 2), Colour.BLUE)


@pytest.mark.clauses("V1")
async def test_a_model_that_says_how_bytes_and_floats_are_written_may_hold_them() -> None:
    class Written(FlowState):
        model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants")
        data: bytes = b""
        ratio: float = 0.0

    _, loaded, _ = await kept(Written, data=b"\xff\x00", ratio=INF)

    assert (loaded.data, loaded.ratio) == (b"\xff\x00", INF)


@pytest.mark.clauses("V1")
async def test_a_serializer_that_loses_something_is_found() -> None:
    class Losing(FlowState):
        text: str = ""

        @field_serializer("text")
        def short(self, value: str) -> str:
            return value[:3]

    _, loaded, _ = await kept(Losing, text="abc")
    error = await refusal(kept(Losing, text="abcdef"))

    assert loaded.text == "abc"
    assert error.path == "text"


@pytest.mark.clauses("V1")
async def test_a_validator_that_changes_a_value_on_load_is_found() -> None:
    class Stripping(FlowState):
        text: str = ""

        @field_validator("text")
        @classmethod
        def strip(cls, value: str) -> str:
            return value.strip()

    error = await refusal(kept(Stripping, text=" padded "))

    assert error.path == "text"


@pytest.mark.clauses("V1")
async def test_a_value_that_breaks_its_fields_constraint_is_refused() -> None:
    class Limited(FlowState):
        small: int = Field(default=0, le=10)

    error = await refusal(kept(Limited, small=11))

    assert (error.path, error.type_name) == ("small", "int")


async def test_a_validator_runs_on_load_and_not_on_what_lives() -> None:
    class Aware(FlowState):
        count: int = 0

        @field_validator("count")
        @classmethod
        def even(cls, value: int) -> int:
            if value % 2:
                raise ValueError("odd")
            return value

    _, loaded, _ = await kept(Aware, count=4)

    assert loaded.count == 4


@pytest.mark.clauses("V1")
async def test_what_is_excluded_stays_when_an_int_becomes_a_float() -> None:
    class Mixed(FlowState):
        number: float = 0.0
        client: Any = Field(default=None, exclude=True)

    class Two(Flow[Mixed]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state.number = 1
            self.state.client = "client"

        @listen(first)
        async def second(self) -> str:
            return f"{self.state.number} {self.state.client}"

    assert await Two().kickoff() == "1.0 client"
