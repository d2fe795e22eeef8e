"""Which parts of a model's class have a say in its JSON: each of pydantic's settings, and the hooks."""

import datetime as dt
import decimal
import enum
import threading
import uuid
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ClassVar, Literal, Optional, Self

import pytest
from pydantic import (
    VERSION,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    create_model,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from asyncflow import FlowState
from asyncflow._codec import marks
from asyncflow._codec.chunked import Pieces, pieces_for
from asyncflow._codec.codec import Refused, TypedCodec
from asyncflow._codec.model_hooks import HARMLESS, READING
from asyncflow._codec.round_trip import plan_for
from asyncflow._values.copying import difference


def pieces_of(model: Any) -> Pieces | None:
    """The pieces of a model as its codec writes it."""
    return pieces_for(model, TypedCodec(model).mark)


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Point(BaseModel):
    x: int = Field(default=0, alias="X")
    label: str | None = None


day, moment = dt.date(2026, 2, 3), dt.datetime(2026, 2, 3, 4, 5, 6, 789_000, dt.UTC)

KEPT: dict[Any, list[Any]] = {
    int: [0, -(1 << 63), (1 << 63) - 1],
    float: [0.0, -0.0, 1.0, 1e300, 5e-324, 0.1],
    str: ["", " Padded\t", "ÄÖ", "12", "2026-02-03", "null"],
    bool: [True, False],
    dt.date: [day, dt.date(1, 1, 1)],
    dt.datetime: [moment, moment.replace(tzinfo=None), dt.datetime(1970, 1, 1)],
    decimal.Decimal: [decimal.Decimal("1.50"), decimal.Decimal("1E+5"), decimal.Decimal(7)],
    uuid.UUID: [uuid.UUID(int=7)],
    Colour: list(Colour),
    Literal["a", 1, None]: ["a", 1, None],
    Any: [None, 1, 1.0, "1", [True], {"a": {"b": []}}],
    int | str | bool | None: [1, "1", True, "true", None],
    dt.datetime | None: [None, moment],
    set[float]: [{1.0, 0.5}],
    frozenset[uuid.UUID]: [frozenset({uuid.UUID(int=8)})],
    tuple[dt.date, ...]: [(day, day), ()],
    dict[int, str]: [{1: "1", -2: " x "}],
    dict[str, decimal.Decimal]: [{" K ": decimal.Decimal(1)}],
    Point: [Point(X=1), Point(X=2, label=" L ")],
}

SETTINGS: dict[str, list[Any]] = {
    "title": ["Another"],
    "model_title_generator": [str],
    "field_title_generator": [lambda name, info: name],
    "use_attribute_docstrings": [True],
    "ignored_types": [(property,)],
    "json_schema_extra": [{}, {"examples": []}],
    "json_schema_mode_override": ["serialization"],
    "json_schema_serialization_defaults_required": [True],
    "protected_namespaces": [()],
    "defer_build": [True],
    "hide_input_in_errors": [True],
    "loc_by_alias": [False],
    "validation_error_cause": [True],
    "frozen": [True],
    "validate_assignment": [True],
    "arbitrary_types_allowed": [True],
    "from_attributes": [True],
    "revalidate_instances": ["always", "subclass-instances"],
    "alias_generator": [to_camel, AliasGenerator(validation_alias=str.upper, serialization_alias=str.title)],
    "populate_by_name": [True],
    "validate_by_name": [True],
    "validate_by_alias": [True],
    "serialize_by_alias": [True],
    "extra": ["forbid", "ignore", "allow"],
    "validate_default": [True],
    "allow_inf_nan": [False],
    "ser_json_inf_nan": ["constants", "strings"],
    "ser_json_bytes": ["base64", "hex"],
    "val_json_bytes": ["base64", "hex"],
    "ser_json_timedelta": ["float"],
    "url_preserve_empty_path": [True],
    "regex_engine": ["python-re"],
    "polymorphic_serialization": [True],
    "strict": [True],
    "val_temporal_unit": ["milliseconds", "seconds"],
    "cache_strings": [False, "keys"],
    "validate_return": [True],
}
"""Each harmless setting, and values of it other than its default."""

known = ConfigDict.__annotations__
each_harmless = pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in SETTINGS.items() if name in known for value in values]
)


def with_setting(name: str, value: Any, **fields: Any) -> type[FlowState]:
    """A state whose model has a setting, and a record with the same one within it."""
    config: Any = {"model_config": ConfigDict(**{name: value})}  # type: ignore[misc]
    inner = type("Inner", (BaseModel,), {"__annotations__": {"names": list[str]}, **config})
    base = type("Base", (FlowState,), {"__annotations__": {"inner": list[inner]}, **config})  # type: ignore[valid-type]
    made: Any = create_model("State", __base__=base, **{key: (annotation, ...) for key, annotation in fields.items()})
    return made  # type: ignore[no-any-return]


def filled(model: Any) -> Any:
    inner = model.model_fields["inner"].annotation.__args__[0]
    values = {f"field_{n}": values for n, values in enumerate(KEPT.values())}
    return model.model_construct(id="x", inner=[inner.model_construct(names=[" Some Name "])], **values)


def in_pieces(pieces: Pieces, value: Any) -> bytes | None:
    """What a model is encoded as, piece by piece."""
    encoding = pieces.encode(value)
    while True:
        try:
            next(encoding)
        except StopIteration as done:
            found: bytes | None = done.value
            return found


def test_the_table_names_what_is_called_harmless() -> None:
    assert set(SETTINGS) == HARMLESS


@pytest.mark.clauses("V1")
@each_harmless
def test_under_a_harmless_setting_what_the_types_let_pass_is_kept(name: str, value: Any) -> None:
    model = with_setting(name, value, **{f"field_{n}": list[annotation] for n, annotation in enumerate(KEPT)})
    state, plan, codec, pieces = filled(model), plan_for(model), TypedCodec(model), pieces_of(model)
    assert plan is not None
    assert pieces is not None
    assert plan.one(state)

    data, _ = codec.encode(state)
    encoded = in_pieces(pieces, state)

    assert encoded == data
    assert difference(state, codec.decode(data)) is None


WRITTEN: dict[str, Any] = {
    "use_enum_values": True,
    "ser_json_temporal": "seconds",
    "json_encoders": {str: lambda text: text + "!"},
}


@pytest.mark.clauses("V1")
@pytest.mark.filterwarnings("ignore:`json_encoders` is deprecated")
@pytest.mark.parametrize("name", [name for name in WRITTEN if name in known])
def test_under_a_setting_that_changes_what_is_written_all_is_tried(name: str) -> None:
    assert plan_for(with_setting(name, WRITTEN[name])) is None


READ: dict[str, tuple[Any, str, str]] = {
    "str_to_lower": (True, "low", "LOW"),
    "str_to_upper": (True, "UP", "up"),
    "str_strip_whitespace": (True, "a", " a"),
    "str_min_length": (2, "ab", "a"),
    "str_max_length": (1, "a", "ab"),
}
"""A setting that changes or refuses what is read, a text that it leaves alone, and one that it does not."""


def test_each_setting_that_changes_what_is_read_is_known() -> None:
    assert {*READ, "coerce_numbers_to_str", "plugin_settings"} == READING


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("name", READ)
def test_under_a_setting_that_changes_what_is_read_it_is_read(name: str) -> None:
    value, kept, changed = READ[name]

    class State(BaseModel):
        model_config = ConfigDict(**{name: value})  # type: ignore[misc]
        texts: list[str]

    good, bad = State.model_construct(texts=[kept] * 40), State.model_construct(texts=[kept] * 40 + [changed])
    codec, pieces = TypedCodec(State), pieces_of(State)
    assert pieces is not None

    assert codec.encode(good) == (in_pieces(pieces, good), good)
    assert in_pieces(pieces, bad) is None
    with pytest.raises(Refused):
        codec.encode(bad)


def test_a_setting_that_asyncflow_does_not_know_interferes() -> None:
    class State(FlowState):
        model_config = ConfigDict(of_tomorrow=True)  # type: ignore[typeddict-unknown-key]  # of a later pydantic

    assert plan_for(State) is None


class Coded(FlowState):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_timedelta="float")
    raw: bytes = b""
    length: dt.timedelta = dt.timedelta()


class Uncoded(FlowState):
    model_config = ConfigDict(ser_json_bytes="base64")
    raw: bytes = b""


@pytest.mark.clauses("V1")
def test_a_field_is_tried_under_the_settings_of_its_model() -> None:
    coded = Coded(id="x", raw=b"\xff\0", length=dt.timedelta(microseconds=1))
    codec, plan, uncoded = TypedCodec(Coded), plan_for(Coded), plan_for(Uncoded)
    assert plan is not None
    assert uncoded is not None

    assert plan.one(coded)
    assert codec.decode(codec.encode(coded)[0]) == coded
    assert not uncoded.one(Uncoded(raw=b"abc"))  # not what utf-8 would say
    with pytest.raises(Refused, match="value changes"):
        TypedCodec(Uncoded).encode(Uncoded(raw=b"abc"))


class Matched(FlowState):
    model_config = ConfigDict(regex_engine="python-re")
    name: str = Field(default="ab", pattern="a(?=b)")


def test_a_pattern_is_tried_by_the_models_own_engine() -> None:
    plan = plan_for(Matched)

    assert plan is not None
    assert plan.one(Matched())
    assert not plan.one(Matched.model_construct(id="x", name="c"))


# ---- private attributes ------------------------------------------------------------------------------------------


class Private(FlowState):
    total: int = 0
    _seen: dict[str, int] = PrivateAttr(default_factory=dict)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)
    _note: str = PrivateAttr(default="new")
    _unset: int = PrivateAttr()


class Below(Private):
    more: int = 0
    _mine: list[int] = PrivateAttr(default_factory=list)


@pytest.mark.parametrize("model", [Private, Below])
def test_private_attributes_are_no_reason_to_try(model: type[Private]) -> None:
    state, plan, codec = model(id="x", total=3), plan_for(model), TypedCodec(model)
    state._seen["a"] = 1
    state._note = "changed"
    assert plan is not None
    assert plan.one(state)

    data, kept = codec.encode(state)

    assert kept is state
    assert b"changed" not in data
    loaded = codec.decode(data)
    assert difference(loaded, state) is None
    assert (loaded._seen, loaded._note) == ({}, "new")


def emptied(data: dict[str, Any]) -> int:
    data["rows"].clear()
    return 0


class MadeOfFields(FlowState):
    rows: list[int] = []  # noqa: RUF012 - pydantic copies it
    _count: int = PrivateAttr(default_factory=emptied)


class MadeByCode(FlowState):
    _count: int = PrivateAttr(default_factory=lambda: 1)


class MadeByPartial(FlowState):
    _count: int = PrivateAttr(default_factory=partial(lambda: 1))


class MadeAfter(FlowState):
    count: int = 0

    def model_post_init(self, context: Any, /) -> None:
        self.count += 1


class MadeAfterAll(Private):
    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        self.total += 1


class MadeAfterBoth(MadeAfter):
    _note: str = PrivateAttr(default="new")


class MadeAfterWrapped(MadeAfterBoth):
    _more: str = PrivateAttr(default="new")


def made_before(self: Any, context: Any, /) -> None:
    Private.model_post_init(self, context)
    self.total += 1


class MadeLikePrivate(Private):
    model_post_init = wraps(Private.model_post_init)(made_before)


class MadeItself(FlowState):
    _note: str = PrivateAttr(default="new")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    "model",
    [
        *(MadeOfFields, MadeByCode, MadeByPartial, MadeItself),
        *(MadeAfter, MadeAfterAll, MadeAfterBoth, MadeAfterWrapped, MadeLikePrivate),
    ],
)
def test_where_a_users_code_makes_an_instance_it_is_asked(model: type[FlowState]) -> None:
    plan = plan_for(model)

    assert plan is not None
    assert plan.asks


OF_FIELDS = pytest.param(
    MadeOfFields, marks=pytest.mark.skipif(VERSION < "2.12", reason="pydantic makes none of other fields")
)


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("model", [OF_FIELDS, MadeAfter, MadeAfterBoth, MadeAfterAll])
def test_what_a_hook_changes_on_loading_is_not_storable(model: type[FlowState]) -> None:
    state, pieces = model(id="x"), pieces_of(model)
    if isinstance(state, MadeOfFields):
        state.rows = [1]
    assert pieces is not None

    assert in_pieces(pieces, state) is None
    with pytest.raises(Refused):
        TypedCodec(model).encode(state)


# ---- validators --------------------------------------------------------------------------------------------------


class Row(BaseModel):
    number: int
    price: float = 0.5

    @field_validator("number")
    @classmethod
    def at_most(cls, number: int) -> int:
        return min(number, 1_000)


class Rows(FlowState):
    """Its records have a validator."""

    rows: list[Row] = []  # noqa: RUF012 - pydantic copies it
    by_name: dict[str, Row] = {}  # noqa: RUF012 - pydantic copies it


class Checked(Rows):
    """It has one itself as well, that sees all of it."""

    extra: float = 0.0

    @model_validator(mode="after")
    def in_order(self) -> Self:
        self.rows.sort(key=lambda row: row.number)
        return self


def rows(*numbers: int) -> list[Row]:
    return [Row.model_construct(number=number, price=number / 7) for number in numbers]


both = pytest.mark.parametrize("model", [Rows, Checked])


@pytest.mark.clauses("V1")
@both
def test_what_validators_leave_alone_is_not_compared_value_by_value(
    model: type[Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*values: Any, **options: Any) -> None:
        raise AssertionError("compared")

    state = model(id="x", rows=rows(*range(50)), by_name={str(n): row for n, row in enumerate(rows(*range(50)))})
    codec, pieces = TypedCodec(model), pieces_of(model)
    assert pieces is not None
    monkeypatch.setattr("asyncflow._codec.codec.difference", never)
    monkeypatch.setattr("asyncflow._codec.round_trip.difference", never)

    data, kept = codec.encode(state)

    assert kept is state
    assert data == in_pieces(pieces, state) == marks.TYPED + codec.write(state)


def of_another_class(model: type[Rows]) -> Rows:
    class Other(Row):
        more: int = 1

    return model(id="x", rows=[Other(number=1)])


CHANGED: dict[str, Callable[[type[Rows]], Rows]] = {
    "a value": lambda model: model.model_construct(id="x", rows=rows(*range(40), 1_001), by_name={}, extra=0.0),
    "a value in a dict": lambda model: model(id="x", by_name={"a": rows(1_001)[0]}),
    "a type": lambda model: model(id="x", rows=[Row.model_construct(number=True)]),
    "a class": of_another_class,
    "no number": lambda model: model(id="x", rows=[Row.model_construct(number=1, price=float("nan"))]),
}


@pytest.mark.clauses("V1")
@both
@pytest.mark.parametrize("what", CHANGED)
def test_what_is_read_as_something_else_is_not_storable(model: type[Rows], what: str) -> None:
    state, pieces = CHANGED[what](model), pieces_of(model)
    assert pieces is not None

    assert in_pieces(pieces, state) is None
    with pytest.raises(Refused):
        TypedCodec(model).encode(state)


@pytest.mark.clauses("V1")
def test_what_a_validator_of_the_whole_changes_is_not_storable() -> None:
    state = Checked.model_construct(id="x", rows=rows(*reversed(range(40))), by_name={}, extra=0.5)
    pieces = pieces_of(Checked)
    assert pieces is not None

    assert in_pieces(pieces, state) is None
    with pytest.raises(Refused):
        TypedCodec(Checked).encode(state)


class Loose(FlowState):
    """Its validators make of JSON's values others that are equal, or are written alike."""

    number: int = 0
    made: ClassVar[Any] = None

    @field_validator("number", mode="after")
    @classmethod
    def another(cls, number: int) -> Any:
        return cls.made if cls.made is not None else number


class Whole(int):
    """Equal, and written as the same digits."""


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("made", [True, Whole(1)])
def test_what_is_read_as_an_equal_value_of_another_type_is_not_storable(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = Loose(id="x", number=1)
    pieces = pieces_of(Loose)
    assert pieces is not None
    monkeypatch.setattr(Loose, "made", made)

    assert in_pieces(pieces, state) is None
    with pytest.raises(Refused):
        TypedCodec(Loose).encode(state)


def test_an_int_where_a_float_is_declared_is_still_promoted() -> None:
    state = Checked.model_construct(id="x", rows=[], by_name={}, extra=3)

    _, kept = TypedCodec(Checked).encode(state)

    assert type(kept.extra) is float


class Written(FlowState):
    number: int = 0

    @field_serializer("number")
    def hidden(self, number: int) -> int:
        return 0

    @field_validator("number")
    @classmethod
    def checked(cls, number: int) -> int:
        return number


def test_what_is_written_by_a_serializer_is_compared() -> None:
    assert plan_for(Written) is None
    assert pieces_of(Written) is None
    with pytest.raises(Refused, match="value changes"):
        TypedCodec(Written).encode(Written(id="x", number=1))


# ---- what is cut -------------------------------------------------------------------------------------------------


class Cut(FlowState):
    plain: list[Point] = []  # noqa: RUF012 - pydantic copies it
    optional: list[Point] | None = None
    named: Optional[dict[str, int]] = None  # noqa: UP045 - the other way to write it
    untold: list = []  # type: ignore[type-arg]  # noqa: RUF012
    anything: Any = None
    checked: list[Row] | None = None
    spans: list[dt.timedelta] = []  # noqa: RUF012


LONG: dict[str, Any] = {
    "plain": [Point(X=n) for n in range(2_000)],
    "optional": [Point(X=n) for n in range(2_000)],
    "named": {str(n): n for n in range(5_000)},
    "untold": [{"a": n} for n in range(3_000)],
    "anything": {str(n): [n, 0.5] for n in range(3_000)},
    "checked": [Row(number=n % 900) for n in range(2_000)],
    "spans": [dt.timedelta(n) for n in range(5_000)],
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_list_or_dict_is_cut(name: str) -> None:
    state, pieces = Cut(id="x"), pieces_of(Cut)
    setattr(state, name, LONG[name])
    assert pieces is not None

    encoding, count, data = pieces.encode(state), 0, None
    try:
        while True:
            next(encoding)
            count += 1
    except StopIteration as done:
        data = done.value

    assert count >= 2
    assert data == TypedCodec(Cut).encode(state)[0]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("optional", {str(n): Point(X=n) for n in range(50)}), ("named", [1] * 50), ("optional", [*rows(1), 2] * 30)),
        *(("checked", rows(*[5] * 60, 1_001)), ("untold", [Row(number=1)] * 50), ("anything", [1] * 50 + [print])),
        ("spans", [1] * 50),
    ],
)
def test_what_is_cut_is_looked_at_to_its_end(name: str, wrong: Any) -> None:
    state, pieces = Cut(id="x"), pieces_of(Cut)
    state.__dict__[name] = wrong
    assert pieces is not None

    assert in_pieces(pieces, state) is None
    with pytest.raises(Refused):
        TypedCodec(Cut).encode(state)


class Ahead(FlowState):
    """Names what is not known where the field is looked at."""

    rows: list["Behind"] = []  # noqa: RUF012 - pydantic copies it

    @field_validator("rows")
    @classmethod
    def checked(cls, rows: list[Any]) -> list[Any]:
        return rows


class Behind(BaseModel):
    number: int


def test_a_name_that_is_not_known_yet_leaves_all_to_be_tried() -> None:
    codec = TypedCodec(Ahead)  # before the first instance, which would complete it
    state = Ahead(id="x", rows=[Behind(number=1)])

    assert codec.decode(codec.encode(state)[0]) == state
