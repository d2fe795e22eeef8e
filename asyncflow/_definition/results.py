"""Compare what methods return with the result that a flow declares, and with the parameters that receive it by name.

Only what is certainly wrong is a mistake.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, get_args, get_origin

from typing_extensions import is_protocol, is_typeddict

from .aliases import UNRESOLVED, unaliased
from .definition import FlowDefinition, MethodDefinition
from .signatures import annotation_of

__all__ = ["cannot_be", "join_problems", "result_of", "result_problems"]

_UNIONS: Final = (typing.Union, types.UnionType)
_AWAITED: Final = (collections.abc.Awaitable, collections.abc.Coroutine)
_PROMOTED: Final = ((int, float), (int, complex), (float, complex), (bytearray, bytes), (memoryview, bytes))
"""Pairs of classes: type checkers accept the first for the second, although it is no subclass."""


def result_problems(definition: FlowDefinition) -> Iterator[str]:
    """Yield the methods that may give the output of a flow, and whose return annotation cannot be its declared result."""
    wanted = definition.result
    if wanted is Any or wanted is UNRESOLVED:
        return
    for method in _outputs(definition):
        returned = result_of(method)
        if _is_known(returned) and cannot_be(returned, wanted):
            last, cure = "", ""
            if not method.is_output:
                last = " and can be the last method of a run"
                cure = ", or give output=True to the method that returns the result"
            yield (
                f"{method.name} returns {_shown(returned)}{last}, but the declared result of the flow is {_shown(wanted)}; change one of "
                f"the two types{cure}"
            )


def _outputs(definition: FlowDefinition) -> Iterator[MethodDefinition]:
    """Yield the method with `output=True` or, without one, those that are never followed by another."""
    for method in definition.last:
        names = {method.name, *(method.labels or ())}
        is_followed = definition.mentioning(names) or any(definition.timed_by(name) for name in names)
        if method.is_output or not (is_followed or (method.is_router and method.labels is None)):
            yield method


def result_of(method: MethodDefinition) -> Any:
    """Return the annotation of what a method gives; `Signature.empty` if that is not known. With `each` it gives a list."""
    given = method.returns
    if not method.is_async and get_origin(given) in _AWAITED:
        given = get_args(given)[-1]
    return list[given] if method.each and given is not inspect.Signature.empty else given  # type: ignore[valid-type]


def join_problems(definition: FlowDefinition, names: tuple[Mapping[str, Any], ...]) -> Iterator[str]:
    """Yield the parameters that are named like triggers and can take none of the values that these give. `names`: to resolve them."""
    for method in definition.methods.values():
        for name in method.parameters:
            signal, trigger = definition.signals.get(name), definition.methods.get(name)
            given = signal.payload if signal else result_of(trigger) if trigger else inspect.Signature.empty
            taken = annotation_of(method.function, name, *names)
            if _is_known(given) and _is_known(taken) and _are_disjoint(given, taken):
                what = "its payload is" if signal else f"{name} returns"
                yield f"{method.name} takes {_shown(taken)} as {name}, but {what} {_shown(given)}; change one of the two types"


def _is_known(annotation: Any) -> bool:
    return annotation is not inspect.Signature.empty and annotation is not UNRESOLVED


def _are_disjoint(a: Any, b: Any) -> bool:
    """Whether two types certainly have no value in common: neither can be the other, nor any part of a union."""
    return all(cannot_be(one, other) and cannot_be(other, one) for one in _parts(a) for other in _parts(b))


def _parts(annotation: Any) -> tuple[Any, ...]:
    try:
        annotation = unaliased(annotation)
    except NameError:  # it is not defined yet
        return (Any,)
    return get_args(annotation) if get_origin(annotation) in _UNIONS else (annotation,)


def cannot_be(returned: Any, wanted: Any) -> bool:
    """Whether a type certainly cannot be used where another one is wanted, as a type checker sees it."""
    try:
        return _cannot_be(unaliased(returned), unaliased(wanted))
    except Exception:  # an alias uses a name that is not defined yet; a metaclass may raise anything
        return False


def _cannot_be(returned: Any, wanted: Any) -> bool:
    if get_origin(returned) in _UNIONS:
        return any(cannot_be(part, wanted) for part in get_args(returned))
    if get_origin(wanted) in _UNIONS:
        return all(cannot_be(returned, part) for part in get_args(wanted))
    if get_origin(returned) is Literal:
        return any(_is_no(value, wanted) for value in get_args(returned))
    has, wants = _class_of(returned), _class_of(wanted)
    if get_origin(wanted) is Literal:
        return has is not None and not any(isinstance(value, has) for value in get_args(wanted))
    if has is None or wants is None:
        return False
    if has is wants:
        return _differ(has, _arguments(returned), _arguments(wanted))
    return not (issubclass(has, wants) or any(issubclass(has, a) and issubclass(b, wants) for a, b in _PROMOTED))


def _is_no(value: Any, wanted: Any) -> bool:
    """Whether the value of a `Literal` does not fit."""
    if get_origin(wanted) is Literal:
        return all(type(value) is not type(other) or value != other for other in get_args(wanted))
    return cannot_be(type(value), wanted)


def _class_of(annotation: Any) -> type | None:
    """Return the class of the values that an annotation describes; None if that is not certain."""
    if annotation is None:
        return types.NoneType
    found = _generic(annotation)[0] or get_origin(annotation) or annotation
    if is_typeddict(found):
        return dict
    if not isinstance(found, type) or Any in found.__mro__ or found is object or is_protocol(found):
        return None
    return found


def _arguments(annotation: Any) -> tuple[Any, ...]:
    return _generic(annotation)[1] or get_args(annotation)


def _generic(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the class and the arguments of a generic model of pydantic, whose subscript is a class of its own; else None."""
    known = getattr(annotation, "__pydantic_generic_metadata__", None) or {}
    return known.get("origin"), known.get("args", ())


def _differ(cls: type, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    """Whether the arguments of a generic class cannot stand for each other, whatever its variance is."""
    if not ours or not theirs:
        return False
    if Ellipsis in (*ours, *theirs):
        ours, theirs = ours[:1], theirs[:1]
    if len(ours) != len(theirs):
        return cls is tuple
    return any(cannot_be(a, b) and cannot_be(b, a) for a, b in zip(ours, theirs, strict=True))


def _shown(annotation: Any) -> str:
    if annotation in (None, types.NoneType):
        return "None"
    return annotation.__name__ if isinstance(annotation, type) else inspect.formatannotation(annotation)
