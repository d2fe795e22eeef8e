"""A digest of the arguments of a call: equal arguments have equal digests, in every process."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from .errors import MAX_DEPTH, Refused
from .tagged import tagged

__all__ = ["digest_of"]

_EMPTY: Final = hashlib.blake2b(b"[]", digest_size=16).hexdigest()


def digest_of(arguments: tuple[Any, ...]) -> str:
    """Return the digest of values that can be stored: BLAKE2b, 16 bytes, in hexadecimal. Raises `Refused` for others.

    Values of JSON's types and tagged builtins count as they are stored; models, dataclasses and members of enums by their fields and
    values. The order of sets and dicts does not count.
    """
    if not arguments:
        return _EMPTY
    try:
        data = to_json([_tree(value, f"[{i}]", 0) for i, value in enumerate(arguments)])
    except (PydanticSerializationError, ValueError) as error:
        raise Refused("", "", f"it cannot be written ({type(error).__name__})", "pass a value that can") from None
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _tree(value: Any, path: str, depth: int) -> Any:
    """Return the value as a tree of JSON types."""
    cls = type(value)
    if cls is str or cls is int or cls is bool or value is None:
        return value if cls is not int else tagged(value, path, depth)
    if depth > MAX_DEPTH:
        raise Refused(path, cls.__name__, f"it is nested more than {MAX_DEPTH} deep", "flatten it", limit=True)
    if cls is list or cls is tuple:
        trees = [_tree(each, f"{path}[{i}]", depth + 1) for i, each in enumerate(value)]
        return trees if cls is list else {"$tuple": trees}
    if cls is dict:
        return _of_pairs("$dict", value, path, depth)
    if cls is set or cls is frozenset:
        return {"$set": sorted((_tree(each, path, depth + 1) for each in value), key=to_json)}
    return _of_object(value, path, depth)


def _of_object(value: Any, path: str, depth: int) -> Any:
    """Return the tree of a value that is no container of Python's."""
    cls = type(value)
    if isinstance(value, Enum):
        return {"$enum": _tree(value.value, path, depth + 1)}
    if isinstance(value, BaseModel):
        return _of_pairs("$model", {**value.__dict__, **(value.__pydantic_extra__ or {})}, path, depth)
    if dataclasses.is_dataclass(cls):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(cls)}
        return _of_pairs("$model", fields, path, depth)
    return tagged(value, path, depth)


def _of_pairs(tag: str, pairs: Mapping[Any, Any], path: str, depth: int) -> Any:
    trees = [(_tree(key, path, depth + 1), _tree(each, f"{path}.{key}", depth + 1)) for key, each in pairs.items()]
    return {tag: sorted(trees, key=to_json)}
