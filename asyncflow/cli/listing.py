"""`runs`: list runs, newest first, once or again and again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final, cast, get_args

import anyio
import typer
from rich.text import Text

from ..persistence.protocol import RunEntry
from ..persistence.status import Status
from .completing import flows
from .failures import Refusal
from .options import LARGEST, AsJson, Db, Limit
from .output import Output, status_text
from .safe_text import counted
from .settings import awaited, known_run, to_read
from .tables import Column, table_of
from .times import ago, moment, until

__all__ = ["COMMANDS", "TABLE", "checked_status", "row_of"]

TABLE: Final = [
    Column("id"),
    Column("flow", least=8),
    Column("status"),
    Column("pass", right=True, leaves=1),
    Column("seq", right=True, leaves=2),
    Column("changed", right=True, leaves=4),
    Column("note", style="dim", least=12, leaves=3),
]

_STATUSES: Final = (*get_args(Status), "unfinished")


def checked_status(status: str | None) -> Any:
    """Return a status. Raises `Refusal` for one that no run has."""
    if status is not None and status not in _STATUSES:
        raise Refusal(f"no run has the status {status!r}: write one of {', '.join(_STATUSES)}")
    return status


def row_of(entry: RunEntry, now: float) -> list[str | Text]:
    """Return the cells of a run."""
    notes = []
    if entry.status == "waiting":
        due = entry.wake_at
        waits = "needs a signal" if due is None or math.isinf(due) else f"due {until(due, now)}"
        notes.append(waits if due else "a signal came")
    if entry.takeovers:
        notes.append(f"{entry.takeovers} takeover{'s' * (entry.takeovers > 1)}")
    if entry.parent:
        notes.append(f"child of {entry.parent}")
    cells = [str(entry.pass_number), str(entry.seq), ago(entry.updated_at, now), ", ".join(notes)]
    return [entry.run_id, entry.flow, status_text(entry.status), *cells]


def runs(
    flow: Annotated[
        str | None, typer.Option("--flow", "-f", help="Only runs of this flow.", autocompletion=flows)
    ] = None,
    status: Annotated[
        str | None, typer.Option("--status", "-s", metavar="STATUS", help=f"One of {', '.join(_STATUSES)}.")
    ] = None,
    text: Annotated[str | None, typer.Option("--id", metavar="TEXT", help="Only ids that contain this text.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Changed since: 10m, 2h, 7d ago, or an ISO time.")
    ] = None,
    before_time: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Created until then.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="ID", help="Only the children of this run.")] = None,
    limit: Limit = 50,
    before: Annotated[
        int | None, typer.Option(metavar="POSITION", min=1, max=LARGEST, help="The next page: as the page before says.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show the list again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="The pause of --watch.")] = 1.0,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    The filters hold together. A page has --limit runs, and says how to get the next one.
    """
    out = Output(as_json)
    asked: dict[str, Any] = {
        "flow": flow, "status": checked_status(status), "id_text": text, "parent": parent, "before": before,
        "since": None if since is None else moment(since), "until": None if before_time is None else moment(before_time),
    }  # fmt: skip
    awaited(lambda: _watched(out, db, asked, limit, every) if watch else _listed(out, db, asked, limit))


async def _listed(out: Output, db: str | None, asked: dict[str, Any], limit: int) -> None:
    from ..inspection import list_runs

    async with to_read(db) as storage:
        page = await list_runs(storage, **await _with_parent(storage, asked), limit=limit)
    if out.is_json:
        out.json(page)
        return
    if not page:
        out.note("no run fits" if any(value is not None for value in asked.values()) else "no run is stored")
        return
    now = time.time()
    out.table(_columns(page), [_cells(entry, now, page) for entry in page])
    if page.next is not None:
        out.note(f"there are more: --before {page.next}")


async def _with_parent(storage: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Return the filters with the full id of the parent. Raises `RunNotFoundError`."""
    given = asked["parent"]
    if given is None or await storage.runs(parent=given, limit=1):
        return asked
    return asked | {"parent": await known_run(storage, given)}


def _columns(page: list[RunEntry]) -> list[Column]:
    return TABLE if any(row_of(entry, 0)[-1] for entry in page) else TABLE[:-1]


def _cells(entry: RunEntry, now: float, page: list[RunEntry]) -> list[str | Text]:
    return row_of(entry, now)[: len(_columns(page))]


async def _watched(out: Output, db: str | None, asked: dict[str, Any], limit: int, every: float) -> None:
    """Show the list again and again: in a terminal in place, elsewhere one list after the other, and as JSON a list a line."""
    from ..inspection import list_runs

    async with to_read(db) as storage:
        asked = await _with_parent(storage, asked)
        with _in_place(out) as show:
            while True:
                page = await list_runs(storage, **asked, limit=limit)
                if out.is_json:
                    out.json_line(page)
                else:
                    show(page)
                await anyio.sleep(every)


@contextmanager
def _in_place(out: Output) -> Iterator[Callable[[list[RunEntry]], None]]:
    """Return what shows a list of runs in place of the one before, if stdout is a terminal."""
    if not out.is_terminal:
        yield lambda page: out.table(TABLE, [row_of(entry, time.time()) for entry in page])
        return
    from rich.console import Group
    from rich.live import Live

    def show(page: list[RunEntry]) -> None:
        now, shown = time.time(), page[: max(1, out.console.height - 3)]
        title = Text(f"{time.strftime('%H:%M:%S')}  {counted(len(page), 'run')}  (Ctrl-C ends)", "dim")
        cells = [_cells(entry, now, page) for entry in shown]
        live.update(Group(title, table_of(_columns(page), cells, out.console)), refresh=True)

    with Live(console=out.console, auto_refresh=False) as live:
        yield show


COMMANDS: Final = {"runs": cast(Any, runs)}
