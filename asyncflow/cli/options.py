"""The options and arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from .completing import run_ids

__all__ = ["LARGEST", "App", "AsJson", "Db", "Limit", "RunId", "Yes"]

LARGEST = 2**63 - 1
"""The largest integer that a database takes."""

Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="PATH|URL",
        help="A SQLite file, or postgresql://... Default: $ASYNCFLOW_DB, else ./asyncflow.db.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
RunId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of a run, or its first characters.", autocompletion=run_ids)
]
App = Annotated[
    str | None,
    typer.Option(
        "--app", metavar="MODULE:FLOW", help="The flow class, such as shop.flows:Order, or path/to/file.py:Order."
    ),
]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, max=LARGEST, help="The largest number of runs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it. Without it, the command says what it would do.")]
