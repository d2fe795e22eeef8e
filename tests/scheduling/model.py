"""What a flow means, written as naively as possible: every event is kept without limit, every question asks all of history.

Written from the design's semantics (Running, Cycles) and the contract's X1-X3. It shares the shape of the data with the
package (conditions as trees of `AnyOf` and `AllOf`), and none of its decisions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

from asyncflow._definition.triggers import AllOf, AnyOf, Condition


@dataclass(frozen=True)
class Node:
    """A method of the graph. `takes` is "nothing", "last", or the names of the triggers that it receives by name."""

    name: str
    condition: Condition | None = None
    is_start: bool = False
    is_router: bool = False
    takes: str | tuple[str, ...] = "nothing"
    timers: tuple[tuple[str, str], ...] = ()
    """(name in the condition, what starts it)."""
    is_output: bool = False
    signals: frozenset[str] = frozenset()
    """The names in its condition that are signals."""
    keep_open: bool = False


@dataclass(frozen=True)
class Launch:
    method: str
    occurrence: int
    cycle: str
    ancestry: frozenset[str]
    arguments: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return f"{self.method}:{self.occurrence}"


@dataclass(frozen=True)
class Event:
    key: str
    names: tuple[str, ...]
    cycle: str
    ancestry: frozenset[str]
    only: str = ""
    """The one method that it reaches: of a timer's event."""


@dataclass(frozen=True)
class Armed:
    """A timer: its event, and where that goes."""

    listener: str
    name: str
    event: Event

    @property
    def key(self) -> tuple[str, str, str]:
        return self.listener, self.name, self.event.cycle


@dataclass
class Step:
    """What followed from one choice. `outcome` is "", "fail", or "finish" with the key of the output."""

    launched: list[Launch] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    outcome: tuple[str, ...] = ()


@dataclass
class Model:
    nodes: Sequence[Node]
    enabled: list[Launch] = field(default_factory=list)
    completed: set[str] = field(default_factory=set)
    last: str = ""
    """What completed last."""
    order: list[str] = field(default_factory=list)
    """What completed, in order."""
    raised: set[str] = field(default_factory=set)
    never_started: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    """How often each pending invocation has raised, in the order of the last time."""
    waiting: set[str] = field(default_factory=set)
    """The pending invocations that wait for their next attempt."""
    due: set[str] = field(default_factory=set)
    """Those that wait, or have done so since they last raised: a new process lets them wait again."""
    events: list[Event] = field(default_factory=list)
    firings: list[tuple[str, str, int]] = field(default_factory=list)
    """(method, cycle, number of the event after which it fired); a start at the beginning is after event 0."""
    armed: list[Armed] = field(default_factory=list)
    ignored: list[tuple[str, int]] = field(default_factory=list)
    """(method, number of the event that passed it over)."""
    signals: frozenset[str] = frozenset()
    """What the flow declares."""
    ending: str = ""
    """How the pass ends before its time; "" if nobody has asked for that."""
    asker: str = ""
    """What asked for it, or has completed last since it was asked for from outside."""
    kept: str = ""
    """The completion that last left nothing to run."""
    taken: list[str] = field(default_factory=list)
    """The names of the signals that were taken, in order."""

    def start(self) -> Step:
        starts = [node for node in self.nodes if node.is_start]
        if any(node.condition is None for node in starts):
            starts = [node for node in starts if node.condition is None]
        step = Step()
        for node in self._in_launch_order(starts):
            self._launch(step, node, "", frozenset(), ())
        return step

    def returned(self, key: str, label: str | None, asks: str = "") -> Step:
        if asks or self.ending:
            return self._returned_at_end(key, asks)
        ended = next(launch for launch in self.enabled if launch.key == key)
        names = (ended.method,) if label is None else (ended.method, label)
        reached = self._in_launch_order([n for n in self.nodes if any(mentions(n.condition, name) for name in names)])
        closes_a_loop = any(node.name in ended.ancestry for node in reached)
        event = Event(key, names, key, frozenset()) if closes_a_loop else Event(key, names, ended.cycle, ended.ancestry)
        self.events.append(event)
        self.completed.add(key)
        self.last = key
        self.order.append(key)
        self.due.discard(key)
        step = Step()
        for node in reached:
            self._reach(step, node, event)
        self._arm(key, names, ended)
        if self.raised:
            self.never_started |= {launch.key for launch in step.launched}
            step.launched = []
        step.outcome = self._outcome(key)
        if all(launch.key in self.completed for launch in self.enabled):
            self.kept = key
        return step

    # ---- the end before its time -----------------------------------------------------------------------------------

    def _returned_at_end(self, key: str, asks: str) -> Step:
        self.completed.add(key)
        self.order.append(key)
        self.due.discard(key)
        if self.ending == "stop" or not self.ending:
            self.asker = key
        if not self.ending:
            self._drain(asks)
        return Step(outcome=self._outcome(key))

    def stops(self) -> Step:
        if self.ending in ("", "continue"):
            self._drain("stop")
            self.asker = self.kept if self.keeps else ""
        return Step(outcome=() if self.raised else self._outcome(self.asker))

    def dropped(self, key: str) -> Step:
        self.completed.add(key)
        self.due.discard(key)
        return Step(outcome=self._outcome(self.asker))

    def _drain(self, ending: str) -> None:
        self.ending = ending
        self.completed |= self.waiting | self.never_started
        self.due -= self.completed
        self.waiting.clear()
        self.armed.clear()

    @property
    def keeps(self) -> bool:
        return bool(self.signals) or any(node.timers or node.is_output for node in self.nodes)

    def _arm(self, key: str, names: tuple[str, ...], ended: Launch) -> None:
        found = [
            (node, timer) for name in names for node in self.nodes for timer, source in node.timers if source == name
        ]
        for node, timer in found:
            closes_a_loop = node.name in ended.ancestry
            cycle, ancestry = (key, frozenset[str]()) if closes_a_loop else (ended.cycle, ended.ancestry)
            has_fired = any((method, where) == (node.name, cycle) for method, where, _ in self.firings)
            if not (isinstance(node.condition, AnyOf) and has_fired):
                armed = Armed(node.name, timer, Event(key, (timer,), cycle, ancestry, node.name))
                self.armed = [*(each for each in self.armed if each.key != armed.key), armed]

    def fires(self, key: tuple[str, str, str]) -> Step:
        armed = next(each for each in self.armed if each.key == key)
        self.armed.remove(armed)
        self.events.append(armed.event)
        step = Step()
        self._reach(step, next(node for node in self.nodes if node.name == armed.listener), armed.event)
        step.outcome = self._outcome(self.last)
        return step

    # ---- signals ---------------------------------------------------------------------------------------------------

    def next_signal(self, inbox: Sequence[str]) -> int | None:
        """The place of the signal that is taken next: the oldest that is needed of the shortest part of the inbox that fires anything."""
        if self.ending:
            return None
        for length in range(1, len(inbox) + 1):
            for node in self._in_launch_order([node for node in self.nodes if node.signals]):
                held = set(self._came(node))
                names = {name: inbox.index(name) for name in inbox[:length] if name in node.signals - held}
                ways = [way for way in subsets(names) if way and holds(node.condition, held | set(way))]
                if ways:
                    best = min(ways, key=lambda way: sum(2 ** names[name] for name in way))
                    return min(names[name] for name in best)
        return None

    def takes(self, name: str) -> Step:
        self.taken.append(name)
        key = f"{name}:{self.taken.count(name)}"
        step = Step()
        for node in self._in_launch_order([node for node in self.nodes if name in node.signals]):
            held = self._came(node)
            alone = holds(node.condition, set(node.signals))
            fires = holds(node.condition, {*held, name})
            if name not in held and (fires or held or alone):
                cycle, ancestry = self._place(node, held, key)
                self.events.append(Event(key, (name,), cycle, ancestry, node.name))
                self._reach(step, node, self.events[-1])
        step.outcome = self._idle()
        return step

    def _place(self, node: Node, held: dict[str, Event], key: str) -> tuple[str, frozenset[str]]:
        """The cycle and the ancestry of the newest thing that a listener holds; else a cycle of the signal's own."""
        if held:
            newest = max(held.values(), key=self.events.index)
            return newest.cycle, newest.ancestry
        armed = [each.event for each in self.armed if each.listener == node.name]
        return (armed[-1].cycle, armed[-1].ancestry) if armed else (key, frozenset())

    def waits(self) -> bool:
        """Whether the pass stays open for a signal."""
        if self.ending:
            return False
        for node in self.nodes:
            held = set(self._came(node)) if node.signals else set()
            never_fired = all(method != node.name for method, _, _ in self.firings)
            if node.signals and holds(node.condition, set(node.signals)) and not node.timers:
                waits = node.keep_open and never_fired
            else:
                waits = bool(held) and holds(node.condition, held | node.signals)
            if waits:
                return True
        return False

    def ends(self) -> Step:
        return Step(outcome=("finish", self._output(self.asker if self.ending else self.last)))

    def raises(self, key: str) -> Step:
        self.raised.add(key)
        self.due.discard(key)
        self.attempts[key] = self.attempts.get(key, 0) + 1
        return Step(outcome=self._outcome(key))

    def raises_and_waits(self, key: str) -> Step:
        if self.ending:
            return self.dropped(key)
        self.waiting.add(key)
        self.due.add(key)
        self.attempts[key] = self.attempts.get(key, 0) + 1
        return Step(outcome=self._outcome(key) if self.raised else ())

    def woken(self, key: str) -> Step:
        self.waiting.remove(key)
        return Step()

    def resumed(self) -> Step:
        self.raised.clear()
        self.never_started.clear()
        self.waiting = set(self.due)
        gone = self.completed | self.due
        launched = [launch for launch in self.enabled if launch.key not in gone]
        return Step(launched=sorted(launched, key=lambda launch: launch.key in self.attempts), outcome=self._idle())

    def _idle(self) -> tuple[str, ...]:
        """The outcome if nothing is left to run, and signals may come."""
        is_idle = self.signals and not self.armed and len(self.completed) == len(self.enabled)
        return ("settle",) if is_idle else ()

    def running(self) -> list[str]:
        gone = self.completed | self.raised | self.never_started | self.waiting
        return [launch.key for launch in self.enabled if launch.key not in gone]

    def _outcome(self, key: str) -> tuple[str, ...]:
        if self.running():
            return ()
        if self.raised:
            return ("fail",)
        if self.waiting or self.armed:
            return ()
        if self.ending == "continue":
            return ("continue",)
        if self.ending:
            key = self.asker
        return ("settle",) if self.signals else ("finish", self._output(key))

    def _output(self, key: str) -> str:
        """The latest completion of the method that is the output; without one, the last of all."""
        named = [node.name for node in self.nodes if node.is_output]
        return next((of for of in reversed(self.order) if of.split(":")[0] in named), "") if named else key

    def _reach(self, step: Step, node: Node, event: Event) -> None:
        number = len(self.events)
        is_or = isinstance(node.condition, AnyOf)
        if is_or and any((method, cycle) == (node.name, event.cycle) for method, cycle, _ in self.firings):
            self.ignored.append((node.name, number))
            step.skipped.append(node.name)
            return
        parts = self._came(node)
        if not holds(node.condition, set(parts)):
            return
        ancestry = frozenset().union(*(part.ancestry for part in parts.values() if part.cycle == event.cycle))
        arguments: tuple[tuple[str, str], ...] = ()
        if node.takes == "last":
            arguments = (("", event.key),)
        elif node.takes != "nothing":
            arguments = tuple((name, (parts.get(name) or parts[f"after({name})"]).key) for name in node.takes)
        self._launch(step, node, event.cycle, ancestry, arguments)

    def _came(self, node: Node) -> dict[str, Event]:
        """For each name in the condition, the newest event that brought it since the method last fired."""
        fired = max((number for method, _, number in self.firings if method == node.name), default=0)
        return {
            name: event
            for number, event in enumerate(self.events, 1)
            if number > fired and (node.name, number) not in self.ignored and event.only in ("", node.name)
            for name in event.names
            if mentions(node.condition, name)
        }

    def _launch(
        self, step: Step, node: Node, cycle: str, ancestry: frozenset[str], arguments: tuple[tuple[str, str], ...]
    ) -> None:
        occurrence = 1 + sum(launch.method == node.name for launch in self.enabled)
        launch = Launch(node.name, occurrence, cycle, ancestry | {node.name}, arguments)
        self.enabled.append(launch)
        self.armed = [each for each in self.armed if (each.listener, each.event.cycle) != (node.name, cycle)]
        self.firings.append((node.name, cycle, len(self.events)))
        step.launched.append(launch)

    @staticmethod
    def _in_launch_order(nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.is_router] + [node for node in nodes if not node.is_router]


def subsets(names: Sequence[str] | dict[str, int]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


def mentions(condition: Condition | None, name: str) -> bool:
    if isinstance(condition, AnyOf | AllOf):
        return any(mentions(part, name) for part in condition.parts)
    return condition == name


def holds(condition: Condition | None, came: set[str]) -> bool:
    if isinstance(condition, AnyOf):
        return any(holds(part, came) for part in condition.parts)
    if isinstance(condition, AllOf):
        return all(holds(part, came) for part in condition.parts)
    return condition in came
