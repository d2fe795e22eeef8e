"""Reading a method's signature: what it receives, what it returns, which labels it declares."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from .definition import Receives, label_of
from .triggers import AllOf, Condition, required_names

__all__ = ["declared_labels", "received", "requires_a_value", "return_annotation"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def received(function: Callable[..., Any], condition: Condition | None) -> tuple[Receives, tuple[str, ...]]:
    """What the method is called with under this condition.

    Raises `ValueError`, saying the cure, for a signature that no trigger can serve.
    """
    parameters = list(inspect.signature(function).parameters.values())[1:]
    _refuse_unfilled(parameters)
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = [p.name for p in positional if p.default is p.empty]
    if condition is None and required:
        raise ValueError(f"is a start and takes '{required[0]}', but no trigger has a result yet; give it a default")
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
            raise ValueError(f"has the keyword-only parameter '{p.name}' without a default, which nothing fills")


def _are_named_like(positional: list[inspect.Parameter], condition: AllOf) -> bool:
    surely = set(required_names(condition))
    return bool(positional) and all(p.name in surely and p.kind is not p.POSITIONAL_ONLY for p in positional)


def requires_a_value(function: Callable[..., Any]) -> bool:
    """Whether the method cannot be called without an argument."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return any(p.kind in _POSITIONAL and p.default is p.empty for p in parameters)


def return_annotation(function: Callable[..., Any], local: Mapping[str, Any]) -> Any:
    """The return annotation with its names resolved; `Signature.empty` where there is none or it names the unknown."""
    function = inspect.unwrap(function)
    annotation = getattr(function, "__annotations__", {}).get("return", inspect.Signature.empty)
    if annotation is None or annotation is inspect.Signature.empty:
        return annotation
    holder = types.SimpleNamespace(__annotations__={"return": annotation})
    try:
        return typing.get_type_hints(holder, getattr(function, "__globals__", {}), dict(local), include_extras=True)[
            "return"
        ]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return inspect.Signature.empty


def declared_labels(annotation: Any) -> frozenset[str] | None:
    """The labels that a return annotation declares (`Literal`, `Enum`, None, unions of them), or None."""
    if annotation is None or annotation is types.NoneType:
        return frozenset()
    if get_origin(annotation) is Literal:
        return frozenset(label for value in get_args(annotation) if (label := label_of(value)) is not None)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return frozenset(str(member.value) for member in annotation)
    if get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [declared_labels(part) for part in get_args(annotation)]
        return None if None in parts else frozenset().union(*(p for p in parts if p is not None))
    return None
