"""Random graphs of methods, and the choices with which they are played."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from driver import AGAIN, BOOM
from hypothesis import strategies as st
from shapes import Node

from asyncflow import Signal, after, and_, or_
from asyncflow._definition.definition import FlowDefinition, MethodDefinition, Receives
from asyncflow._definition.triggers import (
    AllOf,
    TimerDefinition,
    names_in,
    normalised,
    required_names,
    satisfied,
    timers_in,
    trigger_of,
)

LABELS = ("A", "B", "C")
SIGNALS = ("s", "t")
CRASH = object()
WAIT = object()
"""A method begins to wait, while the pass is ending."""
ASKS = ("finish", "continue")
STOP = "stop"
"""Who asks for the end of the pass: a method that ends, or somebody outside."""
MOST_ITEMS = 5
LIMITS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Upgrade:
    """The process dies, and the next one has another limit of items."""

    limit: int


def trees(leaves: Sequence[str], depth: int = 3) -> st.SearchStrategy[Any]:
    """Conditions nested up to `depth`."""
    leaf = st.sampled_from(leaves)
    if depth == 0:
        return leaf
    parts = st.lists(trees(leaves, depth - 1), min_size=1, max_size=3)
    return leaf | st.builds(lambda kind, of: kind(*of), st.sampled_from((or_, and_)), parts)


@st.composite
def nodes(draw: st.DrawFn, names: Sequence[str], position: int, sent: Sequence[str]) -> Node:
    name = names[position]
    is_start = position == 0 or draw(st.integers(0, 3)) == 0
    is_router = draw(st.booleans())
    if is_start and draw(st.integers(0, 2)):
        return Node(name, None, True, is_router)
    triggers = [other for other in names if other != name] + list(LABELS)
    tree = draw(trees([*triggers, *(after(trigger, 1) for trigger in triggers), *sent, *sent]))
    condition = normalised(tree)
    signals = frozenset(names_in(condition)) & frozenset(sent)
    timers = tuple(dict.fromkeys((timer.name, timer.source) for timer in timers_in(tree)))
    takes = draw(st.sampled_from(("nothing", "last", "named")))
    if takes == "named":
        surely = sorted(set(map(trigger_of, required_names(condition)))) if isinstance(condition, AllOf) else []
        by_name = tuple(draw(st.lists(st.sampled_from(surely), min_size=1, unique=True))) if surely else "last"
        takes = "nothing" if is_start else by_name
    is_kept_open = bool(signals) and not timers and satisfied(condition, signals) and draw(st.booleans())
    return Node(
        name, condition, is_start, is_router, "nothing" if is_start else takes, timers, False, signals, is_kept_open
    )


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    names = [f"m{number}" for number in range(draw(st.integers(2, 6)))]
    output = draw(st.sampled_from([None, None, *names]))
    sent = SIGNALS if draw(st.booleans()) else ()
    made = [draw(nodes(names, position, sent)) for position in range(len(names))]
    made = [replace(node, is_output=node.name == output) for node in made]
    for position in draw(st.sampled_from([*([n] for n in range(1, len(names))), [], [1, len(names) - 1]])):
        made[position] = draw(mapped(made, position))
    return made


@st.composite
def mapped(draw: st.DrawFn, made: Sequence[Node], position: int) -> Node:
    """A method in this place that runs for each item of what another one returns."""
    sources = [other.name for number, other in enumerate(made) if number != position and not other.is_router]
    if not sources:
        return made[position]
    takes, limit = draw(st.sampled_from(("last", "nothing"))), draw(st.sampled_from(LIMITS))
    is_output = made[position].is_output
    return Node(made[position].name, draw(st.sampled_from(sources)), takes=takes, is_output=is_output, limit=limit)


HOW = (*LABELS, *LABELS, None, None, None, AGAIN, BOOM, CRASH, *SIGNALS, *ASKS, STOP, WAIT, *map(Upgrade, LIMITS))

choices = st.lists(st.tuples(st.integers(0, 11), st.sampled_from(HOW)), min_size=25, max_size=50)
"""Which of the running invocations ends next, and how, or which paused one starts; the process may die, or a signal come, instead.

The number is also how many items a result has.
"""


def definition_of(graph: Sequence[Node]) -> FlowDefinition:
    return FlowDefinition("Random", {node.name: _method(node) for node in graph}, signals_of(graph))


def signals_of(graph: Sequence[Node]) -> dict[str, Signal[Any]]:
    return {name: Signal(name) for node in graph for name in node.signals}


def _method(node: Node) -> MethodDefinition:
    by_name = () if isinstance(node.takes, str) else node.takes
    return MethodDefinition.make(
        name=node.name,
        function=print,
        condition=node.condition,
        is_start=node.is_start,
        is_router=node.is_router,
        receives=Receives.NAMED if by_name else Receives[node.takes.upper()],  # type: ignore[union-attr]
        parameters=by_name,
        is_output=node.is_output,
        timers=tuple(TimerDefinition(timer, source, 1) for timer, source in node.timers),
        signals=node.signals,
        keep_open=node.keep_open,
        each=node.limit is not None,
        limit=node.limit or 0,
    )
