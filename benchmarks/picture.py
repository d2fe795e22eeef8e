"""The figures as bars: an SVG, written by hand. Only who stores, on asyncio; without figures there is no panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .contestants import NEWEST, ONE
from .report import Row


@dataclass(frozen=True)
class Panel:
    """Bars of one figure of one work."""

    work: str
    figure: str
    title: str
    unit: str
    more_is_better: bool = False


PANELS = (
    Panel("W2", "steps_a_second", "Durable steps a second, 100 runs at a time", "", more_is_better=True),
    Panel("W1", "us_a_step", "A durable step of a lone run", "us"),
    Panel("W3", "ms", "100 parallel listeners and a join", "ms"),
    Panel("W4", "ms_a_step", "A step that appends to 1 MB of state", "ms"),
    Panel("W2", "stall_max_ms", "Longest blocking of the event loop", "ms"),
    Panel("W5", "ms", "Loading one of 10,000 runs by id", "ms"),
    Panel("W6", "us_a_step", "5,000 runs whose steps sleep, by the step", "us"),
    Panel("W8", "kb_a_run", "Memory of a run that lives", "KB"),
)

WIDTH, COLUMN, BARS, ROW, TOP = 980, 490, 175, 24, 92
"""In pixels: of all, of a panel, of the longest bar; and the heights of a row and of the headline."""
NOTE = "* A power cut may take the newest step. DBOS stores what each step returned, and no state."
STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #334155 }
.head { font-size: 22px; font-weight: 700; fill: #0f172a } .title { font-size: 15px; font-weight: 600; fill: #0f172a }
.small { font-size: 11px; fill: #64748b } .ours { font-weight: 700; fill: #0f766e }
.bar { fill: #cbd5e1 } .bar.ours { fill: #0d9488 }
"""


def picture(rows: Mapping[str, Sequence[Row]], caption: str) -> str:
    """Two columns of panels under a headline."""
    panels = [(panel, shown) for panel in PANELS if (shown := _shown(panel, rows.get(panel.work, ())))]
    parts, bottoms = [], [TOP, TOP]
    for panel, shown in panels:
        side = bottoms.index(min(bottoms))
        parts.append(_panel(panel, shown, side * COLUMN + 24, bottoms[side]))
        bottoms[side] += 58 + len(shown) * ROW
    height = max(bottoms) + 40
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
        f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" rx="12" fill="#fff"/>'
        f"{_text(24, 44, 'asyncflow and its peers: the same work, stored after every step', 'head')}"
        f"{_text(24, 66, caption, 'small')}{''.join(parts)}"
        f"{_text(24, height - 18, NOTE, 'small')}</svg>\n"
    )


def _shown(panel: Panel, rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Who is shown, the best first."""
    found = [
        (row, row.figures[panel.figure])
        for row in rows
        if row.figures is not None and panel.figure in row.figures and row.line.case.loop == "asyncio"
        if row.line.case.who.is_stored and row.line.case.who.takes != NEWEST and row.line.case.who.module != "limits"
    ]
    return sorted(found, key=lambda pair: pair[1], reverse=panel.more_is_better)


def _panel(panel: Panel, shown: Sequence[tuple[Row, float]], x: int, y: int) -> str:
    most = max(value for _, value in shown)
    better = "more is better" if panel.more_is_better else "less is better"
    parts = [_text(x, y + 16, panel.title, "title"), _text(x, y + 33, better, "small")]
    for n, (row, value) in enumerate(shown):
        parts.append(_bar(row, value, value / most, panel.unit, x, y + 42 + n * ROW))
    return "".join(parts)


def _bar(row: Row, value: float, share: float, unit: str, x: int, y: int) -> str:
    who = row.line.case.who
    ours = "ours" if who.module == "asyncflow" else ""
    name = (
        who.title.partition(",")[0] + (", PostgreSQL" if who.needs_server else "") + ("*" if who.takes == ONE else "")
    )
    number = f"{value:,.0f}" if value >= 20 else f"{value:.2g}"
    start, length = x + 178, max(2.0, share * BARS)
    return (
        f"{_text(x, y + 15, name, ours)}"
        f'<rect class="bar {ours}" x="{start}" y="{y + 3}" width="{length:.1f}" height="{ROW - 8}" rx="3"/>'
        f"{_text(start + length + 6, y + 15, f'{number} {unit}'.strip(), ours)}"
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'
