"""The words of the naive model: methods, launches, events, steps; and what it asks of a condition."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

from asyncflow._definition.triggers import AllOf, AnyOf, Condition

__all__ = ["Armed", "Event", "Launch", "Node", "Step", "holds", "mentions", "subsets"]


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
    limit: int | None = None
    """How many items run at the same time, 0 for all; None: it does not run for each item of a list."""


@dataclass(frozen=True)
class Launch:
    method: str
    occurrence: int
    cycle: str
    ancestry: frozenset[str]
    arguments: tuple[tuple[str, str], ...] = ()
    place: int | None = None
    """Of an item, where it is in its list."""

    @property
    def key(self) -> str:
        return f"{self.method}:{self.occurrence}" + ("" if self.place is None else f"[{self.place}]")


@dataclass(frozen=True)
class Event:
    key: str
    names: tuple[str, ...]
    cycle: str
    ancestry: frozenset[str]
    only: str = ""
    """The one method that it reaches: of a timer's event."""
    items: int = 0
    """How many items its result has."""


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
