"""Which annotations pydantic's JSON keeps exactly, decided once; at run time a walk over the types is enough for those.

A plan answers True only for a value that surely loads back equal and of the same types. Everything else, and every
annotation without a plan, is tried: encoded, decoded, and compared.
"""

from __future__ import annotations

import enum
import math
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ..merge import FUNCTIONS

__all__ = ["Plan", "plan_for"]

Plan = Callable[[Any], bool]

_BIG = 1 << 63
_LITERAL = (str, int, bool, types.NoneType)
_OWN_SCHEMA = "__get_pydantic_core_schema__"


def _int(value: Any) -> bool:
    return type(value) is int and bool(-_BIG <= value < _BIG)


def _float(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


_SCALARS: dict[Any, Plan] = {
    int: _int,
    float: _float,
    str: lambda value: type(value) is str,
    bool: lambda value: type(value) is bool,
    None: lambda value: value is None,
    types.NoneType: lambda value: value is None,
}


def plain(value: Any, depth: int = 50) -> bool:
    """Whether a value is made of JSON's own types alone, and JSON keeps it."""
    cls = type(value)
    if cls is str or cls is bool or value is None:
        return True
    if cls is int:
        return bool(-_BIG <= value < _BIG)
    if cls is float:
        return math.isfinite(value)
    if depth and cls is list:
        return all(plain(v, depth - 1) for v in value)
    if depth and cls is dict:
        return all(type(k) is str and plain(v, depth - 1) for k, v in value.items())
    return False


def plan_for(annotation: Any) -> Plan | None:
    """The plan of an annotation, or None where only trying can tell."""
    if annotation is None or (isinstance(annotation, type) and annotation in _SCALARS):
        return _SCALARS[annotation]
    if annotation is Any or annotation is object:
        return plain
    if annotation is list or annotation is dict:
        return lambda value: type(value) is annotation and plain(value)
    origin = get_origin(annotation)
    if origin is None:
        return _plan_for_class(annotation) if isinstance(annotation, type) else None
    made = _GENERIC.get(origin)
    return made(*get_args(annotation)) if made is not None else None


def _plan_for_annotated(inner: Any, *metadata: Any) -> Plan | None:
    return plan_for(inner) if all(isinstance(m, FUNCTIONS) for m in metadata) else None


def _plan_for_literal(*values: Any) -> Plan | None:
    allowed = {(type(v), v) for v in values if type(v) in _LITERAL}
    if len(allowed) != len(values):
        return None
    return lambda value: type(value) in _LITERAL and (type(value), value) in allowed


def _plan_for_union(*members: Any) -> Plan | None:
    others = [m for m in members if m is not types.NoneType]
    inner = plan_for(others[0]) if len(others) == 1 else None
    return inner and (lambda value: value is None or inner(value))


def _plan_for_list(item: Any) -> Plan | None:
    inner = plan_for(item)
    return inner and (lambda value: type(value) is list and all(map(inner, value)))


def _plan_for_dict(key: Any, item: Any) -> Plan | None:
    inner = plan_for(item) if key is str else None
    return inner and (
        lambda value: type(value) is dict and all(type(k) is str for k in value) and all(map(inner, value.values()))
    )


_GENERIC: dict[Any, Callable[..., Plan | None]] = {
    Annotated: _plan_for_annotated,
    Literal: _plan_for_literal,
    list: _plan_for_list,
    dict: _plan_for_dict,
    typing.Union: _plan_for_union,
    types.UnionType: _plan_for_union,
}


def _plan_for_class(cls: type) -> Plan | None:
    if issubclass(cls, enum.Enum):
        values = [member.value for member in cls]
        is_simple = all(type(v) in (str, int) for v in values) and not issubclass(cls, enum.Flag)
        return (lambda value: type(value) is cls) if is_simple and not hasattr(cls, _OWN_SCHEMA) else None
    if issubclass(cls, BaseModel):
        return _plan_for_model(cls)
    return None


_MODELS: dict[type[BaseModel], Plan | None] = {}


def _plan_for_model(model: type[BaseModel]) -> Plan | None:
    """A model's plan: every field has one, and the class changes nothing on the way out or in."""
    if model not in _MODELS:
        _MODELS[model] = None  # a model that contains itself is tried, not planned
        _MODELS[model] = _made_for_model(model)
    return _MODELS[model]


def _made_for_model(model: type[BaseModel]) -> Plan | None:
    decorators = model.__pydantic_decorators__
    hooks = (
        *(decorators.validators, decorators.field_validators, decorators.root_validators, decorators.model_validators),
        *(decorators.field_serializers, decorators.model_serializers),
    )
    own_schema = model.__get_pydantic_core_schema__.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a bound classmethod
    config = set(model.model_config) - {"extra", "frozen", "title", "arbitrary_types_allowed", "validate_assignment"}
    own_making = model.model_post_init is not BaseModel.model_post_init or model.__pydantic_custom_init__
    if any(hooks) or config or own_schema or own_making:
        return None
    plans: list[tuple[str, Plan]] = []
    for name, field in model.model_fields.items():
        is_plain = all(isinstance(m, FUNCTIONS) for m in field.metadata) and not field.discriminator
        is_whole = not field.exclude and not getattr(field, "exclude_if", None)  # the second since pydantic 2.12
        plan = plan_for(field.annotation) if is_plain and is_whole else None
        if plan is None:
            return None
        plans.append((name, plan))

    def check(value: Any) -> bool:
        if type(value) is not model or value.__pydantic_extra__:
            return False
        held = value.__dict__
        try:
            for name, plan in plans:  # a loop: `all` of a generator takes twice as long, for each checkpoint
                if not plan(held[name]):
                    return False
        except KeyError:
            return False
        return True

    return check
