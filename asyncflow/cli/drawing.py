"""`graph`: a flow class as a picture."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from .failures import Refusal
from .loading import flow_class
from .options import AsJson
from .output import Output

__all__ = ["COMMANDS"]

_FORMS: Final = ("mermaid", "dot", "html")


def graph(
    app: Annotated[str, typer.Argument(metavar="MODULE:FLOW", help="The flow class, such as shop.flows:Order.")],
    form: Annotated[str | None, typer.Option("--format", "-f", metavar="FORMAT", help="mermaid, dot or html.")] = None,
    file: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file; default: stdout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a flow class, as Mermaid, as DOT for Graphviz, or as a self-contained HTML page."""
    cls: Any = flow_class(app)
    wanted = form or {"dot": "dot", "gv": "dot", "html": "html", "htm": "html"}.get(
        (file or "").rpartition(".")[2], "mermaid"
    )
    if wanted not in _FORMS:
        raise Refusal(f"--format takes {', '.join(_FORMS)}, not {wanted!r}")
    text: str = getattr(cls, f"to_{wanted}")()
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
        typer.echo(text)


COMMANDS: Final = {"graph": graph}
