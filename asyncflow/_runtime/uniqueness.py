"""Find out whether a state is exclusively owned: then it needs no copy to be safe from other holders of its parts.

The check uses reference counts: a container that no other object holds has one reference, its parent's. Values are examined
together, level by level and column by column, which takes a tenth of the time of copying them. Whatever the check does not
understand (extra fields, weak references, cached properties, classes of other kinds, a value in two places) does not count as
exclusively owned, and is copied as usual. If the state is to be lent, the same holds for whatever its bytes do not contain
(private attributes, excluded fields, validators).
"""

from __future__ import annotations

import enum
import sys
import sysconfig
import types
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from .._codec.plain_models import is_plain
from .._values.copying import ATOMS

__all__ = ["is_exclusively_owned", "is_held_once"]

_COUNTS: Final = (
    sys.implementation.name == "cpython"
    and hasattr(sys, "getrefcount")
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
"""Whether references are counted as they are made. A free-threaded build does not do so, even when it is set to use the GIL."""

_references: Final[Callable[[Any], int]] = getattr(sys, "getrefcount", lambda value: sys.maxsize)
_dict_of, _extra_of = attrgetter("__dict__"), attrgetter("__pydantic_extra__")
_private_of, _set_of = attrgetter("__pydantic_private__"), attrgetter("__pydantic_fields_set__")


def is_exclusively_owned(held: list[Any], *, to_be_lent: bool = True) -> bool:
    """Whether only this list holds the values in it, and only they hold everything in them that can change.

    `to_be_lent`: also check that the values can be decoded again from their bytes without calling other code.

    Of what an annotation allows, only what can change is examined. So the answer is valid only for values that have their annotated
    types. The codec has checked that, or checks it next.
    """
    values: list[Any] | None = list(held) if _COUNTS else None
    while values:
        values = _inside(values, to_be_lent)
    return values is not None


def is_held_once(held: list[Any]) -> bool:
    """Whether only this list holds its first item. Other objects may hold what the item contains."""
    return _COUNTS and _references(held[0]) <= _ONCE


def _inside(values: list[Any], to_be_lent: bool) -> list[Any] | None:
    """Return what these values contain, or None if another object holds one of them."""
    inner: list[Any] = []
    classes = set(map(type, values))
    for cls in classes - ATOMS:
        if issubclass(cls, enum.Enum):
            continue
        members: list[Any] = [value for value in values if type(value) is cls] if len(classes) > 1 else list(values)
        if (cls is tuple or cls is frozenset) and set(map(type, chain.from_iterable(members))) <= ATOMS:
            continue  # immutable and often shared, such as the empty one
        held = _held(cls, members, to_be_lent) if _most(members) <= _ALONE else None
        if held is None:
            return None
        inner += held
    return inner


def _held(cls: Any, members: list[Any], to_be_lent: bool) -> list[Any] | None:
    if cls is list or cls is tuple:
        return list(chain.from_iterable(members))
    if cls is dict:
        keys = set(map(type, chain.from_iterable(members)))
        return list(chain.from_iterable(map(dict.values, members))) if keys <= ATOMS else None
    if any(map(weakref.getweakrefcount, members)):
        return None
    if cls is set or cls is frozenset:
        return list(chain.from_iterable(members))
    if not issubclass(cls, BaseModel) or (to_be_lent and not is_plain(cls)):
        return None
    inner = _of_models(cls, list(map(_dict_of, members)))
    return inner if inner is None or is_plain(cls) else _with_the_rest(inner, members)


def _with_the_rest(inner: list[Any], members: list[Any]) -> list[Any] | None:
    """Add what models contain besides their fields, if their bytes do not contain everything."""
    are_open = any(extra is not None for extra in map(_extra_of, members))
    if are_open or _most(list(map(_set_of, members))) >= _ALONE:
        return None
    return inner + list(map(_private_of, members))


def _of_models(cls: type[BaseModel], dicts: list[dict[str, Any]]) -> list[Any] | None:
    if _most(dicts) >= _ALONE or set(map(len, dicts)) != {len(cls.__pydantic_fields__)}:
        return None
    inner: list[Any] = []
    try:
        for name, are_leaves in _containers(cls):
            column = list(map(itemgetter(name), dicts))
            if not are_leaves:
                inner += column
            elif _most(column) >= _ALONE:
                return None
    except KeyError:  # something else replaces the field
        return None
    return inner


@cache
def _containers(model: type[BaseModel]) -> list[tuple[str, bool]]:
    """Return the fields whose values can change, and for each whether its value certainly contains nothing that can change.

    Return all fields if code may have made their values.
    """
    if not is_plain(model):
        return [(name, False) for name in model.__pydantic_fields__]
    annotations = {name: field.annotation for name, field in model.__pydantic_fields__.items()}
    return [(name, _is_of_atoms(annotation)) for name, annotation in annotations.items() if not _is_atom(annotation)]


def _is_atom(annotation: Any) -> bool:
    """Whether an annotation allows only values that cannot change."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(map(_is_atom, get_args(annotation)))
    return get_origin(annotation) is Literal or (isinstance(annotation, type) and annotation in ATOMS - {type})


def _is_of_atoms(annotation: Any) -> bool:
    return get_origin(annotation) in (list, dict) and all(map(_is_atom, get_args(annotation)))


def _most(members: Sequence[Any]) -> int:
    """Return the highest reference count of these values."""
    return max(map(_references, members))


def _counted(values: list[Any]) -> int:
    """Return the reference count, as `_inside` measures it, of a value whose only other reference is its parent's."""
    members = [value for value in values if type(value) is list]
    return _most(members)


_parent: list[list[Any]] = [[]]
_ONCE: Final = _references(_parent[0])
_ALONE: Final = _counted(list(_parent))
