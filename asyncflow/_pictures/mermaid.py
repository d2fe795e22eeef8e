"""Renders a picture as a Mermaid flowchart, which GitHub, GitLab and notebooks draw."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .picture import Edge, Node, Picture
from .words import marked, shown

__all__ = ["to_mermaid"]

SHAPES: Final = {
    "start": '(["{}"])',
    "listen": '["{}"]',
    "each": '[["{}"]]',
    "router": '{{{{"{}"}}}}',
    "and": '(("{}"))',
    "or": '(("{}"))',
    "signal": '>"{}"]',
    "timer": '[/"{}"\\]',
    "label": '["{}"]',
    "end": '(("{}"))',
}
"""The shape of each kind of node."""

CLASSES: Final = {
    "start": "fill:#d9f2e3,stroke:#1a7f4b,color:#0b3d24",
    "listen": "fill:#e3edfb,stroke:#3b6fb6,color:#14315a",
    "router": "fill:#fdeecb,stroke:#b7791f,color:#573a07",
    "each": "fill:#d8f1f3,stroke:#1c7f8c,color:#083f47",
    "and": "fill:#475569,stroke:#475569,color:#ffffff",
    "or": "fill:#ffffff,stroke:#475569,color:#334155",
    "signal": "fill:#efe4fc,stroke:#7c4dbd,color:#3d1f6b",
    "timer": "fill:#fce3ef,stroke:#b83a78,color:#5f1139",
    "label": "fill:#f1f5f9,stroke:#94a3b8,color:#334155,stroke-dasharray:4 3",
    "end": "fill:#475569,stroke:#475569,color:#ffffff",
    "output": "stroke-width:4px",
}
"""The colors of each kind of node: readable on a light and on a dark page."""

RUN_CLASSES: Final = {
    "completed": "fill:#d9f2e3,stroke:#1a7f4b,color:#0b3d24",
    "running": "fill:#dbe9fe,stroke:#2563eb,color:#0f2f6e,stroke-width:3px",
    "failed": "fill:#fddcdc,stroke:#c52a2a,color:#6b1010,stroke-width:3px",
    "retrying": "fill:#fee3c8,stroke:#c2570c,color:#5c2703,stroke-width:3px",
    "waiting": "fill:#efe4fc,stroke:#7c4dbd,color:#3d1f6b,stroke-width:3px",
    "interrupted": "fill:#fdf3c4,stroke:#a17c07,color:#523f02,stroke-width:3px",
    "skipped": "fill:#f1f5f9,stroke:#cbd5e1,color:#64748b",
    "not reached": "fill:#ffffff,stroke:#94a3b8,color:#475569,stroke-dasharray:4 3",
    "between": "fill:#e2e8f0,stroke:#64748b,color:#334155",
}
"""The colors of a run's picture, by status; "between": what is no method, and of which nothing is known."""

UNSAFE: Final = r"^[-+]|-(?=-)|[^\w\s,.:()·×✓▶✗↻‖–↺✉■▷…?-]|(?<![^\W_])_|_(?![^\W_])"
"""Characters that Mermaid, Markdown or HTML could read as markup, in a label that is quoted."""


def to_mermaid(picture: Picture) -> str:
    """Return the source of a flowchart."""
    return "\n".join(_lines(picture)) + "\n"


def _lines(picture: Picture) -> Iterator[str]:
    ids = {node.id: _id(node, n) for n, node in enumerate(picture.nodes)}
    yield "flowchart TD"
    for node in picture.nodes:
        yield f"    {ids[node.id]}{_shaped(node)}"
    for edge in picture.edges:
        yield f"    {ids[edge.source]} {_arrow(edge)} {ids[edge.target]}"
    used: dict[str, list[str]] = {}
    for node in picture.nodes:
        used.setdefault(_class(node, bool(picture.status)), []).append(ids[node.id])
        if node.is_output:
            used.setdefault("output", []).append(ids[node.id])
    styles = RUN_CLASSES if picture.status else CLASSES
    for name, members in used.items():
        label = name.replace(" ", "_")
        yield f"    classDef {label}_ {styles[name] if name in styles else CLASSES[name]}"
        yield f"    class {','.join(members)} {label}_"
    idle = [str(n) for n, edge in enumerate(picture.edges) if edge.idle]
    if idle:
        yield f"    linkStyle {','.join(idle)} stroke:#94a3b8,stroke-dasharray:2 4"


def _class(node: Node, is_run: bool) -> str:
    if is_run:
        return node.status or "between"
    return "each" if node.each else node.kind


def _id(node: Node, place: int) -> str:
    """Return the id of a node in the source: never a reserved word of Mermaid, and readable where that is possible."""
    return f"m_{node.id}" if node.is_method and re.fullmatch(r"[A-Za-z]\w*", node.id, re.ASCII) else f"n{place}"


def _shaped(node: Node) -> str:
    text = _text(node)
    lines = [text, *(f"<small>{_escaped(note)}</small>" for note in _notes(node))]
    return SHAPES["each" if node.each else node.kind].format("<br>".join(lines))


def _notes(node: Node) -> Iterator[str]:
    if node.notes:
        yield shown(" · ".join(node.notes), 160)
    if node.is_output:
        yield "output"


def _text(node: Node) -> str:
    """Return the text of a node, with the sign of its kind, which a glance finds, and what a run did with it."""
    sign = "✉ " if node.kind == "signal" else "▷ " if node.kind == "router" and node.begins else ""
    text = "■" if node.kind == "end" else sign + shown(node.text)
    return _escaped(marked(text, node.status, node.count, node.seconds))


def _arrow(edge: Edge) -> str:
    arrow = "==>" if edge.each else "-.->" if edge.loop or edge.maybe else "-->"
    label = shown(edge.label) + ("?" if edge.maybe else "")
    label = _escaped(" ".join(part for part in (label, "↺" if edge.loop else "", "each" if edge.each else "") if part))
    return f'{arrow}|"{label}"|' if label else arrow


def _escaped(text: str) -> str:
    """Return a text for a quoted label: what Mermaid, Markdown or HTML could read as markup becomes an entity code."""
    text = re.sub(UNSAFE, lambda c: f"#{ord(c[0])};", text)
    return re.sub(r"^(\d+)([.)])", lambda c: f"{c[1]}#{ord(c[2])};", text)  # no numbered list
