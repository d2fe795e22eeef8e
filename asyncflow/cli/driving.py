"""`start`, `resume` and `fork`: drive a run in this process, until it ends."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

import anyio
import typer

from .._runs.inputs import JsonInputs
from .._runs.parked import Stopped, Waiting, halt_of
from ..errors import MethodError, RunNotFoundError
from ..flow import Flow
from ..state import new_run_id
from .failures import FAILED, Refusal, said
from .following import event_line
from .loading import flow_class
from .options import App, AsJson, Db, RunId
from .output import Output, console
from .safe_text import one_line, plain
from .settings import awaited, known_run, to_write

__all__ = ["COMMANDS", "drive", "json_argument"]

Inputs = Annotated[
    str,
    typer.Option(
        "--inputs", "-i", metavar="JSON|@FILE", help="The inputs, as a JSON object or a file of one; @- is stdin."
    ),
]
Until = Annotated[
    str,
    typer.Option(
        metavar="end|waiting|METHOD|N",
        help="Return when it has ended; or also once it only waits, or a method or N methods have completed.",
    ),
]


def json_argument(text: str, what: str) -> bytes:
    """Return JSON that was given as text, or as the name of a file after @. Raises `Refusal`, without a value."""
    try:
        if text == "@-":
            return sys.stdin.buffer.read()
        if text.startswith("@"):
            with open(text[1:], "rb") as file:
                return file.read()
    except OSError as error:
        raise Refusal(f"{what}: {text[1:]!r} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise Refusal(f"{what} is empty: write JSON, or @FILE")
    return text.encode()


def _object(text: str) -> JsonInputs:
    from pydantic_core import from_json

    try:
        found = from_json(json_argument(text, "--inputs"), allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(f"--inputs is not JSON: {one_line(str(error), 200)}") from None
    if not isinstance(found, dict):
        raise Refusal('--inputs has to be a JSON object, such as \'{"city": "Rome"}\'')
    return JsonInputs(found)


async def drive(
    out: Output, storage: Any, run_id: str, work: Callable[[], Awaitable[Any]], *, shows: bool = True
) -> tuple[Any, MethodError | None]:
    """Drive a run, and show its events on stderr meanwhile. Return its result, or the error that it failed with."""
    result: Any = None
    failure: MethodError | None = None
    shows = shows and not out.is_json and sys.stderr.isatty()
    async with anyio.create_task_group() as group:
        if shows:
            group.start_soon(_show_events, storage, run_id)
        try:
            result = await work()
        except MethodError as error:
            failure = error
        if isinstance(result, Waiting | Stopped):
            group.cancel_scope.cancel()
    return result, failure


async def _show_events(storage: Any, run_id: str) -> None:
    from ..inspection import follow

    err, is_first = console(sys.stderr), True
    while True:
        try:
            async for event in follow(storage, run_id):
                if is_first:
                    err.print(f"run {one_line(run_id)} of {one_line(event.flow)}", soft_wrap=True)
                    is_first = False
                err.print(event_line(event), soft_wrap=True)
            return
        except RunNotFoundError:
            await anyio.sleep(0.05)  # it is about to be stored


def _drive(
    app: str | None,
    db: str | None,
    as_json: bool,
    given: str | None,
    work: Callable[[type[Flow[Any]], Any, str], Awaitable[tuple[str, Callable[[], Awaitable[Any]]]]],
) -> None:
    """Drive a run of a class. `work`: returns the id of the run, and what drives it; given the class, the storage and a run's id."""
    cls, out = flow_class(app), Output(as_json)

    async def driven() -> tuple[str, Any, MethodError | None]:
        async with to_write(db, creates=given is None) as storage:
            run_id = "" if given is None else await known_run(storage, given)
            run_id, go = await work(cls, storage, run_id)
            return run_id, *await drive(out, storage, run_id, go)

    with out.alone():
        run_id, result, failure = awaited(driven)
    _report(out, run_id, result, failure)


def _report(out: Output, run_id: str, result: Any, failure: MethodError | None) -> None:
    if failure is not None:
        if out.is_json:
            out.json({"run_id": run_id, "status": "failed", "result": None, "error": _error(failure)})
        said(f"run {run_id} has failed: {_error(failure)}; see asyncflow show {run_id}")
        raise typer.Exit(FAILED)
    if out.is_json:
        status = {Waiting: "waiting", Stopped: "interrupted"}.get(type(result), "finished")
        out.json({"run_id": run_id, "status": status, "result": plain(result), "error": None})
    elif isinstance(result, Stopped):
        out.line(f"run {run_id} has stopped after {result.after}; resume continues with {', '.join(result.pending)}")
    elif isinstance(result, Waiting):
        out.line(f"run {run_id} waits for {', '.join(result.waits_for) or 'a time'}")
    else:
        if not sys.stderr.isatty():
            out.note(f"run {run_id} has finished")
        out.value(result, f"asyncflow show {run_id} --json")


def _stop(cls: type[Flow[Any]], until: str) -> str | int:
    """Return what `--until` says to the library. Raises `Refusal`."""
    stop = int(until) if until.isascii() and until.isdigit() else until
    try:
        halt_of(stop, cls._definition)
    except ValueError as error:
        raise Refusal(f"--{error}") from None
    return stop


def _error(error: MethodError) -> str:
    """Return which methods have failed, and with what kind of exception. The text of an exception may hold values."""
    failed = [f"{failure.method} raised {type(failure.exception).__name__}" for failure in error.failures]
    return ", ".join(failed) or type(error).__name__


def start(
    app: App = None,
    inputs: Inputs = "{}",
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The id of the run; default: a new one.")
    ] = None,
    until: Until = "end",
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Start a run, drive it here until it ends, and print its result."""
    given = _object(inputs)
    if run_id is not None and run_id != str(given.get("id") or run_id):
        raise Refusal("--id and the id in --inputs are different: give one of them")
    if run_id == "":
        raise Refusal("--id is empty: write an id, or leave it out for a new one")

    async def work(cls: type[Flow[Any]], storage: Any, _: str) -> tuple[str, Callable[[], Awaitable[Any]]]:
        known = run_id or str(given.get("id") or new_run_id())
        flow = cls(persistence=storage)
        return known, lambda: flow.kickoff(JsonInputs(given | {"id": known}), until=_stop(cls, until))

    _drive(app, db, as_json, None, work)


def resume(
    run_id: RunId,
    app: App = None,
    wait: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for its owner.")] = 0.0,
    until: Until = "end",
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Resume an interrupted or failed run here: only what failed or never ended runs. Print its result."""

    async def work(cls: type[Flow[Any]], storage: Any, known: str) -> tuple[str, Callable[[], Awaitable[Any]]]:
        return known, lambda: cls.resume(known, wait=wait, until=_stop(cls, until), persistence=storage)

    _drive(app, db, as_json, run_id, work)


def fork(
    run_id: RunId,
    app: App = None,
    at: Annotated[int | None, typer.Option("--at", metavar="SEQ", help="As of this checkpoint; default: now.")] = None,
    copy_only: Annotated[bool, typer.Option("--copy-only", help="Store the copy, and do not run it.")] = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Copy a run as of a checkpoint, and run the copy from there. Print its result."""
    if copy_only:
        _copy(run_id, app, at, db, as_json)
        return

    async def work(cls: type[Flow[Any]], storage: Any, known: str) -> tuple[str, Callable[[], Awaitable[Any]]]:
        copy = await cls.fork(known, seq=at, persistence=storage)
        return copy.run_id, lambda: copy.kickoff()

    _drive(app, db, as_json, run_id, work)


def _copy(run_id: str, app: str | None, at: int | None, db: str | None, as_json: bool) -> None:
    cls, out = flow_class(app), Output(as_json)

    async def copied() -> str:
        async with to_write(db) as storage:
            return (await cls.fork(await known_run(storage, run_id), seq=at, persistence=storage)).run_id

    copy = awaited(copied)
    out.done(copy, {"run_id": copy})


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {"start": start, "resume": resume, "fork": fork}
