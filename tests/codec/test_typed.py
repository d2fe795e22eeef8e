"""Values with an annotation load back equal and of the same types, or the save is refused before anything is written."""

import collections
import datetime as dt
import enum
import ipaddress
import pathlib
import threading
import uuid
import zoneinfo
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from awkward import (
    INF,
    NAN,
    UTC,
    Base,
    Colour,
    D,
    Level,
    MyList,
    MyStr,
    Pair,
    Point,
    exact,
    in_a_model,
    named,
    refusal,
    returned,
)
from pydantic import BaseModel, Field, SecretStr
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start


class Word(enum.StrEnum):
    YES = "yes"


class Derived(Base):
    b: int = 2


class Tree(BaseModel):
    name: str
    below: list["Tree"] = []


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


@pydantic_dataclass
class Checked:
    x: float


class Shape(TypedDict):
    name: str
    sides: int


KEPT: list[tuple[Any, Any]] = [
    (int, 0),
    (int, -(2**63)),
    (int, 2**63),
    (int, 10**40),
    (float, 1.5),
    (float, -0.0),
    (float, 5e-324),
    (float, 1.7976931348623157e308),
    (str, ""),
    (str, "ünï \x00 \u2028 \U0001f600"),
    (bool, True),
    (bytes, b""),
    (bytes, b"plain text"),
    (D, D("1.10")),
    (D, D("-0")),
    (D, D("1E+5")),
    (set[int], {1, 2}),
    (frozenset[str], frozenset({"a"})),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (tuple[()], ()),
    (list[tuple[int, int]], [(1, 2), (3, 4)]),
    (dict[int, str], {1: "a", -2: "b"}),
    (dict[uuid.UUID, int], {uuid.UUID(int=5): 1}),
    (dict[str, Any], {"a": [1, {"b": None}], "": True}),
    (dict[str, list[set[int]]], {"a": [{1}, set()]}),
    (collections.deque[int], collections.deque([1, 2])),
    (Colour, Colour.RED),
    (Colour, Colour.BLUE),
    (Level, Level.LOW),
    (Word, Word.YES),
    (list[Colour], [Colour.BLUE, Colour.RED]),
    (dict[Colour, int], {Colour.RED: 1}),
    (Point, Point(1, ("a", "b"))),
    (list[Point], [Point(1), Point(2, ("z",))]),
    (Checked, Checked(1.5)),
    (Pair, Pair(1, "r")),
    (Shape, {"name": "square", "sides": 4}),
    (Base, Base(a=5)),
    (list[Base], [Base(), Base(a=2)]),
    (Base | None, None),
    (Derived | Base, Derived(a=1, b=3)),
    (Tree, Tree(name="root", below=[Tree(name="leaf")])),
    (Box[int], Box[int](content=3)),
    (Literal["a", 1, None], "a"),
    (Literal["a", 1, None], 1),
    (int | str, "5"),
    (int | str, 5),
    (int | None, None),
    (int | float, 1),
    (int | float, 1.0),
    (bool | int, 1),
    (bool | int, True),
    (dt.datetime, dt.datetime(2024, 1, 2, 3, 4, 5, 6)),
    (dt.datetime, dt.datetime(2024, 1, 2, tzinfo=UTC)),
    (dt.datetime, dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))),
    (dt.datetime, dt.datetime(2024, 1, 2, tzinfo=dt.timezone(-dt.timedelta(hours=9, minutes=30)))),
    (dt.datetime, dt.datetime.max),
    (dt.date, dt.date(2024, 2, 29)),
    (dt.time, dt.time(23, 59, 59, 999999)),
    (dt.timedelta, dt.timedelta(microseconds=1)),
    (dt.timedelta, -dt.timedelta(days=1, microseconds=3)),
    (uuid.UUID, uuid.UUID(int=7)),
    (pathlib.Path, pathlib.Path("/a/b c")),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    (Annotated[int, Field(gt=0)], 5),
    (Any, {"a": [1, "x", None, 1.5, True]}),
]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value"), KEPT, ids=named(KEPT))
async def test_a_value_in_a_field_of_its_type_loads_as_it_is(annotation: Any, value: Any) -> None:
    tried = await in_a_model(annotation, value)

    assert exact(tried.loaded) == exact(value)
    assert exact(tried.live) == exact(value)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value"), KEPT, ids=named(KEPT))
async def test_a_result_loads_as_its_return_annotation_says(annotation: Any, value: Any) -> None:
    tried = await returned(annotation, value)

    assert exact(tried.live) == exact(value)
    assert exact(tried.loaded) == exact(value)


REFUSED: list[tuple[Any, Any, str, str]] = [
    (float, NAN, "value", "float"),
    (float, INF, "value", "float"),
    (float, -INF, "value", "float"),
    (list[float], [1.0, NAN], "value[1]", "float"),
    (str, "\ud800", "value", "str"),
    (bytes, b"\xff", "value", "bytes"),
    (list[bytes], [b"ok", b"\xff"], "value[1]", "bytes"),
    (D, D("NaN"), "value", "Decimal"),
    (int, "5", "value", "str"),
    (int, True, "value", "bool"),
    (int, "text", "value", "str"),
    (str, 5, "value", "int"),
    (int, 1.0, "value", "float"),
    (int, Level.LOW, "value", "Level"),
    (str, Word.YES, "value", "Word"),
    (str, MyStr("x"), "value", "MyStr"),
    (list[int], MyList([1]), "value", "MyList"),
    (list[int], (1, 2), "value", "tuple"),
    (dict[str, int], collections.OrderedDict(a=1), "value", "OrderedDict"),
    (dict[str, int], collections.Counter(a=1), "value", "Counter"),
    (dict[str, Any], {"a": Base()}, "value.a", "Base"),
    (dict[str, Any], {"a": [{"b": Colour.RED}]}, "value.a[0].b", "Colour"),
    (list[Any], (1, 2), "value", "tuple"),
    (Any, Base(), "value", "Base"),
    (Any, Colour.RED, "value", "Colour"),
    (Any, Point(1), "value", "Point"),
    (Base, Derived(), "value", "Derived"),
    (list[Base], [Base(), Derived()], "value[1]", "Derived"),
    (dict[str, Base], {"k": Derived()}, "value.k", "Derived"),
    (SecretStr, SecretStr("hunter2"), "value", "SecretStr"),
    (dt.datetime, dt.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "value", "datetime"),
    (dt.datetime, dt.datetime(2024, 10, 27, 2, 30, fold=1), "value", "datetime"),
    (complex | int, threading.Lock(), "value", "lock"),
]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value", "path", "type_name"), REFUSED, ids=named(REFUSED))
async def test_a_value_that_would_change_is_refused_with_path_type_and_reason(
    annotation: Any, value: Any, path: str, type_name: str
) -> None:
    error = await refusal(in_a_model(annotation, value))

    assert isinstance(error, errors.StateNotStorableError)
    assert (error.path.replace(".0", "[0]").replace(".1", "[1]"), error.type_name) == (path, type_name)
    assert error.reason
    assert error.cure
    assert (error.method, bool(error.run_id)) == ("assign", True)
    assert "hunter2" not in str(error)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value", "path", "type_name"), REFUSED, ids=named(REFUSED))
async def test_a_result_that_would_change_is_refused(annotation: Any, value: Any, path: str, type_name: str) -> None:
    if annotation is Any:
        annotation = dict[str, Any]  # for a result, Any is no annotation: see the values without one
        value = {"value": value}
    error = await refusal(returned(annotation, value))

    assert isinstance(error, errors.ResultNotStorableError)
    assert error.type_name == type_name
    assert error.method == "make"


HARD: list[tuple[Any, Any]] = [
    (tuple[int, int] | list[int], [1, 2]),
    (set[int] | list[int], {1}),
    (str | bytes, b"x"),
    (str | dt.date, "2024-01-01"),
    (str | dt.date, dt.date(2024, 1, 1)),
    (str | uuid.UUID, str(uuid.UUID(int=1))),
    (float | int, 1),
    (int | bool, True),
    (str | int, Level.LOW),
    (Base | Derived, Derived()),
    (list[int] | list[float], [1, 2.5]),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[float, str], {1.0: "a", NAN: "b"}),
    (dict[bytes, int], {b"\xff": 1}),
    (dict[bool, int], {True: 1}),
    (dict[Any, int], {1: 1, "1": 2}),
    (frozenset[frozenset[int]], frozenset({frozenset({1})})),
    (complex, 1 + 2j),
    (type[Base], Base),
    (D | float, D("1.5")),
    (D | float, 1.5),
    (dt.timedelta, dt.timedelta(days=999_999_999)),
    (dt.timedelta, dt.timedelta.min),
    (dt.time, dt.time(1, 2, tzinfo=UTC)),
    (dt.datetime, dt.datetime(1, 1, 1)),
    (dt.datetime, dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=3661)))),
    (collections.OrderedDict[str, int], collections.OrderedDict(b=1, a=2)),
    (collections.defaultdict[str, int], collections.defaultdict(int, a=1)),
    (collections.Counter[str], collections.Counter("aab")),
    (list, [1, (2,)]),
    (object, object()),
    (enum.Flag("Bits", "A B"), 0),
]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value"), HARD, ids=named(HARD))
@pytest.mark.parametrize("where", ["state", "result"])
async def test_whatever_a_value_is_it_loads_as_it_is_or_is_refused(annotation: Any, value: Any, where: str) -> None:
    try:
        tried = await (in_a_model(annotation, value) if where == "state" else returned(annotation, value))
    except MethodError as error:
        assert isinstance(error.__cause__, errors.NotStorableError), repr(error.__cause__)  # noqa: PT017 - either is good
    else:
        promoted = {float: int, int: float}
        assert exact(tried.loaded) == exact(tried.live)
        assert exact(tried.loaded) == exact(value) or type(value) in promoted or isinstance(value, list)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    ("annotation", "value", "becomes"),
    [
        (float, 1, 1.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (dict[str, float], {"a": 3}, {"a": 3.0}),
        (tuple[float, int], (1, 1), (1.0, 1)),
        (float | None, 2, 2.0),
    ],
)
async def test_an_int_in_a_float_field_is_a_float_live_and_loaded(annotation: Any, value: Any, becomes: Any) -> None:
    state, result = await in_a_model(annotation, value), await returned(annotation, value)

    assert exact(state.live) == exact(state.loaded) == exact(becomes)
    assert exact(result.live) == exact(result.loaded) == exact(becomes)


@pytest.mark.clauses("V1")
async def test_nothing_is_written_of_a_refused_state() -> None:
    class Bad(Flow[dict]):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> None:
            self.state["good"] = 1

        @listen(first)
        async def second(self) -> None:
            self.state["other"] = 2
            self.state["bad"] = object()

    flow = Bad()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.state == {"id": flow.run_id, "good": 1}
    assert (await Bad.load(flow.run_id)).state == flow.state
    assert [entry.kind for entry in await flow.history()] == ["started", "method", "failed"]


@pytest.mark.clauses("D2", "V1")
async def test_an_initial_state_that_cannot_be_stored_is_refused_before_anything_is_written() -> None:
    store = MemoryFlowPersistence()

    class Bad(Flow[dict]):
        @start()
        async def first(self) -> None:
            raise AssertionError("nothing may start")

    flow = Bad(persistence=store, initial_state={"bad": [object()]})
    with pytest.raises(errors.StateNotStorableError) as caught:
        await flow.kickoff()

    assert (caught.value.path, caught.value.type_name) == ("bad[0]", "object")
    assert await store.load(flow.run_id) is None


@pytest.mark.clauses("D2", "V1")
async def test_inputs_that_cannot_be_stored_are_refused_before_anything_is_written() -> None:
    store = MemoryFlowPersistence()

    class Bad(Flow[dict]):
        @start()
        async def first(self) -> None:
            raise AssertionError("nothing may start")

    with pytest.raises(errors.StateNotStorableError):
        await Bad(persistence=store).kickoff({"id": "x", "bad": object()})

    assert await store.load("x") is None


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("annotation", "value"), [(list, None), (list, {}), (dict, None), (dict, [1])])
async def test_a_bare_container_is_looked_at(annotation: Any, value: Any) -> None:
    class Holding(FlowState):
        held: annotation = Field(default_factory=annotation)

    class Put(Flow[Holding]):
        persistence = MemoryFlowPersistence()

        @start()
        async def put(self) -> None:
            self.state.held = value

    with pytest.raises(MethodError) as caught:
        await Put().kickoff()

    assert isinstance(caught.value.__cause__, errors.StateNotStorableError)


class WithInit(BaseModel):
    log: list[str] = []

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.log.append("made")


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (WithInit, WithInit()),
        (collections.deque[int], collections.deque([1, 2], maxlen=2)),
        (collections.defaultdict[str, list[int]], collections.defaultdict(lambda: [9], a=[1])),
        (collections.deque[int], collections.deque([True])),
        (set[tuple[int, ...]], {(True,)}),
    ],
    ids=["own __init__", "maxlen", "default_factory", "bool in a deque", "bool in a set"],
)
async def test_what_would_change_unseen_is_refused(annotation: Any, value: Any) -> None:
    class Made(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def make(self) -> annotation:
            return value

    with pytest.raises(MethodError) as caught:
        await Made().kickoff()

    assert isinstance(caught.value.__cause__, errors.ResultNotStorableError)
