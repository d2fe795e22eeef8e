"""Derives the picture of a flow from its definition. It runs nothing: of a method's code it reads the names that it uses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import replace
from typing import Any, Final

from .._definition.definition import FlowDefinition, MethodDefinition
from .._definition.signals import Signal
from .._definition.triggers import AllOf, AnyOf, Condition, Delay, TimerDefinition
from .._durations import seconds
from .picture import Edge, Node, NodeKind, Picture
from .words import condition_in_words, duration

__all__ = ["picture_of"]

CALLS: Final = {
    "step": "sub-steps",
    "step_sync": "sub-steps",
    "sleep": "sleeps",
    "wait_for": "waits for a signal",
    "run_child": "child runs",
}
"""In words, the functions of asyncflow whose use in a method a picture shows."""


def picture_of(definition: FlowDefinition, name: str = "") -> Picture:
    """Return the picture of a flow. `name`: as people know the flow; without it, the name of its class."""
    drawing = _Drawing(definition)
    for method in definition.methods.values():
        drawing.add(method)
    nodes = tuple(drawing.nodes.values())
    return Picture(name=name or definition.name, nodes=nodes, edges=_with_loops(nodes, drawing.edges))


class _Drawing:
    """The nodes and edges of a picture while they are collected."""

    def __init__(self, definition: FlowDefinition) -> None:
        self.definition = definition
        self.nodes: dict[str, Node] = {}
        self.edges: dict[Edge, None] = {}
        self._starts = {m.name for m in definition.starts}
        self._routers = [m for m in definition.methods.values() if m.is_router]

    def add(self, method: MethodDefinition) -> None:
        """Add a method, and the joins, signals and timers between it and the methods that it waits for."""
        begins = method.name in self._starts
        kind: NodeKind = "router" if method.is_router else "start" if begins else "listen"
        self.nodes[method.name] = Node(
            id=method.name,
            kind=kind,
            text=method.name,
            notes=tuple(_notes(method)),
            condition=condition_in_words(method.condition, self.definition.reserved),
            labels=None if method.labels is None else tuple(sorted(method.labels)),
            begins=begins,
            is_output=method.is_output,
            each=method.each,
            keeps_open=method.keep_open,
            about=_about(method.function),
        )
        if method.condition is not None:
            self._lead(method.condition, method.name, method)
        for label in sorted(method.labels or ()):
            if not self.definition.is_known(label):
                end = self._node(f"end:{method.name}", "end", "end")
                self._edge(Edge(source=method.name, target=end, label=label))

    def _lead(self, condition: Condition, target: str, method: MethodDefinition, place: str = "") -> None:
        """Add what leads to a node: the parts of a condition of a method."""
        if isinstance(condition, AllOf | AnyOf):
            kind: NodeKind = "and" if isinstance(condition, AllOf) else "or"
            join = self._node(f"{kind}:{method.name}{place}", kind, kind, owner=method.name)
            self._edge(Edge(source=join, target=target))
            for n, part in enumerate(condition.parts):
                self._lead(part, join, method, f"{place}.{n}")  # type: ignore[arg-type]  # normalised: no functions
            return
        timer = next((timer for timer in method.timers if timer.name == condition), None)
        if timer is not None:
            node = f"timer:{method.name}:{timer.source}"
            self._node(
                node, "timer", f"after {_delay_in_words(timer.delay)}", owner=method.name, about=_about_timer(timer)
            )
            self._edge(Edge(source=node, target=target))
            condition, target = timer.source, node
        for edge in self._into(condition, target):
            self._edge(replace(edge, each=method.each))

    def _into(self, name: str, target: str) -> Iterator[Edge]:
        """Yield the edges from the source that a name in a condition means."""
        if name in self.definition.methods:
            yield Edge(source=name, target=target)
        elif name in self.definition.signals:
            signal = self.definition.signals[name]
            yield Edge(source=self._node(f"signal:{name}", "signal", name, about=_about_signal(signal)), target=target)
        else:
            known = [m for m in self._routers if m.labels is None or name in m.labels]
            for router in known:
                yield Edge(source=router.name, target=target, label=name, maybe=router.labels is None)
            if not known:
                yield Edge(source=self._node(f"label:{name}", "label", name), target=target)

    def _node(self, node: str, kind: NodeKind, text: str, *, owner: str = "", about: str = "") -> str:
        self.nodes.setdefault(node, Node(id=node, kind=kind, text=text, owner=owner, about=about))
        return node

    def _edge(self, edge: Edge) -> None:
        self.edges.setdefault(edge)


def _with_loops(nodes: tuple[Node, ...], edges: Mapping[Edge, None]) -> tuple[Edge, ...]:
    """Mark the edges that lead back, found depth first from the starts: without them the graph has no cycle."""
    following: dict[str, list[Edge]] = {node.id: [] for node in nodes}
    for edge in edges:
        following[edge.source].append(edge)
    back, done, path = set[Edge](), set[str](), dict[str, Iterator[Edge]]()
    for node in sorted(nodes, key=lambda node: not node.begins):
        if node.id in done:
            continue
        path[node.id] = iter(following[node.id])
        while path:
            current = next(reversed(path))
            followed = next(path[current], None)
            if followed is None:
                del path[current]
                done.add(current)
            elif followed.target in path:
                back.add(followed)
            elif followed.target not in done:
                path[followed.target] = iter(following[followed.target])
    return tuple(replace(edge, loop=edge in back) for edge in edges)


def _notes(method: MethodDefinition) -> Iterator[str]:
    """Yield what a method's decorator and code say besides its condition."""
    if method.each:
        yield f"each item, {method.limit} at a time" if method.limit else "each item"
    if method.retry is not None and method.retry.attempts != 1:
        yield "retried without limit" if method.retry.attempts is None else f"{method.retry.attempts} attempts"
    if method.timeout is not None:
        yield f"{duration(method.timeout)} limit"
    yield from _used_in(method.function)


def _used_in(function: Callable[..., Any]) -> list[str]:
    """Return in words which functions of asyncflow a method uses, and which flows it names, as far as its code shows that."""
    try:
        names = inspect.getclosurevars(inspect.unwrap(function))
    except (TypeError, ValueError):  # no function of Python, or a variable that it uses has no value yet
        return []
    values = [*names.globals.values(), *names.nonlocals.values()]
    children = sorted(v.__name__ for v in values if isinstance(v, type) and _is_flow(v))
    words = [f"runs {child}" for child in children] + [CALLS[name] for name in _calls_in(values, names.unbound)]
    return list(dict.fromkeys(word for word in words if word != "child runs" or not children))


def _calls_in(values: Iterable[Any], unbound: Set[str]) -> list[str]:
    """Return the names of functions of asyncflow among values, and among the unbound names of code that names the package."""
    used = [each.__name__ for each in values if inspect.isfunction(each) and _is_own(each) and each.__name__ in CALLS]
    is_package_named = any(inspect.ismodule(each) and each.__name__ == "asyncflow" for each in values)
    return used + (sorted(unbound & CALLS.keys()) if is_package_named else [])


def _is_own(function: Callable[..., Any]) -> bool:
    return function.__module__.startswith("asyncflow.")


def _is_flow(cls: type) -> bool:
    return isinstance(getattr(cls, "_definition", None), FlowDefinition)


def _about(function: Callable[..., Any]) -> str:
    """Return the first line of a docstring; that of a built-in function says nothing."""
    return (inspect.getdoc(function) or "").partition("\n")[0] if inspect.isfunction(function) else ""


def _about_signal(signal: Signal[Any]) -> str:
    return "" if signal.payload is None else str(getattr(signal.payload, "__name__", signal.payload))


def _about_timer(timer: TimerDefinition) -> str:
    return f"{_delay_in_words(timer.delay)} after {timer.source}"


def _delay_in_words(delay: Delay) -> str:
    fixed = None if callable(delay) else seconds(delay)
    return "a computed time" if fixed is None else duration(fixed)
