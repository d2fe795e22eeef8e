"""What a command prints: tables, blocks of fields, or JSON. Colours only in a terminal, and not with NO_COLOR."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .safe_text import block, json_text, one_line
from .settings import SETTINGS

__all__ = ["STYLES", "Column", "Output", "console", "progress", "status_text"]

STYLES: Final = {
    "running": "cyan",
    "waiting": "blue",
    "interrupted": "yellow",
    "failed": "bold red",
    "finished": "green",
    "cancelled": "dim",
}
"""The style of each status."""

_UNLIMITED: Final = 100_000
"""The width where the output is not a terminal: nothing is cut there for its width."""


_GAP: Final = 2


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
    """Whether its texts continue on further lines, instead of being cut."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to the command, instead of ending the program."""
        raise BrokenPipeError


def console(file: TextIO | None = None) -> Console:
    """Return a console that interprets no markup in texts."""
    to: TextIO = sys.stdout if file is None else file
    is_terminal = to.isatty() or bool(os.environ.get("FORCE_COLOR"))
    width = None if to.isatty() or "COLUMNS" in os.environ else _UNLIMITED
    plain = "NO_COLOR" in os.environ or not is_terminal
    return _Console(
        file=to,
        markup=False,
        emoji=False,
        highlight=False,
        width=width,
        force_terminal=is_terminal,
        color_system=None if plain else "auto",
    )


def status_text(status: str) -> Text:
    """Return a status in its colour."""
    return Text(status, STYLES.get(status, ""))


class Output:
    """The output of one command."""

    def __init__(self, as_json: bool) -> None:
        self.is_json: bool = as_json or SETTINGS.as_json
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """The console of stdout."""
        self._console = self._console or console()
        return self._console

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it."""
        return sys.stdout.isatty()

    def json(self, value: Any) -> None:
        """Print a value as JSON."""
        sys.stdout.write(json_text(value) + "\n")

    def json_line(self, value: Any) -> None:
        """Print a value as JSON in one line, at once."""
        sys.stdout.write(json_text(value, indent=None) + "\n")
        sys.stdout.flush()

    def line(self, text: str | Text = "") -> None:
        """Print a line, or several, that may be copied: the terminal breaks long ones. A `str` is made safe."""
        self.console.print(block(text) if isinstance(text, str) else text, soft_wrap=True)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Write a line for a person to stderr, where JSON is not asked for."""
        if not self.is_json:
            console(sys.stderr).print(Text(one_line(text), "dim"))

    def done(self, text: str, value: Any) -> None:
        """Print what was done: a sentence, or the object."""
        if self.is_json:
            self.json(value)
        else:
            self.line(text)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> None:
        """Print a table without lines. A `str` is made safe, and is one line."""
        self._print(table_of(columns, rows, self.console.width))

    def _print(self, table: Table) -> None:
        """Print a table, without spaces at the ends of lines."""
        with self.console.capture() as printed:
            self.console.print(table)
        sys.stdout.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))
        sys.stdout.flush()

    def fields(self, fields: Iterable[tuple[str, str | Text]]) -> None:
        """Print names and values, one a line. Values may wrap."""
        made = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        made.add_column(style="dim", no_wrap=True)
        made.add_column(overflow="fold")
        for name, value in fields:
            made.add_row(name, value if isinstance(value, Text) else Text(one_line(value)))
        self._print(made)

    def section(self, title: str, text: str | Text) -> None:
        """Print a title, and a text of several lines under it."""
        self.console.print()
        self.console.print(Text(title, "bold"))
        self.line(text)


def table_of(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], width: int) -> Table:
    """Return a table without lines. Where it is too wide, columns are left out, and then others are cut, the last one first."""
    cells = [[cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]
    names = [Text(column.name.upper()) for column in columns]
    widths = [max(cell.cell_len for cell in column) for column in zip(names, *cells, strict=True)]
    kept = _kept(columns, widths, width)
    columns, widths, cells = (
        [columns[n] for n in kept],
        [widths[n] for n in kept],
        [[row[n] for n in kept] for row in cells],
    )
    for place in reversed([n for n, column in enumerate(columns) if column.least]):
        excess = sum(widths) + _GAP * (len(widths) - 1) - width
        widths[place] -= max(0, min(excess, widths[place] - columns[place].least))
    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for column, size in zip(columns, widths, strict=True):
        made.add_column(
            column.name.upper(),
            style=column.style,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold" if column.wraps else "ellipsis",
            width=None if column.wraps else size,
        )
    for row in cells:
        made.add_row(*row)
    return made


def _kept(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Return the places of the columns that fit into a width."""
    least = [
        min(size, column.least or size) if not column.wraps else _GAP
        for column, size in zip(columns, widths, strict=True)
    ]
    kept = list(range(len(columns)))
    for place in sorted((n for n in kept if columns[n].leaves), key=lambda n: columns[n].leaves):
        if sum(least[n] + _GAP for n in kept) - _GAP > width:
            kept.remove(place)
    return kept


def progress(title: str, total: int | None = None) -> Any:
    """Return a progress bar on stderr, as a context manager whose value is called with the count. Nothing where it is no terminal."""
    from .progress import Bar

    return Bar(title, total, console(sys.stderr))
