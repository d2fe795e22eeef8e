"""Values without an annotation: JSON and common builtins load as they are, all else is refused."""

import collections
import datetime as dt
import pathlib
import threading
import uuid
import zoneinfo
from typing import Any

import pytest
from awkward import (
    INF,
    NAN,
    NO_ANNOTATION,
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
    in_a_dict,
    named,
    nested,
    refusal,
    returned,
)

from asyncflow import errors

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
