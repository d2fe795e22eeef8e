"""Where in a class the code stands that raised: pydantic tells the places of its own errors, and no others'."""

from __future__ import annotations

import dataclasses
import traceback
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import typing_extensions
from pydantic import BaseModel

__all__ = ["places_of", "told"]

_ALIASES = tuple({getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType), typing_extensions.TypeAliasType})


def places_of(error: Exception, annotation: Any) -> tuple[str, ...]:
    """The fields whose validators have raised this; items of lists and dicts have no place of their own. None: all of the value."""
    codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return tuple(dict.fromkeys(_found(annotation, codes, "", ())))


def told(error: Exception, annotation: Any, whole: str) -> str:
    """Where code of the class's has raised, and what, without the user's values."""
    places = ", ".join(place or whole for place in places_of(error, annotation)) or whole
    return f"{places}: its own code raised {type(error).__name__}"


def _found(annotation: Any, codes: set[types.CodeType], path: str, inside: tuple[Any, ...]) -> Iterator[str]:
    if annotation in inside:
        return
    origin = get_origin(annotation)
    named = origin if isinstance(origin, _ALIASES) else annotation
    if isinstance(named, _ALIASES):
        yield from _found(named.__value__, codes, path, (*inside, annotation))
    elif isinstance(annotation, typing.NewType):
        yield from _found(annotation.__supertype__, codes, path, inside)
    elif isinstance(annotation, type) and origin is None:
        yield from _found_in_class(annotation, codes, path, (*inside, annotation))
    if origin is Annotated and any(_code_of(part) in codes for part in annotation.__metadata__):
        yield path
    for arg in get_args(annotation):
        yield from _found(arg, codes, path, inside)


def _found_in_class(cls: Any, codes: set[types.CodeType], path: str, inside: tuple[Any, ...]) -> Iterator[str]:
    own = getattr(cls, "__pydantic_decorators__", None)
    if own is not None:
        for each in (*own.field_validators.values(), *own.validators.values()):
            if _code_of(each) in codes:
                yield from (f"{path}.{name}".lstrip(".") for name in each.info.fields)
    fields = cls.__pydantic_fields__.items() if issubclass(cls, BaseModel) else ()
    has_hints = not fields and (dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls))
    hints = _hints(cls).items() if has_hints else ()
    for name, field in (*fields, *hints):
        here = f"{path}.{name}".lstrip(".")
        metadata, annotation = (field.metadata, field.annotation) if fields else ((), field)
        if any(_code_of(part) in codes for part in metadata):
            yield here
        yield from _found(annotation, codes, here, inside)
    whole = [] if own is None else [*own.model_validators.values(), *own.root_validators.values()]
    hooks = [vars(cls).get(name) for name in ("model_post_init", "__init__", "__post_init__")]
    if any(_code_of(each) in codes for each in (*whole, *hooks)):
        yield path


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(cls, include_extras=True)
    except Exception:  # a name that is not known there
        return {}


def _code_of(validator: Any) -> types.CodeType | None:
    """The code of a function, of pydantic's object around one, or of a method."""
    function = getattr(validator, "func", validator)
    function = getattr(function, "__func__", function)
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return code if isinstance(code, types.CodeType) else None
