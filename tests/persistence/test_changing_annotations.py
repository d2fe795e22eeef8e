"""Annotations that change under stored values, and what stands where an annotation says `Any`."""

import collections.abc
import dataclasses
import datetime as dt
import decimal
import enum
import typing
import uuid
from typing import Any, Final, NamedTuple, Optional

import pydantic
import pytest
from pydantic import BaseModel, ConfigDict, RootModel, field_validator, model_serializer, model_validator
from pydantic_core import from_json
from typing_extensions import TypedDict

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, MethodError, and_, errors, listen, start
from asyncflow._codec.codec import Codec, Misfit, Refused, codec_for, plain_codec, state_codec_for
from asyncflow._codec.marks import MIXED, SAME, TAGGED, TYPED
from asyncflow._codec.round_trip import plan_for
from asyncflow._values.copying import difference
from asyncflow.state import state_type_of

D = decimal.Decimal
T = typing.TypeVar("T")
NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


class Colour(enum.Enum):
    RED = "red"


class Row(BaseModel):
    when: dt.datetime
    tags: set[int] = set()


@dataclasses.dataclass
class Point:
    x: D


def kept(codec: Codec, value: Any) -> bytes:
    """The bytes of a value that is kept by them."""
    data, _ = codec.encode(value)
    assert difference(value, codec.decode(data)) is None
    return data


# ---- an annotation comes, goes, and becomes another --------------------------------------------------------------------

TYPES: dict[str, tuple[Any, Any]] = {
    "datetime": (dt.datetime, NOW),
    "Decimal": (D, D("1.10")),
    "UUID": (uuid.UUID, uuid.UUID(int=7)),
    "bytes": (bytes, b"raw"),
    "tuple": (tuple[int, str], (1, "a")),
    "set": (set[str], {"a", "b"}),
    "int keys": (dict[int, str], {1: "a"}),
    "model": (Row, Row(when=NOW)),
    "dataclass": (Point, Point(D("2.0"))),
    "enum": (Colour, Colour.RED),
    "list of datetimes": (list[dt.datetime], [NOW]),
    "dict of sets": (dict[str, set[int]], {"a": {1, 2}}),
    "optional": (Optional[dt.date], dt.date(2026, 1, 1)),  # noqa: UP045 - as it is written
}
by_type = pytest.mark.parametrize(("annotation", "value"), TYPES.values(), ids=TYPES)
CLASSES = ("model", "dataclass", "enum")


@pytest.mark.found("B3")
@by_type
@pytest.mark.parametrize("now", [Any, list, dict, list[Any], dict[str, Any], Any | None])
def test_what_an_annotation_wrote_is_not_read_without_it(annotation: Any, value: Any, now: Any) -> None:
    data = kept(codec_for(annotation), value)

    with pytest.raises(Misfit) as caught:
        codec_for(now).decode(data)

    assert caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [TYPES[name] for name in TYPES if name not in CLASSES],
    ids=[name for name in TYPES if name not in CLASSES],
)
def test_what_has_no_annotation_is_read_by_one_that_it_fits(annotation: Any, value: Any) -> None:
    data = kept(plain_codec, value)
    of_0_1 = data[1:]

    for stored in (data, of_0_1):
        assert difference(value, codec_for(annotation).decode(stored)) is None


@pytest.mark.found("B3")
def test_what_has_no_annotation_and_does_not_fit_is_told_with_its_place() -> None:
    data = kept(plain_codec, {"a": NOW, "b": {1}})

    with pytest.raises(Misfit) as caught:
        codec_for(dict[str, dt.datetime]).decode(data)

    assert caught.value.paths == ("b",)
    assert not caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 5),
        (float, 1.5),
        (bool, True),
        (None, None),
        (str, "2026-01-01T00:00:00"),
        (list[str], ["a"]),
        (dict[str, list[int]], {"$set": [1]}),
        (str | None, None),
        (int | str, "5"),
        (typing.Literal["a", 1], 1),
        (dict[str, Any], {"a": [1, {"b": None}]}),
        (list, [1, "a"]),
    ],
    ids=str,
)
def test_what_json_says_by_itself_is_read_without_its_annotation(annotation: Any, value: Any) -> None:
    data = kept(codec_for(annotation), value)

    assert data.startswith(SAME)
    assert difference(value, plain_codec.decode(data)) is None
    assert from_json(data) == value


class S(FlowState):
    when: dt.datetime = NOW
    ids: set[int] = set()  # noqa: RUF012 - pydantic copies it
    n: int = 0


class Strict(S):
    model_config = ConfigDict(strict=True)


STATES: dict[str, Any] = {
    "model": S,
    "strict": Strict,
    "dict": dict,
    "of dates": dict[str, dt.datetime],
    "any": dict[str, Any],
}


def state_codec(annotation: Any) -> Codec:
    return state_codec_for(state_type_of(annotation, {}))


@pytest.mark.found("B3")
@pytest.mark.parametrize("now", ["dict", "any"])
@pytest.mark.parametrize("was", ["model", "strict", "of dates"])
def test_a_state_with_a_type_is_not_read_by_a_flow_without_one(was: str, now: str) -> None:
    state = {"id": "x", "when": NOW} if was == "of dates" else STATES[was](id="x", ids={1})
    data = kept(state_codec(STATES[was]), state)

    with pytest.raises(Misfit) as caught:
        state_codec(STATES[now]).decode(data)

    assert caught.value.is_gone


@pytest.mark.found("B3")
@pytest.mark.parametrize("was", ["dict", "any"])
@pytest.mark.parametrize("is_of_0_1", [False, True])
def test_a_state_without_a_type_is_read_by_a_flow_with_one(was: str, is_of_0_1: bool) -> None:
    data = kept(state_codec(STATES[was]), {"id": "x", "when": NOW, "ids": {1, 2}, "n": 3})[is_of_0_1:]
    dated = kept(state_codec(STATES[was]), {"id": "x", "when": NOW})[is_of_0_1:]

    assert state_codec(S).decode(data) == S(id="x", when=NOW, ids={1, 2}, n=3)
    assert state_codec(dict[str, dt.datetime]).decode(dated) == {"id": "x", "when": NOW}
    with pytest.raises(Misfit):
        state_codec(dict[str, dt.datetime]).decode(data)


@pytest.mark.found("B3")
def test_a_strict_model_reads_a_state_without_a_type() -> None:
    data = kept(state_codec(dict), {"id": "x", "when": NOW, "ids": {1, 2}, "n": 3})

    assert state_codec(Strict).decode(data) == Strict(id="x", when=NOW, ids={1, 2}, n=3)


@pytest.mark.found("B3")
def test_what_a_model_has_no_place_for_is_told_of_a_state_without_a_type() -> None:
    data = kept(state_codec(dict), {"id": "x", "when": NOW, "more": {1}})

    with pytest.raises(Misfit) as caught:
        state_codec(S).decode(data)

    assert caught.value.paths == ("more",)


@pytest.mark.found("B3")
@pytest.mark.parametrize("values", [dict[str, Any], list[Any], dict, dict[str, int], int | str, Row, dt.date | None])
def test_a_dict_state_with_typed_values_keeps_them_whatever_its_keys_are(values: Any) -> None:
    held = {dict[str, int]: {"$a": 1}, Row: Row(when=NOW), int | str: "7", dt.date | None: dt.date(2026, 1, 1)}
    value = held.get(values, [NOW] if values == list[Any] else {"k": {1}})
    codec = state_codec(dict[str, values])

    kept(codec, {"id": "x", "a": value, "$b": value})
    kept(codec, {"id": "x"})


def flow_of(annotation: Any, value: Any, *, store: Any, fails: bool = True, joined: bool = False) -> type[Flow[Any]]:
    """A flow named F, whose `one` returns the value under this annotation, and whose `two` receives it."""

    class F(Flow[dict]):
        persistence = store
        received: typing.ClassVar[list[Any]] = []

        async def one(self):
            return value

        if annotation is not None:
            one.__annotations__["return"] = annotation
        one = start()(one)

        @start()
        async def beside(self) -> str:
            return "b"

        @listen(and_(one, beside) if joined else one)
        async def two(self, one: Any = None) -> None:
            if fails:
                raise RuntimeError
            self.received.append(one)

    return F


@pytest.mark.found("B3")
@pytest.mark.parametrize("joined", [False, True], ids=["listener", "join"])
@by_type
async def test_a_run_is_resumed_only_by_a_class_that_can_read_its_results(
    annotation: Any, value: Any, joined: bool
) -> None:
    store = MemoryFlowPersistence()
    flow = flow_of(annotation, value, store=store, joined=joined)()
    with pytest.raises(MethodError):
        await flow.kickoff()
    without = flow_of(None, value, store=store, fails=False, joined=joined)

    with pytest.raises((MethodError, errors.StateSchemaError)) as caught:
        await without.resume(flow.run_id)
    error = caught.value.__cause__ if isinstance(caught.value, MethodError) else caught.value
    back = flow_of(annotation, value, store=store, fails=False, joined=joined)
    await back.resume(flow.run_id)

    assert isinstance(error, errors.StateSchemaError)
    assert "the stored result of one " in str(error)
    assert "put the annotation back" in str(error)
    assert without.received == []
    assert difference(back.received, [value]) is None


@pytest.mark.found("B3")
async def test_the_output_of_a_finished_run_is_not_shown_as_another_type() -> None:
    store = MemoryFlowPersistence()

    class F(Flow[dict]):
        persistence = store

        @start()
        async def one(self) -> dt.datetime:
            return NOW

    flow = F()
    await flow.kickoff()
    Typed = F

    class F(Flow[dict]):  # type: ignore[no-redef]  # the next version
        persistence = store

        @start()
        async def one(self): ...

    with pytest.raises(errors.StateSchemaError, match="the stored result of one"):
        await F.load(flow.run_id)

    assert (await Typed.load(flow.run_id)).result == NOW


@pytest.mark.found("B3")
@pytest.mark.parametrize("is_large", [False, True])
async def test_a_state_survives_a_change_of_its_type_and_back_again_in_patches(is_large: bool) -> None:
    store = MemoryFlowPersistence()
    filler = ["x" * 50] * 2_000 if is_large else []

    def made(state: Any, do: Any) -> type[Flow[Any]]:
        class F(Flow[state]):
            persistence = store

            @start()
            async def one(self) -> None:
                do(self.state)

            @listen(one)
            async def two(self) -> None:
                do(self.state)
                raise RuntimeError

        return F

    class Large(FlowState):
        filler: list[str] = []  # noqa: RUF012 - pydantic copies it
        when: dt.datetime = NOW
        n: int = 0

    def in_dict(state: dict[str, Any]) -> None:
        state["n"] = state.get("n", 0) + 1

    def in_model(state: Large) -> None:
        state.n += 1

    flow = made(dict, in_dict)()
    with pytest.raises(MethodError):
        await flow.kickoff({"filler": filler, "when": NOW})
    with pytest.raises(MethodError):
        await made(Large, in_model).resume(flow.run_id)
    await (await made(Large, in_model).load(flow.run_id)).update_state(n=10)
    loaded = await made(Large, in_model).load(flow.run_id)

    assert (loaded.state.n, loaded.state.when, loaded.state.filler) == (10, NOW, filler)
    with pytest.raises(errors.StateSchemaError, match="another type of state"):
        await made(dict, in_dict).resume(flow.run_id)
    with pytest.raises(errors.StateSchemaError, match="another type of state"):
        await made(dict, in_dict).fork(flow.run_id)


@pytest.mark.found("B3")
async def test_a_runner_shows_runs_of_flows_it_does_not_know() -> None:
    store = MemoryFlowPersistence()
    flow = flow_of(dict[str, Any], {"a": NOW}, store=store, fails=False)()
    await flow.kickoff({"when": NOW})

    async with FlowRunner(store) as runner:
        view = await (await runner.get(flow.run_id)).look()

    assert view.state["when"] == NOW


# ---- where an annotation says Any --------------------------------------------------------------------------------------


class Inner(BaseModel):
    any: Any = None


@dataclasses.dataclass
class Held:
    any: Any
    n: int = 0


class Typed(TypedDict, total=False):
    any: Any
    metadata: dict[str, Any]


class Named(NamedTuple):
    any: Any
    n: int


class Meta(FlowState):
    any: Any = None
    metadata: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it
    config: dict = {}  # noqa: RUF012
    default: list = []  # noqa: RUF012
    rows: list[dict] = []  # noqa: RUF012
    items: list[Any] = []  # noqa: RUF012
    maybe: Optional[Any] = None  # noqa: UP045
    inner: Inner = Inner()
    inners: dict[str, list[Inner]] = {}  # noqa: RUF012
    held: Held | None = None
    typed: Typed = {}  # noqa: RUF012
    pair: tuple[Any, int] = (0, 0)
    either: int | list[Any] = 0
    when: dt.datetime = NOW


ANYTHING: dict[str, Any] = {
    "datetime": NOW,
    "set": {1, 2},
    "tuple": (1, (2, "a")),
    "Decimal": D("1.10"),
    "bytes": b"\xff\x00",
    "int key": {1: "a", "1": "b"},
    "nested": {"a": [{"b": (NOW, {D("1.0")})}]},
    "nan": float("nan"),
    "large": 10**40,
    "UUID": uuid.UUID(int=3),
    "tag": {"$set": [1]},
    "tag and set": {"$set": {1}, "$x": {"$date": "2026-01-01"}},
    "JSON": {"a": [1, "2026-01-01", None]},
    "text key": {"$": 1, "": (1,)},
}
with_anything = pytest.mark.parametrize("value", ANYTHING.values(), ids=ANYTHING)


def with_any(value: Any) -> dict[str, Any]:
    """The fields of `Meta` that can hold any value, all holding this one."""
    return {
        "any": value,
        "metadata": {"k": value, "$k": [value]},
        "config": {"k": value, 5: value},
        "default": [value, [value]],
        "rows": [{"k": value, (1, 2): value}],
        "items": [value],
        "maybe": value,
        "inner": Inner(any=value),
        "inners": {"a": [Inner(any=value)]},
        "held": Held(value),
        "typed": {"any": value, "metadata": {"k": value}},
        "pair": (value, 1),
        "either": [value],
    }


@pytest.mark.found("B12")
@pytest.mark.parametrize("name", with_any(0))
@with_anything
def test_where_a_model_says_any_is_kept_what_a_dict_state_keeps(name: str, value: Any) -> None:
    kept(state_codec(Meta), Meta(id="x", **{name: with_any(value)[name]}))


class Box(BaseModel, typing.Generic[T]):
    content: T


class Root(RootModel[dict[str, Any]]): ...


class Wrapped(BaseModel):
    """Its own code has a say in what is written, and leaves the values to pydantic."""

    any: Any

    @model_serializer(mode="wrap")
    def written(self, handler: Any) -> Any:
        return handler(self)


RETURNED: dict[str, tuple[Any, Any]] = {
    "dict": (dict, lambda v: {"k": v, 1: v}),
    "list": (list, lambda v: [v]),
    "dict of any": (dict[str, Any], lambda v: {"k": v, "$k": v}),
    "list of dicts": (list[dict], lambda v: [{"k": v}]),
    "optional list": (list[Any] | None, lambda v: [v]),
    "tuple": (tuple[Any, ...], lambda v: (v, v)),
    "models": (dict[str, Inner], lambda v: {"$k": Inner(any=v)}),
    "dataclass": (Held, Held),
    "typed dict": (Typed, lambda v: {"any": v}),
    "named tuple": (Named, lambda v: Named(v, 1)),
    "sequence": (collections.abc.Sequence[Any], lambda v: [v]),
    "generic": (Box[Any], lambda v: Box[Any](content=v)),
    "root": (Root, lambda v: Root({"k": v})),
    "serialized": (Wrapped, lambda v: Wrapped(any=v)),
    "union": (list[Row | Inner], lambda v: [Row(when=NOW), Inner(any=v)]),
}
OLD: Final = pydantic.VERSION < "2.13"
"""Before it pydantic wrote named tuples and extra fields by their own types alone: what JSON does not keep is refused there."""
returned_types = pytest.mark.parametrize(
    ("annotation", "held_in"),
    [
        pytest.param(*RETURNED[n], id=n, marks=pytest.mark.skipif(OLD and n == "named tuple", reason="old"))
        for n in RETURNED
    ],
)


@pytest.mark.found("B12")
@with_anything
@returned_types
def test_where_a_return_annotation_says_any_is_kept_what_has_none(annotation: Any, held_in: Any, value: Any) -> None:
    kept(codec_for(annotation), held_in(value))


@pytest.mark.found("B12")
@with_anything
async def test_values_in_any_fields_reach_listeners_and_loads_as_they_are(value: Any) -> None:
    store, received = MemoryFlowPersistence(), []

    class F(Flow[Meta]):
        persistence = store

        @start()
        async def one(self) -> Inner:
            self.state.metadata["a"] = value
            self.state.inner = Inner(any=[value])
            return Inner(any=value)

        @listen(one)
        async def two(self, got: Inner) -> dict[str, Any]:
            received.append(got.any)
            return {"got": value}

    flow = F()
    output = await flow.kickoff({"config": {"k": value}})
    loaded = await F.load(flow.run_id)

    assert difference([value, {"got": value}], [received[0], output]) is None
    assert (
        difference(
            [value, [value], value], [loaded.state.metadata["a"], loaded.state.inner.any, loaded.state.config["k"]]
        )
        is None
    )
    assert difference(loaded.result, {"got": value}) is None


@pytest.mark.found("B12")
def test_only_what_json_does_not_keep_is_tagged() -> None:
    codec = state_codec(Meta)

    value = Meta(id="x", metadata={"a": [1], "b": {"c": "2026-01-01"}})
    users = kept(codec, Meta(id="x", metadata={"a": {"$date": "2026-01-01"}}))
    mixed = kept(codec, Meta(id="x", metadata={"$date": "2026-01-01", "a": NOW}))

    assert kept(codec, value) == MIXED + codec.write(value)  # type: ignore[attr-defined]  # of a model
    assert users.startswith(MIXED)
    assert mixed.startswith(MIXED)
    assert from_json(mixed)["metadata"]["a"] == {"$datetime": NOW.isoformat()}


@pytest.mark.found("B12")
def test_what_0_1_stored_where_an_annotation_says_any_is_read_as_it_is() -> None:
    value = Meta(id="x", metadata={"q": {"$set": [1]}, "d": {"$date": "2026-01-01"}}, any={"$date": "2026-01-01"})
    codec = state_codec(Meta)

    assert codec.decode(codec.write(value)) == value  # type: ignore[attr-defined]  # of a model
    assert codec_for(dict[str, Any]).decode(b'{"a":{"$date":"2026-01-01"}}') == {"a": {"$date": "2026-01-01"}}


@pytest.mark.found("B12", "B3")
def test_what_was_any_is_read_by_the_annotation_that_it_got() -> None:
    class Now(FlowState):
        any: dt.datetime
        metadata: dict[str, set[int]]

    was = Meta(id="x", any=NOW, metadata={"a": {1}})
    data = state_codec(Meta).encode(was)[0]
    fields = {name: value for name, value in from_json(data).items() if name in ("id", "any", "metadata")}
    stored = MIXED + pydantic.TypeAdapter(Any).dump_json(fields)

    assert state_codec(Now).decode(stored) == Now(id="x", any=NOW, metadata={"a": {1}})


@pytest.mark.found("B12")
@pytest.mark.parametrize(
    "value", [Row(when=NOW), Colour.RED, Point(D(1)), print], ids=["model", "enum", "dataclass", "function"]
)
@pytest.mark.parametrize("name", ["any", "metadata", "inner", "held"])
def test_a_foreign_class_where_an_annotation_says_any_is_refused_with_its_place(name: str, value: Any) -> None:
    with pytest.raises(Refused) as caught:
        state_codec(Meta).encode(Meta(id="x", **{name: with_any([value])[name]}))

    expected = {"any": "any[0]", "metadata": "metadata.k[0]", "inner": "inner.any[0]", "held": "held.any[0]"}
    assert (caught.value.path, caught.value.type_name) == (expected[name], type(value).__name__)
    assert "annotate what it is" in caught.value.cure


@pytest.mark.found("B12")
def test_validators_see_the_values_of_any_fields_as_they_are() -> None:
    seen: list[Any] = []

    class Checked(FlowState):
        metadata: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies it

        @field_validator("metadata")
        @classmethod
        def look(cls, value: dict[str, Any]) -> dict[str, Any]:
            seen.append(value)
            return value

        @model_validator(mode="after")
        def look_at_all(self) -> "Checked":
            seen.append(self.metadata)
            return self

    state = Checked(id="x", metadata={"a": NOW})
    data = kept(state_codec(Checked), state)
    seen.clear()
    state_codec(Checked).decode(data)

    assert seen == [{"a": NOW}] * 2


@pytest.mark.found("B12")
@pytest.mark.skipif(OLD, reason="old")
def test_extra_fields_are_kept_as_any_is() -> None:
    class Open(FlowState):
        model_config = ConfigDict(extra="allow")

    kept(state_codec(Open), Open(id="x", more=NOW, tags={1}))


@pytest.mark.found("B12")
def test_a_model_that_holds_itself_keeps_any_at_every_depth() -> None:
    kept(codec_for(Node), Node(any=NOW, below=[Node(any={1}), Node(below=[Node(any=(1,))])]))


class Node(BaseModel):
    any: Any = None
    below: list["Node"] = []


# ---- annotations without arguments -------------------------------------------------------------------------------------


@pytest.mark.found("C1")
@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.List, [1, NOW]),  # noqa: UP006 - the old names are what this is about
        (typing.Dict, {"a": {1}}),  # noqa: UP006
        (typing.Set, {1}),  # noqa: UP006
        (typing.FrozenSet, frozenset({1})),  # noqa: UP006
        (typing.Tuple, (1, "a")),  # noqa: UP006
        (typing.Optional[typing.List], [1]),  # noqa: UP006, UP045
        (list[typing.List], [[1], []]),  # noqa: UP006
        (dict[str, typing.Dict], {"a": {"b": 1}}),  # noqa: UP006
        (typing.Sequence, [1]),
        (typing.Mapping, {"a": 1}),
        (collections.abc.Sequence, [1]),
        (collections.abc.Mapping, {"a": 1}),
        (collections.abc.Iterable, None),
        (typing.Deque, collections.deque([1])),  # noqa: UP006
        (typing.Type, None),  # noqa: UP006
        (list, [1]),
        (set, {1}),
        (tuple, (1, 2)),
        (frozenset, frozenset({1})),
        (tuple[()], ()),
    ],
    ids=str,
)
def test_an_annotation_without_arguments_is_one(annotation: Any, value: Any) -> None:
    plan_for(annotation)
    model = pydantic.create_model("M", __base__=FlowState, a=(annotation | None, None))
    nested = pydantic.create_model("N", __base__=FlowState, m=(model | None, None))

    kept(codec_for(annotation), value) if value is not None else codec_for(annotation)
    kept(state_codec(nested), nested(id="x", m=model(id="y", a=value)))


TEXT = "2026-01-01T00:00:00"


def made_and_loaded(*unions: Any) -> list[list[type]]:
    """The types as which a text loads, where classes were made for these unions, one after the other."""
    found = []
    for union in unions:

        class Dicts(Flow[dict[str, union]]): ...

        class Lists(Flow[dict[str, list[union]]]): ...

        class Narrow(Dicts): ...

        class Base(Flow[T], typing.Generic[T]): ...

        class Derived(Base[dict[str, union]]): ...

        class Model(FlowState):
            a: union
            b: list[union]
            c: typing.Annotated[union, pydantic.Field(title="c")]
            d: dict[str, tuple[union, ...]]

        class Modelled(Flow[Model]): ...

        class Results(Flow):
            @start()
            def one(self) -> union: ...

            @start()
            def many(self) -> list[union]: ...

        whole = [
            cls._codecs.state.decode(b'{"id":"x","a":"%b"}' % TEXT.encode())["a"] for cls in (Dicts, Narrow, Derived)
        ]
        listed = Lists._codecs.state.decode(b'{"id":"x","a":["%b"]}' % TEXT.encode())["a"]
        data = '{"id":"x","a":"T","b":["T"],"c":"T","d":{"k":["T"]}}'.replace("T", TEXT).encode()
        model = Modelled._codecs.state.decode(data)
        one, many = map(Results._codecs.result, ("one", "many"))
        results = [one.decode(b'"%b"' % TEXT.encode()), *many.decode(b'["%b"]' % TEXT.encode())]
        found.append(list(map(type, [*whole, *listed, model.a, *model.b, model.c, *model.d["k"], *results])))
    return found


@pytest.mark.found("D2")
def test_which_type_a_text_loads_as_is_said_by_its_own_annotation_alone() -> None:
    first = made_and_loaded(str | dt.datetime, dt.datetime | str)
    again = made_and_loaded(typing.Union[dt.datetime, str], typing.Union[str, dt.datetime])  # noqa: UP007 - as it is written

    assert [set(kinds) for kinds in first] == [{str}, {dt.datetime}]
    assert [set(kinds) for kinds in again] == [{dt.datetime}, {str}]


@pytest.mark.found("D2")
def test_a_field_is_tried_by_its_own_annotation_alone() -> None:
    def holding(union: Any) -> Codec:
        field = pydantic.Field(min_length=1, max_length=77)
        return codec_for(pydantic.create_model("M", held=(list[union], field)))

    texts, dates = holding(str | dt.datetime), holding(dt.datetime | str)
    held = pydantic.create_model("M", held=(list[Any], ...))

    for codec in (texts, dates):
        model = codec._annotation  # type: ignore[attr-defined]  # of a model
        value = model.model_construct(**held(held=[TEXT]).__dict__)
        if codec is texts:
            kept(codec, value)
        else:
            with pytest.raises(Refused):
                codec.encode(value)


@pytest.mark.found("D2")
def test_a_flow_takes_one_state_and_a_class_with_a_state_takes_no_other() -> None:
    class Made(Flow[dict[str, int]]): ...

    for base, states in ((Flow, (int, str)), (Made, int)):
        with pytest.raises(TypeError):
            base[states]


def test_the_marks_are_white_space_to_json() -> None:
    for mark in (TAGGED, SAME, TYPED, MIXED):
        assert from_json(mark + b'{"a":1}') == {"a": 1}


@pytest.mark.found("C1")
@pytest.mark.parametrize("annotation", [typing.List, typing.Optional[typing.List], list[typing.List]], ids=str)  # noqa: UP006, UP045
async def test_flows_take_annotations_without_arguments(annotation: Any) -> None:
    class State(FlowState):
        held: annotation = []  # noqa: RUF012 - pydantic copies it
        rows: typing.List = []  # noqa: RUF012, UP006

    class Dicts(Flow[typing.Dict]):  # noqa: UP006
        persistence = MemoryFlowPersistence()

        @start()
        async def one(self) -> annotation:
            self.state["held"] = [[1]]
            return [[1]]

    class Models(Flow[State]):
        persistence = MemoryFlowPersistence()

        @start()
        async def one(self) -> typing.Dict:  # noqa: UP006
            self.state.held = [[1]]
            self.state.rows = [{"n": n} for n in range(5_000)]
            return {"a": 1}

    for flow, result in ((Dicts(), [[1]]), (Models(), {"a": 1})):
        output = await flow.kickoff()
        loaded = await type(flow).load(flow.run_id)

        assert output == loaded.result == result
        assert loaded.state == flow.state


# ---- fields within a model that lose their type ----------------------------------------------------------------------

LOSSY = {
    "Decimal": (decimal.Decimal, decimal.Decimal("1.10")),
    "datetime": (dt.datetime, NOW),
    "UUID": (uuid.UUID, uuid.UUID(int=1)),
    "bytes": (bytes, b"ab"),
    "a set": (set[int], {1}),
    "a tuple": (tuple[int, ...], (1, 2)),
    "numbers as keys": (dict[int, str], {1: "a"}),
    "optional": (decimal.Decimal | None, decimal.Decimal("1.10")),
    "a list of dates": (list[dt.date], [dt.date(2026, 1, 1)]),
}
GONE = {
    "Any": {"v": (Any, None)},
    "object": {"v": (object, None)},
    "an open dict": {"v": (dict[str, Any] | Any, None)},
    "an unknown field": {},
}


def inner_and_outer(fields: dict[str, Any]) -> tuple[type[BaseModel], type[BaseModel]]:
    extra: Any = "ignore" if fields else "allow"
    inner = pydantic.create_model("Inner", __config__=ConfigDict(extra=extra), **fields)
    return inner, pydantic.create_model("Outer", inner=(inner, ...), day=(dt.date, dt.date(2026, 1, 1)))


@pytest.mark.found("B3")
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("kind", LOSSY)
def test_a_field_of_a_model_that_loses_its_type_is_not_read_as_its_json(kind: str, gone: str) -> None:
    annotation, value = LOSSY[kind]
    (was, was_outer), (now, now_outer) = inner_and_outer({"v": (annotation, ...)}), inner_and_outer(GONE[gone])

    for old, new, stored in ((was, now, was(v=value)), (was_outer, now_outer, was_outer(inner=was(v=value)))):
        data, _ = codec_for(old).encode(stored)
        with pytest.raises(Misfit) as misfit:
            codec_for(new).decode(data)
        assert misfit.value.is_gone
        assert codec_for(old).decode(data) == stored


@pytest.mark.found("B3")
def test_a_model_may_gain_a_field_of_any_type_and_a_number_says_what_it_is() -> None:
    class Was(BaseModel):
        day: dt.date
        n: int | None = None
        x: float = 0.5

    class Now(BaseModel):
        day: dt.date
        n: Any = None
        x: Any = None
        more: Any = None
        meta: dict[str, Any] = {}

    for was in (Was(day=dt.date(2026, 1, 1)), Was(day=dt.date(2026, 1, 1), n=7)):
        loaded = codec_for(Now).decode(codec_for(Was).encode(was)[0])
        assert loaded == Now(day=was.day, n=was.n, x=0.5)


@pytest.mark.found("B3")
async def test_a_run_of_a_model_whose_field_lost_its_type_is_refused_and_resumes_with_the_type() -> None:
    storage = MemoryFlowPersistence()

    def flow_of(annotation: Any) -> Any:
        class Price(BaseModel):
            total: annotation

        class State(FlowState):
            price: Price | None = None

        class Buy(Flow[State]):
            name = "buy"
            fails = True

            @start()
            async def ask(self) -> None:
                self.state.price = Price(total=decimal.Decimal("1.10"))

            @listen(ask)
            async def pay(self) -> Any:
                if self.fails:
                    raise LookupError
                assert self.state.price is not None
                return str(type(self.state.price.total))

        return Buy

    was, now = flow_of(decimal.Decimal), flow_of(Any)
    with pytest.raises(errors.MethodError):
        await was(persistence=storage).kickoff({"id": "x"})
    with pytest.raises(errors.StateSchemaError):
        await now.resume("x", persistence=storage)
    was.fails = False
    assert await was.resume("x", persistence=storage) == "<class 'decimal.Decimal'>"
