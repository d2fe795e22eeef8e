"""Hides parts of the values that are shown: the hook `redact` of `flow_router`."""

import logging
from collections import deque
from collections.abc import Mapping
from itertools import repeat
from traceback import extract_tb
from typing import Any, Final

from pydantic import RootModel
from pydantic_core import to_json

from ...inspection import Redact
from .as_json import aliases_of, json_of, tree_of

__all__ = ["Shown"]

logger: Final = logging.getLogger("asyncflow")


class Shown:
    """Encodes values as JSON, with what a hook shows in place of them and of their parts."""

    __slots__ = ("_redact",)

    def __init__(self, redact: Redact | None) -> None:
        self._redact = redact

    def json(self, value: Any, *path: str | int) -> bytes:
        """Encode a value as JSON. `path`: its place in the response."""
        return json_of(value) if self._redact is None else to_json(self.tree(value, *path))

    def tree(self, value: Any, *path: str | int) -> Any:
        """Return a value as dicts, lists, strings, finite numbers, booleans and None."""
        return self.part(tree_of(value), value, *path)

    def text(self, text: str, *path: str | int) -> str:
        """Return what is shown in place of a text, as a text."""
        shown = self.part(text, text, *path)
        return shown if isinstance(shown, str) else "" if shown is None else json_of(shown).decode()

    def part(self, tree: Any, value: Any, *path: str | int) -> Any:
        """Return what is shown of a tree. `value`: the value that it shows, whose fields name the parts of the path."""
        if self._redact is None:
            return tree
        try:
            shown = self._redact(path, tree)
        except Exception as error:  # a user's hook may raise anything. Its text may have the value, so it is not logged
            *_, frame = extract_tb(error.__traceback__)
            what = type(error).__name__, frame.filename, frame.lineno
            logger.error("redact failed: a part of the %s is shown as null: %s at %s:%s", path[0], *what)
            return None
        if shown is not tree:
            return tree_of(shown)
        if isinstance(value, RootModel):
            value = value.root
        if isinstance(tree, dict):
            names = aliases_of(value)
            parts = _parts_of(value, tree)
            return {
                key: self.part(each, part, *path, names.get(key, key))
                for (key, each), part in zip(tree.items(), parts, strict=False)
            }
        if isinstance(tree, list):
            members: Any = (
                value if isinstance(value, list | tuple | deque) and len(value) == len(tree) else repeat(None)
            )
            return [
                self.part(each, member, *path, n) for n, (each, member) in enumerate(zip(tree, members, strict=False))
            ]
        return tree


def _parts_of(value: Any, tree: dict[str, Any]) -> Any:
    """Return the values of the parts of a dict, a model or a dataclass, in the order of its tree; None for an unknown one."""
    if isinstance(value, Mapping):
        return value.values() if len(value) == len(tree) else repeat(None)
    names = aliases_of(value)
    return [_fields_of(value).get(names.get(key, key)) for key in tree]


def _fields_of(value: Any) -> Mapping[str, Any]:
    """Return the fields of a model or a dataclass, without calling the user's code."""
    slots = {name: getattr(value, name, None) for name in getattr(type(value), "__dataclass_fields__", ())}
    return slots or getattr(value, "__dict__", None) or {}
