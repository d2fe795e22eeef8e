"""Renders a picture as one HTML file, which needs no network: the layout by dagre (in `vendor/`), the drawing by `draw.js`."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from html import escape
from pathlib import Path
from typing import Final

from .mermaid import to_mermaid
from .picture import Picture
from .words import shown

__all__ = ["DRAWING", "in_notebook", "to_html"]

HERE: Final = Path(__file__).parent

DRAWING: Final = {
    "dagre.min.js": HERE / "vendor" / "dagre.min.js",
    "draw.js": HERE / "draw.js",
    "draw.css": HERE / "draw.css",
}
"""The files that a page needs to draw a picture, by the names under which a server may serve them."""

BEGIN: Final = (
    'asyncflow.draw(document.getElementById("picture"), JSON.parse(document.getElementById("data").textContent));'
)

PAGE_STYLE: Final = """
:root { color-scheme: light dark; }
html, body { height: 100%; margin: 0; background: light-dark(#ffffff, #0f1521); }
body { display: flex; flex-direction: column; font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { padding: 12px 130px 10px 18px; border-bottom: 1px solid light-dark(#dbe2ea, #2c3a50); color: light-dark(#16202e, #e7edf5); }
h1 { margin: 0; font-size: 17px; overflow-wrap: anywhere; }
header p { margin: 2px 0 0; font-size: 12px; overflow-wrap: anywhere; color: light-dark(#586779, #9fb0c4); }
#picture { flex: 1; min-height: 0; }
noscript pre { padding: 18px; color: light-dark(#16202e, #e7edf5); }
"""

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="asyncflow">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{name}</h1>{run}</header>
<div id="picture"></div>
<noscript><pre>{text}</pre></noscript>
<script type="application/json" id="data">{data}</script>
<!-- The next script is dagre, by Chris Pettitt and others, under this license:
{license}-->
<script>{dagre}</script>
<script>{draw}</script>
<script>{begin}</script>
</body>
</html>
"""


def to_html(picture: Picture) -> str:
    """Return a page that shows the picture: offline, in light and dark, by keyboard and on a phone."""
    files = _files()
    scripts = [files["dagre.min.js"], files["draw.js"], BEGIN]
    style = files["draw.css"] + PAGE_STYLE
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    name, run = escape(shown(picture.name)), ""
    if picture.status:
        run = f"<p>run {escape(shown(picture.run_id, 200))}: {escape(picture.status)}</p>"
    return PAGE.format(
        policy=policy,
        title=f"{name} - asyncflow",
        style=style,
        name=name,
        run=run,
        text=escape(to_mermaid(picture)),
        data=picture.to_json().replace("<", "\\u003c"),
        license=files["dagre.LICENSE.txt"].strip("/*\n") + "\n",
        dagre=scripts[0],
        draw=scripts[1],
        begin=scripts[2],
    )


def in_notebook(picture: Picture) -> str:
    """Return the picture as the output of a notebook's cell: a frame of its own, whose scripts and styles touch nothing else."""
    height = min(680, max(260, 150 + 78 * _depth(picture)))
    page = escape(to_html(picture))
    name = escape(shown(picture.name))
    return f'<iframe title="{name}" sandbox="allow-scripts" width="100%" height="{height}" frameborder="0" srcdoc="{page}"></iframe>'


def _depth(picture: Picture) -> int:
    """Return the number of nodes on the longest path, loops left out."""
    into: dict[str, list[str]] = {node.id: [] for node in picture.nodes}
    waits = dict.fromkeys(into, 0)
    for edge in picture.edges:
        if not edge.loop:
            into[edge.source].append(edge.target)
            waits[edge.target] += 1
    ready, depth = [node for node, count in waits.items() if not count], 0
    while ready:
        depth += 1
        following = list[str]()
        for target in (target for node in ready for target in into[node]):
            waits[target] -= 1
            if not waits[target]:
                following.append(target)
        ready = following
    return depth


@functools.cache
def _files() -> dict[str, str]:
    """Return the files of the drawing. A browser would look for a source map, which is not there."""
    paths = {**DRAWING, "dagre.LICENSE.txt": HERE / "vendor" / "dagre.LICENSE.txt"}
    texts = {name: path.read_text(encoding="utf-8") for name, path in paths.items()}
    texts["dagre.min.js"] = re.sub(r"\n//# sourceMappingURL=.*", "", texts["dagre.min.js"])
    return texts


def _hash(text: str) -> str:
    """Return the source expression of a content security policy for an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
