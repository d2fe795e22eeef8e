"""Which parts of a model's class have a say in its JSON: each of pydantic's settings, and the hooks."""

import datetime as dt
import decimal
import enum
import threading
import uuid
from functools import partial, wraps
from typing import Any, Literal

import pytest
from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, PrivateAttr, create_model
from pydantic.alias_generators import to_camel

from asyncflow import FlowState
from asyncflow._values import difference
from asyncflow.persistence.codec import Refused, TypedCodec
from asyncflow.persistence.exact import plan_for
from asyncflow.persistence.interference import HARMLESS
from asyncflow.persistence.pieces import pieces_for


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


def test_the_table_names_what_is_called_harmless() -> None:
    assert set(SETTINGS) == HARMLESS


@pytest.mark.clauses("V1")
@each_harmless
def test_under_a_harmless_setting_what_the_types_let_pass_is_kept(name: str, value: Any) -> None:
    model = with_setting(name, value, **{f"field_{n}": list[annotation] for n, annotation in enumerate(KEPT)})
    state, plan, codec, pieces = filled(model), plan_for(model), TypedCodec(model), pieces_for(model)
    assert plan is not None
    assert pieces is not None
    assert plan.one(state)

    data = codec.write(state)
    encoding, encoded = pieces.encode(state), None
    try:
        while True:
            next(encoding)
    except StopIteration as done:
        encoded = done.value

    assert encoded == data
    assert difference(state, codec.decode(data)) is None


CHANGE: dict[str, Any] = {
    "str_to_lower": True,
    "str_to_upper": True,
    "str_strip_whitespace": True,
    "str_min_length": 3,
    "str_max_length": 3,
    "use_enum_values": True,
    "ser_json_temporal": "seconds",
    "json_encoders": {str: lambda text: text + "!"},
    "coerce_numbers_to_str": True,
    "plugin_settings": {"mine": 1},
}


@pytest.mark.filterwarnings("ignore:`json_encoders` is deprecated")
@pytest.mark.parametrize("name", [name for name in CHANGE if name in known])
def test_under_a_setting_that_changes_values_they_are_tried(name: str) -> None:
    assert plan_for(with_setting(name, CHANGE[name])) is None


def test_a_setting_that_nobody_has_looked_at_interferes() -> None:
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
def test_where_a_users_code_makes_an_instance_it_is_tried(model: type[FlowState]) -> None:
    assert plan_for(model) is None
    assert pieces_for(model) is None


@pytest.mark.clauses("V1")
def test_what_a_hook_changes_on_loading_is_not_storable() -> None:
    for state in (MadeAfter(id="x"), MadeAfterBoth(id="x"), MadeAfterAll(id="x")):
        with pytest.raises(Refused):
            TypedCodec(type(state)).encode(state)
