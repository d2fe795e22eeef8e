"""Firing a listener: whether all that it waits for has arrived, and the invocation that this enables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .._definition.definition import MethodDefinition, Receives
from .._definition.triggers import satisfied
from .messages import Invocation, Seen
from .progress import Progress

__all__ = ["all_seen", "invocation_of", "part_of"]

_made = tuple.__new__
"""Creates a named tuple from all its fields, in a third of the time: each step creates several."""


def all_seen(method: MethodDefinition, before: dict[str, Seen], arrived: dict[str, Seen]) -> dict[str, Seen] | None:
    """Return all that has arrived if it satisfies the method's condition. Skip the check while that is impossible: joins may be wide."""
    assert method.condition is not None, "only a method with a condition is reached"
    if len(before) + len(arrived) < method.fewest:
        return None
    seen = before | arrived
    return seen if satisfied(method.condition, seen) else None


def invocation_of(
    progress: Progress,
    method: MethodDefinition,
    source: str,
    cycle: str,
    ancestry: frozenset[str],
    seen: dict[str, Seen] | None,
) -> Invocation:
    """Return the invocation that an event enables: one more occurrence, with its ancestry and its arguments."""
    arguments: tuple[tuple[str, str], ...] = ()
    if method.receives is Receives.LAST:
        arguments = (("", source),)
    elif method.receives is Receives.NAMED and seen is not None:
        arguments = tuple((name, part_of(seen, name).source) for name in method.parameters)
    name = method.name
    line = ancestry | {name} if seen is None else ancestry.union((name,), *_ancestries(seen.values(), cycle))
    return _made(Invocation, (name, progress.counts.get(name, 0) + 1, cycle, line, arguments))


def part_of(seen: Mapping[str, Seen], parameter: str) -> Seen:
    """Return the part of a join that fills a parameter: it is named like the method or label, or like the trigger of a timer."""
    return seen[parameter] if parameter in seen else seen[f"after({parameter})"]


def _ancestries(parts: Iterable[Seen], cycle: str) -> Iterable[frozenset[str]]:
    return (part.ancestry for part in parts if part.cycle == cycle)
