"""Each refusal says what helps, and that helps; what cannot be compared is refused as well."""

import datetime as dt
import decimal
import enum
import math
import zoneinfo
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    create_model,
)

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, start
from asyncflow._codec.codec import Refused, codec_for
from asyncflow._codec.state_codecs import state_codec_for
from asyncflow._values.copying import difference, same
from asyncflow.state import state_type_of

D = decimal.Decimal
BERLIN = dt.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
ZULU = dt.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("UTC"))


class Planet(enum.Enum):
    EARTH = (5.9, 6.3)


class Real(float):
    """As numpy's: another class of float."""


class Texts(dict[str, Any]):
    """Another class of dict."""


def refused(annotation: Any, value: Any) -> Refused:
    """Why a value is refused in a model's field of its annotation, and as a result."""
    model = create_model("M", __base__=FlowState, value=(annotation, ...))
    with pytest.raises(Refused) as in_model:
        codec_for(model).encode(model.model_construct(id="x", value=value))
    with pytest.raises(Refused) as as_result:
        codec_for(annotation).encode(value)

    assert in_model.value.path.partition(".")[0].partition("[")[0] == "value"
    assert (in_model.value.reason, in_model.value.type_name) == (as_result.value.reason, as_result.value.type_name)
    return in_model.value


def is_kept(annotation: Any, value: Any, **config: Any) -> bool:
    model = create_model("M", value=(annotation, ...), __config__=ConfigDict(**config) if config else None)
    state = create_model("S", __base__=FlowState, inner=(model, ...))
    codec = codec_for(state)
    held = state(id="x", inner=model(value=value))
    return difference(held, codec.decode(codec.encode(held)[0])) is None


@pytest.mark.found("B10")
@pytest.mark.parametrize("value", [BERLIN, ZULU, BERLIN.timetz()], ids=["zone", "UTC", "time"])
def test_of_a_zone_with_rules_utc_is_advised(value: Any) -> None:
    error = refused(type(value), value)

    assert "time zone" in error.reason
    assert "timezone.utc" in error.cure
    assert is_kept(dt.datetime, BERLIN.astimezone(dt.UTC))


@pytest.mark.found("B10")
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, [1.0, math.inf]], ids=str)
def test_of_infinity_the_setting_is_advised_that_keeps_it(value: Any) -> None:
    error = refused(list[float] if isinstance(value, list) else float, value)

    assert "infinity" in error.reason
    assert 'ser_json_inf_nan="constants"' in error.cure
    assert is_kept(list[float], [value] if isinstance(value, float) else value, ser_json_inf_nan="constants")


@pytest.mark.found("B10")
def test_of_a_decimal_without_a_number_the_setting_is_advised_that_keeps_it() -> None:
    assert "allow_inf_nan=True" in refused(D, D("Infinity")).cure
    assert is_kept(Annotated[D, Field(allow_inf_nan=True)], D("Infinity"))


@pytest.mark.found("B10")
def test_of_an_enum_whose_values_json_changes_its_names_are_advised() -> None:
    error = refused(Planet, Planet.EARTH)
    by_name = Annotated[
        Planet,
        PlainSerializer(lambda e: e.name),
        BeforeValidator(lambda v: Planet[v] if isinstance(v, str) else v),
    ]

    assert "PlainSerializer(lambda e: e.name)" in error.cure
    assert "BeforeValidator(lambda v: Planet[v] if isinstance(v, str) else v)" in error.cure
    assert is_kept(by_name, Planet.EARTH)


@pytest.mark.found("B10")
@pytest.mark.parametrize("value", [b"\xff", [b"ok", b"\xff"], {b"\xff": 1}], ids=["bytes", "in a list", "key"])
def test_of_binary_bytes_the_settings_are_advised_on_the_model_that_holds_them(value: Any) -> None:
    kinds: dict[type, Any] = {bytes: bytes, list: list[bytes], dict: dict[bytes, int]}
    error = refused(kinds[type(value)], value)

    class Inner(BaseModel):
        value: bytes

    class Outer(FlowState):
        inner: Inner

    with pytest.raises(Refused) as caught:
        codec_for(Outer).encode(Outer(id="x", inner=Inner(value=b"\xff")))

    assert 'ser_json_bytes="base64", val_json_bytes="base64"' in error.cure
    assert caught.value.cure.startswith("set it on Inner")
    assert is_kept(list[bytes], [b"\xff"], ser_json_bytes="base64", val_json_bytes="base64")


@pytest.mark.found("B10")
@pytest.mark.parametrize(
    ("annotation", "value", "cure"),
    [
        (float, Real(1.5), "float(value)"),
        (dict[str, int], Texts(a=1), "dict(value)"),
        (list[int], (1, 2), "list(value)"),
        (int, True, "int(value)"),
        (set[int], frozenset({1}), "set(value)"),
    ],
    ids=str,
)
def test_of_another_class_the_builtin_one_is_advised(annotation: Any, value: Any, cure: str) -> None:
    error = refused(annotation, value)

    assert cure in error.cure
    assert is_kept(annotation, eval(cure, {"value": value}))


@pytest.mark.found("B10")
def test_the_error_for_a_lone_surrogate_names_its_cause() -> None:
    error = refused(str, "\ud800")

    assert "surrogate" in error.reason
    assert is_kept(str, "\ud800".encode("utf-8", "replace").decode())


# ---- no values of the user's in paths ----------------------------------------------------------------------------------


class Record(NamedTuple):
    name: str
    street: str


SECRET = Record("Ada", "12 Some Street")
ADDRESS = "ada@example.com"


@pytest.mark.found("B10")
@pytest.mark.parametrize("key", [SECRET, ADDRESS, "12 Some Street", 491701234567, b"Ada"], ids=str)
@pytest.mark.parametrize("value", [b"\xff", math.inf, print, BERLIN, Real(1.0), "\ud800"], ids=repr)
@pytest.mark.parametrize("where", ["typed", "any", "plain", "dict state"])
async def test_no_error_shows_a_key_that_may_be_a_value(key: Any, value: Any, where: str) -> None:
    key_type = Any if isinstance(key, bytes) else type(key)
    kinds = {bytes: bytes, float: float, dt.datetime: dt.datetime, str: str, Real: float}
    inner = kinds.get(type(value), Any)
    annotation = {"typed": dict[key_type, list[inner]], "any": Any, "plain": dict}.get(where)
    state = dict if annotation is None else create_model("S", __base__=FlowState, held=(annotation, None))
    codec = state_codec_for(state_type_of(state, {}))
    held = {key: [value]}

    try:
        codec.encode({"id": "x", "held": held} if state is dict else state.model_construct(id="x", held=held))
    except Refused as error:
        told = f"{error.path} {error.reason} {error.cure} {error.type_name}"
        assert not any(part in told for part in ("Ada", "ada@", "Street", "491701234567"))


@pytest.mark.found("B10")
async def test_no_misfit_shows_a_key_that_may_be_a_value() -> None:
    store = MemoryFlowPersistence()

    def flow(annotation: Any) -> type[Flow[Any]]:
        class F(Flow[annotation]):
            persistence = store

            @start()
            def one(self) -> None: ...

        return F

    run = flow(dict[str, dict[str, str]])()
    await run.kickoff({"a": {ADDRESS: "x"}, "b": {"12 Some Street": "y"}})
    with pytest.raises(errors.StateSchemaError) as caught:
        await flow(dict[str, dict[str, int]]).load(run.run_id)

    assert not any(part in f"{caught.value} {caught.value.paths}" for part in ("ada@", "Street"))


@pytest.mark.found("B10")
async def test_no_conflict_shows_a_key_that_may_be_a_value() -> None:
    class F(Flow[dict]):
        @start()
        async def one(self) -> None:
            self.state["people"][ADDRESS] = 1

        @start()
        async def two(self) -> None:
            self.state["people"][ADDRESS] = 2

    with pytest.raises(MethodError) as caught:
        await F(initial_state={"people": {}}).kickoff()

    assert isinstance(caught.value.__cause__, errors.StateConflictError)
    assert "people[...]" in str(caught.value.__cause__)
    assert "ada@" not in str(caught.value.__cause__)


# ---- arrays, tables, and what raises where it is compared --------------------------------------------------------------


class Answers:
    """What comparing two arrays gives."""

    def __init__(self, values: list[bool]) -> None:
        self.values = values

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __or__(self, other: "Answers") -> "Answers":
        return Answers([a or b for a, b in zip(self.values, other.values, strict=True)])

    def __and__(self, other: "Answers") -> "Answers":
        return Answers([a and b for a, b in zip(self.values, other.values, strict=True)])

    def all(self) -> bool:
        return all(self.values)


class Array:
    """As numpy's: `==` broadcasts, passes over the dtype, and gives an array."""

    def __init__(self, values: list[Any], dtype: str = "int64") -> None:
        self.values, self.dtype, self.shape = values, dtype, (len(values),)

    def __len__(self) -> int:
        return len(self.values)

    def _compared(self, other: "Array", is_equal: bool) -> Answers:
        mine, theirs = self.values, other.values
        if 1 in (len(mine), len(theirs)):
            n = max(len(mine), len(theirs))
            mine, theirs = mine * (n // len(mine)), theirs * (n // len(theirs))
        return Answers([(a == b) is is_equal for a, b in zip(mine, theirs, strict=True)])

    def __eq__(self, other: object) -> Any:
        return self._compared(other, True)  # type: ignore[arg-type]  # of its own class

    def __ne__(self, other: object) -> Any:
        return self._compared(other, False)  # type: ignore[arg-type]

    __hash__ = None  # type: ignore[assignment]


class Labelled(Array):
    """As pandas': it cannot be compared where the labels differ, and has `equals`, which passes over its name."""

    def __init__(self, values: list[Any], index: list[str], name: str = "", dtype: str = "int64") -> None:
        super().__init__(values, dtype)
        self.index, self.name = index, name

    def __eq__(self, other: object) -> Any:
        if self.index != other.index:  # type: ignore[attr-defined]  # of its own class
            raise ValueError("Can only compare identically-labeled Series objects")
        return super().__eq__(other)

    def equals(self, other: "Labelled") -> bool:
        return self.values == other.values and self.index == other.index

    __hash__ = None  # type: ignore[assignment]


class Raising:
    """Cannot be compared at all."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        raise TypeError("no")

    __hash__ = None  # type: ignore[assignment]


DIFFERENT = {
    "dtype": (Array([1, 2], "uint8"), Array([1, 2])),
    "broadcast": (Array([1, 1]), Array([1])),
    "values": (Array([1, 2]), Array([1, 3])),
    "length": (Array([1, 2]), Array([1, 2, 3])),
    "labels": (Labelled([1, 2], ["a", "b"]), Labelled([1, 2], ["a", "c"])),
    "name": (Labelled([1], ["a"], "x"), Labelled([1], ["a"], "y")),
    "raising": (Raising(), Raising()),
}


@pytest.mark.found("D4", "D5")
@pytest.mark.parametrize(("a", "b"), DIFFERENT.values(), ids=DIFFERENT)
def test_arrays_differ_by_what_they_are_made_with(a: Any, b: Any) -> None:
    assert not same(a, b)
    assert not same({"k": [a]}, {"k": [b]})


@pytest.mark.found("D4", "D5")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Array([1, 2]), Array([1, 2])),
        (Array([1.0, math.nan]), Array([1.0, math.nan])),
        (Array([]), Array([])),
        (Labelled([1], ["a"], "x"), Labelled([1], ["a"], "x")),
    ],
)
def test_arrays_of_the_same_values_are_the_same(a: Any, b: Any) -> None:
    assert same(a, b)


class Key:
    """Can be a key, and cannot be compared."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise TypeError("no")


@pytest.mark.found("D5")
@pytest.mark.parametrize(
    "made", [lambda: {Key()}, lambda: {Key(): 1}, lambda: [frozenset({Key()})]], ids=["set", "dict", "within"]
)
def test_keys_and_members_that_cannot_be_compared_are_not_the_same(made: Any) -> None:
    found = difference(made(), made())

    assert found is not None
    assert "cannot be compared" in found.reason


def through(write: Any, read: Any) -> Any:
    """The annotation of a value that these two write and read; None is None."""
    return Annotated[
        Any,
        PlainSerializer(lambda value: None if value is None else write(value)),
        PlainValidator(lambda value: read(value) if isinstance(value, list | int) else value),
    ]


def listed(value: Any) -> list[Any]:
    return list(value.values)


LOSING: dict[str, tuple[Any, Any, str]] = {
    "dtype": (through(listed, Array), Array([200, 44], "uint8"), "dtype"),
    "labels": (through(listed, lambda v: Labelled(v, [str(n) for n in range(len(v))])), Labelled([1], ["a"]), "index"),
    "raising": (through(lambda v: v.value, Raising), Raising(1), "compared"),
}


@pytest.mark.found("D4", "D5")
@pytest.mark.parametrize("where", ["model", "dict", "result", "initial", "inputs"])
@pytest.mark.parametrize(("annotation", "value", "told"), LOSING.values(), ids=LOSING)
async def test_what_loses_its_labels_or_cannot_be_compared_is_refused(
    annotation: Any, value: Any, told: str, where: str
) -> None:
    model = create_model("Holding", __base__=FlowState, held=(annotation, None))

    class F(Flow[dict[str, annotation] if where == "dict" else model]):
        persistence = MemoryFlowPersistence()

        @start()
        async def one(self) -> annotation:
            if where == "dict":
                self.state["held"] = value
            elif where == "model":
                self.state.held = value
            return value if where == "result" else None

    flow = F(initial_state=model.model_construct(held=value)) if where == "initial" else F()
    with pytest.raises((MethodError, errors.NotStorableError)) as caught:
        await flow.kickoff({"held": value} if where == "inputs" else None)
    error = caught.value.__cause__ if isinstance(caught.value, MethodError) else caught.value

    assert isinstance(error, errors.NotStorableError)
    assert told in error.reason


@pytest.mark.found("D4", "D5")
async def test_parallel_methods_may_hold_what_broadcasts_or_raises() -> None:
    class F(Flow[dict]):
        persistence = None

        @start()
        async def one(self) -> None:
            self.state["array"] = Array([1, 2], "int64")

        @start()
        async def two(self) -> None:
            self.state["n"] = 1

    flow = F(initial_state={"array": Array([1, 2], "uint8"), "labelled": Labelled([1], ["a"])})
    await flow.kickoff()

    assert (flow.state["array"].dtype, flow.state["n"]) == ("int64", 1)
