"""A simulated run: which pending invocation ends next is a choice, what it ends with is a script. No event loop."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncflow._definition.build import define
from asyncflow._definition.definition import FlowDefinition
from asyncflow._scheduling.advance import advance
from asyncflow._scheduling.messages import (
    Command,
    Continue,
    Drain,
    EndAsked,
    Ending,
    Fail,
    Finish,
    Happening,
    Hold,
    Invocation,
    ItemReturned,
    MethodRaised,
    MethodReturned,
    PassEnded,
    Resumed,
    RunLater,
    RunMethod,
    Settle,
    SignalTaken,
    Started,
    StartTimer,
    TimerFired,
    TimerKey,
    Transition,
    WaitDropped,
)
from asyncflow._scheduling.progress import Progress
from asyncflow._scheduling.signals import next_signal
from asyncflow.persistence.encoding import decode_progress, decode_transition, encode_progress, encode_transition

INTERLEAVINGS = 300
BOOM = object()
"""What a script answers for an invocation that raises."""
AGAIN = object()
"""What a script answers for an invocation that raises, and is tried again."""

Script = Callable[[Invocation], Any]
"""The label that an invocation ends with, None for none, or `BOOM`."""
Choice = Callable[[Sequence[str]], str]
"""Which of the running invocations ends next, by key."""


class Api:
    """A base without names, so that a class under test may use any."""


def defined(cls: type, **local: Any) -> FlowDefinition:
    return define(cls, Api, local)


def no_label(_: Invocation) -> None:
    return None


def at_random(seed: int) -> Choice:
    return random.Random(seed).choice


def in_order(*methods: str) -> Choice:
    """The methods end in this order, each time the oldest running invocation of that name."""
    left = iter(methods)

    def choose(running: Sequence[str]) -> str:
        method = next(left)
        return next(key for key in running if key.split(":")[0] == method)

    return choose


@dataclass
class Simulation:
    """One pass of a flow, and all that was seen of it."""

    definition: FlowDefinition
    script: Script = no_label
    choose: Choice = field(default_factory=lambda: at_random(0))
    progress: Progress = field(default_factory=Progress)
    running: dict[str, Invocation] = field(default_factory=dict)
    launched: list[Invocation] = field(default_factory=list)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The arguments of each launch, by key; a result reads like `<fetch:1>`."""
    ended: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    history: list[tuple[Transition, Any]] = field(default_factory=list)
    outcome: Command | None = None
    items: int = 0
    """How many items the next result has."""
    paused: dict[str, RunLater] = field(default_factory=dict)
    """What waits for its next attempt, by key."""
    timers: dict[TimerKey, float] = field(default_factory=dict)
    """When each timer is due that was ever started; those that are not dropped are in the progress."""
    inbox: list[str] = field(default_factory=list)
    """The names of the signals that were sent and not taken."""
    is_idle: bool = False
    """Whether nothing is left to run, and the flow declares signals."""

    def happen(self, happening: Happening) -> Transition:
        result = self.result_of(happening)
        self.is_idle = False
        transition, commands = advance(self.definition, self.progress, happening)
        self.progress.fold(transition, result)
        self.history.append((transition, result))
        self.skipped += transition.skipped
        if transition.timing is not None:
            for key in transition.timing.dropped:
                self.paused.pop(key, None)
        for command in commands:
            self._obey(command)
        return transition

    def result_of(self, happening: Happening) -> Any:
        """What is kept of what ends, and of signals."""
        if isinstance(happening, SignalTaken):
            return f"<{happening.name}:{self.progress.counts.get(happening.name, 0) + 1}>"
        return f"<{happening.key}>" if isinstance(happening, MethodReturned | ItemReturned | MethodRaised) else None

    def end(self, key: str, ending: Ending = "") -> None:
        """Let a running invocation end as the script says. `ending`: whether it asks for the end of the pass."""
        ended = self.running.pop(key)
        answer = self.script(ended)
        self.ended.append(key)
        if answer is AGAIN:
            self.happen(MethodRaised(key, float(len(self.ended))))
        elif answer is BOOM:
            self.happen(MethodRaised(key))
        elif self.definition.methods[ended.method].each:
            self.happen(ItemReturned(key, self._due(key, None), ending))
        else:
            self.happen(MethodReturned(key, answer, self._due(key, answer), ending, self.items))

    def _due(self, key: str, label: str | None) -> tuple[float, ...]:
        """When the timers fire that this end starts: the later one started, the later it fires."""
        names = (key.split(":")[0],) if label is None else (key.split(":")[0], label)
        return tuple(float(len(self.ended)) for _ in self.definition.reached_by(names).timers)

    def fire(self, key: TimerKey) -> None:
        """Let the time of a timer come."""
        assert key in self.timers
        self.happen(TimerFired(key))

    @property
    def takeable(self) -> int | None:
        """The place in the inbox of the signal that is taken next."""
        return next_signal(self.definition, self.progress, self.inbox)

    def take(self) -> None:
        """Take the next signal."""
        place = self.takeable
        assert place is not None
        self.happen(SignalTaken(self.inbox.pop(place)))

    def send(self, *names: str) -> "Simulation":
        """Send signals, and take what can be taken."""
        for name in names:
            self.inbox.append(name)
            while self.takeable is not None:
                self.take()
        return self

    def stop(self) -> None:
        """Ask for the end of the pass from outside."""
        self.happen(EndAsked())

    def wait(self, key: str) -> None:
        """Let a running invocation begin to wait while the pass is ending."""
        del self.running[key]
        self.happen(WaitDropped(key))

    def settle(self) -> None:
        """End the pass: nothing waits for a signal."""
        assert self.is_idle
        self.happen(PassEnded())

    @property
    def waiting(self) -> list[TimerKey]:
        """The timers that may fire."""
        return list(self.progress.timers)

    def wake(self, key: str) -> None:
        """Let the next attempt of a paused invocation start."""
        self.progress.wake(key)
        self.running[key] = self.paused.pop(key).invocation

    def go(self, at_most: int = 1_000) -> "Simulation":
        """Let one after the other end until the pass is over."""
        for _ in range(at_most):
            if self.outcome is not None:
                return self
            self.end(self.choose(list(self.running)))
        raise AssertionError(f"still running after {at_most} steps: {list(self.running)}")

    def start(self) -> "Simulation":
        self.happen(Started())
        return self

    def resume(self) -> "Simulation":
        self.outcome = None
        self.running.clear()
        self.paused.clear()
        self.timers.clear()
        self.happen(Resumed())
        assert self.timers.keys() == self.progress.timers.keys()
        return self

    def count(self, method: str) -> int:
        return Counter(invocation.method for invocation in self.launched)[method]

    @property
    def keys(self) -> list[str]:
        """What was launched, in order."""
        return [invocation.key for invocation in self.launched]

    def _obey(self, command: Command) -> None:
        assert self.outcome is None, f"{command} after {self.outcome}"
        if isinstance(command, Finish | Fail | Continue):
            assert not self.running, f"{command} while {list(self.running)} run"
            self.outcome = command
            return
        if isinstance(command, Hold | Drain):
            return
        if isinstance(command, Settle):
            assert not [*self.running, *self.paused, *self.progress.timers]
            self.is_idle = True
            return
        if isinstance(command, StartTimer):
            assert self.progress.timers[command.timer.key] == command.timer
            self.timers[command.timer.key] = command.timer.due
            return
        if isinstance(command, RunLater) and command.invocation.key in self.progress.paused:
            assert command.invocation.key not in self.running
            self.paused[command.invocation.key] = command
            return
        assert isinstance(command, RunMethod | RunLater)
        invocation = command.invocation
        assert invocation.key not in self.running, f"{invocation.key} runs already"
        self.running[invocation.key] = invocation
        self.launched.append(invocation)
        self.calls[invocation.key] = {name: self.progress.results[source] for name, source in invocation.arguments}


class StoredSimulation(Simulation):
    """One that is stored after each step, and loads as it was; a resume continues with what was stored."""

    def result_of(self, happening: Happening) -> Any:
        result = super().result_of(happening)
        return None if result is None else result.encode()

    def happen(self, happening: Happening) -> Transition:
        transition = super().happen(happening)
        assert decode_transition(encode_transition(transition)) == transition
        again = decode_progress(encode_progress(self.progress))
        assert again == self.progress
        assert again.paused >= self.progress.paused
        return transition

    def resume(self) -> Simulation:
        self.progress = decode_progress(encode_progress(self.progress))
        return super().resume()


def simulate(flow: type | FlowDefinition, script: Script = no_label, choose: Choice | None = None) -> Simulation:
    """A whole pass, in one order of endings: that of `choose`, else a random one."""
    definition = flow if isinstance(flow, FlowDefinition) else defined(flow)
    return Simulation(definition, script, choose or at_random(0)).start().go()


def interleavings(flow: type, script: Script = no_label) -> Iterator[Simulation]:
    """Whole passes in 300 random orders of endings."""
    definition = defined(flow)
    for seed in range(INTERLEAVINGS):
        yield simulate(definition, script, at_random(seed))
