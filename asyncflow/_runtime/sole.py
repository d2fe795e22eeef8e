"""Whether a state is nobody else's: then it needs no copy to be safe from whoever still holds a part of it.

Reference counts tell: a container that nobody else holds has one reference, its parent's. Values are looked at together,
level by level and column by column, which takes a tenth of the time of copying them. What is not understood here (extra
fields, weak references, cached properties, classes of other kinds, a value that stands in two places) is not called one's own,
and is copied as ever. Nor is what its bytes do not tell (private attributes, excluded fields, validators), if it is to be lent.
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

from .._values import ATOMS
from .plain import is_plain

__all__ = ["is_held_once", "is_sole"]

_COUNTS: Final = (
    sys.implementation.name == "cpython"
    and hasattr(sys, "getrefcount")
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
"""Whether references are counted as they are made. A free-threaded build does not, even where it is asked to have its lock (GIL)."""

_references: Final[Callable[[Any], int]] = getattr(sys, "getrefcount", lambda value: sys.maxsize)
_dict_of, _extra_of = attrgetter("__dict__"), attrgetter("__pydantic_extra__")
_private_of, _set_of = attrgetter("__pydantic_private__"), attrgetter("__pydantic_fields_set__")


def is_sole(held: list[Any], *, to_be_lent: bool = True) -> bool:
    """Whether nobody but this list holds what is in it, nor anything in there that can change.

    `to_be_lent`: and whether it can be made anew from its bytes, without asking anybody.

    Of what an annotation allows, only what can change is looked at: it means something for values that are of their annotated
    types, which the codec has found, or is asked about next.
    """
    values: list[Any] | None = list(held) if _COUNTS else None
    while values:
        values = _inside(values, to_be_lent)
    return values is not None


def is_held_once(held: list[Any]) -> bool:
    """Whether nobody but this list holds what is first in it, whoever holds what that contains."""
    return _COUNTS and _references(held[0]) <= _ONCE


def _inside(values: list[Any], to_be_lent: bool) -> list[Any] | None:
    """What these values hold, or None where somebody else holds one of them."""
    inner: list[Any] = []
    classes = set(map(type, values))
    for cls in classes - ATOMS:
        if issubclass(cls, enum.Enum):
            continue
        members: list[Any] = [value for value in values if type(value) is cls] if len(classes) > 1 else list(values)
        if (cls is tuple or cls is frozenset) and set(map(type, chain.from_iterable(members))) <= ATOMS:
            continue  # shared by all who have one, such as the empty one
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
    """What models hold besides their fields, where their bytes are not all that there is of them."""
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
    except KeyError:  # something else stands there in its place
        return None
    return inner


@cache
def _containers(model: type[BaseModel]) -> list[tuple[str, bool]]:
    """The fields whose values can change, and whether those surely hold nothing that can; all, where code may have made them."""
    if not is_plain(model):
        return [(name, False) for name in model.__pydantic_fields__]
    annotations = {name: field.annotation for name, field in model.__pydantic_fields__.items()}
    return [(name, _is_of_atoms(annotation)) for name, annotation in annotations.items() if not _is_atom(annotation)]


def _is_atom(annotation: Any) -> bool:
    """Whether what an annotation allows cannot change."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(map(_is_atom, get_args(annotation)))
    return get_origin(annotation) is Literal or (isinstance(annotation, type) and annotation in ATOMS - {type})


def _is_of_atoms(annotation: Any) -> bool:
    return get_origin(annotation) in (list, dict) and all(map(_is_atom, get_args(annotation)))


def _most(members: Sequence[Any]) -> int:
    """The most references that one of these has."""
    return max(map(_references, members))


def _counted(values: list[Any]) -> int:
    """What a value counts, seen as `_inside` sees it, whose only other reference is its parent's."""
    members = [value for value in values if type(value) is list]
    return _most(members)


_parent: list[list[Any]] = [[]]
_ONCE: Final = _references(_parent[0])
_ALONE: Final = _counted(list(_parent))
