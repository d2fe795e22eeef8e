"""The three-way merge of states, and the ways in which a field can say how it is merged.

`total: Annotated[int, merge.add]` in a model, `merges = {"total": merge.add}` on a flow with dict state, or any function
`(base, ours, theirs) -> value`: `base` is what both began with, `ours` the later committer's, `theirs` the committed one.
"""

from __future__ import annotations

import decimal
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, cast

from pydantic import BaseModel

from ._values import copied, same

__all__ = ["Conflict", "Merge", "add", "append", "last", "three_way"]

Merge = Callable[[Any, Any, Any], Any]
"""`(base, ours, theirs) -> value`."""


FUNCTIONS: Final = (types.FunctionType, types.BuiltinFunctionType, functools.partial)
"""What, in a field's metadata, says how it is merged; pydantic makes nothing of these."""


class _Missing:
    """A key that is not there."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


MISSING: Final = _Missing()


class Conflict(Exception):  # noqa: N818 - not for users: they get StateConflictError, which names the methods too
    """Both sides changed `path`, in ways that cannot both stand; `reason` says how."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


def add(base: Any, ours: Any, theirs: Any) -> Any:
    """Both sides' differences count: for numbers that are added to."""
    if base is MISSING:
        return ours + theirs
    return theirs + (ours - base)


def last(base: Any, ours: Any, theirs: Any) -> Any:
    """The later committer wins."""
    return ours


def append(base: Any, ours: Any, theirs: Any) -> Any:
    """What the later committer appended comes after what is committed, whatever was done to that."""
    start = [] if base is MISSING else base
    if not same(ours[: len(start)], start):
        raise Conflict("", "the later method did more than append")
    return theirs + ours[len(start) :]


def three_way(base: Any, ours: Any, theirs: Any, merges: Mapping[str, Merge]) -> Any:
    """Merge two states that began with `base`, field by field and key by key.

    `merges` says how the top-level keys of a dict are merged; a model's fields say it themselves. Raises `Conflict`.
    The result may share structure with its arguments.
    """
    if isinstance(theirs, BaseModel):
        return _models(base, ours, theirs, "")
    return _dicts(base, ours, theirs, "", merges)


def _merged(base: Any, ours: Any, theirs: Any, path: str, how: Merge | None = None) -> Any:
    if same(ours, base):
        return theirs
    if same(theirs, base):
        return ours
    if ours is MISSING or theirs is MISSING:
        if ours is theirs:
            return MISSING
        raise Conflict(path, "one deleted it and the other changed it")
    if how is not None:
        return _declared(how, base, ours, theirs, path)
    return _structural(base, ours, theirs, path)


def _declared(how: Merge, base: Any, ours: Any, theirs: Any, path: str) -> Any:
    try:
        return how(copied(base), copied(ours), copied(theirs))  # whatever it does to them, versions are never changed
    except Conflict as conflict:
        raise Conflict(path, conflict.reason) from None


def _structural(base: Any, ours: Any, theirs: Any, path: str) -> Any:
    kind = type(theirs)
    if type(ours) is kind:
        if kind is dict:
            return _dicts(base if type(base) is dict else {}, ours, theirs, path, {})
        if kind is list and (joined := _appended(base, ours, theirs)) is not None:
            return joined
        if kind is set:
            start = base if type(base) is set else set()
            return (ours | theirs) - (start - ours) - (start - theirs)
        if issubclass(kind, BaseModel) and type(base) is kind:
            return _models(base, ours, theirs, path)
        if same(ours, theirs) and not _is_number(ours):
            return ours
    raise Conflict(path, "both changed it")


def _appended(base: Any, ours: list[Any], theirs: list[Any]) -> list[Any] | None:
    start = [] if base is MISSING else base
    if type(start) is not list:
        return None
    n = len(start)
    if same(ours[:n], start) and same(theirs[:n], start):
        return theirs + ours[n:]
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex | decimal.Decimal) and not isinstance(value, bool)


def _dicts(
    base: Mapping[Any, Any], ours: Mapping[Any, Any], theirs: Mapping[Any, Any], path: str, merges: Mapping[str, Merge]
) -> dict[Any, Any]:
    merged: dict[Any, Any] = {}
    for key in dict.fromkeys((*theirs, *ours, *base)):
        b, o, t = (side.get(key, MISSING) for side in (base, ours, theirs))
        value = _merged(b, o, t, f"{path}.{key}".lstrip("."), merges.get(key))
        if value is not MISSING:
            merged[key] = value
    return merged


def _models(base: BaseModel, ours: BaseModel, theirs: BaseModel, path: str) -> BaseModel:
    cls = type(theirs)
    fields = cls.model_fields
    values = dict(theirs.__dict__)
    for name, field in fields.items():
        if field.exclude:
            continue
        b, o, t = (side.__dict__.get(name, MISSING) for side in (base, ours, theirs))
        value = _merged(b, o, t, f"{path}.{name}".lstrip("."), _declared_on(field.metadata))
        if value is not MISSING:
            values[name] = value
    new = cls.__new__(cls)
    put = object.__setattr__
    put(new, "__dict__", {k: v for k, v in values.items() if k in fields})
    put(new, "__pydantic_fields_set__", ours.__pydantic_fields_set__ | theirs.__pydantic_fields_set__)
    b, o, t = (side.__pydantic_extra__ for side in (base, ours, theirs))
    put(new, "__pydantic_extra__", None if t is None else _dicts(b or {}, o or {}, t, path, {}))
    put(new, "__pydantic_private__", theirs.__pydantic_private__)
    return new


def _declared_on(metadata: list[Any]) -> Merge | None:
    return next((cast(Merge, m) for m in metadata if isinstance(m, FUNCTIONS)), None)
