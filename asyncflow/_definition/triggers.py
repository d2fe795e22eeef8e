"""Conditions: what a method waits for. A name, or a tree of `or_` and `and_` over names; data without behaviour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, TypeVar, overload

from .._durations import Seconds, seconds
from .signals import Signal

__all__ = [
    "After",
    "AllOf",
    "AllOfTwo",
    "AnyOf",
    "Condition",
    "Delay",
    "Each",
    "FannedOut",
    "TimerDefinition",
    "Trigger",
    "after",
    "and_",
    "names_in",
    "normalised",
    "or_",
    "required_names",
    "satisfied",
    "signals_in",
    "timers_in",
    "trigger_of",
]

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741 - the item
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Satisfied if one of its parts is."""

    parts: tuple[Trigger, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Satisfied if all of its parts are."""

    parts: tuple[Trigger, ...]


class AllOfTwo(Generic[A, B]):
    """What `and_(a, b)` returns for a type checker: it knows what the two methods return. In fact that is an `AllOf`."""


Delay = Seconds | Callable[[Any], Seconds | datetime]
"""How long a timer waits: a duration, or a function of the flow's state that returns a duration or a time."""


@dataclass(frozen=True, slots=True, eq=False)
class After(Generic[R]):
    """Satisfied some time after its trigger."""

    trigger: str | Callable[..., Any]
    delay: Delay


@dataclass(frozen=True, slots=True, eq=False)
class Each(Generic[R]):
    """Satisfied by a method that returns a list: the listener runs once for each item. See `mapping`."""

    source: Any


class FannedOut(ABC, Generic[S, I, R]):
    """The type of a method with `@listen(each(...))` for a type checker: as a trigger, its result is a `list[R]`."""

    @abstractmethod
    def __call__(self, flow: S, item: I, /) -> Coroutine[Any, Any, list[R]]:
        """What triggers it stands for; at run time it is the function that was decorated."""


Condition = str | AnyOf | AllOf
"""A trigger whose leaves are all names: of methods, labels, signals and timers."""

Trigger = Condition | AllOfTwo[Any, Any] | After[Any] | Signal[Any] | Each[Any] | Callable[..., Any]
"""What users write: a label, a method, a signal, a timer, or a tree of them; or the items of a method's list."""


_Other = Condition | AllOfTwo[Any, Any] | After[Any] | Signal[Any]
"""A trigger that is no method."""


class TimerDefinition(NamedTuple):
    """A timer in the condition of a listener."""

    name: str
    """Its name in the condition, such as `after(ask)`."""
    source: str
    """The method or label that starts it."""
    delay: Delay


_NO_DELAY: Final = "the delay of after({}) must be a number of seconds from 0, a timedelta, or a function, not {!r}"

_NO_NAMES: Mapping[int, str] = {}


def or_(*conditions: Trigger) -> AnyOf:
    """Wait for any of the conditions: `@listen(or_(fetch, "retry"))`.

    - `conditions`: methods, labels, signals, or other conditions.

    As the outermost condition with two or more parts it fires once per cycle; inside `and_` it only latches.
    """
    return AnyOf(conditions)


@overload
def and_(a: Callable[..., Coroutine[Any, Any, A]], b: Callable[..., Coroutine[Any, Any, B]], /) -> AllOfTwo[A, B]: ...
@overload
def and_(a: Callable[..., Coroutine[Any, Any, A]], b: Callable[..., B], /) -> AllOfTwo[A, B]: ...
@overload
def and_(a: Callable[..., A], b: Callable[..., Coroutine[Any, Any, B]], /) -> AllOfTwo[A, B]: ...
@overload
def and_(a: Callable[..., A], b: Callable[..., B], /) -> AllOfTwo[A, B]: ...
@overload
def and_(a: _Other, /, *more: Trigger) -> AllOf: ...
@overload
def and_(a: Callable[..., Any], b: _Other, /, *more: Trigger) -> AllOf: ...
@overload
def and_(a: Trigger, b: Trigger, c: Trigger, /, *more: Trigger) -> AllOf: ...
@overload
def and_(a: Callable[..., Any], /) -> AllOf: ...
def and_(*conditions: Trigger) -> AllOf:  # type: ignore[misc]  # pyright: ignore[reportInconsistentOverload]
    """Wait for all of the conditions: `@listen(and_(fetch, parse))`. It fires each time all have arrived since it last fired.

    - `conditions`: methods, labels, signals, or other conditions.
    """
    return AllOf(conditions)


@overload
def after(trigger: Callable[..., Coroutine[Any, Any, R]], delay: Delay) -> After[R]: ...
@overload
def after(trigger: str, delay: Delay) -> After[Any]: ...
@overload
def after(trigger: Callable[..., R], delay: Delay) -> After[R]: ...
def after(trigger: Any, delay: Delay) -> After[Any]:
    """Wait for some time after a method or a label: `@listen(or_(approved, after(ask, timedelta(days=2))))`.

    - `trigger`: the method or label whose end starts the timer. The listener receives its result.
    - `delay`: seconds, or a timedelta; or a function that gets the flow's state, and returns seconds, a timedelta or a time (a datetime
      with a time zone). It is called when the timer starts.

    The time at which it fires is stored: a run that is interrupted meanwhile continues to wait when it is resumed, and a time that has
    passed by then fires at once. A listener that runs for another reason drops its timers of the same cycle. In one listener, each
    method or label can have one timer; a trigger that comes again restarts it. A method whose parameters are named like its triggers
    receives the trigger's result by the trigger's name.
    """
    return After(trigger, delay)


def timers_in(trigger: Trigger, names: Mapping[int, str] = _NO_NAMES) -> Iterator[TimerDefinition]:
    """Yield the timers of a tree. `names`: as for `normalised`. Raises `TypeError` for what cannot be a timer."""
    if isinstance(trigger, After):
        source = normalised(trigger.trigger, names)
        if not isinstance(source, str) or isinstance(trigger.trigger, After | Signal):
            raise TypeError("after() takes a method or a label, and not another condition")
        fixed = None if callable(trigger.delay) else seconds(trigger.delay)
        if not callable(trigger.delay) and (fixed is None or fixed < 0):
            raise TypeError(_NO_DELAY.format(source, trigger.delay))
        yield TimerDefinition(f"after({source})", source, trigger.delay)
    elif isinstance(trigger, AnyOf | AllOf):
        for part in trigger.parts:
            yield from timers_in(part, names)


def signals_in(trigger: Trigger) -> Iterator[Signal[Any]]:
    """Yield the signals of a tree."""
    if isinstance(trigger, Signal):
        yield trigger
    elif isinstance(trigger, AnyOf | AllOf):
        for part in trigger.parts:
            yield from signals_in(part)


def normalised(trigger: Trigger, names: Mapping[int, str] = _NO_NAMES) -> Condition:
    """Return the tree with methods, signals and timers as names.

    Nodes of the same kind and equal parts are joined; a single part replaces its node.

    `names` maps a function's `id` to the name under which a class has it; other functions are known by their own name.

    Raises `TypeError` for a leaf that is neither a string nor a function, and for an empty `or_` or `and_`.
    """
    if isinstance(trigger, str):
        return trigger
    if isinstance(trigger, Signal):
        return trigger.name
    if isinstance(trigger, Each):
        raise TypeError("each() is a condition of its own; it is no part of or_(), and_() or after()")
    if isinstance(trigger, After):
        return f"after({normalised(trigger.trigger, names)})"
    if not isinstance(trigger, AnyOf | AllOf):
        return names.get(id(trigger)) or _name_of(trigger)
    kind = type(trigger)
    parts: dict[Condition, None] = {}
    for part in (normalised(part, names) for part in trigger.parts):
        parts.update(dict.fromkeys(part.parts if isinstance(part, kind) else (part,)))  # type: ignore[arg-type]  # normalised parts hold no functions
    if not parts:
        raise TypeError(f"an empty {'or_()' if kind is AnyOf else 'and_()'} can never fire")
    return kind(tuple(parts)) if len(parts) > 1 else next(iter(parts))


def _name_of(leaf: object) -> str:
    name = getattr(leaf, "__name__", None)
    if not callable(leaf) or isinstance(leaf, type) or not isinstance(name, str):
        raise TypeError(f"a condition must be a method, a label, a signal, after(), or_() or and_(), not {leaf!r}")
    return name


def names_in(condition: Condition) -> Iterator[str]:
    """Yield every name of the tree, in order; a name that occurs twice is yielded twice."""
    if isinstance(condition, str):
        yield condition
    else:
        for part in condition.parts:
            yield from names_in(part)  # type: ignore[arg-type]  # see normalised


def required_names(condition: Condition) -> Iterator[str]:
    """Yield the names that have certainly arrived when the condition is satisfied."""
    if isinstance(condition, str):
        yield condition
    elif isinstance(condition, AllOf):
        for part in condition.parts:
            yield from required_names(part)  # type: ignore[arg-type]  # see normalised


def trigger_of(name: str) -> str:
    """Return the method or label that a name in a condition stands for: of a timer, the one that starts it."""
    return name[6:-1] if name.startswith("after(") and name.endswith(")") else name


def satisfied(condition: Condition, seen: Collection[str]) -> bool:
    """Whether the names that were seen satisfy the condition."""
    if isinstance(condition, str):
        return condition in seen
    test = any if isinstance(condition, AnyOf) else all
    return test(satisfied(part, seen) for part in condition.parts)  # type: ignore[arg-type]  # see normalised
