"""`doctor`: look for problems and dangers."""

from __future__ import annotations

from typing import Final

import typer
from rich.text import Text

from .._runs.call_errors import place_of
from .examining import Finding, examined
from .failures import FAILED
from .options import AsJson, Db
from .output import Output
from .safe_text import one_line
from .settings import awaited, to_read
from .tables import Column

__all__ = ["COMMANDS"]

_MARKS: Final = {
    "ok": ("ok", "green"),
    "note": ("note", "blue"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "bold red"),
}


def doctor(db: Db = None, as_json: AsJson = False) -> None:
    """Look for problems and dangers: SQLite, file system, permissions, clocks, leases, poison runs.

    It reads no checkpoint: `asyncflow db check` does. Exit code 1 if there is a problem.
    """
    out = Output(as_json)

    async def found() -> tuple[str, list[Finding]]:
        async with to_read(db) as storage:
            return place_of(storage), await examined(storage)

    where, findings = awaited(found)
    if out.is_json:
        out.json(findings)
    else:
        out.line(where)
        columns = [Column("level"), Column("check", style="dim"), Column("finding", wraps=True)]
        out.table(columns, [row for each in findings for row in _rows(each)])
    if any(each.level == "problem" for each in findings):
        raise typer.Exit(FAILED)


def _rows(finding: Finding) -> list[tuple[Text, str, Text]]:
    word, style = _MARKS[finding.level]
    rows = [(Text(word, style), finding.check, Text(one_line(finding.text)))]
    return [*rows, (Text(), "", Text(f"-> {one_line(finding.cure)}", "dim"))] if finding.cure else rows


COMMANDS: Final = {"doctor": doctor}
