"""The inputs that a pass was begun with: stored with it, so that the same line of code, run again, is known again."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from itertools import chain
from operator import attrgetter
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import PydanticSerializationError, from_json, to_json

from .._values import ATOMS

__all__ = ["are_inputs", "inputs_bytes", "told_once"]


def told_once(inputs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Inputs that can be looked at again: what a generator or another iterator gives is given to one alone."""
    return {name: list(value) if _is_spent(value) else value for name, value in (inputs or {}).items()}


def _is_spent(value: Any) -> bool:
    return isinstance(value, Iterator) and not isinstance(value, io.IOBase)


def inputs_bytes(inputs: Mapping[str, Any]) -> bytes:
    """Inputs in a form that can be compared and shown. They are never read back.

    The members of a set come in an order of their own, as that of the set differs from process to process; and a secret is told
    by its digest, as all are written alike.
    """
    known = {name: inputs[name] for name in sorted(inputs)}
    try:
        data = _written(known)
        return _written(_ordered(from_json(data), known)) if _needs_order(known.values()) else data
    except PydanticSerializationError:
        return to_json({name: ascii(value) for name, value in known.items()})


def are_inputs(stored: bytes | None, inputs: Mapping[str, Any]) -> bool:
    """Whether these are the stored ones: equal, in whichever order dicts tell what they hold."""
    if stored is None:
        return False
    data = inputs_bytes(inputs)
    return data == stored or (len(data) == len(stored) and _sorted(data) == _sorted(stored))


def _sorted(data: bytes) -> Any:
    """JSON with the keys of each object in order; numbers as they are spelt, and a key that comes twice twice."""
    return json.loads(data, object_pairs_hook=_in_order, parse_int=_number, parse_float=_number)


def _in_order(pairs: list[tuple[str, Any]]) -> Any:
    return ("object", sorted(pairs, key=lambda pair: (pair[0], repr(pair[1]))))


def _number(spelt: str) -> Any:
    return ("number", spelt)


# ---- what is written otherwise in another process, or not at all -------------------------------------------------------

_SECRETS = (SecretStr, SecretBytes)
_dict_of = attrgetter("__dict__")


def _needs_order(values: Iterable[Any]) -> bool:
    """Whether there is a set or a secret in there. What holds itself is looked at once."""
    level, seen = list(values), set[int]()
    while level:
        kinds = set(map(type, level)) - ATOMS
        if any(issubclass(kind, (Set, *_SECRETS)) for kind in kinds):
            return True
        holders = {kind: [each for each in level if type(each) is kind and id(each) not in seen] for kind in kinds}
        seen.update(chain.from_iterable(map(id, values) for values in holders.values()))
        level = list(chain.from_iterable(_members(kind, values) for kind, values in holders.items()))
    return False


def _members(kind: type, values: list[Any]) -> Iterable[Any]:
    """What these values of a kind hold: all of them together, as they may be thousands."""
    if issubclass(kind, list | tuple):
        return chain.from_iterable(values)
    fields = map(_dict_of, values) if issubclass(kind, BaseModel) else values if kind is dict else map(_fields, values)
    return chain.from_iterable(each.values() for each in fields)


def _fields(value: Any) -> Mapping[Any, Any]:
    """What a dict, a model or a dataclass holds."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel):
        return value.__dict__
    is_made_of_fields = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)} if is_made_of_fields else {}


def _ordered(told: Any, value: Any) -> Any:
    """What is written of a value, with the members of its sets in order, and its secrets told apart."""
    if isinstance(value, _SECRETS):
        secret = value.get_secret_value()
        return hashlib.blake2b(secret.encode() if isinstance(secret, str) else secret, digest_size=16).hexdigest()
    if isinstance(value, list | tuple | Set):
        if not isinstance(told, list) or len(told) != len(value):
            return told
        members = list(map(_ordered, told, value))
        return sorted(members, key=_written) if isinstance(value, Set) else members
    return _with_fields(told, value) if isinstance(told, dict) else told


def _with_fields(told: dict[str, Any], value: Any) -> dict[str, Any]:
    """Fields are found by their names, or else, where all were written, by their places."""
    held = _fields(value)
    names = held.keys() if held.keys() <= told.keys() else told.keys() if len(told) == len(held) else ()
    return {**told, **{name: _ordered(told[name], item) for name, item in zip(names, held.values(), strict=False)}}


def _written(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="strings", bytes_mode="hex", serialize_unknown=True)
