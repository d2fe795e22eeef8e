"""Any value in any annotation: it loads back equal and of the same types, or it is refused. Nothing in between.

`test_typed.py` and `test_untyped.py` have tables of awkward values,
each through a whole flow; here hypothesis puts annotations and values together, and tries
the codecs alone, some of them through a flow. Whether two values are the same is decided here, and not asked of the package.
"""

import asyncio
import collections
import dataclasses
import datetime as dt
import enum
import ipaddress
import math
import pathlib
import uuid
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

import pytest
from figures import FACTOR, SEED, tell
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from large import treat_as_large
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, SecretBytes, SecretStr, create_model
from pydantic_core import TzInfo
from typing_extensions import TypedDict

from asyncflow import Flow, FlowState, MemoryFlowPersistence, errors, start
from asyncflow._codec.codec import Codec, Refused, codec_for
from asyncflow._codec.state_codecs import state_codec_for
from asyncflow.state import state_type_of

# ---- whether two values are the same -------------------------------------------------------------------------------


def alike(a: Any, b: Any, *, widened: bool = False) -> bool:
    """Equal and of the same types, all the way down. NaN is like NaN, and 0.0 not like -0.0.

    `widened`: where `a` has an int, `b` may have the equal float.
    """
    if type(a) is not type(b):
        return widened and type(a) is int and type(b) is float and a == b
    if isinstance(a, BaseModel):
        kept = [name for name, known in type(a).model_fields.items() if not known.exclude]
        extra = a.__pydantic_extra__ or {}, b.__pydantic_extra__ or {}
        return all(alike(getattr(a, n), getattr(b, n), widened=widened) for n in kept) and alike(
            *extra, widened=widened
        )
    if dataclasses.is_dataclass(a):
        return all(alike(getattr(a, f.name), getattr(b, f.name), widened=widened) for f in dataclasses.fields(a))
    if isinstance(a, list | tuple | collections.deque):
        limits = getattr(a, "maxlen", None), getattr(b, "maxlen", None)
        return (
            len(a) == len(b)
            and limits[0] == limits[1]
            and all(alike(x, y, widened=widened) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, dict):
        pairs = list(b.items())
        return len(a) == len(b) and all(
            any(alike(k, key) and alike(v, w, widened=widened) for key, w in pairs) for k, v in a.items()
        )
    if isinstance(a, set | frozenset):
        return len(a) == len(b) and all(any(alike(x, y) for y in b) for x in a)
    return atom(a) == atom(b)


def atom(value: Any) -> Any:
    """A form of an indivisible value that says all of it."""
    match value:
        case enum.Enum():
            return value.name, value.value
        case dt.datetime() | dt.time():
            zone = value.tzinfo
            kind = "fixed" if isinstance(zone, dt.timezone | TzInfo) else zone
            return value.replace(tzinfo=None).isoformat(), value.fold, value.utcoffset(), kind
        case SecretStr() | SecretBytes():
            return value.get_secret_value()
        case _:
            return repr(value)


# ---- annotations, and values of them -------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    TWO = 2
    HALF = 0.5
    PAIR = (1, 2)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(enum.StrEnum):
    YES = "yes"
    RED = "red"


class Bits(enum.Flag):
    A = 1
    B = 2
    C = 4


class IntBits(enum.IntFlag):
    A = 1
    B = 2


class Base(BaseModel):
    a: int = 1


class Derived(Base):
    b: int = 2


class Twin(BaseModel):
    """Of the same form as `Base`."""

    a: int = 1


class Tree(BaseModel):
    name: str
    below: list["Tree"] = []


class Aliased(BaseModel):
    first: int = Field(default=0, alias="eins")
    second: Decimal = Field(default=Decimal(0), serialization_alias="zwei")
    third: str | None = Field(default=None, validation_alias=AliasChoices("drei", "first"))


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int = 0
    _hidden: int = PrivateAttr(default=0)


class Coded(BaseModel):
    model_config = ConfigDict(
        ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants", frozen=True
    )
    data: bytes = b""
    ratio: float = 0.0


class Excluding(BaseModel):
    kept: int = 0
    dropped: Any = Field(default=None, exclude=True)


@dataclass
class Point:
    x: int
    tags: tuple[str, ...] = ()


@dataclass
class Deep(Point):
    inner: Base | None = None


@dataclass(frozen=True)
class Key:
    n: int


class Pair(NamedTuple):
    left: int
    right: str


class Shape(TypedDict, total=False):
    name: str
    sides: int


class MyInt(int):
    pass


class MyStr(str):
    __slots__ = ()


class MyDict(dict):  # type: ignore[type-arg]
    pass


class MyDecimal(Decimal):
    pass


class MyList(list):  # type: ignore[type-arg]
    pass


class MyTuple(tuple):  # type: ignore[type-arg]
    __slots__ = ()


class MyDatetime(dt.datetime):
    pass


@dataclass(frozen=True)
class Typed:
    """An annotation, and the values that belong to it."""

    annotation: Any
    values: st.SearchStrategy[Any]
    is_key: bool = True
    """Whether its values can be hashed."""


zones = st.sampled_from(
    [
        *(None, None, dt.UTC, dt.timezone(dt.timedelta(hours=2)), dt.timezone(-dt.timedelta(hours=9, minutes=30))),
        *(dt.timezone(dt.timedelta(seconds=3661)), dt.timezone(dt.timedelta(hours=1), "named")),
    ]
)
ints = st.integers() | st.sampled_from([0, -1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**40, -(10**400), 10**4_299])
floats = st.floats() | st.sampled_from(
    [math.nan, math.inf, -math.inf, 0.0, -0.0, 5e-324, 1e16, 1e22, 1.7976931348623157e308, 0.1 + 0.2]
)
texts = st.text(max_size=8) | st.sampled_from(
    [
        "",
        "\x00",
        "\ud800",
        "\udcff",
        "1",
        "1.5",
        "true",
        "null",
        "NaN",
        "2024-01-01",
        "é",
        "e\u0301",
        "\u2028",
        "$dict",
        "PT1S",
        " x ",
    ]
)
binaries = st.binary(max_size=6) | st.sampled_from([b"", b"text", b"\xff", b"\xc3\xa9", b"\x00"])
decimals = st.decimals() | st.sampled_from(
    [Decimal(t) for t in ("1.10", "-0", "1E+5", "0E-20", "sNaN1", "-NaN", "Infinity", "1E+999999")]
)
datetimes = st.builds(
    lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, st.sampled_from([0, 0, 0, 1])
) | st.sampled_from([dt.datetime.min, dt.datetime.max, dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(1970, 1, 1)])
times = st.builds(lambda at, zone: at.replace(tzinfo=zone), st.times(), zones)
paths = st.sampled_from(["", ".", "a", "/a/b c", "../x", "a\\b", "\udcff", "é"]).map(pathlib.Path)

ATOMS = (
    Typed(int, ints),
    Typed(float, floats),
    Typed(float, ints.filter(lambda n: abs(n) < 10**300)),
    Typed(bool, st.booleans()),
    Typed(str, texts),
    Typed(bytes, binaries),
    Typed(Decimal, decimals),
    Typed(complex, st.complex_numbers()),
    Typed(dt.datetime, datetimes),
    Typed(dt.date, st.dates()),
    Typed(dt.time, times),
    Typed(
        dt.timedelta, st.timedeltas() | st.sampled_from([dt.timedelta.min, dt.timedelta.max, -dt.timedelta.resolution])
    ),
    Typed(uuid.UUID, st.uuids()),
    Typed(pathlib.Path, paths),
    Typed(pathlib.PurePosixPath, st.sampled_from(["a", "/b"]).map(pathlib.PurePosixPath)),
    Typed(ipaddress.IPv4Address, st.ip_addresses(v=4)),
    Typed(Colour, st.sampled_from(Colour)),
    Typed(Level, st.sampled_from(Level)),
    Typed(Word, st.sampled_from(Word)),
    Typed(Bits, st.integers(0, 7).map(Bits)),
    Typed(IntBits, st.integers(0, 9).map(IntBits)),
    Typed(Literal["a", 1, None, True], st.sampled_from(["a", 1, None, True])),
    Typed(Literal[Colour.RED, "red"], st.sampled_from([Colour.RED, "red"])),
    Typed(SecretStr, st.text(max_size=3).map(SecretStr)),
    Typed(Annotated[int, Field(ge=0)], ints),
    Typed(Annotated[str, Field(max_length=3)], texts),
    Typed(None, st.none()),
    Typed(Key, st.builds(Key, ints)),
    Typed(Pair, st.builds(Pair, ints, texts)),
)
WHOLE = (
    Typed(Base, st.builds(Base, a=st.integers()) | st.builds(Derived), False),
    Typed(
        Tree,
        st.recursive(
            st.builds(Tree, name=texts),
            lambda t: st.builds(Tree, name=texts, below=st.lists(t, max_size=2)),
            max_leaves=4,
        ),
        False,
    ),
    Typed(
        Aliased,
        st.builds(
            lambda a, b, c: Aliased.model_construct(first=a, second=b, third=c), ints, decimals, st.none() | texts
        ),
        False,
    ),
    Typed(
        Open,
        st.dictionaries(st.sampled_from("xyz"), st.deferred(lambda: anything), max_size=2).map(
            lambda d: Open.model_construct(**d)
        ),
        False,
    ),
    Typed(Coded, st.builds(Coded, data=binaries, ratio=floats), False),
    Typed(Excluding, st.builds(Excluding, kept=st.integers(), dropped=st.deferred(lambda: anything)), False),
    Typed(Point, st.builds(Point, ints, st.lists(texts, max_size=2).map(tuple)) | st.builds(Deep, ints), False),
    Typed(Deep, st.builds(Deep, ints, inner=st.none() | st.builds(Base) | st.builds(Derived)), False),
    Typed(Shape, st.fixed_dictionaries({}, optional={"name": texts, "sides": ints, "more": ints}), False),
    Typed(Any, st.deferred(lambda: anything), False),
    Typed(object, st.deferred(lambda: anything), False),
    Typed(dict, st.dictionaries(texts, st.deferred(lambda: anything), max_size=2), False),
    Typed(list, st.lists(st.deferred(lambda: anything), max_size=2), False),
)


def can_be_hashed(value: Any) -> bool:
    """All but a signalling NaN, and what contains one."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


atoms = st.one_of(*(typed.values for typed in ATOMS))
hashable = atoms.filter(can_be_hashed)
odd = st.one_of(
    *(
        ints.map(MyInt),
        texts.map(MyStr),
        st.builds(Derived),
        st.builds(Twin),
        st.builds(MyDict, x=ints),
        st.builds(MyDecimal, ints),
    ),
    *(
        st.just(object()),
        st.builds(collections.OrderedDict, x=ints),
        st.builds(bytearray, binaries),
        st.just(len),
        st.just(Base),
    ),
    *(
        st.builds(collections.deque, st.lists(ints, max_size=2), st.none() | st.just(3)),
        st.just(range(3)),
        st.just(...),
    ),
)
anything: st.SearchStrategy[Any] = st.recursive(
    atoms | atoms | atoms | odd,
    lambda inner: st.one_of(
        *(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.sets(hashable, max_size=2)),
        *(
            st.frozensets(hashable, max_size=2),
            st.dictionaries(hashable, inner, max_size=2),
            st.dictionaries(texts, inner, max_size=2),
        ),
        *(inner.map(lambda v: {"$tuple": [v]}), st.dictionaries(st.just("$dict"), inner, min_size=1)),
    ),
    max_leaves=5,
)
"""Values of no annotation."""


def a_list(t: Typed) -> Typed:
    return Typed(list[t.annotation], st.lists(t.values, max_size=3), False)


def a_tuple(t: Typed) -> Typed:
    return Typed(tuple[t.annotation, ...], st.lists(t.values, max_size=3).map(tuple), t.is_key)


def a_deque(t: Typed) -> Typed:
    return Typed(collections.deque[t.annotation], st.lists(t.values, max_size=2).map(collections.deque), False)


def an_optional(t: Typed) -> Typed:
    return Typed(Optional[t.annotation], st.none() | t.values, t.is_key)  # noqa: UP045 - a variable


def a_model(t: Typed) -> Typed:
    model = create_model("Made", value=(t.annotation, ...))
    return Typed(model, t.values.map(lambda value: model.model_construct(value=value)), False)


def a_closed_model(t: Typed) -> Typed:
    """Strict, with names of its own."""
    config = ConfigDict(strict=True, extra="forbid", alias_generator=str.upper, populate_by_name=True)
    model = create_model("Closed", __config__=config, value=(t.annotation, ...))
    return Typed(model, t.values.map(lambda value: model.model_construct(value=value)), False)


def a_set(t: Typed) -> Typed:
    return Typed(set[t.annotation], st.sets(t.values.filter(can_be_hashed), max_size=3), False)


def a_frozenset(t: Typed) -> Typed:
    return Typed(frozenset[t.annotation], st.frozensets(t.values.filter(can_be_hashed), max_size=3), True)


def a_union(one: Typed, other: Typed) -> Typed:
    return Typed(Union[one.annotation, other.annotation], one.values | other.values, one.is_key and other.is_key)  # noqa: UP007


def a_pair(one: Typed, other: Typed) -> Typed:
    values = st.tuples(one.values, other.values)
    return Typed(tuple[one.annotation, other.annotation], values, one.is_key and other.is_key)


def a_dict(key: Typed, value: Typed) -> Typed:
    return Typed(
        dict[key.annotation, value.annotation],
        st.dictionaries(key.values.filter(can_be_hashed), value.values, max_size=3),
        False,
    )


OF_ONE: tuple[Callable[[Typed], Typed], ...] = (a_list, a_tuple, a_deque, an_optional, a_model, a_closed_model)
OF_KEYS: tuple[Callable[[Typed], Typed], ...] = (a_set, a_frozenset)
OF_TWO: tuple[Callable[[Typed, Typed], Typed], ...] = (a_union, a_union, a_pair)

keys = st.sampled_from(ATOMS) | st.just(Typed(str, texts))  # texts are what most keys are
typed: st.SearchStrategy[Typed] = st.recursive(
    st.sampled_from(ATOMS) | st.sampled_from(ATOMS + WHOLE),
    lambda inner: st.one_of(
        st.builds(lambda make, t: make(t), st.sampled_from(OF_ONE), inner),
        st.builds(lambda make, t: make(t), st.sampled_from(OF_KEYS), keys),
        st.builds(lambda make, one, other: make(one, other), st.sampled_from(OF_TWO), inner, inner),
        st.builds(a_dict, keys, inner),
    ),
    max_leaves=4,
)


@dataclass
class Case:
    annotation: Any
    value: Any


def fit_for_a_float(n: int) -> int:
    """The number, or another where no float is so large, nor so long a text allowed."""
    return n if abs(n) < 10**300 else n % 10**300


RELATIVES: dict[type, tuple[Callable[[Any], Any], ...]] = {
    int: (MyInt, bool, lambda n: float(fit_for_a_float(n)), lambda n: str(fit_for_a_float(n)), lambda n: Level.LOW),
    str: (MyStr, lambda text: Word.YES, lambda text: text.encode("utf-8", "replace")),
    float: (str, Decimal, lambda x: int(x) if abs(x) < 1e9 else 1),
    Decimal: (MyDecimal, str, lambda d: 1.5),
    list: (tuple, MyList, lambda items: collections.deque(items, maxlen=9)),
    tuple: (list, MyTuple),
    dict: (MyDict, collections.OrderedDict, lambda d: list(d.items())),
    dt.datetime: (dt.datetime.isoformat, dt.datetime.date, lambda at: MyDatetime(2024, 1, 1)),
    Base: (lambda base: Derived(), lambda base: Twin(a=base.a), lambda base: {"a": base.a}),
    Point: (lambda point: Deep(point.x, point.tags), lambda point: {"x": point.x}),
}
"""What is near a type, and is not the same."""


def with_relatives(value: Any, cls: type, relative: Callable[[Any], Any]) -> Any:
    """The value, in which all of one type have become another; as deep as lists, tuples, dicts and models go."""
    if type(value) is cls:
        return relative(value)
    if type(value) in (list, tuple):
        return type(value)(with_relatives(v, cls, relative) for v in value)
    if type(value) is dict:
        return {k: with_relatives(v, cls, relative) for k, v in value.items()}
    if isinstance(value, BaseModel):
        inner = {k: with_relatives(v, cls, relative) for k, v in value.__dict__.items()}
        return type(value).model_construct(**inner)
    return value


@st.composite
def cases(draw: Any) -> Case:
    """An annotation with a value of it; in some cases with one that is near, in others with any at all."""
    t = draw(typed)
    which = draw(st.integers(0, 11))
    value = draw(anything if which == 0 else t.values)
    if which in (1, 2):
        cls = draw(st.sampled_from(list(RELATIVES)))
        value = with_relatives(value, cls, draw(st.sampled_from(RELATIVES[cls])))
    return Case(t.annotation, value)


# ---- the trial -----------------------------------------------------------------------------------------------------


def in_a_result(case: Case) -> tuple[Codec, Any]:
    return codec_for(case.annotation), case.value


def in_a_model(case: Case) -> tuple[Codec, Any]:
    model = holding(case.annotation)
    return state_codec_for(state_type_of(model, {})), model.model_construct(id="x", value=case.value)


def in_a_dict(case: Case) -> tuple[Codec, Any]:
    return state_codec_for(state_type_of(dict[str, case.annotation], {})), {"id": "x", "value": case.value}


def holding(annotation: Any) -> type[FlowState]:
    return create_model("Holding", __base__=FlowState, value=(annotation, None))


PLACES = {"result": in_a_result, "model": in_a_model, "dict": in_a_dict}


@dataclass
class Figures:
    stored: int = 0
    widened: int = 0
    """Of these, with an int that became the float that the annotation says."""
    in_pieces: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def refuse(self, reason: str) -> None:
        self.refused += 1
        self.reasons[" ".join(reason.split()[:5])] += 1

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} '{reason} ...'" for reason, count in self.reasons.most_common(4))
        return f"{self.stored} stored, {self.widened} with an int for a float; {self.refused} refused: {reasons}; changed 0"


def trial(codec: Codec, value: Any, figures: Figures) -> None:
    try:
        data, kept = codec.encode(value)
    except Refused as refused:
        check_refusal(refused)
        assert codec.pieces is None or exhausted(codec.pieces.encode(value)) is None
        figures.refuse(refused.reason)
        return
    loaded = codec.decode(data)
    assert alike(loaded, kept), (loaded, kept, data)
    in_pieces = exhausted(codec.pieces.encode(value)) if codec.pieces is not None else None
    assert in_pieces in (None, data)
    assert in_pieces is None or alike(value, kept), "only what is kept as it is may be encoded in pieces"
    figures.in_pieces += in_pieces is not None
    figures.stored += 1
    if not alike(value, kept):
        figures.widened += 1
        assert alike(value, kept, widened=True), (kept, data)


def exhausted(encoding: Generator[None, None, bytes | None]) -> bytes | None:
    while True:
        try:
            next(encoding)
        except StopIteration as done:
            found: bytes | None = done.value
            return found


def check_refusal(refused: Refused) -> None:
    told = refused.path, refused.type_name, refused.reason, refused.cure
    assert all(type(part) is str for part in told), told
    assert refused.reason, told
    assert refused.cure, told
    assert refused.type_name or refused.limit, told


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("place", PLACES)
def test_whatever_a_value_is_it_loads_back_the_same_or_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    treat_as_large(monkeypatch)
    count = int(1800 * FACTOR) // len(PLACES)
    figures = Figures()

    @seed(SEED + list(PLACES).index(place))
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(case=cases())
    def attempt(case: Case) -> None:
        trial(*PLACES[place](case), figures)

    attempt()
    print(f"{place}: {figures}")
    tell("R22", trials=figures.stored + figures.refused, faults=figures.refused)

    assert figures.stored + figures.refused >= count * 0.9
    assert figures.stored >= count * 0.3, figures
    assert figures.refused >= count * 0.15, figures
    assert len(figures.reasons) >= 5, figures
    assert place != "model" or figures.in_pieces >= count * 0.15, figures.in_pieces


async def through_a_flow(case: Case, figures: Figures) -> None:
    """As the initial state of a run: stored and loaded again, or refused with nothing written."""
    model = holding(case.annotation)

    class Keep(Flow[model]):  # type: ignore[valid-type]
        persistence = MemoryFlowPersistence()

        @start()
        async def only(self) -> None: ...

    flow = Keep(initial_state=model.model_construct(value=case.value))
    try:
        await flow.kickoff()
    except (errors.StateNotStorableError, errors.LimitExceededError) as error:
        assert await Keep.persistence.load(flow.run_id) is None
        figures.refuse(getattr(error, "reason", "a limit"))
    else:
        loaded = (await Keep.load(flow.run_id)).state
        assert alike(loaded, flow.state)
        assert alike(case.value, loaded.value, widened=True)
        figures.stored += 1


@pytest.mark.clauses("V1", "D2")
def test_whatever_a_state_is_a_run_stores_it_the_same_or_writes_nothing() -> None:
    count = int(200 * FACTOR)
    figures = Figures()

    @seed(SEED)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck), deadline=None)
    @given(case=cases())
    def attempt(case: Case) -> None:
        asyncio.run(through_a_flow(case, figures))

    attempt()
    print(f"flow: {figures}")
    tell("R22", trials=figures.stored + figures.refused, faults=figures.refused)

    assert figures.stored + figures.refused >= count * 0.9
    assert figures.stored >= count * 0.3, figures
    assert figures.refused >= count * 0.15, figures
