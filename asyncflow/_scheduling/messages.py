"""The scheduler's messages: happenings in the past tense go in, commands in the imperative come out."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = [
    "Command",
    "Continue",
    "Drain",
    "EndAsked",
    "Ending",
    "Fail",
    "Finish",
    "Happening",
    "Hold",
    "Invocation",
    "Item",
    "ItemReturned",
    "MethodRaised",
    "MethodReturned",
    "PassEnded",
    "Resumed",
    "RunLater",
    "RunMethod",
    "Seen",
    "Settle",
    "SignalTaken",
    "StartTimer",
    "Started",
    "StepStored",
    "Timer",
    "TimerFired",
    "TimerKey",
    "Timing",
    "Transition",
    "WaitDropped",
    "name_in",
]


class Invocation(NamedTuple):
    """One execution of a method for one trigger, numbered by occurrence within its pass."""

    method: str
    occurrence: int
    cycle: str
    """The cycle it belongs to: '' is the run's own, others are named by the key of the completion that opened them."""
    ancestry: frozenset[str]
    """The methods that it descends from within its cycle, its own method included."""
    arguments: tuple[tuple[str, str], ...] = ()
    """(parameter, key of the invocation whose result fills it); the parameter '' is the positional one."""

    @property
    def key(self) -> str:
        """The key within the pass, such as `fetch:3`."""
        return f"{self.method}:{self.occurrence}"


class Item(Invocation):
    """One item of an invocation that runs once for each item of a list. It has one field more than an invocation: its place."""

    __slots__ = ()

    @classmethod
    def of(cls, group: Invocation, index: int) -> Item:
        """Return an item of a group."""
        return tuple.__new__(cls, (*group[:5], index))

    def __reduce__(self) -> tuple[object, ...]:  # that of a named tuple expects as many fields as it declares
        return Item.of, (self[:5], self.place)

    @property
    def place(self) -> int:
        """Its place in the list, from 0."""
        return self[5]  # type: ignore[misc, no-any-return]  # the field that it has more

    @property
    def group(self) -> str:
        """The key of the invocation that it belongs to, such as `work:1`."""
        return f"{self.method}:{self.occurrence}"

    @property
    def key(self) -> str:
        """The key within the pass, such as `work:1[17]`."""
        return f"{self.method}:{self.occurrence}[{self[5]}]"  # type: ignore[misc]  # as in `place`, whose call costs more


def name_in(key: str) -> str:
    """Return under which name the result of an invocation is encoded: `fetch` for `fetch:3`, and `work[]` for the item `work:1[17]`."""
    name = key.rpartition(":")[0]
    return f"{name}[]" if key[-1:] == "]" else name


class Seen(NamedTuple):
    """One part of a join that has arrived."""

    cycle: str
    ancestry: frozenset[str]
    source: str
    """The key of the invocation whose result it carries; '' if that result will not be needed."""


class Timer(NamedTuple):
    """A timer that has been started, for one listener in one cycle."""

    listener: str
    name: str
    """Its name in the listener's condition, such as `after(ask)`."""
    cycle: str
    """The cycle of its event, decided when it starts."""
    ancestry: frozenset[str]
    source: str
    """The key of the invocation whose result it carries; '' if that result will not be needed."""
    due: float
    """When it fires, in seconds since the Unix epoch."""

    @property
    def key(self) -> TimerKey:
        """Listener, name and cycle: starting a timer again replaces the earlier one."""
        return self.listener, self.name, self.cycle


TimerKey = tuple[str, str, str]

Ending = Literal["", "finish", "continue", "stop"]
"""How a pass ends before its time.

    finish      a method asked for the end of the pass: its result is the output, unless the output is that of a named method
    continue    a method asked for the end of the pass, and for the next one
    stop        the end was asked for from outside
"""


# ---- happenings ------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """A pass started."""

    deadline: float = 0.0
    """When its time limit passes, in seconds since the Unix epoch; 0 if it has none."""


class Resumed(NamedTuple):
    """A pass was resumed from storage."""

    deadline: float | None = None
    """A new time limit, as in `Started`; None: the present one stays."""


class MethodReturned(NamedTuple):
    """An invocation completed successfully; a router's completion also carries a label."""

    key: str
    label: str | None = None
    due: tuple[float, ...] = ()
    """When the timers that it starts fire, in seconds since the Unix epoch, in the order of `Reached.timers`."""
    ending: Ending = ""
    """Whether it asks for the end of the pass. A pass that is ending already ignores it."""
    items: int = 0
    """How many items its result has, if methods run once for each of them."""


class ItemReturned(NamedTuple):
    """An item of an invocation completed successfully."""

    key: str
    """The key of the item, or of the whole invocation if its list is empty."""
    due: tuple[float, ...] = ()
    """As in `MethodReturned`; needed only for the last item that completes."""
    ending: Ending = ""
    """As in `MethodReturned`."""


class MethodRaised(NamedTuple):
    """An attempt of an invocation raised an exception."""

    key: str
    retry_at: float | None = None
    """When the next attempt is due, in seconds since the Unix epoch; None if there is none: then the invocation has failed."""


class TimerFired(NamedTuple):
    """The time of a timer has come."""

    key: TimerKey


class StepStored(NamedTuple):
    """A running invocation stored a value under the name of one of its own steps."""

    key: str
    step: str


class SignalTaken(NamedTuple):
    """A signal was taken from the inbox, with its payload: for the listeners that wait for it or, if given, for a step of a method."""

    name: str
    key: str = ""
    """The key of the running invocation that waits for it; '' if listeners do."""
    step: str = ""
    """The name of the step of that invocation that waits for it."""


class PassEnded(NamedTuple):
    """Nothing was left to run or to wait for, and the inbox has no signal that a listener waits for."""


class EndAsked(NamedTuple):
    """The end of the pass was asked for from outside."""

    drops_all: bool = False
    """Whether what runs is dropped, too: no process runs it."""


class WaitDropped(NamedTuple):
    """A running invocation began to wait while the pass is ending: it is dropped."""

    key: str


Happening = (
    Started
    | Resumed
    | MethodReturned
    | ItemReturned
    | MethodRaised
    | TimerFired
    | StepStored
    | SignalTaken
    | PassEnded
    | EndAsked
    | WaitDropped
)


# ---- commands --------------------------------------------------------------------------------------------------


class RunMethod(NamedTuple):
    """Start this invocation."""

    invocation: Invocation


class RunLater(NamedTuple):
    """Start a further attempt of this invocation at a time, unless the pass is failing by then."""

    invocation: Invocation
    at: float = 0.0
    """In seconds since the Unix epoch; 0: now."""


class StartTimer(NamedTuple):
    """Report `TimerFired` when the time of this timer comes, unless the timer is dropped or the pass is failing by then."""

    timer: Timer


class Settle(NamedTuple):
    """Nothing is left to run, but signals may be waited for, or be in the inbox: take them, wait for them, or report `PassEnded`."""


class Finish(NamedTuple):
    """Nothing is left to run or to wait for: the pass is over, and this invocation's result is its output. '': there is none."""

    key: str


class Hold(NamedTuple):
    """A method has failed, and others still run: start nothing more, and end the waits for further attempts and timers."""


class Fail(NamedTuple):
    """A method raised, and all methods that ran at the same time have ended."""


class Drain(NamedTuple):
    """The pass is ending, and methods still run: start nothing more, and end all waits."""


class Continue(NamedTuple):
    """Nothing is left to run: the pass is over, and the next one begins."""


Command = RunMethod | RunLater | StartTimer | Settle | Finish | Hold | Fail | Drain | Continue


# ---- what a happening changes ----------------------------------------------------------------------------------


class Timing(NamedTuple):
    """What one happening changes in the attempts, time limits, timers and signals of a pass. Most happenings change nothing of these."""

    retried: tuple[str, float] | None = None
    """(key, time): an attempt of this pending invocation failed, and its next attempt is due then."""
    deadline: float | None = None
    """The pass's time limit, if this happening sets another one; 0 removes it."""
    started: tuple[Timer, ...] = ()
    """The timers that start."""
    fired: TimerKey | None = None
    """The timer that fires."""
    is_output: bool = False
    """Whether the result of the completed invocation is the output, unless another invocation's replaces it."""
    memo: tuple[str, str] | None = None
    """(key, step): this pending invocation stored a value under the name of one of its steps."""
    keeping: tuple[str, ...] | None = None
    """The listeners whose latches keep their cycle alive, if they change: those that wait for signals."""
    signal: str = ""
    """The key of the signal that was taken, such as `approved:1`."""
    ending: Ending = ""
    """How the pass ends, if this happening decides that: from here on nothing starts, no timer fires, and no signal is taken."""
    dropped: tuple[str, ...] = ()
    """The pending invocations that a pass drops that is ending: those that only waited."""
    opened: tuple[tuple[str, int, int], ...] = ()
    """(key, number of items, limit) of the enabled invocations that run once for each item of a list."""
    item: tuple[str, int] | None = None
    """(key of its invocation, index) of the item that completed; the index is -1 if the list is empty."""
    limits: tuple[tuple[str, int], ...] = ()
    """(key, limit) of the pending invocations whose limit of items has changed."""


class Transition(NamedTuple):
    """What one happening changes in a `Progress`: the delta that a checkpoint stores, and that `Progress.fold` applies."""

    completed: str = ""
    failed: str = ""
    resumed: bool = False
    enabled: tuple[Invocation, ...] = ()
    latched: tuple[tuple[str, str, Seen], ...] = ()
    """(listener, the name that arrived, how it arrived)."""
    skipped: tuple[str, ...] = ()
    """The `or_` listeners that had already fired in this cycle."""
    timing: Timing | None = None
    """What it changes in attempts, time limits and timers, if anything."""

    @property
    def keeps_result(self) -> bool:
        """Whether an invocation or a join now needs the result of the completed invocation."""
        key, _, _, enabled, latched, _, timing = self
        for *_, arguments in enabled:
            for _, source in arguments:
                if source == key:
                    return True
        if timing is None:  # a part of a join whose result is not needed has no source either
            return bool(key and latched) and any(seen.source == key for _, _, seen in latched)
        if timing.item is not None and timing.item[1] >= 0:
            return True
        if not key:
            return bool(timing.signal) and self._replace(completed=timing.signal).keeps_result
        is_needed = timing.is_output or any(seen.source == key for _, _, seen in latched)
        return is_needed or any(timer.source == key for timer in timing.started)
