"""Whether a value was changed at all: the comparison of a merge, which may ignore nothing.

`same` compares what is stored. Private attributes, excluded fields and the order of an OrderedDict are not stored, but a
method may have changed them.
"""

from __future__ import annotations

import collections
import pickle
from typing import Any

from pydantic import BaseModel

from .copying import ATOMS, attributes_of, difference

__all__ = ["wholly_same"]


def wholly_same(a: Any, b: Any) -> bool:
    """Whether two values are the same at every level, private attributes and excluded fields included."""
    if a is b:
        return True
    try:
        return difference(a, b) is None and _is_rest_same(a, b)
    except RecursionError:  # objects with circular references, such as a parsed document's
        return _pickled(a) == _pickled(b)


def _is_rest_same(a: Any, b: Any) -> bool:
    """Whether two values with equal stored forms are also equal in the parts that are not stored."""
    if a is b or type(a) in ATOMS:
        return True
    if isinstance(a, BaseModel):
        return _is_rest_of_models_same(a, b)
    if isinstance(a, dict):
        in_order = not isinstance(a, collections.OrderedDict) or list(a) == list(b)
        return in_order and all(_is_rest_same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple, collections.deque)):
        return all(map(_is_rest_same, a, b))
    if isinstance(a, (set, frozenset)):
        counterparts = {value: value for value in b}
        return all(_is_rest_same(value, counterparts[value]) for value in a)
    mine, yours = (
        attributes_of(a),
        attributes_of(b),
    )  # compared wholly: the class's own == may say that other values are equal
    return mine.keys() == yours.keys() and all(wholly_same(value, yours[name]) for name, value in mine.items())


def _is_rest_of_models_same(a: BaseModel, b: BaseModel) -> bool:
    mine, yours = a.__dict__, b.__dict__
    for name, field in type(a).__pydantic_fields__.items():
        if name in mine and not (wholly_same if field.exclude else _is_rest_same)(mine[name], yours.get(name)):
            return False
        if field.exclude and (name in mine) != (name in yours):
            return False
    return wholly_same(a.__pydantic_private__, b.__pydantic_private__) and _is_rest_same(
        a.__pydantic_extra__, b.__pydantic_extra__
    )


def _pickled(value: Any) -> object:
    """Return the pickled value, or an object that is equal to nothing if it cannot be pickled. It is never unpickled."""
    try:
        return pickle.dumps(value)
    except Exception:  # whatever a third-party __reduce__ raises
        return object()
