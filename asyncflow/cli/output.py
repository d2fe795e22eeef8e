"""What a command prints: tables, blocks of fields, or JSON. Colours only in a terminal, and not with NO_COLOR."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

from .safe_text import block, json_text, one_line, pretty
from .settings import SETTINGS
from .tables import Cells, Column, table_of

__all__ = ["STYLES", "Output", "console", "progress", "status_text"]

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

    def value(self, value: Any, all_of_it: str, title: str = "") -> None:
        """Print a value as indented JSON for a person. `all_of_it`: the command that shows what is cut."""
        text = pretty(value)
        if title:
            self.section(title, text)
        else:
            self.line(text)
        if text != json_text(value):
            self.note(f"long texts were cut; all of it: {all_of_it}")

    def alone(self) -> AbstractContextManager[object]:
        """Keep what the code of users prints off stdout, where JSON is asked for: as a context manager."""
        return redirect_stdout(sys.stderr) if self.is_json else nullcontext()

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

    def table(self, columns: Sequence[Column], rows: Iterable[Cells]) -> None:
        """Print a table without lines."""
        self.line(table_of(columns, rows, self.console))

    def fields(self, fields: Iterable[tuple[str, str | Text]]) -> None:
        """Print names and values, one a line. Values may wrap."""
        self.line(table_of([Column("", style="dim"), Column("", wraps=True)], fields, self.console, header=False))

    def section(self, title: str, text: str | Text) -> None:
        """Print a title, and a text of several lines under it."""
        self.console.print()
        self.console.print(Text(title, "bold"))
        self.line(text)


def progress(title: str, total: int | None = None) -> AbstractContextManager[Callable[..., object]]:
    """Return a progress bar on stderr, as a context manager whose value is called with the count. Nothing where it is no terminal."""
    if not sys.stderr.isatty():
        return nullcontext(lambda *counts: None)
    from .progress import Bar

    return Bar(title, total, console(sys.stderr))
