"""Find the place in a class whose code raised: pydantic reports the locations of its own errors only."""

from __future__ import annotations

import dataclasses
import re
import traceback
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

import typing_extensions
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

__all__ = ["describe", "is_own", "of_serializer", "places_of"]

IsIt = Callable[[types.CodeType | None], bool]

_SERIALIZER = re.compile(r"Error calling function `(\w+|<lambda>)`: (\w+)")

_ALIASES = tuple({getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType), typing_extensions.TypeAliasType})


def is_own(error: BaseException) -> bool:
    """Whether code of a class raised this, rather than this library, which reads and writes around it."""
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return not module.startswith("asyncflow.")


def places_of(error: Exception, annotation: Any) -> tuple[str, ...]:
    """Return the fields whose validators raised this; items of lists and dicts have no place of their own. No field: the whole value."""
    codes = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
    return tuple(dict.fromkeys(_found(annotation, lambda code: code in codes, "", ())))


def of_serializer(error: Exception, annotation: Any) -> tuple[str, tuple[str, ...]] | None:
    """Return what a serializer raised, and for which fields, if one did: pydantic reports only its name and the class of the error."""
    called = _SERIALIZER.search(str(error)) if isinstance(error, PydanticSerializationError) else None
    if called is None:
        return None
    found = _found(annotation, lambda code: code is not None and code.co_name == called[1], "", ())
    return called[2], tuple(dict.fromkeys(found))


def describe(error: Exception, annotation: Any, whole: str) -> str:
    """Describe where the class's own code raised, and what, without the user's values."""
    places = ", ".join(place or whole for place in places_of(error, annotation)) or whole
    return f"{places}: its own code raised {type(error).__name__}"


def _found(annotation: Any, is_it: IsIt, path: str, inside: tuple[Any, ...]) -> Iterator[str]:
    if annotation in inside:
        return
    origin = get_origin(annotation)
    named = origin if isinstance(origin, _ALIASES) else annotation
    if isinstance(named, _ALIASES):
        yield from _found(named.__value__, is_it, path, (*inside, annotation))
    elif isinstance(annotation, typing.NewType):
        yield from _found(annotation.__supertype__, is_it, path, inside)
    elif isinstance(annotation, type) and origin is None:
        yield from _found_in_class(annotation, is_it, path, (*inside, annotation))
    if origin is Annotated and any(is_it(_code_of(part)) for part in get_args(annotation)[1:]):
        yield path
    for arg in get_args(annotation):
        yield from _found(arg, is_it, path, inside)


def _found_in_class(cls: Any, is_it: IsIt, path: str, inside: tuple[Any, ...]) -> Iterator[str]:
    own = getattr(cls, "__pydantic_decorators__", None)
    if own is not None:
        yield from _decorated_fields(own, is_it, path)
    fields = cls.__pydantic_fields__.items() if issubclass(cls, BaseModel) else ()
    has_hints = not fields and (dataclasses.is_dataclass(cls) or typing_extensions.is_typeddict(cls))
    hints = _hints(cls).items() if has_hints else ()
    for name, field in (*fields, *hints):
        here = f"{path}.{name}".lstrip(".")
        metadata, annotation = (field.metadata, field.annotation) if fields else ((), field)
        if any(is_it(_code_of(part)) for part in metadata):
            yield here
        yield from _found(annotation, is_it, here, inside)
    whole: list[Any] = []
    if own is not None:
        whole = [*own.model_validators.values(), *own.root_validators.values(), *own.model_serializers.values()]
    hooks = [vars(cls).get(name) for name in ("model_post_init", "__init__", "__post_init__")]
    if any(is_it(_code_of(each)) for each in (*whole, *hooks)):
        yield path


def _decorated_fields(own: Any, is_it: IsIt, path: str) -> Iterator[str]:
    for each in (*own.field_validators.values(), *own.validators.values(), *own.field_serializers.values()):
        if is_it(_code_of(each)):
            yield from (f"{path}.{name}".lstrip(".") for name in each.info.fields)


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing_extensions.get_type_hints(cls, include_extras=True)
    except Exception:  # it uses a name that is unknown there
        return {}


def _code_of(validator: Any) -> types.CodeType | None:
    """Return the code object of a function, of pydantic's object around one, or of a method."""
    function = getattr(validator, "func", validator)
    function = getattr(function, "__func__", function)
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return code if isinstance(code, types.CodeType) else None
