"""`tail`: the events of a run, past and future."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from ..events import Event
from .options import AsJson, Db, RunId
from .output import Output
from .safe_text import one_line
from .settings import awaited, to_read
from .times import local

__all__ = ["COMMANDS", "event_line"]

_STYLES: Final = {"Failed": "red", "Retrying": "yellow", "Finished": "green", "Cancelled": "dim"}
_PLAIN: Final = ("invocation", "method", "signal", "timer", "type")
"""Fields whose values say what they are."""
_GENERAL: Final = {each.name for each in fields(Event)}


def event_line(event: Any) -> Text:
    """Return an event as one line."""
    name = type(event).__name__
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    named = {each.name: getattr(event, each.name) for each in fields(event) if each.name not in _GENERAL}
    shown = {key: _value(value) for key, value in named.items() if value not in ((), "", None)}
    what = ", ".join(value if key in _PLAIN else f"{key} {value}" for key, value in shown.items())
    style = next((style for end, style in _STYLES.items() if name.endswith(end)), "")
    line = Text(f"{local(event.at)}  ", "dim")
    line.append(f"{words:<17}", style)
    return line.append(one_line(what, 500))


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def tail(
    run_id: RunId,
    after: Annotated[int, typer.Option(metavar="SEQ", help="Only events of later checkpoints.")] = -1,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Follow the events of a run, until it has ended or Ctrl-C. With --json, one object a line."""

    async def followed() -> None:
        from ..inspection import find_run, follow

        async with to_read(db) as storage:
            known = await find_run(storage, run_id)
            async for event in follow(storage, known, after=(after, 1 << 30) if after >= 0 else (-1, 0)):
                if out.is_json:
                    named = {"event": type(event).__name__} | {f.name: getattr(event, f.name) for f in fields(event)}
                    out.json_line(named)
                else:
                    out.line(event_line(event))

    out = Output(as_json)
    awaited(followed)


COMMANDS: Final = {"tail": tail}
