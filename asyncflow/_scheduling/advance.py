"""The scheduler: from what has happened, it decides what to do next.

The rules, in the order in which `_completed` applies them:

1. A completion is one event. It carries the method's name and, from a router, the label.
2. It closes a loop if it reaches any method of its ancestry. Then it opens one new cycle, named after it, for all the
   listeners that it reaches; otherwise they inherit its cycle.
3. A single trigger fires its listener every time.
4. A listener whose outermost condition is an `or_` of two or more fires once per cycle; later events of that cycle
   skip it, and are not latched.
5. Any other condition latches what arrives, fires when it is satisfied, and then forgets everything that it has seen.
6. A fired join belongs to the cycle of the completing event; its ancestry is the union over its parts of that cycle.
7. A timer is an event that comes later, for one listener. Its cycle and ancestry are decided when it starts: it closes a loop if
   its listener is in the ancestry. Until it fires it keeps its cycle alive. Whatever fires the listener drops the listener's timers
   of that cycle.
8. A signal is an event from outside: see `signals.py`.
9. Once the end of the pass was asked for, a completion is no event: see `ending.py`.
10. An invocation with `each` runs once for each item of its trigger's list; it completes with the last of them: see `groups.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import assert_never

from .._definition.definition import FlowDefinition, Reached, Receives
from .ending import completed_at_end, end_asked, ends, next_at_end
from .firing import all_seen, invocation_of
from .groups import Group
from .messages import (
    Command,
    EndAsked,
    Ending,
    Fail,
    Finish,
    Happening,
    Hold,
    Invocation,
    Item,
    ItemReturned,
    MethodRaised,
    MethodReturned,
    PassEnded,
    Resumed,
    RunLater,
    RunMethod,
    Seen,
    Settle,
    SignalTaken,
    Started,
    StartTimer,
    StepStored,
    Timer,
    TimerFired,
    TimerKey,
    Timing,
    Transition,
    WaitDropped,
)
from .progress import Progress
from .signals import taken

__all__ = ["advance", "begun"]

_made = tuple.__new__
"""Creates a named tuple from all its fields, in a third of the time: each step creates several."""


def advance(
    definition: FlowDefinition, progress: Progress, happening: Happening
) -> tuple[Transition, tuple[Command, ...]]:
    """Decide what a happening changes and what to do next. Pure: `progress` is read, never changed.

    The caller makes the transition durable, applies it with `Progress.fold`, and then executes the commands.
    Raises `KeyError` for a key that is not pending.
    """
    if type(happening) is MethodReturned:  # a pattern is slower, and this runs at each step
        transition = _completed(definition, progress, *happening)
    elif isinstance(happening, ItemReturned):
        transition = _item_completed(definition, progress, happening)
    elif isinstance(happening, MethodRaised):
        transition = _raised(progress, happening)
    elif isinstance(happening, Started):
        enabled = tuple(Invocation(m.name, 1, "", frozenset((m.name,))) for m in definition.starts)
        transition = Transition(enabled=enabled, timing=begun(definition, progress, happening.deadline or None))
    elif isinstance(happening, Resumed):
        timing = begun(definition, progress, happening.deadline)
        return Transition(resumed=True, timing=timing), tuple(_restarted(definition, progress))
    elif isinstance(happening, TimerFired):
        transition = _timer_fired(definition, progress, happening.key)
    elif isinstance(happening, SignalTaken):
        transition = taken(definition, progress, happening)
    elif isinstance(happening, PassEnded):
        return Transition(), (ends(definition, progress),)
    elif isinstance(happening, EndAsked):
        return end_asked(definition, progress, happening)
    elif isinstance(happening, WaitDropped):
        transition = Transition(timing=Timing(dropped=(progress.pending[happening.key].key,)))
    elif isinstance(happening, StepStored):
        transition = Transition(timing=Timing(memo=(progress.pending[happening.key].key, happening.step)))
    else:
        assert_never(happening)  # type: ignore[arg-type]  # a subclass of the first: it has none
    return transition, _commands(definition, progress, transition)


def _commands(definition: FlowDefinition, progress: Progress, transition: Transition) -> tuple[Command, ...]:
    """Return the commands to execute once the transition is durable. After a failure nothing new starts; the last end returns Fail."""
    completed, failed, _, enabled, _, _, timing = transition  # an attribute of a named tuple costs much more
    if (failed or progress.failed) and (timing is None or timing.memo is None):
        return (Fail(),) if progress.running == 1 else (Hold(),) if failed else ()
    if timing is not None:
        return _timed_commands(definition, progress, transition, timing)
    if enabled:
        return (_made(RunMethod, enabled),) if len(enabled) == 1 else tuple(map(RunMethod, enabled))
    return (Finish(completed),) if completed and len(progress.pending) == 1 else ()


def _timed_commands(
    definition: FlowDefinition, progress: Progress, transition: Transition, timing: Timing
) -> tuple[Command, ...]:
    """Return the commands after a happening that concerns attempts, time limits or timers."""
    if timing.ending or progress.ending:
        return next_at_end(definition, progress, transition, timing)
    if timing.retried is not None:
        key, at = timing.retried
        return (RunLater(progress.pending[key], at),)
    commands: tuple[Command, ...] = (
        *_started(progress, transition.enabled, timing),
        *map(StartTimer, timing.started),
    )
    ended = bool(transition.completed) + (timing.item is not None and timing.item[1] >= 0)
    if commands or len(progress.pending) != ended or len(progress.timers) != bool(timing.fired):
        return commands
    if definition.signals:
        return (Settle(),)
    return (Finish(transition.completed) if timing.is_output else ends(definition, progress),)


def _started(progress: Progress, enabled: tuple[Invocation, ...], timing: Timing) -> Iterator[Command]:
    """Yield what starts after a happening: invocations, those with a list by their first items, and the items that follow."""
    if timing.item is not None:
        key, index = timing.item
        group = progress.groups[key]
        for following in () if group.completes_with(index) else group.following(freed=1):
            item = Item.of(progress.pending[key], following)
            yield (
                RunLater(item, progress.attempts[item.key].due or 0.0)
                if item.key in progress.attempts
                else RunMethod(item)
            )
    opened = {key: Group(count, limit) for key, count, limit in timing.opened}
    for invocation in enabled:
        new = opened.get(invocation.key)
        if new is None or not new.count:
            yield RunMethod(invocation)
        else:
            yield from (RunMethod(Item.of(invocation, index)) for index in new.following())


def _raised(progress: Progress, raised: MethodRaised) -> Transition:
    """Return what a failed attempt changes: the invocation waits for its next attempt, or has failed."""
    key = progress.pending[raised.key].key
    if raised.retry_at is None:
        return Transition(failed=key)
    if progress.ending:
        return Transition(timing=Timing(dropped=(key,)))
    return Transition(timing=Timing(retried=(key, raised.retry_at)))


def begun(definition: FlowDefinition, progress: Progress, deadline: float | None) -> Timing | None:
    """Return what a start or a resume changes, if anything: the time limit, and the listeners whose latches keep their cycle alive."""
    is_same = definition.keeping == progress.keeping
    limits = tuple(_changed_limits(definition, progress))
    if deadline is None and is_same and not limits:
        return None
    return Timing(deadline=deadline, keeping=None if is_same else tuple(sorted(definition.keeping)), limits=limits)


def _changed_limits(definition: FlowDefinition, progress: Progress) -> Iterator[tuple[str, int]]:
    """Yield the groups whose methods have another limit than when they began."""
    for key, group in () if progress.ending else progress.groups.items():
        limit = definition.methods[progress.pending[key].method].limit
        if limit != group.limit:
            yield key, limit


def _restarted(definition: FlowDefinition, progress: Progress) -> Iterator[Command]:
    """Yield what a resume starts: all that is pending, then, in order of their times, further attempts and timers."""
    if not progress.is_open:
        yield Settle()
    later: list[tuple[float, Command]] = [(timer.due, StartTimer(timer)) for timer in progress.timers.values()]
    for key, invocation in _pending_on_resume(definition, progress):
        if key in progress.attempts:
            due = progress.attempts[key].due or 0.0
            later.append((due, RunLater(invocation, due)))
        else:
            yield RunMethod(invocation)
    yield from (command for _, command in sorted(later, key=itemgetter(0)))


def _pending_on_resume(definition: FlowDefinition, progress: Progress) -> Iterator[tuple[str, Invocation]]:
    """Yield the pending invocations that a resume starts: of those with a list, the first items that have not completed."""
    for key, invocation in progress.pending.items():
        if not progress.is_by_items(key):
            if type(invocation) is not Item or progress.ending:
                yield key, invocation
        elif not progress.ending:
            limit = definition.methods[invocation.method].limit
            for index in progress.groups[key].unfinished(limit):
                item = Item.of(invocation, index)
                yield item.key, item


def _item_completed(definition: FlowDefinition, progress: Progress, returned: ItemReturned) -> Transition:
    """Return what the completion of an item changes. The last one completes the whole invocation, which is the event."""
    key, due, ending = returned
    if ending or progress.ending:
        return completed_at_end(definition, progress, key, ending)
    ended = progress.pending[key]
    group, index = (ended.group, ended.place) if type(ended) is Item else (key, -1)
    timing = Timing(item=(group, index))
    if not progress.groups[group].completes_with(index):
        return Transition(timing=timing)
    whole = _completed(definition, progress, group, None, due, "", progress.groups[group].count)
    return whole._replace(timing=timing if whole.timing is None else whole.timing._replace(item=timing.item))


def _completed(
    definition: FlowDefinition,
    progress: Progress,
    key: str,
    label: str | None,
    due: tuple[float, ...],
    ending: Ending,
    items: int,
) -> Transition:
    if ending or progress.ending:
        return completed_at_end(definition, progress, key, ending)
    ended = progress.pending[key]
    names = (ended.method,) if label is None else (ended.method, label)
    reached = definition.reached_by(names)
    if not reached.methods and not definition.keeps_output:
        return Transition(completed=key)
    cycle, ancestry = ended.cycle, ended.ancestry
    if not ancestry.isdisjoint(reached.names):
        cycle, ancestry = key, frozenset()
    enabled: list[Invocation] = []
    latched: list[tuple[str, str, Seen]] = []
    skipped: list[str] = []
    for m in reached.methods:
        if m.once_a_cycle and m.name in progress.fired.get(cycle, ()):
            skipped.append(m.name)
            continue
        if type(m.condition) is str:
            enabled.append(invocation_of(progress, m, key, cycle, ancestry, None))
            continue
        source = key if m.receives is Receives.NAMED else ""
        arrived = {name: Seen(cycle, ancestry, source) for name in names if name in m.names}
        seen = all_seen(m, progress.latches.get(m.name, {}), arrived)
        if seen is not None:
            enabled.append(invocation_of(progress, m, key, cycle, ancestry, seen))
        else:
            latched.extend((m.name, name, how) for name, how in arrived.items())
    timing = _timing(definition, progress, reached, ended, enabled, due, items) if definition.keeps_output else None
    return _made(Transition, (key, "", False, tuple(enabled), tuple(latched), tuple(skipped), timing))


def _timing(
    definition: FlowDefinition,
    progress: Progress,
    reached: Reached,
    ended: Invocation,
    enabled: list[Invocation],
    due: tuple[float, ...],
    items: int,
) -> Timing | None:
    """Return the timers that a completion starts, the invocations that it enables for each item, and whether its result may be the output.

    The event of each timer is one of its own: it may close a loop that the completion does not.
    """
    started = _timers_started(progress, reached, ended, enabled, due)
    group = progress.groups.get(ended.key)
    is_last = not enabled and len(progress.pending) == 1 + (0 if group is None else group.running)
    is_output = ended.method == definition.output if definition.output else is_last
    opened = tuple(_opened(definition, enabled, items)) if definition.has_items else ()
    if not (started or opened or is_output or is_last):
        return None
    return Timing(started=started, is_output=is_output, opened=opened)


def _timers_started(
    progress: Progress, reached: Reached, ended: Invocation, enabled: list[Invocation], due: tuple[float, ...]
) -> tuple[Timer, ...]:
    started: list[Timer] = []
    for (m, timer), at in zip(reached.timers, due, strict=True):
        cycle, ancestry = ended.cycle, ended.ancestry
        if m.name in ancestry:
            cycle, ancestry = ended.key, frozenset()
        fires_now = any(invocation.method == m.name and invocation.cycle == cycle for invocation in enabled)
        if not m.once_a_cycle or not (fires_now or m.name in progress.fired.get(cycle, ())):
            source = ended.key if m.receives is not Receives.NOTHING else ""
            started.append(Timer(m.name, timer.name, cycle, ancestry, source, at))
    return tuple(started)


def _opened(definition: FlowDefinition, enabled: list[Invocation], items: int) -> Iterator[tuple[str, int, int]]:
    """Yield the enabled invocations that run once for each item: key, number of items, limit."""
    for invocation in enabled:
        method = definition.methods[invocation.method]
        if method.each:
            yield invocation.key, items, method.limit


def _timer_fired(definition: FlowDefinition, progress: Progress, key: TimerKey) -> Transition:
    """Return what a timer changes: it reaches its own listener only, with the result of its trigger."""
    timer = progress.timers[key]
    m = definition.methods[timer.listener]
    cycle, ancestry, source, timing = timer.cycle, timer.ancestry, timer.source, Timing(fired=key)
    if m.once_a_cycle and m.name in progress.fired.get(cycle, ()):
        return Transition(skipped=(m.name,), timing=timing)
    if isinstance(m.condition, str):
        return Transition(enabled=(invocation_of(progress, m, source, cycle, ancestry, None),), timing=timing)
    arrived = {timer.name: Seen(cycle, ancestry, source if m.receives is Receives.NAMED else "")}
    seen = all_seen(m, progress.latches.get(m.name, {}), arrived)
    if seen is None:
        return Transition(latched=((m.name, timer.name, arrived[timer.name]),), timing=timing)
    return Transition(enabled=(invocation_of(progress, m, source, cycle, ancestry, seen),), timing=timing)
