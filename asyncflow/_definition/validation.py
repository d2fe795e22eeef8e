"""Every mistake that a set of methods can have together, each as a sentence that says the cure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from .definition import FlowDefinition, MethodDefinition, Receives
from .signatures import requires_a_value
from .triggers import satisfied

__all__ = ["problems_of"]


def problems_of(methods: Mapping[str, MethodDefinition]) -> list[str]:
    """The mistakes of a class, in order of definition."""
    if not methods:
        return []
    labels, all_known = _labels(methods)
    known = labels.union(methods) if all_known else None
    found = [problem for m in methods.values() for problem in _of_one(m, methods, known)]
    if not any(m.is_start for m in methods.values()):
        return [*found, "there is no start; decorate the first method with @start()"]
    return found or list(_unreachable(methods))


def _of_one(
    method: MethodDefinition, methods: Mapping[str, MethodDefinition], known: frozenset[str] | None
) -> Iterator[str]:
    """The mistakes of one method. `known`: every name that can come; None where a router may return any label."""
    if method.name in method.names:
        yield f"{method.name} listens to itself; let a router return a label, and listen to that"
    for label in sorted((method.labels or frozenset()) & methods.keys()):
        yield f"{method.name} returns the label '{label}', which is also a method's name; rename the label"
    for name in () if known is None else sorted(method.names - known):
        yield _unknown(method.name, name, sorted(known or ()))
    if (
        method.is_start
        and method.receives is not Receives.NOTHING
        and _begins(method, methods)
        and requires_a_value(method.function)
    ):
        yield f"{method.name} is run at the start, when its trigger has no result yet; give its parameter a default"


def _begins(method: MethodDefinition, methods: Mapping[str, MethodDefinition]) -> bool:
    return all(m.condition is not None for m in methods.values() if m.is_start)


def _labels(methods: Mapping[str, MethodDefinition]) -> tuple[frozenset[str], bool]:
    """Every declared label, and whether all routers declare theirs."""
    declared = [m.labels for m in methods.values() if m.is_router]
    known = [labels for labels in declared if labels is not None]
    return frozenset().union(*known), len(known) == len(declared)


def _unknown(listener: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return (
        f"{listener} listens to '{name}', which is no method and which no router emits.{hint} Known: {', '.join(known)}"
    )


def _unreachable(methods: Mapping[str, MethodDefinition]) -> Iterator[str]:
    reached = _reached(methods)
    for name in methods:
        if name not in reached:
            yield f"{name} can never run: nothing that it waits for can come from a start; check its condition"


def _reached(methods: Mapping[str, MethodDefinition]) -> set[str]:
    """The methods that can run, wave by wave from the starts; a label that is not declared may come at any time."""
    _, all_known = _labels(methods)
    came: set[str] = set() if all_known else {n for m in methods.values() for n in m.names - methods.keys()}
    definition = FlowDefinition("", methods)
    reached: set[str] = set()
    wave, others = (
        definition.starts,
        tuple(methods.values()),
    )  # at first all others: what is not declared may come to any
    while wave:
        new = {name for m in wave for name in (m.name, *(m.labels or ()))} - came
        reached.update(m.name for m in wave)
        came |= new
        wave = tuple(m for m in others or definition.mentioning(new) if m.name not in reached and _can_come(m, came))
        others = ()
    return reached


def _can_come(method: MethodDefinition, came: set[str]) -> bool:
    return method.condition is not None and satisfied(method.condition, came)
