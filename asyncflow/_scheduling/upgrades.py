"""Decide whether a stored pass can continue under a definition that may have changed since. Pure, and read-only.

The stored data names no definition, so a change is detected by what the current definition rules out: a start that never ran, a
listener whose trigger completed and that never ran, a part of a join that arrived and was not latched. An unchanged definition
never produces any of these (`tests/scheduling/test_upgrades.py` proves it on random graphs).

Methods that were added simply do not run for what has completed. A join is different: if it combines what the pass
will still produce with what it will never produce, it would silently not run, so that is an obstacle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set

from .._definition.definition import FlowDefinition, MethodDefinition, Receives
from .._definition.signatures import signature
from .._definition.triggers import satisfied, trigger_of
from .firing import part_of
from .messages import Invocation, Item, Seen
from .progress import Progress

__all__ = ["obstacles"]

_Names = Mapping[str, Set[str]]
"""Names of triggers, by listener."""

_NONE: Set[str] = frozenset()


def obstacles(definition: FlowDefinition, progress: Progress) -> list[str]:
    """Return why the pass cannot continue under this definition, each reason with its fix; an empty list for an unchanged one."""
    if changed := list(_mapped(definition, progress)):
        return changed
    if progress.ending:  # nothing starts any more
        return list(_calls(definition, progress))
    arrived = _arrived(definition, progress)
    passed, unlatched = _missed(definition, progress, arrived)
    latches = {name: progress.latches[name].keys() for name in progress.latches if name in definition.methods}
    found = [*_calls(definition, progress), *_latched(definition, progress, arrived), *_timed(definition, progress)]
    renamed = [name for name, latch in latches.items() if not latch <= definition.methods[name].names]
    if found or not (passed or unlatched or renamed):
        return found
    return list(_starved(definition, progress, passed, unlatched, latches))


# ---- what has arrived ------------------------------------------------------------------------------------------


def _arrived(definition: FlowDefinition, progress: Progress) -> set[str]:
    """Return the names that have surely arrived in this pass: completed methods, and labels that left a trace."""
    pending = Counter(each.method for each in progress.pending.values() if type(each) is not Item)
    arrived = {name for name, count in progress.counts.items() if count > pending[name]}
    arrived.update(name for latch in progress.latches.values() for name in latch if name not in definition.methods)
    began = {m.name for m in definition.starts}
    for m in definition.methods.values():
        if isinstance(m.condition, str) and progress.counts.get(m.name, 0) > (m.name in began):
            arrived.add(m.condition)
    return arrived


def _missed(definition: FlowDefinition, progress: Progress, arrived: Set[str]) -> tuple[set[str], dict[str, set[str]]]:
    """Return the methods that should have run by now and did not, and, by join, the names that should be latched and are not."""
    began = {m.name for m in definition.starts}
    passed: set[str] = set()
    unlatched: dict[str, set[str]] = {}
    for m in definition.methods.values():
        if m.name in progress.counts:
            continue
        if m.name in began or (m.condition is not None and satisfied(m.condition, arrived)):
            passed.add(m.name)
        elif lacking := (m.names & arrived) - progress.latches.get(m.name, {}).keys():
            unlatched[m.name] = set(lacking)
    return passed, unlatched


# ---- obstacles -------------------------------------------------------------------------------------------------


def _calls(definition: FlowDefinition, progress: Progress) -> Iterator[str]:
    """Report the pending methods that can no longer be called with the arguments that their triggers left for them."""
    for name in dict.fromkeys(i.method for i in progress.pending.values() if not _fits(definition, i)):
        yield (
            f"{name} waits to run with the arguments of its earlier signature, which it no longer takes; put the earlier "
            "parameters back until such runs have ended (additional ones need a default)"
        )


def _mapped(definition: FlowDefinition, progress: Progress) -> Iterator[str]:
    """Report the pending methods that ran for each item of a list, and do no longer, or do now and did not."""
    for name in dict.fromkeys(i.method for key, i in progress.pending.items() if key in progress.groups):
        if not definition.methods[name].each:
            yield f"{name} runs for each item of a list in this run, and has no each() now; put it back until such runs have ended"
    for key, invocation in progress.pending.items():
        if definition.methods[invocation.method].each and type(invocation) is not Item and key not in progress.groups:
            yield (
                f"{invocation.method} waits to run once in this run, and has each() now; put its earlier condition back until such "
                "runs have ended"
            )


def _part(parameter: str, latch: Mapping[str, Seen]) -> str:
    """Return the part of a join that a parameter is named like."""
    return parameter if parameter in latch else f"after({parameter})"


def _fits(definition: FlowDefinition, invocation: Invocation) -> bool:
    m = definition.methods[invocation.method]
    given = [name for name, _ in invocation.arguments]
    expected = m.parameters if m.receives is Receives.NAMED else ("",) if m.receives is Receives.LAST else ()
    if given == list(expected):
        return True
    try:
        signature(m.function).bind(None, *("" for name in given if not name), **{n: "" for n in given if n})
    except TypeError:
        return False
    except ValueError:  # the function has no readable signature
        return True
    return True


def _timed(definition: FlowDefinition, progress: Progress) -> Iterator[str]:
    """Report the timers that would fire for a listener which no longer waits for them."""
    for timer in progress.timers.values():
        listener = definition.methods[timer.listener]
        if timer.name in listener.names and listener.receives is not Receives.NOTHING and not timer.source:
            yield (
                f"{timer.listener} takes the result of {trigger_of(timer.name)}, which was not kept because {timer.listener} did not "
                "take it before; put its earlier parameters back until such runs have ended"
            )
        if timer.name not in listener.names:
            yield (
                f"{timer.listener} waits for the timer {timer.name}, which is no longer in its condition; put it back until such "
                "runs have ended"
            )


def _latched(definition: FlowDefinition, progress: Progress, arrived: Set[str]) -> Iterator[str]:
    """Report the joins whose stored parts no longer mean the same."""
    for name, latch in progress.latches.items():
        m = definition.methods[name]
        if m.condition is None or satisfied(m.condition, latch):
            yield (
                f"{name} waited for more than it does now, and all that it waits for now has already arrived "
                f"({_listed(latch)}), so it would never run. Put its earlier condition back until such runs have ended"
            )
        if changed := [part for part in latch if part in definition.methods and part not in arrived]:
            yield f"{name} has received the label {_listed(changed)}, which is a method now; rename the method"
        if lost := [part for part in m.parameters if _part(part, latch) in latch and not part_of(latch, part).source]:
            yield (
                f"{name} takes the result of {_listed(lost)}, which was not kept because {name} did not take it before; put "
                "its earlier parameters back until such runs have ended"
            )


def _starved(
    definition: FlowDefinition,
    progress: Progress,
    passed: Set[str],
    unlatched: _Names,
    latches: _Names,
) -> Iterator[str]:
    """Report the joins that never fire because the definition changed: one part has arrived or will, another never will."""
    pending = list(dict.fromkeys(i.method for i in progress.pending.values()))
    timers = {timer.name for timer in progress.timers.values()}
    to_come = _reachable(definition, pending, latches, timers)
    all_latches = {name: latches.get(name, _NONE) | unlatched.get(name, _NONE) for name in {*latches, *unlatched}}
    would_come = _reachable(definition, [*pending, *passed], all_latches, timers)
    starved: dict[str, list[str]] = {}
    for m in definition.methods.values():
        latch = latches.get(m.name, _NONE)
        have = (to_come | latch) & m.names
        if m.condition is None or (not have and not latch) or satisfied(m.condition, have):
            continue
        would_have = (would_come | all_latches.get(m.name, _NONE)) & m.names
        is_renamed = not latch <= m.names
        if is_renamed or satisfied(m.condition, would_have):
            starved[m.name] = sorted((m.names if is_renamed else would_have) - have)
    for name, lacking in starved.items():
        if any(part not in starved for part in lacking):
            yield _obstacle(name, lacking, unlatched.get(name, _NONE), pending)


def _obstacle(name: str, lacking: list[str], arrived_before: Set[str], pending: list[str]) -> str:
    if arrived_before >= set(lacking):
        why, advice = "completed before the join waited for it", ""
    else:
        why = "this run never starts, because an earlier version of the class started the run"
        advice = f", or let {_listed(lacking)} follow a method that is still to run ({_listed(pending)})"
    return (
        f"{name} waits for {_listed(lacking)}, which {why}, so {name} would silently not run. Put the earlier condition of "
        f"{name} back until such runs have ended{advice}"
    )


def _reachable(definition: FlowDefinition, started: Iterable[str], latches: _Names, timers: Set[str]) -> set[str]:
    """Return every name that can come from these methods, timers, signals and their successors, wave by wave; an over-approximation."""
    names: set[str] = set()
    enabled = set(started)
    wave, new = enabled, {*timers, *definition.signals}
    while wave or new:
        new |= {name for method in wave for name in _names_of(definition, method)}
        new |= {timer.name for name in new for _, timer in definition.timed_by(name)}
        new -= names
        names |= new
        reached = {m.name: m for name in new for m in definition.reached_by((name,)).methods if m.name not in enabled}
        wave = {m.name for m in reached.values() if _can_run(m, names, latches.get(m.name, _NONE))}
        enabled |= wave
        new = set()
    return names


def _can_run(method: MethodDefinition, names: Set[str], latch: Set[str]) -> bool:
    return method.condition is not None and satisfied(method.condition, names | latch if latch else names)


def _names_of(definition: FlowDefinition, method: str) -> Set[str]:
    """Return the names that a method's end may produce: its own, and a router's labels (if unknown, all labels that are waited for)."""
    m = definition.methods[method]
    if not m.is_router:
        return {method}
    if m.labels is not None:
        return {method, *m.labels}
    waited_for = {name for listener in definition.methods.values() for name in listener.names}
    return {method} | (waited_for - definition.methods.keys())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
