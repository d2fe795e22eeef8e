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
    if isinstance(value, BaseModel):
        value = value.model_dump(by_alias=True, round_trip=False)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        known = {_key(key): item for key, item in value.items()}
        return (
            isinstance(stored, dict)
            and stored.keys() == known.keys()
            and all(_tells(stored[key], item) for key, item in known.items())
        )
    if isinstance(value, Set):
        return isinstance(stored, list) and sorted(map(_sorted, stored)) == sorted(
            _sorted(from_json(_written(item))) for item in value
        )
    if isinstance(value, list | tuple):
        return isinstance(stored, list) and len(stored) == len(value) and all(map(_tells, stored, value))
    return _sorted(stored) == _sorted(from_json(_written(value)))


def _key(key: Any) -> str:
    """What a key of a dict is in JSON."""
    return key if isinstance(key, str) else next(iter(from_json(_written({key: None}))))


def _sorted(told: Any) -> str:
    return json.dumps(told, sort_keys=True)


def _written(value: Any) -> bytes:
    return to_json(value, inf_nan_mode="strings", bytes_mode="hex", serialize_unknown=True)
