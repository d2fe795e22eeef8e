"""What a look at the types lets pass, without trying, is kept by JSON; and no more is tried than has to be."""

import datetime as dt
import decimal
import enum
import uuid
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, create_model
from pydantic_core import TzInfo

from asyncflow import FlowState, merge
from asyncflow._codec import round_trip as exact
from asyncflow._codec.codec import Refused, TypedCodec
from asyncflow._codec.round_trip import is_json, plan_for
from asyncflow._values.copying import difference


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    label: str | None = None


class Duration(BaseModel):
    name: str
    length: dt.timedelta
    """Has no plan: tried."""


zones = st.one_of(
    st.none(),
    st.just(dt.UTC),
    st.integers(-86_000, 86_000).map(TzInfo),
    st.integers(-1_400, 1_400).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes))),
)
times = st.datetimes(timezones=zones)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
)
points = st.builds(Point, x=st.integers(), label=st.none() | st.text())

PLANNED: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers() | st.booleans(),
    float: st.floats() | st.integers(),
    dt.date: st.dates() | times,
    dt.datetime: times,
    decimal.Decimal: st.decimals(),
    uuid.UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Any: anything,
    Literal["a", 1, None]: st.sampled_from(["a", 1, None, True, 1.0, "b"]),
    int | str | bool | None: st.integers() | st.text() | st.booleans() | st.none() | st.floats(),
    dt.datetime | None: st.none() | times,
    list[dt.datetime]: st.lists(times),
    list[list[float]]: st.lists(st.lists(st.floats() | st.integers())),
    set[uuid.UUID]: st.sets(st.uuids()),
    set[float]: st.sets(st.floats()),
    frozenset[int]: st.frozensets(st.integers() | st.booleans()),
    tuple[str, ...]: st.lists(st.text()).map(tuple) | st.lists(st.text()),
    dict[int, str]: st.dictionaries(st.integers() | st.booleans(), st.text()),
    dict[str, list[int]]: st.dictionaries(st.text(), st.lists(st.integers())),
    Point: points,
    list[Point]: st.lists(points),
    dict[str, Point]: st.dictionaries(st.text(), points),
}


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("annotation", PLANNED, ids=[str(n) for n in range(len(PLANNED))])
def test_what_the_types_let_pass_is_kept(annotation: Any) -> None:
    plan, codec = plan_for(annotation), TypedCodec(annotation)
    assert plan is not None
    passed = 0

    @given(PLANNED[annotation])
    def check(value: Any) -> None:
        nonlocal passed
        assert plan.one(value) == plan.each([value])
        if not plan.one(value):
            return
        passed += 1
        try:
            data = codec.write(value)
        except ValueError:
            with pytest.raises(Refused):  # a lone surrogate
                codec.encode(value)
        else:
            assert difference(value, codec.decode(data)) is None

    check()
    assert passed >= 2  # an enum of two values has no more


@given(anything)
def test_values_that_need_no_tags_are_distinguished_from_others(value: Any) -> None:
    def needs_none(value: Any) -> bool:
        if type(value) is dict:
            return all(type(k) is str and not k.startswith("$") and needs_none(v) for k, v in value.items())
        if type(value) is list:
            return all(map(needs_none, value))
        return is_json(value)

    if is_json(value, tags=False):
        assert needs_none(value)
    if is_json(value) and not needs_none(value):
        assert not is_json(value, tags=False)


def test_a_value_that_contains_itself_is_detected_early() -> None:
    endless: list[Any] = []
    endless += [endless, {"it": endless}]

    assert not is_json(endless)


@pytest.mark.parametrize(
    "annotation", [dt.timedelta, bytes, list[bytes], int | float, Point | Duration, tuple[int, str]]
)
def test_an_annotation_that_types_cannot_describe_has_no_plan(annotation: Any) -> None:
    assert plan_for(annotation) is None


Mark = RootModel[int | None]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("annotation", [Mark, Annotated[Mark, merge.last]])
def test_an_optional_of_what_may_be_null_itself_is_tried(annotation: Any) -> None:
    made: Any = create_model("Marked", __base__=FlowState, mark=(annotation | None, None))
    codec = TypedCodec(made)

    assert codec.encode(made(mark=Mark(3)))
    with pytest.raises(Refused, match="becomes a NoneType"):
        codec.encode(made(mark=Mark(None)))


def test_only_the_fields_that_need_it_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []
    monkeypatch.setattr(exact, "difference", lambda a, b: tried.append(a) or difference(a, b))

    class Mixed(FlowState):
        rows: list[Point] = []  # noqa: RUF012 - pydantic copies it
        total: Annotated[int, merge.add] = 0
        lengths: list[Duration] = []  # noqa: RUF012 - pydantic copies it
        small: int = Field(default=1, lt=10)

    durations = [Duration(name=str(n), length=dt.timedelta(n)) for n in range(3)]
    state = Mixed(id="x", rows=[Point(x=1)] * 3, lengths=durations)
    codec = TypedCodec(Mixed)

    assert codec.decode(codec.encode(state)[0]) == state
    assert tried == [[1], [d.length for d in durations]] or tried == [[d.length for d in durations], [1]]


def test_an_enum_whose_numbers_are_too_large_to_be_read_is_tried() -> None:
    class Size(enum.Enum):
        SMALL = -(2**63)
        HUGE = 2**70

    codec = TypedCodec(Size)
    assert plan_for(Size) is None
    assert codec.decode(codec.encode(Size.SMALL)[0]) is Size.SMALL
    with pytest.raises(Refused):
        codec.encode(Size.HUGE)
