"""The progress of a pass: the scheduler's own state, which a checkpoint stores."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._failure import ATTEMPTS
from .groups import Group
from .messages import Ending, Invocation, Item, Seen, Timer, TimerKey, Timing, Transition

__all__ = ["Attempts", "Progress"]


class Attempts(NamedTuple):
    """The attempts of a pending invocation, and what they stored. One that has failed and stored nothing has none of these."""

    failed: int
    """How many have failed, in all processes, also before a resume."""
    before: int = 0
    """How many had failed when it was resumed after its last one: a resume grants new attempts."""
    due: float | None = None
    """When the next one is due, in seconds since the Unix epoch; None if that was the last one."""
    errors: tuple[Any, ...] = ()
    """What the newest of them raised, since the start or the resume; opaque here."""
    memos: dict[str, Any] | None = None
    """The values that they stored, by the names of their steps; opaque here."""


@dataclass(slots=True)
class Progress:
    """The pending invocations, the partly satisfied joins, the fired listeners. Only `fold` changes it, both live and on loading.

    Its size is bounded by the pending invocations, not by all that ever ran.
    """

    pending: dict[str, Invocation] = field(default_factory=dict)
    """Invocations that are to be completed, by key, in the order in which they were enabled."""
    failed: set[str] = field(default_factory=set)
    """The pending invocations that raised."""
    held: set[str] = field(default_factory=set)
    """The pending invocations that were enabled after a failure, and not started."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each method was enabled, and each signal was taken, in this pass."""
    latches: dict[str, dict[str, Seen]] = field(default_factory=dict)
    """For each listener that waits for more, what has arrived."""
    fired: dict[str, set[str]] = field(default_factory=dict)
    """For each live cycle, the methods that it has fired."""
    alive: dict[str, int] = field(default_factory=dict)
    """For each live cycle, the number of its pending invocations, timers and kept latches."""
    results: dict[str, Any] = field(default_factory=dict)
    """The results that pending invocations and latches refer to, by key; opaque here."""
    uses: dict[str, int] = field(default_factory=dict)
    """The reference count of each of `results`."""
    attempts: dict[str, Attempts] = field(default_factory=dict)
    """The attempts of pending invocations that have failed, or stored anything, by key."""
    paused: set[str] = field(default_factory=set, compare=False)
    """The pending invocations that wait: for their next attempt, or in `sleep`. Not stored: a stored due time means that."""
    timers: dict[TimerKey, Timer] = field(default_factory=dict)
    """The timers that have started and not fired, in the order in which they started."""
    timed: dict[tuple[str, str], list[TimerKey]] = field(default_factory=dict, compare=False)
    """The timers of each listener in each cycle. Not stored: it follows from them."""
    output: tuple[str, Any] | None = None
    """(key, result) of the invocation whose result is the output if no other one replaces it; None if there is none."""
    deadline: float = 0.0
    """When the time limit of the pass passes, in seconds since the Unix epoch; 0 if it has none."""
    keeping: frozenset[str] = frozenset()
    """The listeners whose latches keep their cycle alive: those that wait for signals."""
    ending: Ending = ""
    """How the pass ends before its time, if that was asked for."""
    groups: dict[str, Group] = field(default_factory=dict)
    """The pending invocations that run once for each item of a list, by key; the items that have started are pending, too."""
    parent: tuple[str, int] | None = None
    """(id, depth) of a child run: the id of its parent, and its distance from the run that has none, at least 1."""
    trace: str = field(default="", compare=False)
    """What an observer keeps with the run, such as a `traceparent`. Stored with snapshots only."""
    origin: tuple[str, int] | None = None
    """(id, seq) of the run whose state this one began with, as of that checkpoint; None for others."""

    @property
    def running(self) -> int:
        """The number of invocations that are running: of a group, its items."""
        groups = sum(key not in self.held and self.is_by_items(key) for key in self.groups)
        return len(self.pending) - len(self.failed) - len(self.held) - len(self.paused) - groups

    def is_by_items(self, key: str) -> bool:
        """Whether a pending invocation does not run itself, but its items do."""
        group = self.groups.get(key)
        return group is not None and group.count > 0

    @property
    def is_open(self) -> bool:
        """Whether the pass has anything left to run or to wait for."""
        return bool(self.pending or self.timers)

    def fold(self, transition: Transition, result: Any = None) -> None:
        """Apply what a happening changed.

        `result`: of the completed method, kept while something refers to it; of a failed attempt, its error; of a signal, its payload.
        """
        completed, failed, resumed, enabled, latched, _, timing = transition  # an attribute costs much more
        if resumed:
            self._resume()
        if failed:
            self._fail(failed)
        for invocation in enabled:
            self._enable(invocation)
        for listener, name, seen in latched:
            self._latch(listener, name, seen)
        if timing is not None:
            result = self._time(timing, completed, result)
        if completed:
            if completed in self.uses:
                self.results[completed] = result
            self._complete(completed)

    def postpone(self, by: float) -> None:
        """Move all times of a copy of the pass by some seconds: it waits as long as the original did from its checkpoint on."""
        self.timers = {key: timer._replace(due=timer.due + by) for key, timer in self.timers.items()}
        for key, attempts in self.attempts.items():
            if attempts.due is not None:
                self.attempts[key] = attempts._replace(due=attempts.due + by)
        if self.deadline:
            self.deadline += by

    def wake(self, key: str) -> None:
        """Count a paused invocation as running again, because its next attempt starts. This is not stored."""
        self.paused.discard(key)

    def recount(self) -> None:
        """Compute `alive`, `uses` and `paused` from the other fields, for a progress that was read from storage."""
        self._recount_paused()
        self.alive.clear()
        self.uses.clear()
        for invocation in self.pending.values():
            if type(invocation) is Item:
                continue
            self.alive[invocation.cycle] = self.alive.get(invocation.cycle, 0) + 1
            for _, source in invocation.arguments:
                self._retain(source)
        self.timed.clear()
        for timer in self.timers.values():
            self.timed.setdefault((timer.listener, timer.cycle), []).append(timer.key)
            self.alive[timer.cycle] = self.alive.get(timer.cycle, 0) + 1
            self._retain(timer.source)
        for listener, latch in self.latches.items():
            for seen in latch.values():
                self._retain(seen.source)
                if listener in self.keeping:
                    self.alive[seen.cycle] = self.alive.get(seen.cycle, 0) + 1

    def _enable(self, invocation: Invocation) -> None:
        method, occurrence, cycle, _, arguments = invocation
        key = f"{method}:{occurrence}"  # `invocation.key`
        self.counts[method] = occurrence
        self.pending[key] = invocation
        self.alive[cycle] = self.alive.get(cycle, 0) + 1
        fired = self.fired.get(cycle)
        if fired is None:
            self.fired[cycle] = {method}
        else:
            fired.add(method)
        if self.failed:
            self.held.add(key)
        for _, source in arguments:
            self._retain(source)
        if self.timers:
            for timer in tuple(self.timed.get((method, cycle), ())):
                self._drop(timer)
        if self.latches:
            for seen in self.latches.pop(method, {}).values():
                self._unlatch(method, seen)

    def _recount_paused(self) -> None:
        self.paused = {key for key, each in self.attempts.items() if each.due is not None and key in self.pending}

    def _fail(self, key: str) -> None:
        before = self.attempts.get(key, Attempts(0))
        self.attempts[key] = Attempts(before.failed + 1, before.before, memos=before.memos)
        self.failed.add(key)

    def _time(self, timing: Timing, completed: str, result: Any) -> Any:
        """Apply what concerns attempts, times, signals and items. Return the result of the completed invocation."""
        retried, deadline, started, fired, is_output, memo, keeping, signal, ending, dropped, opened, item, limits = (
            timing
        )
        if item is not None:
            completed, result = self._end_item(*item, completed, result, is_ending=bool(ending or self.ending))
        if keeping is not None:
            self._keep(frozenset(keeping))
        if retried is not None:
            self._retry(*retried, result)
        if deadline is not None:
            self.deadline = deadline
        if is_output:
            self.output = (completed, result)
        for timer in started:
            self._drop(timer.key)
            self.timers[timer.key] = timer
            self.timed.setdefault((timer.listener, timer.cycle), []).append(timer.key)
            self.alive[timer.cycle] = self.alive.get(timer.cycle, 0) + 1
            self._retain(timer.source)
        if fired is not None:
            self._drop(fired)
        if memo is not None:
            key, step = memo
            attempts = self.attempts.get(key, Attempts(0))
            memos = {} if attempts.memos is None else attempts.memos
            self.attempts[key] = attempts if attempts.memos is memos else attempts._replace(memos=memos)
            memos[step] = result
        if signal:
            name, _, number = signal.rpartition(":")
            self.counts[name] = int(number)
            if signal in self.uses:
                self.results[signal] = result
        if ending:
            self._end(ending)
        for key in dropped:
            self.paused.discard(key)
            self._forget(key)
        if opened or limits:
            self._open_groups(opened, limits)
        return result

    # ---- groups of items ---------------------------------------------------------------------------------------

    def _open_groups(self, opened: tuple[tuple[str, int, int], ...], limits: tuple[tuple[str, int], ...]) -> None:
        for key, count, limit in opened:
            self.groups[key] = Group(count, limit)
            self._start_items(key)
        for key, limit in limits:
            self._restart(key, limit)

    def _start_items(self, key: str) -> None:
        """Let the items of a group be pending that may start now."""
        group = self.groups[key]
        for index in () if self.failed or self.ending else tuple(group.following()):
            self._start_item(key, group, index)

    def _start_item(self, key: str, group: Group, index: int) -> None:
        item = Item.of(self.pending[key], index)
        key = item.key
        self.pending[key] = item
        if key in self.attempts and self.attempts[key].due is not None:
            self.paused.add(key)
        group.running += 1
        group.started = index + 1

    def _restart(self, key: str, limit: int) -> None:
        """Let the first items of a group be pending that have not completed, and no other: after a failure, or under another limit."""
        group = self.groups[key]
        for item in [each for each in self.pending.values() if type(each) is Item and each.group == key]:
            del self.pending[item.key]
            self.paused.discard(item.key)
        group.limit, group.running = limit, 0
        for index in tuple(group.unfinished(limit)):
            self._start_item(key, group, index)

    def _end_item(self, key: str, index: int, completed: str, result: Any, *, is_ending: bool) -> tuple[str, Any]:
        """Complete an item. Return what has completed, and its result: the group with the results of all, or else the item."""
        group, item = self.groups[key], f"{key}[{index}]"
        if index >= 0:
            group.done[index] = result
            self._drop_item(item, group)
        if completed:
            del self.groups[key]
            return completed, group.gathered()
        if not is_ending:
            self._start_items(key)
        elif not group.running:
            self._forget(key)
        return item, result

    def _drop_item(self, key: str, group: Group) -> None:
        del self.pending[key]
        if self.failed:
            self.failed.discard(key)
        self.attempts.pop(key, None)
        group.running -= 1

    def _forget(self, key: str) -> None:
        """Drop a pending invocation, or an item. In a pass that is ending, a group goes with the last of its items."""
        if key not in self.pending:  # it went with another one
            return
        item = self.pending[key]
        if type(item) is Item:
            group = self.groups[item.group]
            group.dropped.add(item.place)
            self._drop_item(key, group)
            if not group.running:
                self._forget(item.group)
            return
        if self.groups.pop(key, None) is not None:
            for each in [each for each in (*self.pending, *self.attempts) if each.startswith(f"{key}[")]:
                self.pending.pop(each, None)
                self.attempts.pop(each, None)
                self.failed.discard(each)
        self._complete(key)

    # ---- the end -----------------------------------------------------------------------------------------------

    def _end(self, ending: Ending) -> None:
        """Forget all timers and all parts of joins, because the pass is ending."""
        self.ending = ending
        for key in [key for key, group in self.groups.items() if group.count and not group.running]:
            self._forget(key)
        for timer in tuple(self.timers):
            self._drop(timer)
        for listener in tuple(self.latches):
            for seen in self.latches.pop(listener).values():
                self._unlatch(listener, seen)

    def _drop(self, key: TimerKey) -> None:
        """Forget a timer, because it has fired, or its listener was enabled in another way, or it starts again."""
        timer = self.timers.pop(key, None)
        if timer is not None:
            of_listener = self.timed[timer.listener, timer.cycle]
            of_listener.remove(key)
            if not of_listener:
                del self.timed[timer.listener, timer.cycle]
            self._release(timer.source)
            self._left(timer.cycle)

    def _retry(self, key: str, due: float, error: Any) -> None:
        before = self.attempts.get(key, Attempts(0))
        errors = (*before.errors, error)[-ATTEMPTS:]
        self.attempts[key] = Attempts(before.failed + 1, before.before, due, errors, before.memos)
        self.paused.add(key)

    def _resume(self) -> None:
        for key in self.failed:
            failed, memos = self.attempts[key].failed, self.attempts[key].memos
            self.attempts[key] = Attempts(failed, failed, memos=memos)
        self.failed, self.held = set(), set()
        for key, group in () if self.ending else self.groups.items():
            self._restart(key, group.limit)
        self._recount_paused()

    def _latch(self, listener: str, name: str, seen: Seen) -> None:
        latch = self.latches.setdefault(listener, {})
        self._retain(seen.source)
        if listener in self.keeping:
            self.alive[seen.cycle] = self.alive.get(seen.cycle, 0) + 1
        if name in latch:
            self._unlatch(listener, latch.pop(name))
        latch[name] = seen

    def _unlatch(self, listener: str, seen: Seen) -> None:
        self._release(seen.source)
        if listener in self.keeping:
            self._left(seen.cycle)

    def _keep(self, listeners: frozenset[str]) -> None:
        """Let the latches of these listeners keep their cycles alive, and those of no other."""
        for listener in self.keeping ^ listeners:
            for seen in self.latches.get(listener, {}).values():
                if listener in listeners:
                    self.alive[seen.cycle] = self.alive.get(seen.cycle, 0) + 1
                else:
                    self._left(seen.cycle)
        self.keeping = listeners

    def _complete(self, key: str) -> None:
        _, _, cycle, _, arguments = self.pending.pop(key)
        if self.failed or self.held:
            self.failed.discard(key)
            self.held.discard(key)
        if self.attempts:
            self.attempts.pop(key, None)
        for _, source in arguments:
            self._release(source)
        left = self.alive[cycle] - 1  # as in `_left`: this runs at each step
        if left:
            self.alive[cycle] = left
        else:
            del self.alive[cycle]
            self.fired.pop(cycle, None)

    def _left(self, cycle: str) -> None:
        """Count one invocation or timer less of a cycle. The last one ends the cycle."""
        left = self.alive[cycle] - 1
        if left:
            self.alive[cycle] = left
        else:
            del self.alive[cycle]
            self.fired.pop(cycle, None)

    def _retain(self, source: str) -> None:
        if source:
            self.uses[source] = self.uses.get(source, 0) + 1

    def _release(self, source: str) -> None:
        if not source:
            return
        left = self.uses[source] - 1
        if left:
            self.uses[source] = left
        else:
            del self.uses[source]
            self.results.pop(source, None)
