"""Find every mistake that a set of methods can have together, each as a sentence with its fix."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any

from .definition import FlowDefinition, MethodDefinition, Receives
from .mapping import mapping_problems
from .signals import Signal
from .signatures import requires_a_value
from .triggers import satisfied

__all__ = ["open_problems", "problems_of"]


def problems_of(
    methods: Mapping[str, MethodDefinition], signals: Mapping[str, Signal[Any]], broken: Mapping[str, Set[str]]
) -> list[str]:
    """Return the mistakes of a class, in order of definition.

    `broken` holds the methods that have a mistake of their own, with the kinds of their decorators; its consequences are not reported
    as further mistakes.
    """
    if not methods:
        return []
    labels, all_known = _labels(methods)
    all_known = all_known and not any("router" in kinds for kinds in broken.values())
    found = [p for m in methods.values() for p in _of_one(m, methods, labels, broken.keys() if all_known else None)]
    found += _outputs(methods)
    found += _signal_names(methods, signals, labels)
    if not any(m.is_start for m in methods.values()) and not any("start" in kinds for kinds in broken.values()):
        return [*found, "there is no start; decorate the first method with @start()"]
    return found or ([] if broken else list(_unreachable(methods)))


def open_problems(method: MethodDefinition, keep_open: bool | None) -> Iterator[str]:
    """Yield the mistake in what a method says of `keep_open`, if there is one. None: it says nothing."""
    if method.by_signals and not method.timers and keep_open is None:
        names = " and ".join(sorted(method.signals))
        yield (
            f"{names} alone can start {method.name}, which does not say whether the run may end without that; give it "
            "keep_open=True (the run waits until the method has run once) or keep_open=False (it does not)"
        )
    elif keep_open is not None and (not method.by_signals or method.timers):
        yield f"{method.name} has keep_open, which is only for a condition that signals alone can satisfy; remove it"


def _signal_names(
    methods: Mapping[str, MethodDefinition], signals: Mapping[str, Signal[Any]], labels: Set[str]
) -> Iterator[str]:
    for name in sorted(signals):
        if name in methods or name in labels:
            kind = "method" if name in methods else "label"
            yield f"the signal '{name}' has the name of a {kind}; rename one of them"


def _outputs(methods: Mapping[str, MethodDefinition]) -> Iterator[str]:
    outputs = [m.name for m in methods.values() if m.is_output]
    if len(outputs) > 1:
        yield f"{' and '.join(outputs)} have output=True; the output of a flow is the result of one method"


def _of_one(
    method: MethodDefinition, methods: Mapping[str, MethodDefinition], labels: Set[str], broken: Set[str] | None
) -> Iterator[str]:
    """Yield the mistakes of one method. `labels`: all that are declared; `broken` is None if a router may return any other label."""
    if method.name in method.names and method.name not in labels:
        yield (
            f"{method.name} listens to itself: '{method.name}' is its own name. If a label is meant, rename the method or the "
            "label; to repeat a method, let a router return a label, and listen to that"
        )
    for label in sorted(label for label in method.labels or () if label in methods):  # `&` iterates over all methods
        yield f"{method.name} returns the label '{label}', which is also a method's name; rename the label"
    unknown = {name for name in _triggers(method) - method.signals if name not in methods and name not in labels}
    if unknown and broken is not None:
        for name in sorted(unknown - broken):
            yield _unknown(method, name, sorted(labels | methods.keys() | broken))
    if method.each:
        yield from mapping_problems(method, methods)
    if _lacks_a_default(method, methods):
        yield f"{method.name} runs at the start, when its trigger has no result yet; give its parameter a default"


def _triggers(method: MethodDefinition) -> set[str]:
    """Return the methods and labels that a method waits for; of a timer, the one that starts it."""
    timers = {timer.name: timer.source for timer in method.timers}
    return {timers.get(name, name) for name in method.names}


def _lacks_a_default(method: MethodDefinition, methods: Mapping[str, MethodDefinition]) -> bool:
    """Whether the method requires a result, and runs at the start of a pass because no start is without a condition."""
    if not method.is_start or method.receives is Receives.NOTHING or not requires_a_value(method.function):
        return False
    return all(m.condition is not None for m in methods.values() if m.is_start)


def _labels(methods: Mapping[str, MethodDefinition]) -> tuple[frozenset[str], bool]:
    """Return every declared label, and whether all routers declare theirs."""
    declared = [m.labels for m in methods.values() if m.is_router]
    known = [labels for labels in declared if labels is not None]
    return frozenset().union(*known), len(known) == len(declared)


def _unknown(method: MethodDefinition, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1) or [each for each in known if each.lower() == name.lower()]
    hint = f" Did you mean '{near[0]}'?" if near else ""
    waits = "is started by" if method.is_start else "listens to"
    return f"{method.name} {waits} '{name}', which is neither a method nor a label of a router.{hint} Known: {', '.join(known)}"


def _unreachable(methods: Mapping[str, MethodDefinition]) -> Iterator[str]:
    reached = _reached(methods)
    for name in methods:
        if name not in reached:
            yield f"{name} can never run: no start leads to its condition; check its condition"


def _reached(methods: Mapping[str, MethodDefinition]) -> set[str]:
    """Return the methods that can run, wave by wave from the starts; an undeclared label may arrive at any time."""
    _, all_known = _labels(methods)
    arrived: set[str] = {name for m in methods.values() for name in m.signals}
    if not all_known:
        arrived |= {name for m in methods.values() for name in m.names - methods.keys()}
    definition = FlowDefinition("", methods)
    reached: set[str] = set()
    wave = definition.starts
    others: Collection[MethodDefinition] = methods.values()  # at first all: an undeclared label may trigger any
    while wave:
        new = {name for m in wave for name in _brought_by(m, definition)} - arrived
        reached.update(m.name for m in wave)
        arrived |= new
        wave = tuple(m for m in others or definition.mentioning(new) if m.name not in reached and _can_come(m, arrived))
        others = ()
    return reached


def _brought_by(method: MethodDefinition, definition: FlowDefinition) -> set[str]:
    """Return the names that may arrive when a method ends: its own, its labels, and the timers that these start."""
    names = {method.name, *(method.labels or ())}
    return names | {timer.name for name in names for _, timer in definition.timed_by(name)}


def _can_come(method: MethodDefinition, arrived: set[str]) -> bool:
    return method.condition is not None and satisfied(method.condition, arrived)
