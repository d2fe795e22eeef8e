"""The names that annotations of a class may use: those that its module and the function around it define, now or later."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from .definition import FlowDefinition

__all__ = ["Surroundings"]

_HOOKS = ("__init_subclass__", "__new__", "__init__")


class Surroundings:
    """The scope of a class statement. The frame of a function is kept only while a name is missing."""

    def __init__(self, cls: type, frame: FrameType) -> None:
        while frame.f_code.co_name in _HOOKS and frame.f_back is not None:  # the hook of a base, or of a metaclass
            frame = frame.f_back
        self._cls = cls
        self._frame: FrameType | None = frame
        self._size = -1
        self._is_logged = False

    def names(self) -> dict[str, Any]:
        """Return all names that are defined by now; those of the function around the class take precedence."""
        names: dict[str, Any] = {}
        for base in reversed(self._cls.__mro__):
            around = vars(base).get("_surroundings")
            if isinstance(around, Surroundings):
                names.update(around._own())
        return names

    def _own(self) -> dict[str, Any]:
        return {
            **vars(sys.modules.get(self._cls.__module__, object)),
            **({} if self._frame is None else self._frame.f_locals),
        }

    def keep(self, definition: FlowDefinition) -> None:
        """Keep what is needed to look again for the names that the definition has not found."""
        if definition.is_unresolved:
            self._size = len(self.names())
        if not definition.is_unresolved or (self._frame is not None and self._frame.f_locals is self._frame.f_globals):
            self._frame = None

    @property
    def has_grown(self) -> bool:
        """Whether names have been added since the last call, so that it is worth looking again."""
        before, self._size = self._size, len(self.names())
        return self._size != before

    def not_logged(self, definition: FlowDefinition) -> list[str]:
        """Return the routers whose labels are still unknown because of a missing name; only the first time."""
        if self._is_logged:
            return []
        self._is_logged = True
        return [m.name for m in definition.unresolved if m.is_router and m.labels is None]
