"""The picture of a flow as data: nodes, edges, and what a run did with them. It knows no format and reads no flow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from .words import duration, shown

__all__ = ["STATUSES", "Edge", "Happened", "Node", "NodeKind", "NodeStatus", "Picture"]

NodeKind = Literal["start", "listen", "router", "and", "or", "signal", "timer", "label", "end"]
"""What a node is.

    start, listen, router   a method; one that begins a pass and is a router is a router with `begins`
    and, or                 a part of a method's condition, where that joins several
    signal, timer           what a condition waits for besides methods and labels
    label                   a label that no router declares
    end                     where the labels of a router go to which nothing listens
"""

NodeStatus = Literal[
    "", "completed", "running", "failed", "retrying", "waiting", "interrupted", "skipped", "not reached"
]
"""What a run did with a node; '': this is no picture of a run, or nothing is known.

    completed     it has completed, and no further invocation of it is pending
    running       it runs
    failed        it raised, and is not tried again
    retrying      it raised, and the next attempt is due
    waiting       an invocation of it waits; a signal or a timer is waited for
    interrupted   it had started, or was about to, when the run stopped
    skipped       the run has ended without it
    not reached   the run has not reached it yet
"""

STATUSES = get_args(NodeStatus)[1:]

Happened = tuple[str, int] | tuple[str, int, float | None]
"""What a run did with a node: status, how often it completed, and optionally the seconds that its last invocation took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A method, or a join, a signal, a timer or an end between methods."""

    id: str
    """Unique in its picture; of a method, its name."""
    kind: NodeKind
    text: str
    """What it is called."""
    owner: str = ""
    """Of a join or a timer, the method whose condition it belongs to."""
    notes: tuple[str, ...] = ()
    """What its decorator says besides the condition, in words."""
    condition: str = ""
    """What a method waits for, as one writes it."""
    labels: tuple[str, ...] | None = None
    """The labels of a router; None if they are unknown, or it is no router."""
    begins: bool = False
    """Whether a pass starts with it."""
    is_output: bool = False
    """Whether its result is the output of the flow."""
    each: bool = False
    """Whether it runs once for each item of a list."""
    keeps_open: bool = False
    about: str = ""
    """The first line of a method's docstring; of a signal, its payload."""
    status: str = ""
    count: int = 0
    """How often it has completed in the pass."""
    seconds: float | None = None
    """How long its last invocation took, if that is known."""

    @property
    def is_method(self) -> bool:
        """Whether it is a method of the flow."""
        return self.kind in ("start", "listen", "router")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An arrow from one node to another."""

    source: str
    target: str
    label: str = ""
    """The label of a router that leads there."""
    each: bool = False
    """Whether the target runs once for each item of what the source returns."""
    loop: bool = False
    """Whether it leads back to a node that leads to its source."""
    maybe: bool = False
    """Whether the router does not declare its labels, and may return this one."""
    idle: bool = False
    """In the picture of a run: whether nothing has passed along it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A flow as a graph; with a status, a run of it."""

    name: str
    """The name of the flow."""
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    run_id: str = ""
    status: str = ""
    """The status of the run; '' for the picture of a class."""

    def with_run(self, happened: Mapping[str, Happened], *, run_id: str = "", status: str = "running") -> Picture:
        """Return the picture of a run.

        - `happened`: by node id, which of a method is its name: (status, count) or (status, count, seconds).
        - `run_id`, `status`: of the run.
        """
        left = "skipped" if status in ("finished", "cancelled") else "not reached"
        nodes = tuple(_after(node, happened.get(node.id), left) for node in self.nodes)
        passed = _passed(nodes, self.edges)
        edges = tuple(replace(edge, idle=edge not in passed) for edge in self.edges)
        return replace(self, nodes=nodes, edges=edges, run_id=run_id, status=status)

    def to_json(self) -> str:
        """Return the picture as the JSON object that `draw.js` draws: name, run_id, status, nodes and edges, with their fields.

        Texts are as they are shown; a node has its last duration in words, too, as `took`.
        """
        fields = asdict(self)
        for node in fields["nodes"]:
            node |= {name: shown(node[name], 400) for name in ("condition", "about")}
            node |= {"text": shown(node["text"]), "took": "" if node["seconds"] is None else duration(node["seconds"])}
        for edge in fields["edges"]:
            edge["label"] = shown(edge["label"])
        return json.dumps(fields)


def _after(node: Node, happened: Happened | None, left: str) -> Node:
    """Return a node as a run has left it. `left`: the status of a method of which nothing is known."""
    if happened is None:
        return replace(node, status=left) if node.is_method else node
    status, count, *more = happened
    return replace(node, status=status, count=count, seconds=more[0] if more else None)


def _with_conditions_of(waited_for: set[str], by_id: Mapping[str, Node], edges: Iterable[Edge]) -> set[str]:
    """Return nodes and the conditions that have one of them as a part, however deep."""
    found = set(waited_for)
    while more := {e.target for e in edges if e.source in found and by_id[e.target].owner} - found:
        found |= more
    return found


def _passed(nodes: tuple[Node, ...], edges: tuple[Edge, ...]) -> set[Edge]:
    """Return the edges along which a run has passed, as far as the nodes show it. What is not certain has not."""
    by_id = {node.id: node for node in nodes}
    begun = {n.id: n.count + (n.status not in ("", "completed", "skipped", "not reached")) for n in nodes}
    waited_for = {n.id for n in nodes if n.status == "waiting" and not n.is_method}
    holding = _with_conditions_of(waited_for, by_id, edges)

    def arrived(edge: Edge) -> bool:
        """Whether its target has begun: again, if the edge leads back. An `and` has that still waits for a part of it."""
        target = by_id[edge.target]
        is_held = target.id in waited_for or (target.kind == "and" and target.id in holding)
        return is_held or begun[target.owner or target.id] > edge.loop

    followed = {(e.source, e.label, e.loop) for e in edges if e.label and arrived(e)}
    routed = {source for source, _, _ in followed}

    def has_passed(edge: Edge) -> bool:
        source = by_id[edge.source]
        if source.owner:
            return source.id not in waited_for and begun[source.owner] > 0
        if by_id[edge.target].kind == "end":
            return source.count > 0 and source.id not in routed
        return source.count > 0 and (not edge.label or (source.id, edge.label, edge.loop) in followed)

    return {edge for edge in edges if has_passed(edge)}
