"""Read a method's signature: what it receives, what it returns, which labels it declares."""

from __future__ import annotations

import collections.abc
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, Literal, get_args, get_origin

from .aliases import UNRESOLVED, unaliased
from .definition import Receives, label_of
from .triggers import AllOf, Condition, required_names, trigger_of

if sys.version_info >= (3, 14):
    import annotationlib

__all__ = [
    "annotation_of",
    "annotations_of",
    "declared_labels",
    "received",
    "requires_a_value",
    "signature",
]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

_AWAITED: Final = (collections.abc.Awaitable, collections.abc.Coroutine)


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, whose annotations may use names that are not defined yet."""
    if sys.version_info >= (3, 14):  # annotations are evaluated lazily there
        return inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(function)


def annotations_of(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotations of a function, which may use names that are not defined yet."""
    if sys.version_info >= (3, 14):
        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return getattr(function, "__annotations__", None) or {}


def received(function: Callable[..., Any], condition: Condition | None) -> tuple[Receives, tuple[str, ...]]:
    """Return what the method is called with under this condition.

    Raises `ValueError`, with the fix, for a signature that no trigger can fill.
    """
    parameters = list(signature(function).parameters.values())[1:]
    _refuse_unfilled(parameters)
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = [p.name for p in positional if p.default is p.empty]
    if condition is None and required:
        raise ValueError(
            f"is a start and takes '{required[0]}', but no trigger has a result yet; give the parameter a default"
        )
    if condition is None:
        return Receives.NOTHING, ()
    if isinstance(condition, AllOf) and _are_named_like(positional, condition):
        return Receives.NAMED, tuple(p.name for p in positional)
    if len(required) > 1:
        raise ValueError(
            f"takes {len(required)} values ({', '.join(required)}); it can take one, or, under and_(), "
            "parameters named like its triggers"
        )
    takes_one = positional or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return (Receives.LAST if takes_one else Receives.NOTHING), ()


def _refuse_unfilled(parameters: list[inspect.Parameter]) -> None:
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise ValueError(f"has the keyword-only parameter '{p.name}' without a default, which no trigger can fill")


def _are_named_like(positional: list[inspect.Parameter], condition: AllOf) -> bool:
    surely = {trigger_of(name) for name in required_names(condition)}
    return bool(positional) and all(p.name in surely and p.kind is not p.POSITIONAL_ONLY for p in positional)


def requires_a_value(function: Callable[..., Any]) -> bool:
    """Whether the method cannot be called without an argument."""
    parameters = list(signature(function).parameters.values())[1:]
    return any(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)


def annotation_of(function: Callable[..., Any], name: str, *names: Mapping[str, Any]) -> Any:
    """Return an annotation of a function with its names resolved, in the first of these namespaces that has them all.

    `name`: of a parameter, or "return". `Signature.empty` if there is none; `UNRESOLVED` if it uses a name that is not defined, or not
    yet.
    """
    function = inspect.unwrap(function)
    annotation = annotations_of(function).get(name, inspect.Signature.empty)
    if annotation is None or annotation is inspect.Signature.empty:
        return annotation
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    parameters = {p.__name__: p for p in getattr(function, "__type_params__", ())}
    for local in names:
        try:
            within = {**local, **parameters} if parameters else local  # do not copy for each of thousands of methods
            hints = typing.get_type_hints(holder, getattr(function, "__globals__", {}), within, include_extras=True)
            return hints[name]
        except (NameError, AttributeError):
            continue
        except (TypeError, SyntaxError):
            return inspect.Signature.empty
    return UNRESOLVED


def declared_labels(annotation: Any) -> frozenset[str] | None:
    """Return the labels that a return annotation declares (`Literal`, `Enum`, None, unions and aliases of them), or None.

    Raises `NameError` if an alias uses a name that is not defined yet.
    """
    annotation = unaliased(annotation)
    origin = get_origin(annotation)
    if annotation is None or annotation is types.NoneType:
        return frozenset()
    if origin is Literal:
        return frozenset(label for value in get_args(annotation) if (label := label_of(value)) is not None)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return frozenset(str(member.value) for member in annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [declared_labels(part) for part in get_args(annotation)]
        return None if None in parts else frozenset().union(*(p for p in parts if p is not None))
    if origin in _AWAITED:  # a plain function that returns a coroutine
        return declared_labels(get_args(annotation)[-1])
    return None
