"""Three-way merge of states, and the merge functions that a field can declare.

Declare `total: Annotated[int, merge.add]` in a model, or `merges = {"total": merge.add}` on a flow with dict state. Any function
`(base, ours, theirs) -> value` can be used:

- `base`: the value that both methods started with; `MISSING` if there was none.
- `ours`: the value of the method that commits later.
- `theirs`: the committed value.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import decimal
import functools
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, cast

from pydantic import BaseModel

from ._values import series as _series
from ._values.copying import attributes_of, copied, key_text, same
from ._values.sameness import wholly_same

__all__ = ["MISSING", "Conflict", "Merge", "add", "append", "last", "three_way"]

Merge = Callable[[Any, Any, Any], Any]
"""A merge function: `(base, ours, theirs) -> value`."""


FUNCTIONS: Final = (types.FunctionType, types.BuiltinFunctionType, functools.partial)
"""Types of field metadata that declare how the field is merged; pydantic ignores them."""


class _Missing:
    """Marks a key that does not exist."""

    def __deepcopy__(self, memo: object) -> Self:
        return self


MISSING: Final = _Missing()
"""The `base` of a merge where both sides added the key: there was no value when they started."""


class Conflict(Exception):  # noqa: N818 - users get StateConflictError, which names the methods too
    """Both sides changed `path` in incompatible ways; `reason` states how. A merge function may raise `Conflict(path, reason)`."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


def add(base: Any, ours: Any, theirs: Any) -> Any:
    """Add up both sides' differences from `base`: for numbers that methods add to."""
    if base is MISSING:
        return ours + theirs
    return theirs + (ours - base)


def last(base: Any, ours: Any, theirs: Any) -> Any:
    """Return the value of the method that commits later: the last write wins."""
    return ours


def append(base: Any, ours: Any, theirs: Any) -> Any:
    """Append to the committed value the items that the later committer appended, whatever was done to the committed value.

    Raises `Conflict` if that method did more than append.
    """
    if isinstance(ours, collections.deque):  # a deque cannot be sliced
        start = [] if base is MISSING else list(base)
        return theirs + collections.deque(append(start, list(ours), []))
    start = [] if base is MISSING else base
    if not same(ours[: len(start)], start):
        raise Conflict("", "the later method did not only append")
    return theirs + ours[len(start) :]


def three_way(base: Any, ours: Any, theirs: Any, merges: Mapping[str, Merge]) -> Any:
    """Merge two states that started from `base`, field by field and key by key. Raises `Conflict`.

    - `merges`: the merge functions of a dict's top-level keys; a model's fields declare their own.

    The result may share structure with all three, so none of them may be changed afterwards. The time depends on the size of `base`
    and `ours`: `theirs`, which many methods may have extended, is copied only shallowly.
    """
    if isinstance(theirs, BaseModel):
        return _models(base, ours, theirs, "")
    return _dicts(base, ours, theirs, "", merges)


def _merged(base: Any, ours: Any, theirs: Any, path: str, how: Merge | None = None) -> Any:
    if wholly_same(ours, base):
        return theirs
    if wholly_same(theirs, base):
        return ours
    if ours is MISSING or theirs is MISSING:
        if ours is theirs:
            return MISSING
        raise Conflict(path, "one method deleted it and the other changed it")
    if how is not None:
        return _declared(how, base, ours, theirs, path)
    return _structural(base, ours, theirs, path)


def _declared(how: Merge, base: Any, ours: Any, theirs: Any, path: str) -> Any:
    try:
        return copied(how(copied(base), copied(ours), copied(theirs)))  # it may change them or keep references
    except Conflict as conflict:
        raise Conflict(path, conflict.reason) from None


def _structural(base: Any, ours: Any, theirs: Any, path: str) -> Any:
    kind = type(theirs)
    if type(ours) is kind:
        start = base if type(base) is kind else MISSING
        is_replaced = start is not base and kind in _SERIES  # for example None, which both sides replaced by a new list
        merged = None if is_replaced else _of_one_kind(kind, start, ours, theirs, path)
        if merged is not None:
            return merged
        if wholly_same(ours, theirs) and not _is_number(ours):
            return ours
    raise Conflict(path, "both methods changed it")


def _of_one_kind(kind: type, base: Any, ours: Any, theirs: Any, path: str) -> Any:
    """Merge two values of one type part by part; None if they have no parts, or if the changes are incompatible.

    `base` is of that type, too, or missing.
    """
    if issubclass(kind, dict):
        return _of_dicts(kind, base, ours, theirs, path)
    if issubclass(kind, set | frozenset):
        start = set() if base is MISSING else base
        return _like(theirs, (ours | theirs) - (start - ours) - (start - theirs))
    if base is not MISSING and issubclass(kind, BaseModel):
        return _models(base, ours, theirs, path)
    if base is not MISSING and dataclasses.is_dataclass(kind):
        return _dataclasses(base, ours, theirs, path)
    if base is not MISSING and issubclass(kind, tuple) and hasattr(kind, "_fields"):
        parts = _dicts(base._asdict(), ours._asdict(), theirs._asdict(), path, declared_in(kind))
        return kind(**parts)
    if kind in _SERIES:
        return _series.merged([] if base is MISSING else base, ours, theirs)
    return None


_SERIES: Final = (list, tuple, collections.deque)


def _like(model: Any, members: Any) -> Any:
    """Return a set of the type and with the attributes of another."""
    if type(model) in (set, frozenset):
        return type(model)(members)
    if isinstance(model, frozenset):
        return type(model)(members)
    new = copy.copy(model)
    set.clear(new)
    set.update(new, members)
    return new


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | complex | decimal.Decimal) and not isinstance(value, bool)


def _dicts(
    base: Mapping[Any, Any], ours: Mapping[Any, Any], theirs: Mapping[Any, Any], path: str, merges: Mapping[str, Merge]
) -> dict[Any, Any]:
    merged = dict(theirs)
    for key in _touched(base, ours):
        b, o, t = base.get(key, MISSING), ours.get(key, MISSING), theirs.get(key, MISSING)
        value = _merged(b, o, t, f"{path}{key_text(key)}".lstrip("."), merges.get(key))
        if value is not MISSING:
            merged[key] = value
        else:
            merged.pop(key, None)
    return merged


def _touched(base: Mapping[Any, Any], ours: Mapping[Any, Any]) -> list[Any]:
    """Return the keys that may have changed: their values are not the same objects on both sides."""
    touched = [key for key, value in ours.items() if base.get(key, MISSING) is not value]
    return touched + [key for key in base if key not in ours]


_OWN_WAYS: Final = ("__setitem__", "__delitem__", "__getitem__", "__iter__", "get")
_KNOWN_DICTS: Final = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)


def _of_dicts(kind: Any, base: Any, ours: Any, theirs: Any, path: str) -> Any:
    """Merge dicts of one class, key by key. None for a class that stores its items in its own way, and if both sides changed the order."""
    start: Any = {} if base is MISSING else base
    if kind is dict:
        return _dicts(start, ours, theirs, path, {})
    if any(all(getattr(kind, n) is not getattr(k, n) for k in _KNOWN_DICTS) for n in _OWN_WAYS):
        return None
    merged = _dicts(start, ours, theirs, path, {})
    if issubclass(kind, collections.OrderedDict):
        order = _in_order(start, ours, theirs)
        if order is None:
            return None
        merged = {key: merged[key] for key in order if key in merged}
    new = copy.copy(theirs)
    kind.clear(new)
    for name, value in _attributes(start, ours, theirs, path).items():
        object.__setattr__(new, name, value)
    if isinstance(new, collections.defaultdict):
        first = MISSING if base is MISSING else base.default_factory
        new.default_factory = _merged(first, ours.default_factory, theirs.default_factory, path)
    put: Any = kind.__setitem__
    target: Any = new
    for key, value in merged.items():
        put(target, key, value)
    return new


def _in_order(base: dict[Any, Any], ours: dict[Any, Any], theirs: dict[Any, Any]) -> list[Any] | None:
    """Return the keys of both sides, in the order of the side that moved any of them; None if both did."""
    have_moved = [[k for k in side if k in base] != [k for k in base if k in side] for side in (ours, theirs)]
    if all(have_moved):
        return None
    return list((ours | theirs) if have_moved[0] else (theirs | ours))


def _attributes(base: Any, ours: Any, theirs: Any, path: str) -> dict[str, Any]:
    kind: Any = type(theirs)
    start = {} if base is MISSING else attributes_of(base)
    return _dicts(start, attributes_of(ours), attributes_of(theirs), path, declared_in(kind))


def _dataclasses(base: Any, ours: Any, theirs: Any, path: str) -> Any:
    merged = _attributes(base, ours, theirs, path)
    new = copy.copy(theirs)
    for name in attributes_of(new).keys() - merged.keys():
        object.__delattr__(new, name)
    attributes = getattr(new, "__dict__", {})
    for name in attributes.keys() - merged.keys():  # drop cached properties: they are computed again
        del attributes[name]
    for name, value in merged.items():
        object.__setattr__(new, name, value)
    return new


def _models(base: BaseModel, ours: BaseModel, theirs: BaseModel, path: str) -> BaseModel:
    """Merge field by field, private attributes and excluded fields included: only the methods have those."""
    cls = type(theirs)
    fields = cls.model_fields
    values = dict(theirs.__dict__)
    for name in _touched(base.__dict__, ours.__dict__):
        if name not in fields:
            continue  # a cached property
        b, o, t = (side.__dict__.get(name, MISSING) for side in (base, ours, theirs))
        value = _merged(b, o, t, f"{path}.{name}".lstrip("."), _declared_on(fields[name].metadata))
        if value is not MISSING:
            values[name] = value
    new = cls.__new__(cls)
    put = object.__setattr__
    put(new, "__dict__", {k: v for k, v in values.items() if k in fields})
    put(new, "__pydantic_fields_set__", ours.__pydantic_fields_set__ | theirs.__pydantic_fields_set__)
    b, o, t = (side.__pydantic_extra__ for side in (base, ours, theirs))
    put(new, "__pydantic_extra__", None if t is None else _dicts(b or {}, o or {}, t, path, {}))
    b, o, t = (side.__pydantic_private__ for side in (base, ours, theirs))
    put(new, "__pydantic_private__", None if t is None else _dicts(b or {}, o or {}, t, path, declared_in(cls)))
    return new


def _declared_on(metadata: Any) -> Merge | None:
    return next((cast(Merge, m) for m in metadata if isinstance(m, FUNCTIONS)), None)


@functools.cache
def declared_in(cls: type) -> Mapping[str, Merge]:
    """Return the merge functions that a class declares in the annotations of its attributes: a dataclass's, or private ones."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception:  # it uses a name that is unknown where the class was declared: it declares nothing
        return {}
    found = {name: _declared_on(getattr(hint, "__metadata__", ())) for name, hint in hints.items()}
    return {name: how for name, how in found.items() if how is not None}
