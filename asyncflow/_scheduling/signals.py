"""Signals: which one is taken from the inbox next, what it changes, and whether a pass waits for any.

1. A signal is taken only when a listener can fire with it, alone or with others of the inbox; the oldest is taken first.
2. It is an event for all listeners that wait for it. It fires those whose condition it satisfies. A join that already holds
   something, or that signals alone can satisfy, latches it, unless it holds an earlier one of that name.
3. For each listener it takes the cycle and the ancestry of the newest thing that the listener holds: a latched part, else a timer.
   Where the listener holds nothing, it opens a cycle of its own.
4. A pass waits for signals while a listener that holds something can be satisfied by signals. Where signals alone satisfy it,
   `keep_open` decides: it waits until that listener has run once, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .._definition.definition import FlowDefinition, MethodDefinition, Receives
from .._definition.triggers import satisfied
from .firing import all_seen, invocation_of
from .messages import Invocation, Seen, SignalTaken, Timing, Transition
from .progress import Progress

__all__ = ["expected", "is_waiting", "next_signal", "taken"]


class _Place(NamedTuple):
    """Where a signal belongs for one listener."""

    cycle: str
    ancestry: frozenset[str]


def next_signal(definition: FlowDefinition, progress: Progress, inbox: Sequence[str]) -> int | None:
    """Return the position of the signal to take next from the inbox, which holds names, the oldest first; None if there is none."""
    if progress.failed or progress.ending:
        return None
    first: dict[str, int] = {}
    for place, name in enumerate(inbox):
        if name in first:
            continue
        first[name] = place
        for m in definition.signalled:
            if name in m.names and (needed := _needed(m, progress, first)):
                return first[needed[0]]
    return None


def _needed(method: MethodDefinition, progress: Progress, inbox: dict[str, int]) -> list[str]:
    """Return the signals with which a method fires, the oldest first; as few as possible. Empty if it does not fire.

    `inbox`: the names of the signals, in order.
    """
    assert method.condition is not None, "a method without a condition waits for no signal"
    held = progress.latches.get(method.name, {}).keys()
    use = [name for name in inbox if name in method.signals and name not in held]
    if not use or not satisfied(method.condition, {*held, *use}):
        return []
    for name in use[::-1]:  # without the newest first: the oldest is taken
        fewer = [each for each in use if each != name]
        if fewer and satisfied(method.condition, {*held, *fewer}):
            use = fewer
    return use


def taken(definition: FlowDefinition, progress: Progress, happening: SignalTaken) -> Transition:
    """Return what a signal changes that was taken."""
    name = happening.name
    key = f"{name}:{progress.counts.get(name, 0) + 1}"
    if happening.key:
        memo = (progress.pending[happening.key].key, happening.step)
        return Transition(timing=Timing(memo=memo, signal=key))
    enabled: list[Invocation] = []
    latched: list[tuple[str, str, Seen]] = []
    for m in definition.signalled:
        if name not in m.names:
            continue
        held = progress.latches.get(m.name, {})
        if name in held:
            continue
        cycle, ancestry = _place(progress, m, held) or _Place(key, frozenset())
        if type(m.condition) is str:
            enabled.append(invocation_of(progress, m, key, cycle, ancestry, None))
            continue
        arrived = {name: Seen(cycle, ancestry, key if m.receives is Receives.NAMED else "")}
        seen = all_seen(m, held, arrived)
        if seen is not None:
            enabled.append(invocation_of(progress, m, key, cycle, ancestry, seen))
        elif held or m.by_signals:
            latched.append((m.name, name, arrived[name]))
    return Transition(enabled=tuple(enabled), latched=tuple(latched), timing=Timing(signal=key))


def _place(progress: Progress, method: MethodDefinition, held: dict[str, Seen]) -> _Place | None:
    """Return where a signal belongs for a listener: where the newest thing that it holds does; None if it holds nothing."""
    if held:
        newest = held[next(reversed(held))]
        return _Place(newest.cycle, newest.ancestry)
    newest_timer = next((timer for timer in reversed(progress.timers.values()) if timer.listener == method.name), None)
    return None if newest_timer is None else _Place(newest_timer.cycle, newest_timer.ancestry)


def is_waiting(definition: FlowDefinition, progress: Progress) -> bool:
    """Whether the pass stays open for a signal, with nothing left to run."""
    return not progress.ending and any(_holds_open(m, progress) for m in definition.signalled)


def _holds_open(method: MethodDefinition, progress: Progress) -> bool:
    if method.by_signals and not method.timers:  # what it holds says nothing: it may have come for another listener
        return method.keep_open and not progress.counts.get(method.name)
    held = progress.latches.get(method.name)
    return bool(held) and bool(_missing(method, progress))


def expected(definition: FlowDefinition, progress: Progress) -> frozenset[str]:
    """Return the signals for which a listener waits: it fires with them, or with them and further signals."""
    waiting = () if progress.ending else definition.signalled
    return frozenset[str]().union(*(_missing(m, progress) for m in waiting))


def _missing(method: MethodDefinition, progress: Progress) -> frozenset[str]:
    """Return the signals that a method does not hold yet, if signals can satisfy it; else none."""
    assert method.condition is not None, "a method without a condition waits for no signal"
    held = progress.latches.get(method.name, {}).keys()
    return method.signals - held if satisfied(method.condition, {*held, *method.signals}) else frozenset()
