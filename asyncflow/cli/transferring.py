"""`export` and `import`: runs as JSON lines, between databases of any kind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, BinaryIO, Final

import typer

from ..persistence.transfer import Transferred, export_runs, import_runs
from .completing import flows
from .failures import Refusal
from .listing import checked_status
from .options import AsJson, Db
from .output import Output, progress
from .safe_text import counted
from .settings import awaited, to_read, to_write

__all__ = ["COMMANDS"]


@contextmanager
def _written(file: str) -> Iterator[BinaryIO]:
    """Open a file to be written; it gets its name once it is complete. `-` is stdout."""
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.lexists(file):
        raise Refusal(f"{file} exists; choose another name, or remove it. Nothing was exported")
    part = f"{file}.{os.getpid()}.part"
    try:
        with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, file)
    except OSError as error:
        raise Refusal(f"{file} cannot be written: {error.strerror}") from None
    finally:
        if os.path.exists(part):
            os.unlink(part)


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file to write; - is stdout.")],
    run_ids: Annotated[
        list[str] | None, typer.Option("--run", metavar="ID", help="Only this run; may be repeated.")
    ] = None,
    flow: Annotated[
        str | None, typer.Option("--flow", "-f", help="Only runs of this flow.", autocompletion=flows)
    ] = None,
    status: Annotated[str | None, typer.Option("--status", "-s", help="Only runs with this status.")] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Write runs, with their checkpoints and signals, to a file of JSON lines. Every run is verified."""
    out, chosen = Output(as_json), checked_status(status)

    async def exported() -> Transferred:
        async with to_read(db) as storage:
            ids = await _ids(storage, run_ids or [], flow, chosen)
            with _written(file) as opened, progress("exporting") as shown:
                return await export_runs(storage, opened.write, run_ids=ids, on_run=shown)

    done = awaited(exported)
    if file == "-":
        out.note(_counted("exported", done))
    else:
        out.done(f"{_counted('exported', done)} to {file}", done)


async def _ids(storage: Any, texts: list[str], flow: str | None, status: Any) -> list[str] | None:
    """Return the ids of the chosen runs, the oldest first; None for all."""
    from ..inspection import find_run, list_runs

    if texts:
        return [await find_run(storage, text) for text in texts]
    if flow is None and status is None:
        return None
    found: list[str] = []
    before: int | None = None
    while True:
        page = await list_runs(storage, flow=flow, status=status, before=before, limit=1_000)
        found += [entry.run_id for entry in page]
        before = page.next
        if before is None:
            return found[::-1]


def import_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file that export has written; - is stdin.")],
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave runs that are stored as they are.")
    ] = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Store the runs of an exported file. Each is checked before, and read back and compared after."""
    out = Output(as_json)

    async def imported(lines: BinaryIO) -> Transferred:
        async with to_write(db, creates=True) as storage:
            with progress("importing") as shown:
                return await import_runs(storage, lines, existing="skip" if skip_existing else "refuse", on_run=shown)

    try:
        with sys.stdin.buffer if file == "-" else open(file, "rb") as opened:
            done = awaited(lambda: imported(opened))
    except OSError as error:
        raise Refusal(f"{file} cannot be read: {error.strerror}") from None
    skipped = f", and skipped {done.skipped:,} that are stored" if done.skipped else ""
    out.done(_counted("imported", done) + skipped, done)


def _counted(verb: str, done: Transferred) -> str:
    parts = (done.runs, "run"), (done.checkpoints, "checkpoint"), (done.signals, "signal")
    return f"{verb} {', '.join(counted(*part) for part in parts)}"


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {"export": export, "import": import_}
