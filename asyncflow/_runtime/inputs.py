"""The inputs that a pass was begun with: stored with it, so that the same line of code, run again, is known again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Set
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, from_json, to_json

__all__ = ["are_inputs", "inputs_bytes"]


def inputs_bytes(inputs: Mapping[str, Any]) -> bytes:
    """Inputs in a form that can be compared and shown. They are never read back."""
    known = {name: inputs[name] for name in sorted(inputs)}
    try:
        return _written(known)
    except PydanticSerializationError:
        return to_json({name: ascii(value) for name, value in known.items()})


def are_inputs(stored: bytes | None, inputs: Mapping[str, Any]) -> bool:
    """Whether these are the stored ones: equal, in whichever order dicts and sets tell what they hold.

    The order of a set of texts differs from process to process, and that of a dict is no part of its value.
    """
    if stored is None or inputs_bytes(inputs) == stored:
        return stored is not None
    try:
        return _tells(from_json(stored), inputs)
    except PydanticSerializationError:
        return False  # what JSON cannot tell was compared by its text


def _tells(stored: Any, value: Any) -> bool:
    """Whether a JSON value is what is written of this one."""
    value = _opened(value)
    if isinstance(value, Mapping):
        return isinstance(stored, dict) and _tell_all(stored, {_key(key): item for key, item in value.items()})
    if isinstance(value, Set):
        return isinstance(stored, list) and sorted(map(_sorted, stored)) == sorted(map(_told, value))
    if isinstance(value, list | tuple):
        return isinstance(stored, list) and len(stored) == len(value) and all(map(_tells, stored, value))
    return _sorted(stored) == _told(value)


def _tell_all(stored: dict[str, Any], known: dict[str, Any]) -> bool:
    return stored.keys() == known.keys() and all(_tells(stored[key], item) for key, item in known.items())


def _opened(value: Any) -> Any:
    """A model or a dataclass as the dict that JSON tells of it; any other value as it is."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value


def _key(key: Any) -> str:
    """What a key of a dict is in JSON."""
    return key if isinstance(key, str) else next(iter(from_json(_written({key: None}))))


def _told(value: Any) -> str:
    return _sorted(from_json(_written(value)))


def _sorted(told: Any) -> str:
    return json.dumps(told, sort_keys=True)


def _written(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="strings", bytes_mode="hex", serialize_unknown=True)
