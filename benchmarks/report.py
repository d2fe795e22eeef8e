"""Turn measured lines into medians, ratios and tables. Pure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .running import Line
from .works import WORKS, Column, Figures


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure."""
    return {name: statistics.median(figures[name] for figures in rounds) for name in rounds[0]}


@dataclass(frozen=True)
class Row:
    """A line's medians, and how many times what asyncflow takes for equal work it takes; None where there is nothing to compare."""

    line: Line
    figures: Figures | None
    ratio: float | None


def rows(lines: Sequence[Line]) -> dict[str, list[Row]]:
    """The rows of each work."""
    references = {
        (line.case.work, line.case.who.module, line.case.who.way): line for line in lines if line.case.loop == "asyncio"
    }
    found: dict[str, list[Row]] = {}
    for line in lines:
        figures = medians(line.rounds) if line.rounds else None
        found.setdefault(line.case.work, []).append(Row(line, figures, _ratio(line, references)))
    return found


def _ratio(line: Line, references: Mapping[tuple[str, str, str], Line]) -> float | None:
    """The median of the rounds' own ratios: what slowed a round down slowed both."""
    key = WORKS[line.case.work].key
    other = references.get(line.case.versus)
    if other is None or not other.rounds or not line.rounds:
        return None
    pairs = zip(line.rounds, other.rounds, strict=False)
    return statistics.median(ours[key] / theirs[key] for ours, theirs in pairs)


def tables(lines: Sequence[Line]) -> str:
    """All works as Markdown."""
    return "\n\n".join(_table(work, found) for work, found in rows(lines).items()) + "\n"


def _table(work: str, found: Sequence[Row]) -> str:
    about = WORKS[work]
    columns = [column for column in about.columns if any(_has(row, column) for row in found)]
    head = ["", *(column.title for column in columns), "times asyncflow's", "a power cut takes"]
    body = [_cells(row, columns) for row in found]
    written = [head, ["---"] * len(head), *body]
    return f"**{work}: {about.title}**\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    case = row.line.case
    if row.figures is None:
        return [case.title, row.line.failure or "-", *["-"] * len(columns), case.who.takes]
    figures = row.figures
    cells = [column.form.format(figures[column.figure]) if _has(row, column) else "-" for column in columns]
    failure = f" ({row.line.failure})" if row.line.failure else ""
    return [case.title + failure, *cells, "-" if row.ratio is None else _times(row.ratio), case.who.takes]


def _has(row: Row, column: Column) -> bool:
    """Whether a row has a figure: clients cannot count the bytes that a server writes."""
    is_elsewhere = row.line.case.who.needs_server and column.figure in ("bytes_a_step", "written_kb", "mb_a_100000")
    return row.figures is not None and column.figure in row.figures and not is_elsewhere


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def as_json(lines: Sequence[Line], about: str) -> str:
    """Every round's figures, a line for each line of the tables."""
    texts = [json.dumps(_as_json(row)) for found in rows(lines).values() for row in found]
    return f'{{"about": {json.dumps(about)}, "lines": [\n' + ",\n".join(texts) + "\n]}\n"


def _as_json(row: Row) -> dict[str, object]:
    case = row.line.case
    return {
        "work": case.work,
        "title": case.title,
        "environment": case.who.environment,
        "loop": case.loop,
        "a power cut takes": case.who.takes,
        "times asyncflow's": row.ratio,
        "failure": row.line.failure,
        "medians": row.figures and _short(row.figures),
        "rounds": [_short(figures) for figures in row.line.rounds],
    }


def _short(figures: Figures) -> Figures:
    """Four digits are more than they are worth."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
