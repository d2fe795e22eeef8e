"""Resolve names for types: `type` statements, `TypeAliasType`, `NewType` and `Annotated`, generic ones included."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Annotated, Any, Final, ForwardRef, NewType, TypeVar, get_args, get_origin

import typing_extensions

from ..errors import FlowDefinitionError

__all__ = ["UNRESOLVED", "evaluated", "filled_in", "resolved", "unaliased"]


class _Unresolved:
    """Marks an annotation that uses a name not defined yet."""


UNRESOLVED: Final = _Unresolved()

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
            annotation = filled_in(
                origin.__value__, dict(zip(origin.__type_params__, get_args(annotation), strict=False))
            )
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation
    return annotation


def filled_in(value: Any, arguments: Mapping[Any, Any]) -> Any:
    """Return a type with the arguments in place of its type variables."""
    if isinstance(value, TypeVar):
        return arguments.get(value, value)
    parameters = getattr(value, "__parameters__", ())
    if not any(p in arguments for p in parameters):
        return value
    return value[tuple(arguments.get(p, p) for p in parameters)]


def evaluated(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return an annotation with the names in its strings resolved: `Flow["State"]`. Raises `NameError` for a name not defined there."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else annotation
    holder = SimpleNamespace(__annotations__={"it": text})
    return typing.get_type_hints(holder, None, dict(names), include_extras=True)["it"]


def resolved(annotation: Any, names: Mapping[str, Any]) -> Any:
    """Return the type of the state that an annotation refers to. Raises `FlowDefinitionError` for a name that is not defined there."""
    try:
        is_text = isinstance(annotation, str | ForwardRef)
        return unaliased(evaluated(annotation, names) if is_text else annotation)
    except NameError as error:
        raise FlowDefinitionError(
            f"the state of the flow uses the name {error.name}, which is not defined above the flow; define it there",
            problems=[f"{error.name} is not defined"],
        ) from None
