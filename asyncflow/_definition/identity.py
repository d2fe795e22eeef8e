"""The identity of a flow, under which its runs are stored, so that no other class resumes them.

It is a declared `name`, else the module and the qualified name. A script is identified by its file, because its module is
`__main__` in every program. The same file imported as a module is the same flow, and so is a flow under a name that it declares as
`formerly`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from ..errors import FlowDefinitionError

__all__ = ["Identity", "Origin", "checked_former_names", "checked_name"]

_SCRIPTS = ("__main__", "__mp_main__")
"""The name of a script's module: in its own process, and in one that `multiprocessing` has spawned.

`runpy` calls it `<run_path>`.
"""


class Origin(NamedTuple):
    """Where a class is defined."""

    module: str
    """'' if the module has no name of its own: a script's."""
    file: str
    """The absolute path; '' if there is none."""

    @classmethod
    def of(cls, defined: type, scope: Mapping[str, Any]) -> Origin:
        """Return the origin of a class. `scope`: the global names where the class statement ran, if those are its module's."""
        if scope.get("__name__") != defined.__module__:
            scope = vars(sys.modules.get(defined.__module__, object))
        name, spec, file = defined.__module__, scope.get("__spec__"), scope.get("__file__")
        if name in _SCRIPTS:
            name = "" if spec is None or spec.name in _SCRIPTS else spec.name  # `python -m package.module` has one
        return cls("" if name.startswith("<") else name, os.path.abspath(file) if file else "")


def checked_name(name: object, cls: type) -> str | None:
    """A flow's declared name. Raises `FlowDefinitionError` for one that cannot be stored."""
    if name is None or (isinstance(name, str) and _is_storable(name)):
        return name
    raise FlowDefinitionError(
        f"{cls.__name__}: name must be a string that UTF-8 can encode and that has no NUL, not {name!r}",
        problems=["a name that cannot be stored"],
    )


def checked_former_names(names: object, cls: type) -> tuple[str, ...]:
    """What `formerly` says: one name, or several. Raises `FlowDefinitionError` for anything else."""
    found: tuple[Any, ...]
    found = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    if all(isinstance(name, str) and _is_storable(name) for name in found):
        return found
    raise FlowDefinitionError(
        f'{cls.__name__}: formerly must be a string such as "old.module.Report", or several, not {names!r}',
        problems=["formerly is not a name"],
    )


def _is_storable(name: str) -> bool:
    return "\0" not in name and name == name.encode(errors="ignore").decode()


@dataclass(frozen=True)
class Identity:
    """The identity of one flow class, under its own name or under one that was given to an instance."""

    cls: type
    origin: Origin
    declared: str | None
    formerly: tuple[str, ...] = ()

    @cached_property
    def name(self) -> str:
        """The declared name, or the class's: for people, paths and logs."""
        return self.declared or self.cls.__name__

    @cached_property
    def stored(self) -> str:
        """The name under which new runs are stored."""
        if self.declared:
            return self.declared
        module, file = self.origin
        return f"{module}.{self.cls.__qualname__}" if module else f"{file or '__main__'}:{self.cls.__qualname__}"

    @cached_property
    def known(self) -> frozenset[str]:
        """All names under which its runs may be stored (`Checkpoint.known_by`): the identity, former ones, bare names of 0.1."""
        return frozenset((self.stored, *self._same_file(), *self._bare(), *self.formerly))

    def _bare(self) -> Iterable[str]:
        """Yield the bare names under which 0.1 stored runs, each after a colon."""
        yield f":{self.name}"
        for former in self.formerly:
            yield f":{former}"
            yield ":" + former.rpartition(":")[2].rpartition(".")[2]

    def _same_file(self) -> Iterable[str]:
        """Yield the names of the same file when it is run as a script, or else imported as a module."""
        if self.declared:
            return
        module, file = self.origin
        if module and file:
            yield f"{file}:{self.cls.__qualname__}"
        elif file:
            parts = os.path.splitext(file)[0].replace(os.sep, ".").strip(".").split(".")
            for n in range(1, len(parts) + 1):
                yield ".".join((*parts[-n:], self.cls.__qualname__))
