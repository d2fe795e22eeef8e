"""Conditions: what a method waits for. A name, or a tree of `or_` and `and_` over names; data without behaviour."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "AllOf",
    "AnyOf",
    "Condition",
    "Trigger",
    "and_",
    "names_in",
    "normalised",
    "or_",
    "required_names",
    "satisfied",
]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Satisfied if one of its parts is."""

    parts: tuple[Trigger, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Satisfied if all of its parts are."""

    parts: tuple[Trigger, ...]


Condition = str | AnyOf | AllOf
"""A trigger whose leaves are all names."""

Trigger = Condition | Callable[..., Any]
"""What users write: a label, a method, or a tree of them."""


_NO_NAMES: Mapping[int, str] = {}


def or_(*conditions: Trigger) -> AnyOf:
    """Wait for any of the conditions: `@listen(or_(fetch, "retry"))`.

    - `conditions`: methods, labels, or other conditions.

    As the outermost condition with two or more parts it fires once per cycle; inside `and_` it only latches.
    """
    return AnyOf(conditions)


def and_(*conditions: Trigger) -> AllOf:
    """Wait for all of the conditions: `@listen(and_(fetch, parse))`. It fires each time all have arrived since it last fired.

    - `conditions`: methods, labels, or other conditions.
    """
    return AllOf(conditions)


def normalised(trigger: Trigger, names: Mapping[int, str] = _NO_NAMES) -> Condition:
    """Return the tree with methods as names, nodes of the same kind and equal parts joined, and a single part in place of its node.

    `names` maps a function's `id` to the name under which a class has it; other functions are known by their own name.

    Raises `TypeError` for a leaf that is neither a string nor a function, and for an empty `or_` or `and_`.
    """
    if isinstance(trigger, str):
        return trigger
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
        raise TypeError(f"a condition must be a method, a label, or_() or and_(), not {leaf!r}")
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


def satisfied(condition: Condition, seen: Collection[str]) -> bool:
    """Whether the names that were seen satisfy the condition."""
    if isinstance(condition, str):
        return condition in seen
    test = any if isinstance(condition, AnyOf) else all
    return test(satisfied(part, seen) for part in condition.parts)  # type: ignore[arg-type]  # see normalised
