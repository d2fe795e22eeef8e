"""`graph`: a flow class as a picture."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from .completing import run_ids
from .failures import Refusal
from .loading import flow_class
from .options import AsJson, Db
from .output import Output
from .settings import awaited, known_run, to_read

__all__ = ["COMMANDS"]

_FORMS: Final = ("mermaid", "dot", "html")


def graph(
    app: Annotated[str, typer.Argument(metavar="MODULE:FLOW", help="The flow class, such as shop.flows:Order.")],
    form: Annotated[str | None, typer.Option("--format", "-f", metavar="FORMAT", help="mermaid, dot or html.")] = None,
    file: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; default: stdout.")
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run", metavar="ID", help="Show what happened in this run.", autocompletion=run_ids),
    ] = None,
    db: Db = None,
    as_json: AsJson = False,
) -> None:
    """Draw a flow class, or a run of it, as Mermaid, as DOT for Graphviz, or as a self-contained HTML page."""
    cls: Any = flow_class(app)
    wanted = form or {"dot": "dot", "gv": "dot", "html": "html", "htm": "html"}.get(
        (file or "").rpartition(".")[2], "mermaid"
    )
    if wanted not in _FORMS:
        raise Refusal(f"--format takes {', '.join(_FORMS)}, not {wanted!r}")
    text = getattr(cls, f"to_{wanted}")() if run_id is None else awaited(lambda: _drawn(cls, db, run_id, wanted))
    out = Output(as_json)
    if file is not None:
        try:
            with open(file, "w", encoding="utf-8") as opened:
                opened.write(text)
        except OSError as error:
            raise Refusal(f"{file} cannot be written: {error.strerror}") from None
        out.done(f"wrote {file}", {"flow": cls.__name__, "format": wanted, "file": file})
    elif out.is_json:
        out.json({"flow": cls.__name__, "format": wanted, "text": text})
    else:
        typer.echo(text.rstrip())


async def _drawn(cls: Any, db: str | None, run_id: str, form: str) -> str:
    from .._pictures import dot, html, mermaid
    from ..inspection.pictured import run_picture

    async with to_read(db) as storage:
        known = await known_run(storage, run_id)
        await cls.load(known, persistence=storage)  # refuses the run of another class
        picture = await run_picture(storage, known, cls)
    return {"mermaid": mermaid.to_mermaid, "dot": dot.to_dot, "html": html.to_html}[form](picture)


COMMANDS: Final = {"graph": graph}
