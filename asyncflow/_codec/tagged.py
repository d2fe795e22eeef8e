"""JSON for values without an annotation: JSON's own types, and a closed list of builtins, each as a dict of one tag."""

from __future__ import annotations

import datetime
import decimal
import math
import pathlib
import uuid
from collections.abc import Callable
from typing import Any

from pydantic_core import TzInfo

from .._values.copying import key_text
from .._values.equality import zone_name
from .advice import foreign
from .errors import MAX_DEPTH, Refused

__all__ = ["tagged", "untagged"]


def _seconds(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_TAGS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    bytes: ("$bytes", bytes.hex),
    decimal.Decimal: ("$decimal", str),
    datetime.datetime: ("$datetime", datetime.datetime.isoformat),
    datetime.date: ("$date", datetime.date.isoformat),
    datetime.time: ("$time", datetime.time.isoformat),
    datetime.timedelta: ("$timedelta", _seconds),
    uuid.UUID: ("$uuid", str),
    type(pathlib.PurePath()): ("$purepath", str),
    type(pathlib.Path()): ("$path", str),
}

_CONTAINERS: dict[type, str] = {tuple: "$tuple", set: "$set", frozenset: "$frozenset"}

_UNTAG: dict[str, Callable[[Any], Any]] = {
    "$bytes": bytes.fromhex,
    "$decimal": decimal.Decimal,
    "$datetime": datetime.datetime.fromisoformat,
    "$date": datetime.date.fromisoformat,
    "$time": datetime.time.fromisoformat,
    "$timedelta": lambda parts: datetime.timedelta(*parts),
    "$uuid": uuid.UUID,
    "$purepath": pathlib.PurePath,
    "$path": pathlib.Path,
    "$float": float,
    "$int": int,
    "$tuple": lambda items: tuple(map(untagged, items)),
    "$set": lambda items: set(map(untagged, items)),
    "$frozenset": lambda items: frozenset(map(untagged, items)),
    "$dict": lambda items: {untagged(k): untagged(v) for k, v in items},
}


def tagged(value: Any, path: str, depth: int) -> Any:
    """Return the value as a tree of JSON types; a type that JSON lacks becomes a dict of one tag. `depth` is the depth in the JSON.

    Raises `Refused`.
    """
    cls = type(value)
    if depth > MAX_DEPTH:
        raise Refused(path, cls.__name__, f"it is nested more than {MAX_DEPTH} deep", "flatten it", limit=True)
    if cls is str or cls is bool or value is None:
        return value
    if cls is int:
        return value if -(1 << 63) <= value < 1 << 63 else {"$int": _digits(value, path)}
    if cls is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if cls is list:
        return [tagged(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
    if cls is dict:
        return _tagged_dict(value, path, depth)
    if cls in _CONTAINERS:
        return {_CONTAINERS[cls]: [tagged(v, f"{path}[{i}]", depth + 2) for i, v in enumerate(value)]}
    if cls in _TAGS:
        _check_exact(value, path)
        tag, write = _TAGS[cls]
        return {tag: write(value)}
    reason = "without an annotation, only JSON types and common builtins are stored"
    raise Refused(path, cls.__name__, reason, foreign(value))


def _tagged_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if all(type(k) is str and not k.startswith("$") for k in value):
        return {k: tagged(v, f"{path}{key_text(k)}".lstrip("."), depth + 1) for k, v in value.items()}
    pairs = ((k, v, f"{path}{key_text(k)}".lstrip(".")) for k, v in value.items())
    return {"$dict": [[tagged(k, p, depth + 3), tagged(v, p, depth + 3)] for k, v, p in pairs]}


def _digits(value: int, path: str) -> str:
    try:
        return str(value)
    except ValueError:
        raise Refused(path, "int", "it has more digits than Python parses", "store it as bytes", limit=True) from None


def _check_exact(value: Any, path: str) -> None:
    zone = getattr(value, "tzinfo", None)
    if zone is not None and type(zone) not in (datetime.timezone, TzInfo):
        reason = f"its time zone is a {type(zone).__name__}, and only its offset would be stored"
        raise Refused(
            path,
            type(value).__name__,
            reason,
            "use datetime.timezone.utc, and store the zone's name in a field of its own",
        )
    if zone_name(zone) not in (None, "UTC" if zone == datetime.UTC else None):
        raise Refused(
            path, type(value).__name__, "the name of its time zone would be lost", "store that in a field of its own"
        )
    if getattr(value, "fold", 0):
        raise Refused(path, type(value).__name__, "its fold would be lost", "store it in UTC")
    offset = value.utcoffset() if zone is not None else None
    if offset is not None and offset.microseconds:
        raise Refused(path, type(value).__name__, "its offset has fractions of a second", "store it in UTC")


def untagged(tree: Any) -> Any:
    """Return the value of a tree that `tagged` has written. Raises the reader's exceptions for any other content."""
    if type(tree) is list:
        return [untagged(v) for v in tree]
    if type(tree) is not dict:
        return tree
    if len(tree) == 1:
        ((tag, value),) = tree.items()
        if tag.startswith("$"):
            return _UNTAG[tag](value)
    return {k: untagged(v) for k, v in tree.items()}
