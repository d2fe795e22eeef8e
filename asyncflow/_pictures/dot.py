"""Renders a picture as DOT, the language of Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .mermaid import CLASSES, RUN_CLASSES
from .picture import Edge, Node, Picture
from .words import marked, shown

__all__ = ["to_dot"]

SHAPES: Final = {
    "start": 'shape=box, style="rounded,filled,bold"',
    "listen": 'shape=box, style="rounded,filled"',
    "each": 'shape=box3d, style="filled"',
    "router": 'shape=hexagon, style="filled", margin="0.08,0.02"',
    "and": 'shape=circle, style="filled", fixedsize=true, width=0.42, fontsize=9',
    "or": 'shape=circle, style="filled", fixedsize=true, width=0.42, fontsize=9',
    "signal": 'shape=cds, style="filled", margin="0.22,0.08"',
    "timer": 'shape=trapezium, style="filled", margin="0.02,0.02"',
    "label": 'shape=box, style="rounded,filled,dashed"',
    "end": 'shape=doublecircle, style="filled", fixedsize=true, width=0.16',
}
"""The shape of each kind of node."""


def to_dot(picture: Picture) -> str:
    """Return the source of a directed graph."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    yield f"digraph {_quoted(picture.name)} {{"
    yield '    graph [rankdir=TB, bgcolor="transparent", nodesep=0.35, ranksep=0.5]'
    yield '    node [fontname="Helvetica,Arial,sans-serif", fontsize=11]'
    yield '    edge [fontname="Helvetica,Arial,sans-serif", fontsize=9, color="#64748b", fontcolor="#64748b", arrowsize=0.7]'
    for node in picture.nodes:
        yield f"    {_id(node.id)} [{_attributes(node, bool(picture.status))}]"
    for edge in picture.edges:
        yield f"    {_id(edge.source)} -> {_id(edge.target)}{_drawn(edge)}"
    yield "}"


def _attributes(node: Node, is_run: bool) -> str:
    text = "" if node.kind == "end" else marked(shown(node.text), node.status, node.count, node.seconds)
    lines = [text, *([shown(" · ".join(node.notes), 160)] if node.notes else [])]
    kind = "each" if node.each else node.kind
    colors = RUN_CLASSES[node.status or "between"] if is_run else CLASSES[kind]
    found = dict(part.split(":") for part in colors.split(","))
    more = ", penwidth=2" if "stroke-width" in found else ""
    more += ", peripheries=2" if node.is_output else ""
    fill = f'fillcolor="{found["fill"]}", color="{found["stroke"]}", fontcolor="{found["color"]}"'
    return f"label={_quoted(chr(10).join(lines))}, {SHAPES[kind]}, {fill}{more}"


def _drawn(edge: Edge) -> str:
    found = list[str]()
    label = edge.label + ("?" if edge.maybe else "")
    if label or edge.each:
        found.append(f"label={_quoted(shown(label) or 'each')}")
    if edge.each:
        found.append('penwidth=3, color="#1c7f8c"')
    if edge.idle or edge.loop or edge.maybe:
        found.append(f"style={'dotted' if edge.idle else 'dashed'}")
    if edge.loop:
        found.append("constraint=false")
    return f" [{', '.join(found)}]" if found else ""


def _quoted(text: str) -> str:
    """Return a string of DOT: every word may be one, reserved or not. Graphviz would read entities and backslashes in it."""
    escaped = text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n") + '"'


def _id(node: str) -> str:
    return _quoted(shown(node, 1000))
