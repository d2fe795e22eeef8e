"""Resolve names for types: `type` statements, `TypeAliasType`, `NewType` and `Annotated`, generic ones included."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Final, ForwardRef, NewType, TypeVar, get_args, get_origin

import typing_extensions

from ..errors import FlowDefinitionError

__all__ = ["resolved", "unaliased"]

_ALIASES: Final = tuple(
    {typing_extensions.TypeAliasType, getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType)}
)

_DEEP: Final = 100
"""Maximum number of aliases that are followed in a row: more are a cycle (`type A = A`)."""


def unaliased(annotation: Any) -> Any:
    """Return the type that an annotation refers to; its arguments are left as they are.

    Raises `NameError` if an alias uses a name that is not defined yet.
    """
    for _ in range(_DEEP):
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, _ALIASES):
            annotation = annotation.__value__
        elif isinstance(origin, _ALIASES):
            annotation = _filled_in(
                origin.__value__, dict(zip(origin.__type_params__, get_args(annotation), strict=False))
            )
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation
    return annotation


def _filled_in(value: Any, arguments: dict[Any, Any]) -> Any:
    """Return the value of a generic alias, with the arguments in place of its parameters."""
    if isinstance(value, TypeVar):
        return arguments.get(value, value)
    parameters = getattr(value, "__parameters__", ())
    return value[tuple(arguments.get(p, p) for p in parameters)] if parameters else value


def resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return the type that an annotation refers to. The annotation may be a string: `Flow["State"]`.

    Raises `FlowDefinitionError` for a name that is not defined there.
    """
    try:
        if isinstance(annotation, str | ForwardRef):
            text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
            holder = SimpleNamespace(__annotations__={"it": text})
            annotation = typing.get_type_hints(holder, None, dict(names), include_extras=True)["it"]
        return unaliased(annotation)
    except NameError as error:
        raise FlowDefinitionError(
            f"the state of the flow uses the name {error.name}, which is not defined above the flow; define it there",
            problems=[f"{error.name} is not defined"],
        ) from None
