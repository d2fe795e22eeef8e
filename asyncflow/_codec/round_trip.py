"""Decide once which annotations pydantic's JSON preserves exactly; at run time, a check of the types is enough for those.

A plan returns True only for values that surely load back equal and of the same types. A part without a plan of its own is tried
in place: encoded, decoded, and compared. If a value fails its plan, the whole value is tried, which finds the reason.

A plan checks many values together, column by column: `set(map(type, values))` takes a tenth of a loop's time.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import types
import typing
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, RootModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import TzInfo

from .._values.copying import difference
from ..merge import FUNCTIONS
from .model_hooks import is_read_by_code, is_written_by_code

__all__ = ["Plan", "is_json", "plan_for", "plans_of_fields"]


class Plan(NamedTuple):
    """Checks whether JSON preserves a value, or each of many, exactly."""

    one: Callable[[Any], bool]
    each: Callable[[Sequence[Any]], bool]
    asks: bool = False
    """Whether the checks cover only the writing, because the model's own code takes part in the reading.

    Then the value that was read equals the written one if the checks are true for both and both are written as the same bytes.
    """
    only: type | None = None
    """A class whose instances (not those of its subclasses) are all preserved."""


# ---- atoms -------------------------------------------------------------------------------------------------------

_BIG = 1 << 63
"""Python's integers can be larger, but JSON readers do not agree beyond this bound."""

_UTC = datetime.UTC
_FOLD, _ZONE = attrgetter("fold"), attrgetter("tzinfo")


def _exactly(cls: Any, holds: Callable[[Sequence[Any]], bool] | None = None) -> Plan:
    """Return the plan for instances of exactly this class, no subclass. `holds` is a further check on all of them."""
    only = {cls}
    if holds is None:
        return Plan(lambda value: type(value) is cls, lambda values: set(map(type, values)) <= only, only=cls)
    return Plan(
        lambda value: type(value) is cls and holds((value,)),
        lambda values: set(map(type, values)) <= only and holds(values),
    )


def _are_small(values: Sequence[int]) -> bool:
    return not values or (min(values) >= -_BIG and max(values) < _BIG)


def _are_finite(values: Sequence[float]) -> bool:
    return all(map(math.isfinite, values))


def _have_plain_zones(values: Sequence[datetime.datetime]) -> bool:
    return not any(map(_FOLD, values)) and all(map(_is_plain_zone, set(map(_ZONE, values))))


def _is_plain_zone(zone: datetime.tzinfo | None) -> bool:
    """Whether a time zone is None, UTC, or a fixed offset of whole minutes in pydantic's own class."""
    if zone is None or zone is _UTC:
        return True
    offset = zone.utcoffset(None) if type(zone) is TzInfo else None
    return offset is not None and not offset % datetime.timedelta(minutes=1)


_ATOMS: Final[dict[Any, Plan]] = {
    int: Plan(lambda v: type(v) is int and -_BIG <= v < _BIG, _exactly(int, _are_small).each),
    float: Plan(lambda v: type(v) is float and math.isfinite(v), _exactly(float, _are_finite).each),
    str: _exactly(str),
    bool: _exactly(bool),
    types.NoneType: _exactly(types.NoneType),
    datetime.date: _exactly(datetime.date),
    datetime.datetime: _exactly(datetime.datetime, _have_plain_zones),
    decimal.Decimal: _exactly(decimal.Decimal, lambda values: all(map(decimal.Decimal.is_finite, values))),
    uuid.UUID: _exactly(uuid.UUID),
}

_JSON_ATOMS: Final = {str, int, float, bool, types.NoneType}


def is_json(value: Any, *, tags: bool = True, depth: int = 50) -> bool:
    """Whether a value consists of JSON's own types alone, and JSON preserves it. Without `tags`, no key begins with `$`."""
    return _are_json((value,), tags, depth)


def _are_json(values: Sequence[Any], tags: bool = True, depth: int = 50) -> bool:
    """Check the values level by level."""
    while values:
        found = set(map(type, values))
        if not depth or not found <= _JSON_ATOMS | {list, dict} or not _are_kept(found, values):
            return False
        dicts = [v for v in values if type(v) is dict] if dict in found else ()
        if dicts and not _are_names(list(chain.from_iterable(dicts)), tags):
            return False
        lists = [v for v in values if type(v) is list] if list in found else ()
        if len(set(map(id, chain(lists, dicts)))) < len(lists) + len(dicts):
            return False  # an object occurs twice, perhaps within itself: the next levels might double endlessly
        values = list(chain(chain.from_iterable(lists), chain.from_iterable(d.values() for d in dicts)))
        depth -= 1
    return True


def _are_kept(found: set[type], values: Sequence[Any]) -> bool:
    """Whether JSON preserves the numbers among these values."""
    if int in found and not _are_small([v for v in values if type(v) is int]):
        return False
    return float not in found or _are_finite([v for v in values if type(v) is float])


def _are_names(keys: Sequence[Any], tags: bool) -> bool:
    return set(map(type, keys)) <= {str} and (tags or "\0$" not in "\0".join(("", *keys)))


# ---- annotations -------------------------------------------------------------------------------------------------


def plan_for(annotation: Any) -> Plan | None:
    """Return the plan of an annotation, or None if only a trial can decide."""
    if annotation is None:
        return _ATOMS[types.NoneType]
    if isinstance(annotation, type) and annotation in _ATOMS:
        return _ATOMS[annotation]
    if annotation is Any or annotation is object:
        return Plan(is_json, _are_json)
    if annotation is list or annotation is dict:
        return Plan(
            lambda value: type(value) is annotation and is_json(value),
            lambda values: set(map(type, values)) <= {annotation} and _are_json(values),
        )
    origin = get_origin(annotation)
    if origin is None:
        return _plan_for_class(annotation) if isinstance(annotation, type) else None
    args = get_args(annotation)
    if not args and not isinstance(annotation, types.GenericAlias):
        return plan_for(origin)  # typing.List is list
    made = _GENERIC.get(origin)
    return made(*args) if made is not None else None


def _plan_for_annotated(inner: Any, *metadata: Any) -> Plan | None:
    return plan_for(inner) if all(isinstance(m, FUNCTIONS) for m in metadata) else None


_LITERAL = (str, int, bool, types.NoneType)


def _plan_for_literal(*values: Any) -> Plan | None:
    allowed = {(type(v), v) for v in values if type(v) in _LITERAL}
    if len(allowed) != len(values):
        return None
    one = lambda value: type(value) in _LITERAL and (type(value), value) in allowed  # noqa: E731 - it is one of two
    return Plan(one, lambda values: all(map(one, values)))


def _plan_for_union(*members: Any) -> Plan | None:
    """Return the plan of an optional, or of atoms that JSON writes in distinguishable ways."""
    if set(members) <= {str, int, bool, types.NoneType}:
        return Plan(
            lambda value: type(value) in members and is_json(value),
            lambda values: set(map(type, values)) <= set(members) and _are_json(values),
        )
    others = [m for m in members if m is not types.NoneType]
    inner = plan_for(others[0]) if len(others) == 1 and not _is_root(others[0]) else None
    return inner and Plan(
        lambda value: value is None or inner.one(value),
        lambda values: inner.each([value for value in values if value is not None]),
        inner.asks,
    )


def _is_root(annotation: Any) -> bool:
    """Whether it is a model whose JSON is that of its single value: null, perhaps."""
    if get_origin(annotation) is Annotated:
        return _is_root(get_args(annotation)[0])
    return isinstance(annotation, type) and issubclass(annotation, RootModel)


def _plan_for_items(cls: Any, item: Any) -> Plan | None:
    inner = plan_for(item)
    return inner and Plan(
        lambda value: type(value) is cls and inner.each(tuple(value)),
        lambda values: set(map(type, values)) <= {cls} and inner.each(list(chain.from_iterable(values))),
        inner.asks,
    )


def _plan_for_tuple(*items: Any) -> Plan | None:
    return _plan_for_items(tuple, items[0]) if len(items) == 2 and items[1] is ... else None


def _are_writable(keys: Sequence[str]) -> bool:
    """Whether there is no lone surrogate: pydantic refuses it in a value, and silently replaces it in a key."""
    text = "".join(keys)
    return text.isascii() or text.encode("utf-8", "ignore").decode() == text


_KEYS: Final[dict[Any, Plan]] = {str: _exactly(str, _are_writable), int: _ATOMS[int]}


def _plan_for_dict(key: Any, item: Any) -> Plan | None:
    keys, inner = (_KEYS.get(key), plan_for(item)) if isinstance(key, type) else (None, None)
    return (
        keys
        and inner
        and Plan(
            lambda value: type(value) is dict and keys.each(list(value)) and inner.each(list(value.values())),
            lambda values: (
                set(map(type, values)) <= {dict}
                and keys.each(list(chain.from_iterable(values)))
                and inner.each(list(chain.from_iterable(value.values() for value in values)))
            ),
            inner.asks,
        )
    )


_GENERIC: dict[Any, Callable[..., Plan | None]] = {
    Annotated: _plan_for_annotated,
    Literal: _plan_for_literal,
    list: lambda item: _plan_for_items(list, item),
    set: lambda item: _plan_for_items(set, item),
    frozenset: lambda item: _plan_for_items(frozenset, item),
    tuple: _plan_for_tuple,
    dict: _plan_for_dict,
    typing.Union: _plan_for_union,
    types.UnionType: _plan_for_union,
}


# ---- classes -----------------------------------------------------------------------------------------------------

_OWN_SCHEMA = "__get_pydantic_core_schema__"


def _plan_for_class(cls: type) -> Plan | None:
    if issubclass(cls, enum.Enum):
        values = [member.value for member in cls]
        is_simple = all(type(v) in (str, int) for v in values) and not issubclass(cls, enum.Flag)
        can_be_read = _are_small([v for v in values if type(v) is int])
        return _exactly(cls) if is_simple and can_be_read and not hasattr(cls, _OWN_SCHEMA) else None
    if issubclass(cls, BaseModel):
        return _plan_for_model(cls)
    return None


_MODELS: dict[type[BaseModel], Plan | None] = {}


def _plan_for_model(model: type[BaseModel]) -> Plan | None:
    """Return a model's plan if the class changes nothing when it is written."""
    if model not in _MODELS:
        _MODELS[model] = None  # a model that contains itself is tried where it does
        _MODELS[model] = _made_for_model(model)
    return _MODELS[model]


def plans_of_fields(model: type[BaseModel]) -> list[tuple[str, Plan]] | None:
    """Return the plans of a model's fields, by name, if the model itself has a plan."""
    if is_written_by_code(model):
        return None
    plans: list[tuple[str, Plan]] = []
    asks = is_read_by_code(model)
    for name, field in model.model_fields.items():
        is_whole = not field.exclude and not getattr(field, "exclude_if", None)  # exclude_if exists since pydantic 2.12
        plan = _plan_for_field(field, model.model_config, asks) if is_whole and not field.discriminator else None
        if plan is None:
            return None
        plans.append((name, plan))
    return plans


def _plan_for_field(field: FieldInfo, config: ConfigDict, asks: bool) -> Plan | None:
    """Return a field's plan. `asks`: whether the whole model is read back, so that no field has to be tried by itself."""
    plan = plan_for(field.annotation) if all(isinstance(m, FUNCTIONS) for m in field.metadata) else None
    return _trial(field, config, plan) if plan is None or (plan.asks and not asks) else plan


def _made_for_model(model: type[BaseModel]) -> Plan | None:
    plans = plans_of_fields(model)
    if plans is None:
        return None
    of_one_class = [(name, plan.only) for name, plan in plans if plan.only is not None]
    if len(of_one_class) < 2:
        of_one_class = []
    names, classes = [name for name, _ in of_one_class], tuple(only for _, only in of_one_class)
    pick: Callable[[Any], tuple[Any, ...]] = itemgetter(*names) if names else lambda attributes: ()
    singly = [(name, plan.one) for name, plan in plans if name not in names]

    def one(value: Any) -> bool:
        if type(value) is not model or value.__pydantic_extra__:
            return False
        attributes = value.__dict__
        try:
            if tuple(map(type, pick(attributes))) != classes:
                return False
            for name, holds in singly:  # a loop: `all` of a generator takes twice as long, at each checkpoint
                if not holds(attributes[name]):
                    return False
        except KeyError:
            return False
        return True

    def each(values: Sequence[Any]) -> bool:
        if not set(map(type, values)) <= {model} or any(map(attrgetter("__pydantic_extra__"), values)):
            return False
        attributes = list(map(attrgetter("__dict__"), values))
        try:
            return all(plan.each(list(map(itemgetter(name), attributes))) for name, plan in plans)
        except KeyError:
            return False

    return Plan(one, each, is_read_by_code(model))


class _Uncached:
    """Keeps an annotation out of the cache of `typing`, where `A | B` is the same as `B | A`; pydantic ignores it."""

    __hash__ = None  # type: ignore[assignment]  # unhashable on purpose


def _trial(field: FieldInfo, config: ConfigDict, written: Plan | None) -> Plan | None:
    """Return the plan of a field for which only a trial can decide: it tries that field alone, under its model's settings.

    `written`: the plan for the writing alone, which saves comparing each value.
    """
    try:
        annotation: Any = field.annotation
        for each in field.metadata:
            annotation = Annotated[annotation, each, _Uncached()]
        many: Any = types.GenericAlias(list, (annotation,))
        adapter: TypeAdapter[Any] = TypeAdapter(many, config={**config, "defer_build": False})
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None
    if not adapter.pydantic_complete:  # it uses a name that is known only where the model is defined
        return None
    write = partial(adapter.dump_json, by_alias=False, round_trip=True, warnings=False)

    def tried(values: Sequence[Any]) -> bool:
        given = list(values)
        try:
            data = write(given)
            read = adapter.validate_json(data, by_alias=False, by_name=True)
            if written is not None and written.each(given) and written.each(read) and write(read) == data:
                return True
            return difference(given, read) is None
        except Exception:  # whatever the field's own code raises: the codec reports it
            return False

    return Plan(lambda value: tried((value,)), tried)
