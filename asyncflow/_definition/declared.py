"""What a flow class declares besides its methods: its state, its result, and which of its methods have a checkpoint."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin

from ..errors import FlowDefinitionError
from .aliases import UNRESOLVED, evaluated, filled_in, resolved
from .decorators import PersistMark
from .definition import FlowDefinition, MethodDefinition

__all__ = ["Persisted", "Uncached", "declared_result", "declared_state"]


class Uncached:
    """A base of generic classes that keep each subscript separate.

    `typing` creates one object for all equal annotations, and `A | B` is equal to `B | A` for it, which pydantic reads differently.
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, parameter: Any) -> Any:
            super().__class_getitem__(parameter)  # raises if this is no valid parameter
            return types.GenericAlias(cls, parameter)


@dataclass(frozen=True, slots=True)
class Persisted:
    """What the `@persist` marks of a class declare together."""

    is_marked: bool
    """Whether there is any mark."""
    backend: Any
    """The backend that the marks name; None if they name none."""
    is_verbose: bool
    only: frozenset[str] | None
    """The methods that have a checkpoint; None for all."""

    @classmethod
    def of(
        cls,
        flow: str,
        on_class: PersistMark | None,
        on_methods: Mapping[str, PersistMark],
        check_backend: Callable[[object], None],
    ) -> Persisted:
        """Combine the class's own mark, if any, and those of its methods. Raises `FlowDefinitionError` if they name two backends."""
        marks = [*([] if on_class is None else [on_class]), *on_methods.values()]
        backends = {id(mark.backend): mark.backend for mark in marks if mark.backend is not None}
        for backend in backends.values():
            check_backend(backend)
        if len(backends) > 1:
            raise FlowDefinitionError(
                f"{flow} names two different backends in @persist; a flow has one storage", problems=["two backends"]
            )
        only = frozenset(on_methods) if on_class is None and on_methods else None
        return cls(bool(marks), next(iter(backends.values()), None), any(mark.verbose for mark in marks), only)

    def check(self, definition: FlowDefinition) -> None:
        """Raise `FlowDefinitionError` if the flow declares signals, and only some of its methods have a checkpoint."""
        if self.only is not None and definition.signals:
            raise FlowDefinitionError(
                f"{definition.name} declares signals, and persists only some of its methods: a signal that is taken must be stored. "
                "Decorate the class with @persist instead of the methods",
                problems=["signals with method-level @persist"],
            )

    def checkpoints(self, method: MethodDefinition) -> bool:
        """Whether the completion of this method is a checkpoint."""
        return self.only is None or method.name in self.only


def declared_state(cls: Any, api: type, names: Mapping[str, Any]) -> Any:
    """Return the annotation of a flow's state: of `Flow[State]`, or of its `initial_state`. `api` is `Flow`; `names` resolves strings.

    Raises `FlowDefinitionError` for a name that is not defined.
    """
    state = _declared(cls, api)[0]
    return _class_of(cls.initial_state) if _is_open(state) else resolved(state, names)


def declared_result(cls: Any, api: type, names: Mapping[str, Any]) -> Any:
    """Return the annotation of a flow's result: of `Flow[State, Result]`, or `Any`. `UNRESOLVED` if it uses a name not defined yet."""
    result = _declared(cls, api)[1]
    try:
        return Any if _is_open(result) else evaluated(result, names)
    except (NameError, AttributeError):
        return UNRESOLVED


def _is_open(argument: Any) -> bool:
    return argument is Parameter.empty or isinstance(argument, TypeVar)


def _declared(cls: type, api: type) -> list[Any]:
    """Return the two arguments of `Flow` that a class declares; for one that it leaves open, a type variable or `Parameter.empty`."""
    found: list[Any] = [Parameter.empty, Parameter.empty]
    bases = vars(cls).get("__orig_bases__", cls.__bases__)
    own = [base for base in bases if cast(object, get_origin(base)) is api]  # what the class says itself comes first
    for base in (*own, *(base for base in bases if base not in own)):
        origin = get_origin(base) or base
        if not isinstance(origin, type) or not issubclass(origin, api):
            continue
        given = get_args(base)
        if origin is not api:
            parameters = getattr(origin, "__parameters__", ())
            known = {each: each.__default__ for each in parameters if getattr(each, "has_default", bool)()}
            known.update(zip(parameters, given, strict=False))
            given = tuple(filled_in(argument, known) for argument in _declared(origin, api))
        found = [new if _is_open(old) else old for old, new in zip_longest(found, given[:2], fillvalue=Parameter.empty)]
    return found


def _class_of(initial: Any) -> Any:
    if isinstance(initial, type):
        return initial
    return dict if initial is None or isinstance(initial, Mapping) else type(initial)
