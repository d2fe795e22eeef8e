"""How a flow is drawn: the methods of `Flow` for pictures of the class, and of the run of an object."""

from __future__ import annotations

import os
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

from .._definition.definition import FlowDefinition
from .._runs.instance import Instance
from ..errors import FlowDefinitionError

if TYPE_CHECKING:
    from .picture import Picture

    class_or_run = classmethod
else:

    class class_or_run(classmethod):  # noqa: N801 - a decorator
        """A class method that gets the object instead, if it is called on one."""

        def __get__(self, instance, owner=None):
            return MethodType(self.__func__, owner if instance is None else instance)


__all__ = ["Drawn"]


class Drawn:
    """Pictures of a flow; a base of `Flow`. Their renderers are imported when the first one is drawn."""

    _instance: Instance
    _definition: ClassVar[FlowDefinition]

    @class_or_run
    def to_mermaid(cls) -> str:
        """Return the flow as a Mermaid flowchart, which GitHub and many editors draw.

        On the class, it shows the flow; on an object that has a run, also what the run did.
        """
        from .mermaid import to_mermaid

        return to_mermaid(_picture(cls))

    @class_or_run
    def to_dot(cls) -> str:
        """Return the flow as DOT, which Graphviz draws: `dot -Tsvg`.

        On the class, it shows the flow; on an object that has a run, also what the run did.
        """
        from .dot import to_dot

        return to_dot(_picture(cls))

    @class_or_run
    def to_html(cls) -> str:
        """Return the flow as a page that a browser shows. It is complete in itself, and needs no network.

        On the class, it shows the flow; on an object that has a run, also what the run did.
        """
        from .html import to_html

        return to_html(_picture(cls))

    @class_or_run
    def plot(cls, filename: str | os.PathLike[str] = "", show: bool = False) -> str:
        """Write the picture to a file, and return its path.

        On the class, it shows the flow; on an object that has a run, also what the run did.

        - `filename`: its ending decides the format: `.mmd` for Mermaid, `.dot` or `.gv` for DOT, else HTML; `.html` is added to any
          other name. Without a name, the file has the name of the class.
        - `show`: whether to open it in the browser.

        Raises `OSError` if the file cannot be written.
        """
        from pathlib import Path

        name = os.fspath(filename) or getattr(cls, "__name__", type(cls).__name__)
        path = Path(name).absolute()
        if path.suffix in (".mmd", ".mermaid"):
            text = cls.to_mermaid()
        elif path.suffix in (".dot", ".gv"):
            text = cls.to_dot()
        else:
            path = path if path.suffix in (".html", ".htm") else path.with_name(f"{path.name}.html")
            text = cls.to_html()
        path.write_text(text, encoding="utf-8")
        if show:
            import webbrowser

            webbrowser.open(path.as_uri())
        return str(path)

    def _repr_html_(self) -> str:
        """Show the flow, or its run, as the output of a notebook's cell."""
        from .html import in_notebook

        return in_notebook(_picture(self))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_(), "text/vnd.mermaid": self.to_mermaid()}


def _picture(drawn: Any) -> Picture:
    """Return the picture of a flow class, or of the run of a flow object that has one."""
    from .deriving import picture_of
    from .happening import happened_in

    cls: Any = drawn if isinstance(drawn, type) else type(drawn)
    if not hasattr(cls, "_definition") or not cls._definition.methods:
        raise FlowDefinitionError(f"{cls.__name__} has no methods, so there is no picture of it")
    if cls._definition.is_unresolved:
        cls._define_again()
    picture = picture_of(cls._definition, cls.name or "")
    if drawn is cls or (progress := drawn._instance.progress) is None:
        return picture
    status = str(drawn.status)
    happened = happened_in(cls._definition, progress, status)
    return picture.with_run(happened, run_id=drawn.run_id, status=status)
