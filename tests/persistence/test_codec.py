"""What is saved loads back equal and of the same types, or the save is refused before anything is written."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import ipaddress
import math
import pathlib
import sys
import threading
import uuid
import zoneinfo
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    computed_field,
    create_model,
    field_serializer,
    field_validator,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start

UTC = dt.UTC
D = decimal.Decimal
NAN, INF = math.nan, math.inf


def exact(value: Any) -> Any:
    """A form that is equal for two values only if they are of the same types all the way down."""
    if isinstance(value, BaseModel):
        return type(value), {k: exact(v) for k, v in value}
    if dataclasses.is_dataclass(value):
        return type(value), {f.name: exact(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return type(value), [(exact(k), exact(v)) for k, v in value.items()]
    if isinstance(value, list | tuple | collections.deque):
        return type(value), [exact(v) for v in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(exact, value)))
    return type(value), str(value) if isinstance(value, dt.datetime | dt.time) else repr(value)


def named(cases: list[Any]) -> list[str]:
    """Names for the cases of a table that are the same in every process: no addresses, no order of sets."""
    return [
        f"{n}-" + "-".join(getattr(part, "__name__", type(part).__name__) for part in case if not isinstance(part, str))
        for n, case in enumerate(cases)
    ]


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: int = 2


class Tree(BaseModel):
    name: str
    below: list["Tree"] = []


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    content: T


@dataclasses.dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


@pydantic_dataclass
class Checked:
    x: float


class Pair(NamedTuple):
    left: int
    right: str


class Shape(TypedDict):
    name: str
    sides: int


class MyStr(str):
    __slots__ = ()


class MyList(list):
    __slots__ = ()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# ---- how a value is tried ------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    """A value as it was given, as it was live afterwards, and as it was loaded."""

    live: Any
    loaded: Any


async def in_a_model(annotation: Any, value: Any) -> Tried:
    """Assign the value to a model's field of this annotation, in a method of a stored flow."""
    model = create_model("Holding", __base__=FlowState, value=(Optional[annotation], None))  # noqa: UP045 - a variable

    class Keep(Flow[model]):
        persistence = MemoryFlowPersistence()

        @start()
        async def assign(self) -> None:
            self.state.value = value

    flow = Keep()
    await flow.kickoff()
    return Tried(flow.state.value, (await Keep.load(flow.run_id)).state.value)


async def in_a_dict(value: Any) -> Tried:
    """Put the value into the dict state of a stored flow."""

    class Keep(Flow[dict]):
        persistence = MemoryFlowPersistence()

        @start()
        async def assign(self) -> None:
            self.state["value"] = value

    flow = Keep()
    await flow.kickoff()
    return Tried(flow.state["value"], (await Keep.load(flow.run_id)).state["value"])


NO_ANNOTATION = object()


async def returned(annotation: Any, value: Any) -> Tried:
    """Return the value from a method; what its listener gets live, and after the run was taken up again."""
    received: list[Any] = []

    class Give(Flow):
        persistence = MemoryFlowPersistence()

        if annotation is NO_ANNOTATION:

            @start()
            async def make(self):
                return value
        else:

            @start()
            async def make(self) -> annotation:
                return value

        @listen(make)
        async def take(self, got: Any) -> None:
            received.append(got)
            if len(received) == 1:
                raise RuntimeError("again, please")

    flow = Give()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    if not isinstance(caught.value.__cause__, RuntimeError):
        raise caught.value
    await Give.resume(flow.run_id)
    return Tried(*received)


async def refusal(trying: Any) -> errors.AsyncflowError:
    """What the refused value's method failed with."""
    with pytest.raises(MethodError) as caught:
        await trying
    cause = caught.value.__cause__
    assert isinstance(cause, errors.NotStorableError | errors.LimitExceededError), repr(cause)
    return cause


# ---- values with an annotation -------------------------------------------------------------------------------------

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


# ---- models with a will of their own -------------------------------------------------------------------------------


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


# ---- values without an annotation ----------------------------------------------------------------------------------

PLAIN: list[Any] = [
    None,
    True,
    0,
    -(2**63),
    2**63,
    -(10**400),
    1.5,
    -0.0,
    NAN,
    INF,
    -INF,
    "",
    "\x00 ünï",
    b"",
    b"\xff\x00",
    D("1.10"),
    D("NaN"),
    D("-Infinity"),
    dt.datetime(2024, 1, 2, 3, 4, 5, 6),
    dt.datetime(2024, 1, 2, tzinfo=UTC),
    dt.datetime(2024, 1, 2, tzinfo=dt.timezone(-dt.timedelta(hours=9, minutes=30))),
    dt.datetime.min,
    dt.datetime.max,
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3, 4),
    dt.time(1, 2, tzinfo=UTC),
    dt.timedelta(days=-1, microseconds=3),
    dt.timedelta.max,
    uuid.UUID(int=5),
    pathlib.Path("/a/b"),
    pathlib.PurePath("a"),
    [],
    {},
    (),
    set(),
    frozenset(),
    [1, [2, [3]]],
    (1, (2, [3])),
    {1, 2},
    {(1, "a"), frozenset({2})},
    {"a": {"b": (1, {2})}},
    {1: "a", "1": "b"},
    {(1, 2): "x"},
    {None: 1, True: 2, 2.5: 3},
    {b"k": {"v": b""}},
    {"$bytes": "00"},
    {"$dict": []},
    {"$": 1, "a": 2},
    {"$unknown": {"$tuple": []}},
    {"id": 3},
    nested(50),
]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("value", PLAIN, ids=named([(v,) for v in PLAIN]))
async def test_in_a_dict_state_json_and_common_builtins_load_as_they_are(value: Any) -> None:
    tried = await in_a_dict(value)

    assert exact(tried.loaded) == exact(value)
    assert exact(tried.live) == exact(value)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("value", PLAIN, ids=named([(v,) for v in PLAIN]))
@pytest.mark.parametrize("annotation", [NO_ANNOTATION, Any], ids=["none", "Any"])
async def test_a_result_without_an_annotation_loads_as_it_is(annotation: Any, value: Any) -> None:
    tried = await returned(annotation, value)

    assert exact(tried.loaded) == exact(value)
    assert exact(tried.live) == exact(value)


NOT_PLAIN: list[tuple[Any, str]] = [
    (Base(), "Base"),
    (Point(1), "Point"),
    (Colour.RED, "Colour"),
    (Level.LOW, "Level"),
    (MyStr("x"), "MyStr"),
    (MyList(), "MyList"),
    (Pair(1, "r"), "Pair"),
    (collections.OrderedDict(a=1), "OrderedDict"),
    (collections.deque([1]), "deque"),
    (bytearray(b"x"), "bytearray"),
    (1j, "complex"),
    (range(3), "range"),
    (object(), "object"),
    (print, "builtin_function_or_method"),
    (Base, "ModelMetaclass"),
    ("\ud800", "str"),
    (dt.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")), "datetime"),
    (dt.datetime(2024, 10, 27, 2, 30, fold=1), "datetime"),
    (threading.Lock(), "lock"),
]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("value", "type_name"), NOT_PLAIN, ids=named(NOT_PLAIN))
async def test_what_has_no_plain_form_is_refused_in_a_dict_state(value: Any, type_name: str) -> None:
    error = await refusal(in_a_dict(value))
    deeper = await refusal(in_a_dict({"a": [1, value]}))

    assert isinstance(error, errors.StateNotStorableError)
    assert (error.path, error.type_name) == ("value", type_name)
    assert (deeper.path.replace(".1", "[1]"), deeper.type_name) == ("value.a[1]", type_name)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(("value", "type_name"), NOT_PLAIN[:6], ids=named(NOT_PLAIN[:6]))
async def test_what_has_no_plain_form_is_refused_as_a_result_with_the_cure(value: Any, type_name: str) -> None:
    error = await refusal(returned(NO_ANNOTATION, value))

    assert isinstance(error, errors.ResultNotStorableError)
    assert error.type_name == type_name
    assert "annotate" in error.cure


@pytest.mark.clauses("V1")
async def test_an_annotation_that_cannot_be_resolved_is_none() -> None:
    tried = await returned("NoSuchThing", (1, 2))

    assert exact(tried.loaded) == exact((1, 2))


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("V5")
@pytest.mark.parametrize("depth", [250, 3_000])
@pytest.mark.parametrize("where", ["dict state", "model state", "result", "plain result"])
async def test_what_is_nested_too_deeply_is_a_limit(depth: int, where: str) -> None:
    value = nested(depth)
    trying = {
        "dict state": lambda: in_a_dict(value),
        "model state": lambda: in_a_model(Any, value),
        "result": lambda: returned(list[Any], value),
        "plain result": lambda: returned(NO_ANNOTATION, value),
    }[where]
    error = await refusal(trying())

    assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
async def test_a_value_that_contains_itself_is_a_limit() -> None:
    loop: list[Any] = []
    loop += [loop, loop]
    for trying in (in_a_dict(loop), in_a_model(Any, loop), returned(list[Any], loop), returned(NO_ANNOTATION, loop)):
        error = await refusal(trying)

        assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
async def test_what_is_too_large_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow._codec.codec.MAX_BYTES", 10_000)
    for trying in (in_a_dict("x" * 10_001), in_a_model(str, "x" * 10_001), returned(str, "x" * 10_001)):
        error = await refusal(trying)

        assert isinstance(error, errors.LimitExceededError)


@pytest.mark.clauses("V5")
@pytest.mark.skipif(not hasattr(sys, "get_int_max_str_digits"), reason="this Python writes any number")
@pytest.mark.parametrize(
    ("trying", "told"),
    [
        (lambda: in_a_dict(10**5_000), "int at 'value'"),
        (lambda: in_a_model(int, 10**5_000), "int at 'value'"),
        (lambda: in_a_model(dict[str, list[int]], {"a": [1, 10**5_000]}), "int at 'value.a[1]'"),
        (lambda: returned(int, 10**5_000), "what make returned cannot be stored: int: "),
    ],
    ids=["in a dict", "in a model", "within", "returned"],
)
async def test_a_number_with_too_many_digits_is_a_limit_and_told_where(trying: Any, told: str) -> None:
    error = await refusal(trying())

    assert isinstance(error, errors.LimitExceededError)
    assert told in str(error)
    assert "more digits" in str(error)


# ---- what is stored of results -------------------------------------------------------------------------------------


@pytest.mark.clauses("V1")
async def test_a_result_that_nobody_receives_is_not_stored_and_may_be_anything() -> None:
    store = MemoryFlowPersistence()
    client = threading.Lock()

    class Quiet(Flow):
        persistence = store

        @start()
        async def first(self):
            return client

        @listen(first)
        async def second(self) -> str:
            return "the unheard one"

        @listen(second)
        async def third(self) -> str:
            return "end"

    flow = Quiet()
    output = await flow.kickoff()
    rows = await store.history(flow.run_id)

    assert output == "end"
    assert flow.method_outputs["first"] is client
    assert not any(b"unheard" in row.to_bytes() for row in rows)


@pytest.mark.clauses("V1")
async def test_the_output_of_the_run_is_stored_or_refused() -> None:
    class Last(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self):
            return threading.Lock()

    with pytest.raises(MethodError) as caught:
        await Last().kickoff()

    assert isinstance(caught.value.__cause__, errors.ResultNotStorableError)


@pytest.mark.clauses("V1")
async def test_the_output_is_what_it_will_load_as() -> None:
    class Float(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> float:
            return 1

    flow = Float()
    outputs = [await flow.kickoff(), flow.method_outputs["first"], await Float.resume(flow.run_id)]

    assert list(map(exact, outputs)) == [exact(1.0)] * 3


async def test_a_result_is_dropped_once_nobody_waits_for_it() -> None:
    store = MemoryFlowPersistence()

    class Once(Flow):
        persistence = store

        @start()
        async def first(self) -> str:
            return "needle"

        @listen(first)
        async def second(self, value: str) -> None: ...

        @listen(second)
        async def third(self) -> None: ...

    flow = Once()
    await flow.kickoff()
    newest = await store.load(flow.run_id)

    assert newest is not None
    assert b"needle" not in (newest.progress or b"")


@pytest.mark.clauses("V2")
async def test_a_return_type_that_has_changed_since_is_told() -> None:
    store = MemoryFlowPersistence()

    class Old(Flow):
        name = "typed"

        @start()
        async def first(self) -> str:
            return "text"

        @listen(first)
        async def second(self, value: Any) -> None:
            raise RuntimeError

    class New(Flow):
        name = "typed"

        @start()
        async def first(self) -> int:
            return 1

        @listen(first)
        async def second(self, value: Any) -> None: ...

    flow = Old(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError) as caught:
        await New.resume(flow.run_id, persistence=store)

    assert isinstance(caught.value.__cause__, errors.StateSchemaError)
