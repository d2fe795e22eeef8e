"""`worker` and `inspector`: processes that serve until they are ended."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, cast

import anyio
import typer

from .._runs.call_errors import place_of
from ..flow import Flow
from ..runner import FlowRunner
from .failures import Refusal, described, said
from .loading import flow_class, loaded
from .options import AsJson, Db
from .output import Output
from .safe_text import one_line
from .settings import SETTINGS, awaited, to_read, to_write

__all__ = ["COMMANDS"]

Apps = Annotated[
    list[str],
    typer.Argument(metavar="MODULE:APP...", help="Flow classes; or a FlowRunner, or a function that returns one."),
]


def worker(
    apps: Apps,
    loop: Annotated[str, typer.Option("--loop", metavar="asyncio|trio", help="The event loop.")] = "asyncio",
    max_running: Annotated[int, typer.Option(min=1, help="How many runs run at a time, of flow classes.")] = 1_000,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log at DEBUG.")] = False,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Recover, wake and run flows in this process until SIGTERM or Ctrl-C, which drain it: runs stop at a checkpoint.

    A second signal ends it at once. It logs to stderr.
    """
    if loop not in ("asyncio", "trio"):
        raise Refusal(f"--loop takes asyncio or trio, not {loop!r}")
    if loop == "trio" and not _is_installed("trio"):
        raise Refusal("--loop trio needs the extra trio; in a checkout of asyncflow: pip install '.[trio]'")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    logging.getLogger("asyncflow").setLevel(logging.DEBUG if verbose else logging.INFO)
    found = [loaded(app, "MODULE:APP") for app in apps]
    out = Output(as_json)
    ended = awaited(lambda: _serve(found, apps, db, max_running), cast(Literal["asyncio", "trio"], loop))
    if out.is_json:
        out.json(ended)


def _is_installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


async def _serve(found: list[Any], apps: list[str], db: str | None, max_running: int) -> dict[str, Any]:
    """Serve until a signal comes. Return what ended it."""
    if all(isinstance(each, type) and issubclass(each, Flow) for each in found):
        async with to_write(db, creates=True) as storage:
            return await _until_signal(FlowRunner(storage, flows=found, max_running=max_running))
    runner = await _runner(found, apps)
    if db or SETTINGS.db:
        raise Refusal("--db goes with flow classes; a FlowRunner has a storage of its own")
    return await _until_signal(runner)


async def _runner(found: list[Any], apps: list[str]) -> FlowRunner:
    """Return the runner that was named, or that a function returns. Raises `Refusal`."""
    if len(found) > 1:
        raise Refusal("name flow classes, or a single FlowRunner")
    made = found[0]
    if callable(made) and not isinstance(made, FlowRunner | type):
        try:
            made = made()
            made = await made if inspect.isawaitable(made) else made
        except Exception as error:  # a user's function may raise anything
            raise Refusal(
                f"{apps[0]} returns no runner when it is called without arguments: {described(error)}"
            ) from None
    if not isinstance(made, FlowRunner):
        raise Refusal(
            f"{apps[0]} is no FlowRunner, no function that returns one, and no flow class, but {type(made).__name__}"
        )
    return made


async def _until_signal(runner: FlowRunner) -> dict[str, Any]:
    """Keep a runner entered until a signal comes, and leave it then: that drains it."""
    ended_by = ""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as watching:
            async with runner:
                flows = ", ".join(sorted(set(runner.names.values()))) or "no flow"
                said(f"serving {flows} in {place_of(runner.persistence)}, process {os.getpid()}")
                ended_by = signal.Signals(await anext(signals)).name
                said(f"{ended_by}: draining {runner.running} runs; a second signal ends the process at once")
                watching.start_soon(_end_at_once, signals)
            watching.cancel_scope.cancel()
    said("drained")
    return {"signal": ended_by}


async def _end_at_once(signals: Any) -> None:
    async for number in signals:
        os._exit(128 + number)


def inspector(
    apps: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE:FLOW...]", help="Flow classes, for pictures and actions.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port on 127.0.0.1.")] = 8642,
    actions: Annotated[bool, typer.Option("--actions", help="Allow to resume, cancel, fork, edit and signal.")] = False,
    db: Db = None,
) -> None:
    """Serve the inspector to a browser on this machine, until Ctrl-C."""
    if not _is_installed("uvicorn"):
        raise Refusal("the inspector needs a server: pip install uvicorn")
    try:
        made = importlib.import_module("asyncflow.integrations.inspector.serving")
    except ImportError as error:
        raise Refusal(
            f"the inspector needs the extra web; in a checkout of asyncflow: pip install '.[web]' ({one_line(str(error))})"
        ) from None
    flows = [flow_class(app) for app in apps or []]

    async def served() -> None:
        async with to_write(db) if actions else to_read(db) as storage:
            site = made.make_site(storage, flows, actions=actions)
            await made.serve_site(site, "127.0.0.1", port, lambda url: said(f"serving {url} (Ctrl-C ends)"))

    try:
        awaited(served)
    except OSError as error:
        raise Refusal(f"the port {port} cannot be used: {error.strerror or error}") from None


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {"worker": worker, "inspector": inspector}
