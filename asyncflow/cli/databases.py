"""`db`: inform, check, back up, compact and upgrade the storage."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .._runs.call_errors import place_of
from .._runs.run_pages import RunPages
from ..errors import StorageOutdatedError
from ..persistence.sqlite import SQLiteFlowPersistence
from .failures import FAILED, Refusal
from .options import AsJson, Db, Yes
from .output import Output, progress
from .safe_text import counted, one_line
from .settings import awaited, named, to_read, to_write

__all__ = ["COMMANDS"]

db_app: typer.Typer = typer.Typer(
    rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)

_STATUSES: Final = (
    "SELECT CASE WHEN status = 'running' AND wake_at IS NOT NULL THEN 'waiting' WHEN status = 'running' THEN 'unfinished' "
    "ELSE status END, count(*) FROM @runs GROUP BY 1 ORDER BY 1"
)


async def _statuses(storage: Any) -> dict[str, int]:
    """Return how many runs have each status; "unfinished": running and interrupted ones."""
    async with storage._shared.use() as opened:
        return {
            str(status): int(count) for status, count in await opened.home.run(lambda: opened.reader.select(_STATUSES))
        }


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1_000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1_000
    return f"{count:.1f} TB"


@db_app.callback()
def _db() -> None:
    """Inform, check, back up, compact and upgrade the storage."""


@db_app.command()
def info(db: Db = None, as_json: AsJson = False) -> None:
    """Show what and where the storage is, its size, and how many runs it has."""
    out = Output(as_json)

    async def found() -> dict[str, Any]:
        async with to_read(db) as storage:
            return {"storage": place_of(storage), **await _about(storage), "runs": await _statuses(storage)}

    facts = awaited(found)
    if out.is_json:
        out.json(facts)
        return
    runs = facts.pop("runs")
    shown = [
        (name.replace("_", " "), _size(value) if name.endswith("bytes") else _text(value))
        for name, value in facts.items()
    ]
    total = f"{sum(runs.values()):,}"
    detail = ", ".join(f"{count:,} {status}" for status, count in runs.items())
    out.fields([*shown, ("runs", f"{total} ({detail})" if runs else total)])


def _text(value: Any) -> str:
    return (", ".join(value) or "no other") if isinstance(value, list) else str(value)


async def _about(storage: Any) -> dict[str, Any]:
    async with storage._shared.use() as opened:

        async def one(sql: str) -> Any:
            return (await opened.home.run(lambda: opened.reader.select(sql)))[0][0]

        if isinstance(storage, SQLiteFlowPersistence):
            log = Path(os.path.realpath(storage.path) + "-wal")  # noqa: ASYNC240 - no I/O that blocks
            return {
                "database": f"SQLite {await one('SELECT sqlite_version()')}",
                "schema": await one("PRAGMA user_version"),
                "bytes": os.stat(storage.path).st_size,
                "log_bytes": log.stat().st_size if log.exists() else 0,  # noqa: ASYNC240 - one look
                "free_bytes": await one("PRAGMA freelist_count") * await one("PRAGMA page_size"),
                "processes": [owner for owner, _ in opened.owner.others()],
            }
        tables = ("runs", "checkpoints", "signals", "owners")
        sizes = " + ".join(f"pg_total_relation_size('@{name}')" for name in tables)
        return {
            "database": f"PostgreSQL {await one('SHOW server_version')}",
            "schema": await one("SELECT max(version) FROM @asyncflow"),
            "bytes": int(await one(f"SELECT {sizes}")),
        }


@db_app.command()
def check(
    run_id: Annotated[str | None, typer.Option("--run", metavar="ID", help="Only this run.")] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Check every checkpoint and signal, and the database itself. Exit code 1 if anything is damaged."""
    out = Output(as_json)

    async def found() -> tuple[str, list[dict[str, Any]]]:
        from ..inspection import find_run

        async with to_read(db) as storage:
            known = None if run_id is None else await find_run(storage, run_id)
            with progress("checking"):
                wrong = await storage.verify(known)
            return place_of(storage), [
                {"error": type(each).__name__, "run_id": each.run_id, "seq": each.seq, "message": str(each)}
                for each in wrong
            ]

    where, wrong = awaited(found)
    if out.is_json:
        out.json(wrong)
    else:
        for each in wrong:
            out.line(one_line(each["message"]))
        out.line(f"{where}: {len(wrong)} damaged" if wrong else f"{where} is undamaged")
    if wrong:
        raise typer.Exit(FAILED)


@db_app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy. It must not exist.")],
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Copy a SQLite database to one file, also while programs use it."""
    from ..persistence.sqlite.upkeep import back_up

    out = Output(as_json)
    if os.path.lexists(file):
        raise Refusal(f"{file} exists; choose another name, or remove it. Nothing was copied")

    async def copied() -> tuple[str, int]:
        storage: Any = named(db, read_only=True)
        if not isinstance(storage, SQLiteFlowPersistence):
            tool = f"pg_dump --schema={storage._where.schema}"
            raise Refusal(f"this works on SQLite files only; for PostgreSQL, use the server's own tool: {tool}")
        with contextlib.suppress(StorageOutdatedError):  # it may be copied, before it is upgraded
            async with storage:
                pass
        with progress("copying pages") as shown:
            return str(storage.path), await back_up(storage.path, file.absolute(), on_pages=shown)

    path, runs = awaited(copied)
    out.done(f"copied {path} to {file}: {counted(runs, 'run')}", {"source": path, "copy": str(file), "runs": runs})


@db_app.command()
def compact(
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Return free space although other processes have the file open.")
    ] = False,
    yes: Yes = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Delete the checkpoints of earlier passes, and return free space to the file system. Needs --yes."""
    out = Output(as_json)
    if not yes:
        many, is_file = awaited(lambda: _with_earlier_passes(db))
        what = [f"delete the history of earlier passes of up to {counted(many, 'run')} permanently"] if many else []
        what += ["return free space"] if is_file else []
        text = f"this would {' and '.join(what)}; repeat it with --yes" if what else "there is nothing to delete"
        out.done(text, {"runs": many, "deleted": False})
        return
    done = awaited(lambda: _compacted(db, vacuum))
    size = (
        ""
        if done["bytes_before"] is None
        else f"; the file has {_size(done['bytes_after'])}, before {_size(done['bytes_before'])}"
    )
    out.done(f"deleted {counted(done['checkpoints'], 'checkpoint')} of {counted(done['runs'], 'run')}{size}", done)
    if done["note"]:
        out.note(done["note"])


async def _with_earlier_passes(db: str | None) -> tuple[int, bool]:
    """Return how many runs have earlier passes, and whether they are in a SQLite file."""
    async with to_read(db) as storage, storage._shared.use() as opened:
        sql = "SELECT count(*) FROM @runs WHERE pass_number > 1"
        many = int((await opened.home.run(lambda: opened.reader.select(sql)))[0][0])
        return many, isinstance(storage, SQLiteFlowPersistence)


async def _compacted(db: str | None, even_if_open: bool) -> dict[str, Any]:
    from ..persistence.sqlite.upkeep import vacuum

    runs = checkpoints = 0
    others: list[Any] = []
    async with to_write(db) as storage:
        with progress("compacting") as shown:
            async for page in RunPages(storage, 1_000):
                for entry in page:
                    gone = await storage.compact(entry.run_id) if entry.pass_number > 1 else 0
                    runs, checkpoints = runs + bool(gone), checkpoints + (gone or 0)
                    shown(runs)
        is_file = isinstance(storage, SQLiteFlowPersistence)
        if is_file:
            async with storage._shared.use() as opened:
                others = [owner for owner, _ in opened.owner.others()]
    sizes: tuple[int | None, int | None] = (None, None)
    note = ""
    if is_file and (even_if_open or not others):
        sizes = await vacuum(storage.path)  # type: ignore[attr-defined]  # of SQLite
    elif is_file:
        note = f"free space was not returned, as {', '.join(others)} has the file open: end it, or add --vacuum"
    return {"runs": runs, "checkpoints": checkpoints, "bytes_before": sizes[0], "bytes_after": sizes[1], "note": note}


@db_app.command()
def migrate(yes: Yes = False, db: Db = None, as_json: AsJson = False) -> None:
    """Upgrade the schema to this version of asyncflow. Without --yes it says what it would do."""
    out = Output(as_json)

    async def outdated() -> tuple[str, str]:
        storage = named(db, read_only=True)
        try:
            async with storage:
                return place_of(storage), ""
        except StorageOutdatedError as error:
            return place_of(storage), str(error)

    where, why = awaited(outdated)
    if not why:
        out.done(
            f"{where} has the schema of this version: there is nothing to do",
            {"storage": where, "upgraded": False, "needed": False},
        )
        return
    if not yes:
        todo = "make a backup, end the processes of the older version, and repeat this with --yes"
        out.done(f"{one_line(why)}. To upgrade it: {todo}", {"storage": where, "upgraded": False, "needed": True})
        return

    async def upgraded() -> None:
        async with named(db):
            pass

    awaited(upgraded)
    out.done(f"upgraded {where}", {"storage": where, "upgraded": True, "needed": False})


COMMANDS: Final = {"db": db_app}
