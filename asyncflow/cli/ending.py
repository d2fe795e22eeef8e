"""`signal`, `cancel`, `delete` and `prune`: act on stored runs, whichever process drives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Final

import typer

from .._runs.cancelling import cancel_stored
from .._runs.sending import JsonPayload, send
from .driving import json_argument
from .failures import NOT_FOUND, Refusal, said
from .loading import flow_class
from .options import LARGEST, App, AsJson, Db, RunId, Yes
from .output import Output, progress
from .safe_text import counted
from .settings import awaited, known_run, to_read, to_write
from .times import duration

__all__ = ["COMMANDS"]


def signal(
    run_id: RunId,
    name: Annotated[str, typer.Argument(metavar="SIGNAL", help="The name of the signal.")],
    payload: Annotated[str, typer.Argument(metavar="[JSON|@FILE]", help="What is sent with it, as JSON.")] = "",
    app: App = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="An idempotency key: sent again, it does nothing.")
    ] = None,
    sender: Annotated[str, typer.Option(metavar="NAME", help="Who sends it, stored with the signal.")] = "",
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Send a signal to a run, whichever process drives it. Its class checks the payload."""
    cls, out = flow_class(app), Output(as_json)
    data = json_argument(payload, "the payload") if payload else b""

    async def sent() -> tuple[str, bool]:
        async with to_write(db) as storage:
            known = await known_run(storage, run_id)
            setup = cls(persistence=storage)._instance.setup
            try:
                return known, await send(setup, known, name, JsonPayload(data), key, sender)
            except ValueError as error:
                if type(error) is ValueError:  # of an invalid key
                    raise Refusal(str(error)) from None
                raise

    known, is_new = awaited(sent)
    text = f"sent {name} to run {known}" if is_new else f"run {known} has received {name} with this key already"
    out.done(text, {"run_id": known, "signal": name, "is_new": is_new})


def cancel(run_id: RunId, db: Db = None, as_json: AsJson = False) -> None:
    """Cancel a run permanently, with its children, whichever process drives it. A finished run stays as it is."""
    out = Output(as_json)

    async def cancelled() -> tuple[str, str]:
        async with to_write(db) as storage:
            known = await known_run(storage, run_id)
            await cancel_stored(storage, known)
            stored = await storage.load(known)
            return known, "cancelled" if stored is None else stored.status

    known, status = awaited(cancelled)
    out.done(f"run {known} is {status}", {"run_id": known, "status": status})


def delete(run_id: RunId, yes: Yes = False, db: Db = None, as_json: AsJson = False) -> None:
    """Delete a run with its children and its history. Needs --yes."""
    out = Output(as_json)

    async def deleted() -> tuple[str, bool]:
        async with to_write(db) as storage:
            known = await known_run(storage, run_id)
            return known, yes and await storage.delete(known)

    known, is_gone = awaited(deleted)
    if not yes:
        text = f"this would delete run {known}, its children and its history permanently; repeat it with --yes"
        out.done(text, {"run_id": known, "deleted": False})
        return
    if not is_gone:
        said(f"run {known} is no longer stored")
        raise typer.Exit(NOT_FOUND)
    out.done(f"deleted run {known}", {"run_id": known, "deleted": True})


def prune(
    older_than: Annotated[str, typer.Option(metavar="DURATION", help="Ended longer ago than this: 12h, 30d.")],
    keep_last: Annotated[
        int, typer.Option(metavar="N", min=0, max=LARGEST, help="Keep the newest N ended runs of each flow.")
    ] = 0,
    yes: Yes = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Delete runs that ended some time ago: finished, failed and cancelled ones, with their children. Needs --yes."""
    seconds, out = duration(older_than), Output(as_json)

    async def pruned() -> int:
        async with to_write(db) as storage:
            with progress("pruning"):
                return await storage.prune(older_than=seconds, keep_last=keep_last)

    if not yes:
        most = awaited(lambda: _ended(db, seconds))
        out.done(
            f"this would delete up to {counted(most, 'run')} permanently; repeat it with --yes"
            if most
            else "no run ended so long ago: there is nothing to delete",
            {"deleted": 0, "ended": most},
        )
        return
    count = awaited(pruned)
    out.done(f"deleted {counted(count, 'run')}", {"deleted": count})


async def _ended(db: str | None, older_than: float) -> int:
    """Return how many runs ended so long ago."""
    count, after = 0, -1
    async with to_read(db) as storage, storage._shared.use() as opened:
        while page := await opened.home.run(partial(opened.reader.ended, older_than, after, 10_000)):
            count, after = count + len(page), page[-1].id
    return count


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    "signal": signal,
    "cancel": cancel,
    "delete": delete,
    "prune": prune,
}
