"""Stored values as plain JSON trees, without the types that wrote them; and the hook that hides parts of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pydantic_core import from_json

from .._codec.marks import MIXED, TAGGED

__all__ = ["Path", "Redact", "at", "redacted", "stored_tree"]

Path: TypeAlias = tuple[str | int, ...]
Redact: TypeAlias = Callable[[Path, Any], Any]
"""Returns what is shown in place of a value; the value itself to show it."""

_TEXTS: Final = frozenset(
    ("$bytes", "$decimal", "$datetime", "$date", "$time", "$uuid", "$purepath", "$path", "$float")
)
_OF_LISTS: Final = frozenset(("$tuple", "$set", "$frozenset", "$timedelta", "$dict"))


def stored_tree(data: bytes) -> Any:
    """Return a stored value as dicts, lists, texts, finite numbers, booleans and None. Raises `ValueError` if it is no JSON."""
    tree = from_json(data)
    return _plain(tree, data[:1] in (TAGGED, MIXED))


def _plain(tree: Any, has_tags: bool) -> Any:
    """Return a tree without the tags of types that JSON lacks, and with texts for numbers that are not finite."""
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else repr(tree)
    if isinstance(tree, list):
        return [_plain(each, has_tags) for each in tree]
    if not isinstance(tree, dict):
        return tree
    if has_tags and len(tree) == 1:
        ((tag, value),) = tree.items()
        if (isinstance(value, str) and (tag in _TEXTS or tag == "$int")) or (
            isinstance(value, list) and tag in _OF_LISTS
        ):
            return _untagged(tag, value)
    return {key: _plain(each, has_tags) for key, each in tree.items()}


def _untagged(tag: str, value: Any) -> Any:
    """Return a tagged value, a text or a list, without its tag."""
    if tag in _TEXTS:
        return value
    if tag == "$int":
        return int(value) if len(value) < 4_000 else value
    if tag == "$timedelta" and len(value) != 3:
        return {tag: [_plain(each, True) for each in value]}
    if tag == "$timedelta":
        return value[0] * 86_400 + value[1] + value[2] / 1_000_000
    if tag == "$dict":
        return {_key(_plain(key, True)): _plain(each, True) for key, each in value}
    return [_plain(each, True) for each in value]


def _key(key: Any) -> str:
    return key if isinstance(key, str) else repr(key)


def redacted(value: Any, redact: Redact | None, path: Path) -> Any:
    """Return a value with what a hook shows in place of it and of its parts."""
    if redact is None:
        return value
    shown = redact(path, value)
    if shown is not value:
        return shown
    if isinstance(value, dict):
        return {key: redacted(each, redact, (*path, key)) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted(each, redact, (*path, place)) for place, each in enumerate(value)]
    return value


def at(path: Path) -> str:
    """Return a path as text, such as `state.items[3].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
