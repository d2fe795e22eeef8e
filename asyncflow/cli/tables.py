"""Tables without lines: columns that fit into the width of a terminal. A fraction of the time of `rich.table`, for the first page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rich.console import Console
from rich.text import Text

from .safe_text import one_line

__all__ = ["Cells", "Column", "table_of"]

GAP: Final = 2
"""The spaces between two columns."""

Cells = Sequence[str | Text]
"""A row. A `str` is made safe, and is one line."""


class Column(NamedTuple):
    """A column of a table."""

    name: str
    style: str = ""
    right: bool = False
    least: int = 0
    """The width down to which it is cut in a narrow terminal; 0: it is never cut."""
    leaves: int = 0
    """When it is left out of a narrow terminal: 1 first; 0: never."""
    wraps: bool = False
    """Whether its texts continue on further lines, instead of being cut. For the last column."""


def table_of(columns: Sequence[Column], rows: Iterable[Cells], console: Console, *, header: bool = True) -> Text:
    """Return a table. Where it is too wide, columns are left out, and then others are cut, the last one first."""
    width = console.width
    cells = [[cell.copy() if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]
    if header:
        cells.insert(0, [Text(column.name.upper(), "dim") for column in columns])
    widths = [max((cell.cell_len for cell in column), default=0) for column in zip(*cells, strict=True)]
    kept = _kept(columns, widths, width)
    columns = [columns[n] for n in kept]
    widths = _cut(columns, [widths[n] for n in kept], width)
    lines = [line for row in cells for line in _lines(columns, widths, [row[n] for n in kept], console)]
    return Text("\n").join(lines)


def _kept(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the places of the columns that fit into a width."""
    least = [GAP if c.wraps else min(size, c.least or size) for c, size in zip(columns, widths, strict=True)]
    kept = list(range(len(columns)))
    for place in sorted((n for n in kept if columns[n].leaves), key=lambda n: columns[n].leaves):
        if sum(least[n] + GAP for n in kept) - GAP > width:
            kept.remove(place)
    return kept


def _cut(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the widths of columns that fit into a width, as far as they can be cut, the last one first."""
    cut = list(widths)
    for place in reversed(range(len(columns))):
        column, excess = columns[place], sum(cut) + GAP * (len(cut) - 1) - width
        least = GAP * 4 if column.wraps else column.least or cut[place]
        cut[place] -= max(0, min(excess, cut[place] - least))
    return cut


def _lines(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[Text], console: Console) -> list[Text]:
    """Return a row as one line; or as several, if its last column wraps."""
    if columns[-1].wraps and cells[-1].cell_len > widths[-1]:
        parts = list(cells[-1].wrap(console, max(1, widths[-1]), overflow="fold"))
    else:
        parts = [cells[-1]]
    first, *others = ([*cells[:-1], part] for part in parts)
    blank = [Text() for _ in cells[:-1]]
    return [_line(columns, widths, row) for row in (first, *([*blank, row[-1]] for row in others))]


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[Text]) -> Text:
    line = Text()
    for place, (column, size, cell) in enumerate(zip(columns, widths, cells, strict=True)):
        cell.truncate(size, overflow="ellipsis")
        if column.style:
            cell.stylize_before(column.style)
        spaces = " " * (size - cell.cell_len)
        if place:
            line.append(" " * GAP)
        line.append(spaces if column.right else "").append_text(cell).append("" if column.right else spaces)
    line.rstrip()
    return line
