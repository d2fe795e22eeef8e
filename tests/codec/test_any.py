"""A value annotated with `Any` is kept as a dict state keeps it."""

import collections.abc
import dataclasses
import datetime as dt
import typing
import uuid
from typing import Any, Final, NamedTuple, Optional

import pydantic
import pytest
from annotated import NOW, Colour, D, Inner, Point, Row, T, Typed, kept, state_codec
from pydantic import BaseModel, ConfigDict, RootModel, field_validator, model_serializer, model_validator
from pydantic_core import from_json

from asyncflow import Flow, FlowState, MemoryFlowPersistence, listen, start
from asyncflow._codec.codec import Refused, codec_for
from asyncflow._codec.marks import MIXED
from asyncflow._values.copying import difference


@dataclasses.dataclass
class Held:
    any: Any
    n: int = 0


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
    """Its own code has a say in the bytes that are written, and leaves the values to pydantic."""

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
    assert "annotate its type" in caught.value.cure


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
