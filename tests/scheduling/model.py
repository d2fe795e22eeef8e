"""What a flow means, written as naively as possible: every event is kept without limit, every question asks all of history.

Written from the design's semantics (Running, Cycles) and the contract's X1-X3. It shares the shape of the data with the
package (conditions as trees of `AnyOf` and `AllOf`), and none of its decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shapes import Armed, Event, Launch, Node, Step, holds, mentions, subsets

from asyncflow._definition.triggers import AnyOf

__all__ = ["Launch", "Model", "Node", "Step", "holds"]


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
    lists: dict[str, int] = field(default_factory=dict)
    """How many items each launch works on that runs for each item of a list."""
    begun: list[Launch] = field(default_factory=list)
    """The items that were begun, by this process or an earlier one, in order."""
    returned_items: set[str] = field(default_factory=set)

    def start(self) -> Step:
        starts = [node for node in self.nodes if node.is_start]
        if any(node.condition is None for node in starts):
            starts = [node for node in starts if node.condition is None]
        step = Step()
        for node in self._in_launch_order(starts):
            self._launch(step, node, "", frozenset(), ())
        return step

    def returned(self, key: str, label: str | None, asks: str = "", items: int = 0) -> Step:
        whole = key.partition("[")[0]
        if whole != key:
            self.returned_items.add(key)
            self.completed.add(key)
            self.due.discard(key)
        if asks or self.ending:
            return self._returned_at_end(key, asks)
        if whole in self.lists:
            if not self._all_returned(whole):
                return Step(launched=[] if self.raised else self._begin(whole), outcome=self._outcome(key))
            key, items = whole, self.lists[whole]
        ended = next(launch for launch in self.enabled if launch.key == key)
        names = (ended.method,) if label is None else (ended.method, label)
        reached = self._in_launch_order([n for n in self.nodes if any(mentions(n.condition, name) for name in names)])
        closes_a_loop = any(node.name in ended.ancestry for node in reached)
        cycle, ancestry = (key, frozenset[str]()) if closes_a_loop else (ended.cycle, ended.ancestry)
        event = Event(key, names, cycle, ancestry, items=items)
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
        step.launched = [each for launch in step.launched for each in self._as_items(launch)]
        step.outcome = self._outcome(key)
        if all(launch.key in self.completed for launch in self.enabled):
            self.kept = key
        return step

    # ---- the end before its time -----------------------------------------------------------------------------------

    def _returned_at_end(self, key: str, asks: str) -> Step:
        whole = key.partition("[")[0]
        is_answer = asks == "finish" and not self.ending and not any(node.is_output for node in self.nodes)
        if whole != key and self._all_returned(whole) and not is_answer:
            key = whole
        self.completed.add(key)
        if key == whole:
            self.order.append(key)
        self.due.discard(key)
        if self.ending == "stop" or not self.ending:
            self.asker = key
        if not self.ending:
            self._drain(asks)
        self._forget_lists()
        return Step(outcome=self._outcome(key))

    def stops(self) -> Step:
        if self.ending in ("", "continue"):
            self._drain("stop")
            self.asker = self.kept if self.keeps else ""
        return Step(outcome=() if self.raised else self._outcome(self.asker))

    def dropped(self, key: str) -> Step:
        self.completed.add(key)
        self.due.discard(key)
        self._forget_lists()
        return Step(outcome=self._outcome(self.asker))

    def _drain(self, ending: str) -> None:
        self.ending = ending
        self.completed |= self.waiting | self.never_started
        self.due -= self.completed
        self.waiting.clear()
        self.armed.clear()
        self._forget_lists()

    @property
    def keeps(self) -> bool:
        return bool(self.signals) or any(node.timers or node.is_output or node.limit is not None for node in self.nodes)

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
        if not self.ending:
            self.begun = [item for item in self.begun if item.key in self.completed]
        launched = []
        for launch in self.enabled:
            if self._is_list(launch.key):
                launched += [] if self.ending or launch.key in self.completed else self._begin(launch.key)
            elif launch.key not in self.completed:
                launched.append(launch)
        if self.ending:
            launched += [item for item in self.begun if item.key not in self.completed]
        self.waiting = {key for key in self.due if self._is_begun(key)}
        launched = [launch for launch in launched if launch.key not in self.due]
        return Step(launched=sorted(launched, key=lambda launch: launch.key in self.attempts), outcome=self._idle())

    def _idle(self) -> tuple[str, ...]:
        """The outcome if nothing is left to run, and signals may come."""
        is_idle = self.signals and not self.armed and not self.pending()
        return ("settle",) if is_idle else ()

    def running(self) -> list[str]:
        gone = self.completed | self.raised | self.never_started | self.waiting
        open_now = [launch for launch in self.enabled if not self._is_list(launch.key)] + self.begun
        return [launch.key for launch in open_now if launch.key not in gone]

    def pending(self) -> list[Launch]:
        return [launch for launch in self.enabled if launch.key not in self.completed]

    # ---- items -----------------------------------------------------------------------------------------------------

    def pending_items(self) -> list[str]:
        return [item.key for item in self.begun if item.key not in self.completed]

    def tried(self) -> dict[str, int]:
        """How often each invocation and each item has raised that is not over."""
        over = {key for key in self.attempts if self.completed & {key, key.partition("[")[0]}}
        return {key: n for key, n in self.attempts.items() if key not in over}

    def _is_list(self, key: str) -> bool:
        """Whether it does not run itself, but its items do."""
        return self.lists.get(key, 0) > 0

    def _all_returned(self, whole: str) -> bool:
        return all(f"{whole}[{place}]" in self.returned_items for place in range(self.lists[whole]))

    def _is_begun(self, key: str) -> bool:
        return "[" not in key or any(item.key == key for item in self.begun)

    def _as_items(self, launch: Launch) -> list[Launch]:
        return self._begin(launch.key) if self._is_list(launch.key) else [launch]

    def _begin(self, whole: str) -> list[Launch]:
        """Begin the first items that have not begun, as many as the limit allows. Return those that run at once."""
        launch = next(each for each in self.enabled if each.key == whole)
        limit = next(node.limit for node in self.nodes if node.name == launch.method) or self.lists[whole]
        if self.raised or self.ending:
            return []
        items = [replace(launch, place=place) for place in range(self.lists[whole])]
        of_list = {item.key for item in items}
        room = limit - sum(key in of_list for key in self.pending_items())
        new = [item for item in items if not self._is_begun(item.key)][: max(0, room)]
        self.begun += new
        self.waiting |= {item.key for item in new if item.key in self.due}
        return [item for item in new if item.key not in self.due]

    def _forget_lists(self) -> None:
        """In a pass that is ending, a list goes with the last of its items that had begun."""
        if self.ending:
            left = {key.partition("[")[0] for key in self.pending_items()}
            self.completed |= {key for key, items in self.lists.items() if items and key not in left}

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
        self._launch(step, node, event.cycle, ancestry, arguments, event.items)

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
        self,
        step: Step,
        node: Node,
        cycle: str,
        ancestry: frozenset[str],
        arguments: tuple[tuple[str, str], ...],
        items: int = 0,
    ) -> None:
        occurrence = 1 + sum(launch.method == node.name for launch in self.enabled)
        launch = Launch(node.name, occurrence, cycle, ancestry | {node.name}, arguments)
        self.enabled.append(launch)
        if node.limit is not None:
            self.lists[launch.key] = items
        self.armed = [each for each in self.armed if (each.listener, each.event.cycle) != (node.name, cycle)]
        self.firings.append((node.name, cycle, len(self.events)))
        step.launched.append(launch)

    @staticmethod
    def _in_launch_order(nodes: Sequence[Node]) -> list[Node]:
        return [node for node in nodes if node.is_router] + [node for node in nodes if not node.is_router]
