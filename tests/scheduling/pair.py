"""The scheduler and the naive model, side by side: the same choices, the same answers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from driver import AGAIN, BOOM, Simulation
from graphs import ASKS, CRASH, LABELS, MOST_ITEMS, SIGNALS, STOP, WAIT, Upgrade, definition_of, signals_of
from model import Model
from shapes import Launch, Node, Step

from asyncflow._scheduling.messages import Command, Continue, Fail, Finish, Invocation, Item
from asyncflow._scheduling.signals import is_waiting


class Pair:
    """The same choices, given to the scheduler and to the model."""

    def __init__(self, graph: Sequence[Node]) -> None:
        self.routers = {node.name for node in graph if node.is_router}
        self.run = Simulation(definition_of(graph))
        self.items = 0
        self.model = Model(graph, signals=frozenset(signals_of(graph)))

    def play(self, chosen: Sequence[tuple[int, object]]) -> Simulation:
        run, model = self.run, self.model
        self._compare(model.start(), lambda: run.start())
        for which, how in chosen:
            open_now = [*run.running, *run.paused, *(() if run.progress.failed else run.waiting)]
            key: Any = open_now[which % len(open_now)] if open_now else ""
            self.items = which % (MOST_ITEMS + 1)
            if isinstance(run.outcome, Fail) or (how is CRASH and (open_now or run.is_idle)):
                self._compare(model.resumed(), lambda: run.resume())
            elif isinstance(how, Upgrade):
                if open_now or run.is_idle:
                    self._compare(self._upgraded(how.limit), lambda: run.resume())
            elif how in SIGNALS:
                run.inbox.append(how)  # type: ignore[arg-type]  # a name
                self._take()
            elif run.is_idle and how != STOP and not model.waits():
                assert not is_waiting(run.definition, run.progress)
                self._compare(model.ends(), run.settle)
            elif key in run.paused and not run.progress.failed:
                self._compare(model.woken(key), lambda key=key: run.wake(key))
            elif isinstance(key, tuple):
                self._compare(model.fires(key), lambda key=key: run.fire(key))
            elif how == STOP and (open_now or run.is_idle):
                self._compare(model.stops(), run.stop)
            elif key in run.running and how is WAIT and run.progress.ending:
                self._compare(model.dropped(key), lambda key=key: run.wait(key))
            elif key in run.running:
                self._end(key, how)
        return run

    def _upgraded(self, limit: int) -> Step:
        """Give all methods that run for each item of a list another limit."""
        self.model.nodes = [node if node.limit is None else replace(node, limit=limit) for node in self.model.nodes]
        self.run.definition = definition_of(self.model.nodes)
        return self.model.resumed()

    def _take(self) -> None:
        """Take all that can be taken, one after the other."""
        run, model = self.run, self.model
        while run.outcome is None and not run.progress.failed:
            assert is_waiting(run.definition, run.progress) == model.waits()
            place = model.next_signal(run.inbox)
            assert run.takeable == place
            if place is None:
                return
            self._compare(model.takes(run.inbox[place]), run.take)

    def _end(self, key: str, how: object) -> None:
        asks: Any = how if how in ASKS else ""
        is_label = how in LABELS and key.split(":")[0] in self.routers
        label: Any = how if is_label else None
        self.run.items = self.items
        self.run.script = lambda _: how if how in (BOOM, AGAIN) else label
        if how is AGAIN:
            step = self.model.raises_and_waits(key)
        else:
            step = self.model.raises(key) if how is BOOM else self.model.returned(key, label, asks, self.items)
        self._compare(step, lambda: self.run.end(key, asks))

    def _compare(self, expected: Step, act: Any) -> None:
        run = self.run
        launched, skipped = len(run.launched), len(run.skipped)
        act()
        in_order: Any = by_key if self.model.ending else list  # then nothing depends on the order
        assert in_order(map(launch_of, run.launched[launched:])) == in_order(expected.launched)
        assert run.skipped[skipped:] == expected.skipped
        assert told(run.outcome, run.is_idle) == expected.outcome
        pending = run.progress.pending.values()
        assert [launch_of(each) for each in pending if type(each) is not Item] == self.model.pending()
        assert sorted(each.key for each in pending if type(each) is Item) == sorted(self.model.pending_items())
        assert sorted(run.running) == sorted(self.model.running())
        assert run.waiting == [armed.key for armed in self.model.armed]
        assert sorted(run.progress.paused) == sorted(self.model.waiting)
        failed = {key: attempts.failed for key, attempts in run.progress.attempts.items()}
        assert failed == self.model.tried()


def launch_of(invocation: Invocation) -> Launch:
    return Launch(*invocation)


def told(command: Command | None, is_idle: bool) -> tuple[str, ...]:
    if is_idle:
        return ("settle",)
    match command:
        case Finish(key):
            return ("finish", key)
        case Fail():
            return ("fail",)
        case Continue():
            return ("continue",)
    return ()


def by_key(launches: Iterable[Launch]) -> list[Launch]:
    return sorted(launches, key=lambda launch: launch.key)
