"""Find the models that are read from their bytes without running user code, and that their bytes describe completely.

A closed list: anything unknown here counts as code, such as a type of a library, or a feature of a later pydantic. Nested models
are judged by the instances that exist, because the code of absent ones does not run; in a union all are, as pydantic tries each.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import typing
import uuid
from functools import cache
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
import typing_extensions
from pydantic import AllowInfNan, BaseModel, FailFast, JsonValue, Strict, StringConstraints, WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic.types import UuidVersion
from typing_extensions import is_typeddict

from ..merge import FUNCTIONS

__all__ = ["is_plain", "is_read_plainly"]

_ATOMS: Final = (
    *(str, int, float, bool, bytes, complex, type(None), decimal.Decimal, uuid.UUID),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, pathlib.Path, pathlib.PurePath),
    *(Any, object, JsonValue, list, dict, set, frozenset, tuple),
)
"""Types that pydantic reads by its own code, with the same result every time."""

_CONTAINERS: Final = (
    *(list, dict, set, frozenset, tuple, collections.deque, collections.OrderedDict, collections.defaultdict),
    *(collections.abc.Sequence, collections.abc.Mapping, collections.abc.Set),
)
_UNIONS: Final = (Union, types.UnionType)
_FORMS: Final = (typing.Required, typing.NotRequired, typing_extensions.ReadOnly, typing.Final)
_ALIASES: Final = tuple(
    {getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType), typing_extensions.TypeAliasType}
)

_BOUNDS: Final[tuple[Any, ...]] = (
    *(annotated_types.Gt, annotated_types.Ge, annotated_types.Lt, annotated_types.Le, annotated_types.Interval),
    *(annotated_types.MultipleOf, annotated_types.MinLen, annotated_types.MaxLen, annotated_types.Len),
    *(annotated_types.Timezone, FailFast, WithJsonSchema),
    *(AllowInfNan, Strict, StringConstraints, UuidVersion, typing_extensions.Doc, str, bytes, int, float, type(None)),
)
"""Metadata that restricts values without running code. Pydantic ignores strings and numbers."""

_GENERAL: Final = frozenset(
    {
        *("pattern", "strict", "max_digits", "decimal_places", "coerce_numbers_to_str", "union_mode", "fail_fast"),
        *("allow_inf_nan", "strip_whitespace", "to_lower", "to_upper", "ascii_only"),
    }
)
"""Names of the settings that `Field` puts into pydantic's own metadata object."""


@cache
def is_plain(model: type[BaseModel]) -> bool:
    """Whether its bytes describe an instance completely, and it can be created from them again without running user code."""
    fields = model.__pydantic_fields__.values()
    is_whole = not any(f.exclude or getattr(f, "exclude_if", None) for f in fields)
    is_closed = model.model_config.get("extra") != "allow" and not model.__private_attributes__
    return is_whole and is_closed and not _asks_code_itself(model) and all(map(_is_plain_field, fields))


def is_read_plainly(annotation: Any) -> bool:
    """Whether only pydantic's code reads what an annotation allows; except for models, which are judged by their instances."""
    return _is_known(annotation, frozenset())


def _asks_code_itself(model: type[BaseModel]) -> bool:
    """Whether a model's own code affects how its bytes are read: its result may differ the next time, or it may refuse them."""
    schema: Any = model.__get_pydantic_core_schema__
    own_schema = schema.__func__ is not BaseModel.__get_pydantic_core_schema__.__func__  # type: ignore[attr-defined]  # a bound classmethod
    own = model.__pydantic_decorators__
    validators = own.validators or own.field_validators or own.root_validators or own.model_validators
    own_making: bool = model.model_post_init is not BaseModel.model_post_init or model.__pydantic_custom_init__
    return bool(validators or own_making or own_schema or "plugin_settings" in model.model_config)


def _is_plain_field(field: FieldInfo) -> bool:
    return (
        all(map(_is_bound, field.metadata))
        and isinstance(field.discriminator, str | None)
        and _is_known(field.annotation, frozenset())
    )


def _is_bound(part: Any) -> bool:
    """Whether metadata is known not to run code. A function declares how a field is merged: pydantic ignores it."""
    if isinstance(part, FieldInfo):
        return all(map(_is_bound, part.metadata)) and isinstance(part.discriminator, str | None)
    if type(part).__name__.endswith("PydanticGeneralMetadata"):
        return bool(vars(part).keys() <= _GENERAL)
    return isinstance(part, (*_BOUNDS, *FUNCTIONS)) and not isinstance(part, type)


def _is_known(annotation: Any, inside: frozenset[Any]) -> bool:
    """Whether only pydantic's code reads what an annotation allows. `inside`: the names that are being examined."""
    if annotation is None or any(annotation is atom for atom in _ATOMS):
        return True
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return _is_known_class(annotation, inside)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return True
    if origin is Annotated:
        return all(map(_is_bound, annotation.__metadata__)) and _is_known(args[0], inside)
    if origin in _UNIONS:
        return _is_known_union(args, inside)
    if origin in _CONTAINERS or origin in _FORMS:
        return all(arg is ... or arg == () or _is_known(arg, inside) for arg in args)
    return _is_known_name(annotation, origin, args, inside)


def _is_known_name(annotation: Any, origin: Any, args: tuple[Any, ...], inside: frozenset[Any]) -> bool:
    """Check what a name for another annotation refers to."""
    named = origin if isinstance(origin, _ALIASES) else annotation
    if isinstance(named, _ALIASES):
        if named in inside:
            return False  # an alias that contains itself
        return _is_known(named.__value__, inside | {named, *named.__type_params__}) and all(
            _is_known(arg, inside) for arg in args
        )
    if isinstance(annotation, typing.NewType):
        return _is_known(annotation.__supertype__, inside)
    return isinstance(annotation, typing.TypeVar) and annotation in inside


def _is_known_union(members: tuple[Any, ...], inside: frozenset[Any]) -> bool:
    others = [member for member in members if member is not type(None)]
    if not all(_is_known(member, inside) for member in others):
        return False
    return len(others) == 1 or all(_has_plain_classes(member, frozenset()) for member in others)


def _has_plain_classes(annotation: Any, inside: frozenset[Any]) -> bool:
    """Whether the models in a union member are plain: pydantic also tries them on values of another member."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation in inside or (is_plain(annotation) and _has_plain_fields(annotation, inside | {annotation}))
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or is_typeddict(annotation)):
        return False
    if isinstance(annotation, typing.NewType):
        return _has_plain_classes(annotation.__supertype__, inside)
    named = annotation if isinstance(annotation, _ALIASES) else get_origin(annotation)
    if named is not None and isinstance(named, _ALIASES) and not _has_plain_classes(named.__value__, inside):
        return False  # an alias that contains itself was refused before
    return get_origin(annotation) is Literal or all(_has_plain_classes(arg, inside) for arg in get_args(annotation))


def _has_plain_fields(model: type[BaseModel], inside: frozenset[Any]) -> bool:
    return all(_has_plain_classes(field.annotation, inside) for field in model.__pydantic_fields__.values())


def _is_known_class(cls: Any, inside: frozenset[Any]) -> bool:
    if issubclass(cls, BaseModel):
        return True  # judged by its instances
    if hasattr(cls, "__get_pydantic_core_schema__") or hasattr(cls, "__get_validators__"):
        return False
    if issubclass(cls, enum.Enum) or (dataclasses.is_dataclass(cls) and not hasattr(cls, "__pydantic_config__")):
        return True  # instances of a dataclass are copied
    if is_typeddict(cls):
        return _is_known_typed_dict(cls, inside)
    return False


def _is_known_typed_dict(cls: Any, inside: frozenset[Any]) -> bool:
    if cls in inside or hasattr(cls, "__pydantic_config__"):
        return False
    try:
        hints = typing_extensions.get_type_hints(cls, include_extras=True)
    except Exception:  # it uses a name that is unknown there
        return False
    return all(_is_known(hint, inside | {cls}) for hint in hints.values())
