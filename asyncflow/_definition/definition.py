"""A flow class as frozen data: its methods, what each waits for and receives, which method listens to what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from .aliases import UNRESOLVED
from .retry import Retry
from .signals import Signal
from .triggers import AnyOf, Condition, TimerDefinition, names_in, required_names, satisfied

__all__ = ["FlowDefinition", "MethodDefinition", "Reached", "Receives", "label_of"]


class Receives(Enum):
    """The arguments that a method is called with."""

    NOTHING = "nothing"
    LAST = "last"
    """The result of the trigger that satisfied its condition, as the only positional argument."""
    NAMED = "named"
    """The result of each trigger, by the name of the trigger."""


@dataclass(frozen=True, slots=True)
class MethodDefinition:
    """One method of a flow. `condition` is None for an unconditional start."""

    name: str
    function: Callable[..., Any] = field(compare=False, repr=False)
    condition: Condition | None = None
    is_start: bool = False
    is_router: bool = False
    is_async: bool = True
    labels: frozenset[str] | None = None
    """The labels that a router declares; None if they are unknown."""
    receives: Receives = Receives.NOTHING
    parameters: tuple[str, ...] = ()
    """The names of the triggers whose results it receives (`Receives.NAMED`)."""
    returns: Any = None
    """The return annotation, resolved; `inspect.Signature.empty` if there is none, or if `is_unresolved`."""
    is_unresolved: bool = False
    """Whether the return annotation uses a name that was not defined when it was read."""
    names: frozenset[str] = frozenset()
    """Every name that its condition mentions."""
    once_a_cycle: bool = False
    """Whether its outermost condition is an `or_` of two or more parts."""
    retry: Retry | None = None
    """What follows when an attempt of it raises; None: it is not tried again."""
    timeout: float | None = None
    """The seconds that an attempt may take; None for no limit."""
    timers: tuple[TimerDefinition, ...] = ()
    """The timers in its condition."""
    is_output: bool = False
    """Whether its result is the output of the flow, whichever method completes last."""
    signals: frozenset[str] = frozenset()
    """The names of the signals in its condition."""
    keep_open: bool = False
    """Whether the pass waits for it to run once: only if signals alone satisfy its condition."""
    by_signals: bool = False
    """Whether signals alone satisfy its condition."""
    each: bool = False
    """Whether it runs once for each item of the list that its trigger returns."""
    limit: int = 0
    """How many of its items may run at the same time; 0: no limit."""
    fewest: int = 0
    """The minimum number of names that must have arrived before its condition can be satisfied."""

    @classmethod
    def make(cls, **fields: Any) -> MethodDefinition:
        """Create a definition, with the fields that follow from the condition filled in."""
        condition = fields.get("condition")
        names = frozenset(() if condition is None else names_in(condition))
        fewest = len(frozenset(() if condition is None else required_names(condition)))
        signals = fields.get("signals", ())
        by_signals = bool(signals) and condition is not None and satisfied(condition, signals)
        is_or = isinstance(condition, AnyOf)
        return cls(**fields, names=names, once_a_cycle=is_or, by_signals=by_signals, fewest=fewest)


class Reached(NamedTuple):
    """The methods that an event reaches, and the timers that it starts."""

    methods: tuple[MethodDefinition, ...]
    names: frozenset[str]
    """Of the methods."""
    timers: tuple[tuple[MethodDefinition, TimerDefinition], ...] = ()
    """Each with its listener."""


@dataclass(frozen=True, slots=True)
class FlowDefinition:
    """A validated flow class as data. `methods` holds routers and listeners in order of definition."""

    name: str
    methods: Mapping[str, MethodDefinition]
    signals: Mapping[str, Signal[Any]] = field(default_factory=dict, compare=False, repr=False)
    """Every signal that the class declares, by name."""
    result: Any = field(default=Any, compare=False, repr=False)
    """The type of the output that the class declares, `Flow[State, Result]`; `Any` if it declares none."""
    starts: tuple[MethodDefinition, ...] = field(init=False, compare=False, repr=False)
    """The methods that a pass starts with: the unconditional starts, or all of them if none is unconditional."""
    has_timers: bool = field(init=False, compare=False, repr=False)
    """Whether any method waits for a timer."""
    has_items: bool = field(init=False, compare=False, repr=False)
    """Whether any method runs once for each item of a list."""
    signalled: tuple[MethodDefinition, ...] = field(init=False, compare=False, repr=False)
    """The methods whose condition mentions a signal: routers first."""
    keeping: frozenset[str] = field(init=False, compare=False, repr=False)
    """Their names: their latches keep a cycle alive."""
    output: str = field(init=False, compare=False, repr=False)
    """The method whose result is the output of the flow; '' if it is the one that completes last."""
    keeps_output: bool = field(init=False, compare=False, repr=False)
    """Whether an output may have to be kept before the last method completes."""
    may_wait: bool = field(init=False, compare=False, repr=False)
    """Whether a pass may wait for a time or a signal with no method running."""
    reserved: frozenset[str] = field(init=False, compare=False, repr=False)
    """The names of methods, signals and timers: what is no label, because it would trigger by that name."""
    unresolved: tuple[MethodDefinition, ...] = field(init=False, compare=False, repr=False)
    """The methods whose return annotation uses a name that was not defined when it was read."""
    is_unresolved: bool = field(init=False, compare=False, repr=False)
    """Whether there are any, or the declared result uses such a name."""
    _in_order: tuple[MethodDefinition, ...] = field(init=False, compare=False, repr=False)
    _mentioned: dict[str, list[int]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """For each name, the positions of the methods whose condition mentions it."""
    _timed: dict[str, list[tuple[MethodDefinition, TimerDefinition]]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )
    """For each name that starts timers, these, each with its listener."""
    _reached: dict[tuple[str, ...], Reached] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        methods = tuple(self.methods.values())
        object.__setattr__(self, "_in_order", methods)
        self._index()
        object.__setattr__(self, "starts", tuple(_routers_first(_first_of(methods))))
        object.__setattr__(self, "unresolved", tuple(m for m in methods if m.is_unresolved))
        object.__setattr__(self, "is_unresolved", bool(self.unresolved) or self.result is UNRESOLVED)
        output = next((m.name for m in methods if m.is_output), "")
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "has_timers", bool(self._timed))
        object.__setattr__(self, "has_items", has_items := any(m.each for m in methods))
        timers = (timer.name for method in methods for timer in method.timers)
        object.__setattr__(self, "reserved", frozenset((*self.methods, *self.signals, *timers)))
        signalled = _routers_first([m for m in methods if m.signals])
        object.__setattr__(self, "signalled", tuple(signalled))
        object.__setattr__(self, "keeping", frozenset(m.name for m in signalled))
        object.__setattr__(self, "keeps_output", bool(self._timed or output or self.signals or has_items))
        is_retried = any(m.retry is not None for m in methods)
        object.__setattr__(self, "may_wait", bool(self._timed or self.signals or is_retried))

    def _index(self) -> None:
        """Index by name what an event of that name reaches: the methods that mention it, and the timers that it starts."""
        for place, method in enumerate(self._in_order):
            for name in method.names:
                self._mentioned.setdefault(name, []).append(place)
            for timer in method.timers:
                self._timed.setdefault(timer.source, []).append((method, timer))

    def reached_by(self, names: tuple[str, ...]) -> Reached:
        """Return the methods whose condition mentions one of an event's names: routers first, each group in order of definition."""
        found = self._reached.get(names)
        if found is None:
            hit = _routers_first(self.mentioning(names))
            timers = tuple(timed for name in names for timed in self._timed.get(name, ())) if self._timed else ()
            found = Reached(tuple(hit), frozenset(m.name for m in hit), timers)
            if all(self.is_known(name) for name in names):
                self._reached[names] = found
        return found

    def mentioning(self, names: Iterable[str]) -> list[MethodDefinition]:
        """Return the methods whose condition mentions one of the names, in order of definition."""
        places = sorted({place for name in names for place in self._mentioned.get(name, ())})
        return [self._in_order[place] for place in places]

    @property
    def last(self) -> tuple[MethodDefinition, ...]:
        """The methods whose result may be the output: the named one, else those that are not certain to be followed by another."""
        if self.output:
            return (self.methods[self.output],)
        followed = {m.condition for m in self.methods.values() if isinstance(m.condition, str)}
        followed |= {timer.source for m in self.methods.values() for timer in m.timers if timer.name == m.condition}
        return tuple(
            m for m in self.methods.values() if m.name not in followed and not (m.labels and m.labels <= followed)
        )

    def is_known(self, name: str) -> bool:
        """Whether the name is a method, or a name that a method listens to. This bounds the cache."""
        return name in self.methods or name in self._mentioned or name in self._timed

    def timed_by(self, name: str) -> Sequence[tuple[MethodDefinition, TimerDefinition]]:
        """Return the timers that a method or a label starts, each with its listener."""
        return self._timed.get(name, ())


def _first_of(methods: Sequence[MethodDefinition]) -> list[MethodDefinition]:
    """Return the methods that a pass starts with: the unconditional starts, or all of them if none is unconditional."""
    starts = [m for m in methods if m.is_start]
    return [m for m in starts if m.condition is None] or starts


def _routers_first(methods: list[MethodDefinition]) -> list[MethodDefinition]:
    return sorted(methods, key=lambda m: not m.is_router)


def label_of(value: object) -> str | None:
    """Return the label for a router's value: `str()` of it, an Enum by its value; None is no label."""
    if value is None:
        return None
    return str(value.value) if isinstance(value, Enum) else str(value)
