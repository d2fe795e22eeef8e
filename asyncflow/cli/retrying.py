"""`retry`: resume failed runs, chosen by a filter."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import anyio
import typer

from .._runtime.parking import PARK_AFTER
from ..errors import AsyncflowError, MethodError
from ..runner import FlowRunner
from .completing import flows
from .failures import FAILED, said
from .listing import TABLE, row_of
from .loading import flow_class
from .options import App, AsJson, Db, Limit, Yes
from .output import Output, progress
from .safe_text import counted, one_line
from .settings import awaited, to_read, to_write
from .times import moment

__all__ = ["COMMANDS"]

LOOK: Final = 0.2
"""Seconds between two looks whether a run only waits."""


def retry(
    app: App = None,
    flow: Annotated[
        str | None, typer.Option("--flow", "-f", help="Only runs of this flow.", autocompletion=flows)
    ] = None,
    text: Annotated[str | None, typer.Option("--id", metavar="TEXT", help="Only ids that contain this text.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Failed since: 10m, 2h, 7d ago, or an ISO time.")
    ] = None,
    interrupted: Annotated[
        bool, typer.Option("--interrupted", help="Interrupted runs instead of failed ones.")
    ] = False,
    limit: Limit = 1_000,
    at_once: Annotated[int, typer.Option(metavar="N", min=1, help="How many run at a time.")] = 10,
    yes: Yes = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Resume failed runs here. Without --yes it lists them, and does nothing."""
    out, started = Output(as_json), None if since is None else moment(since)
    cls = flow_class(app) if yes or app else None
    asked: dict[str, Any] = {
        "flow": flow or (None if cls is None else cls.name or cls.__name__),
        "status": "interrupted" if interrupted else "failed", "id_text": text, "since": started, "limit": limit,
    }  # fmt: skip

    async def chosen() -> list[Any]:
        from ..inspection import list_runs

        async with to_read(db) as storage:
            return await list_runs(storage, **asked)

    entries = awaited(chosen)
    if not yes:
        _list(out, entries, "--yes" if app else "--yes and --app MODULE:FLOW")
        return
    assert cls is not None, "loaded above"
    with out.alone():
        outcomes = awaited(lambda: _resumed(db, cls, [entry.run_id for entry in entries], at_once))
    _report(out, outcomes)


def _report(out: Output, outcomes: list[dict[str, Any]]) -> None:
    """Show how runs ended. Exit with 1 if one of them failed."""
    failed = [each for each in outcomes if each["status"] not in ("finished", "waiting")]
    waiting = sum(each["status"] == "waiting" for each in outcomes)
    if out.is_json:
        out.json(outcomes)
    else:
        for each in failed:
            said(f"run {each['run_id']}: {each['error']}")
        more = f", {waiting:,} wait{'s' * (waiting == 1)}" if waiting else ""
        out.line(f"{len(outcomes) - len(failed) - waiting:,} of {counted(len(outcomes), 'run')} finished{more}")
    if failed:
        raise typer.Exit(FAILED)


def _list(out: Output, entries: list[Any], missing: str) -> None:
    if out.is_json:
        out.json(entries)
    elif entries:
        now = time.time()
        out.table(TABLE[:-1], [row_of(entry, now)[:-1] for entry in entries])
        out.note(f"{counted(len(entries), 'run')}; add {missing} to resume them")
    else:
        out.note("no run fits")


async def _resumed(db: str | None, cls: Any, run_ids: list[str], at_once: int) -> list[dict[str, Any]]:
    """Resume runs on a runner, some at a time, and return how each ended, or that it waits."""
    outcomes: dict[str, dict[str, Any]] = {}
    async with (
        to_write(db) as storage,
        FlowRunner(storage, flows=[cls], max_running=at_once, recover_every=None) as runner,
    ):
        with progress("resuming", len(run_ids)) as shown:

            async def one(run_id: str) -> None:
                status, error = "", ""
                try:
                    status = await _followed(runner, run_id)
                except MethodError as failure:
                    status = "failed"
                    kinds = [f"{each.method} raised {type(each.exception).__name__}" for each in failure.failures]
                    error = ", ".join(kinds) or type(failure).__name__
                except AsyncflowError as refused:
                    status, error = "refused", one_line(str(refused))
                outcomes[run_id] = {"run_id": run_id, "status": status, "error": error}
                shown(len(outcomes))

            async with anyio.create_task_group() as group:
                for run_id in run_ids:
                    group.start_soon(one, run_id)
    return [outcomes[run_id] for run_id in run_ids]


async def _followed(runner: FlowRunner, run_id: str) -> str:
    """Resume a run. Return "finished", or "waiting" once it only waits, for nothing that is due soon. Raises what it fails with."""
    handle = await runner.resume(run_id)
    while True:
        with anyio.move_on_after(LOOK):
            await handle.result()
            return "finished"
        live = runner._live.get(run_id)
        if live.driver.only_waits_for(PARK_AFTER) if live is not None else await handle.status() == "waiting":
            return "waiting"


COMMANDS: Final = {"retry": retry}
