"""Encodes stored values as JSON that every parser reads, whatever the values are.

Each value is serialized as its own type defines. If that fails, or the result is not JSON, only the part concerned is replaced:
bytes that are not UTF-8 become base64, a number that is not finite becomes null, a lone surrogate "?", and an object without a JSON
form its text. If a serializer or a computed field of the user fails, its part becomes null, and never the raw value: such code may
exist to hide it.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Set
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic_core import from_json, to_json

from ..._runtime.attempts import encodable

__all__ = ["aliases_of", "json_of", "text_of", "tree_of"]

logger: Final = logging.getLogger("asyncflow")

DEEPEST: Final = 200
"""Levels of nesting that are followed. A stored value has 100 at most; a serializer's output may have more."""

_MEMBERS: Final = (list, tuple, deque, Set)
_BYTES: Final = (bytes, bytearray, memoryview)


def json_of(value: Any) -> bytes:
    """Encode the value as JSON."""
    try:
        data = _written(value)
    except Exception:  # pydantic's errors, and any exception of a user's serializer
        return to_json(tree_of(value))
    return data if _is_surely_json(data) else to_json(tree_of(value))


def tree_of(value: Any, depth: int = 0) -> Any:
    """Return the value as dicts, lists, strings, finite numbers, booleans and None."""
    if depth > DEEPEST:
        return None
    if value is None or type(value) in (bool, int):
        return value
    if type(value) in (str, float, bytes):  # a list may hold thousands of them: avoid an exception for each
        return _parts(value, depth)
    try:
        return _finite(from_json(_written(value)))
    except Exception:  # as above; the parts are tried one by one
        return _parts(value, depth)


def text_of(value: Any) -> str:
    """Return the text of an object that has no JSON form."""
    try:
        return encodable(str(value))
    except Exception:  # a user's __str__ may raise any exception
        return f"<{type(value).__name__}>"


def _written(value: Any) -> bytes:
    cls: Any = type(value)
    serializer = _serializer_of(cls)
    if serializer is None:
        return to_json(value, by_alias=True, inf_nan_mode="null", fallback=text_of)
    data: bytes = serializer.to_json(value, by_alias=True, fallback=text_of, warnings=False)
    return data


def _is_surely_json(data: bytes) -> bool:
    """Whether the data surely contains no constant that JSON lacks. False if a string contains such a word, too."""
    return b"NaN" not in data and b"Infinity" not in data


def _finite(tree: Any) -> Any:
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else None
    if isinstance(tree, list):
        return [_finite(each) for each in tree]
    return {key: _finite(each) for key, each in tree.items()} if isinstance(tree, dict) else tree


def _parts(value: Any, depth: int) -> Any:
    """Convert a value that could not be serialized as a whole, part by part."""
    cls: Any = type(value)
    if isinstance(value, Enum):
        return tree_of(value.value, depth + 1)
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, _BYTES):
        return _text_of_bytes(bytes(value))
    if isinstance(value, Mapping):
        return {_key(key): tree_of(each, depth + 1) for key, each in value.items()}
    if isinstance(value, _MEMBERS):
        return [tree_of(each, depth + 1) for each in value]
    return text_of(value) if _serializer_of(cls) is None else _fields(value, depth)


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _key(key: Any) -> str:
    """Return the text of a dict's key: as pydantic serializes it, or else as `tree_of` shows it."""
    try:
        (text,) = from_json(to_json({key: None}, fallback=text_of))
    except Exception:  # as above
        shown = tree_of(key)
        return shown if isinstance(shown, str) else text_of(key)
    return str(text)


# ---- models and dataclasses ------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _serializer_of(cls: type) -> Any:
    """Return the serializer of a model or a dataclass; None for other types."""
    if issubclass(cls, BaseModel):
        return cls.__pydantic_serializer__
    if not dataclasses.is_dataclass(cls):
        return None
    try:
        return TypeAdapter(cls).serializer
    except Exception:  # a type that pydantic does not know, or that cannot be resolved any more
        return None


def _fields(value: Any, depth: int) -> Any:
    """Convert a model or a dataclass field by field: each as its class serializes it, or else by its value."""
    cls: Any = type(value)
    try:
        form = _form_of(cls)
    except Exception:  # a class that pydantic builds in an unknown way
        return _unwritten(cls, "")
    if form.is_written_by_code:
        return _unwritten(cls, "")
    if form.is_root:
        return _unwritten(cls, "root") if "root" in form.coded else tree_of(value.root, depth + 1)
    shown: dict[str, Any] = {}
    for name in _names_of(value, form):
        try:
            written = _serializer_of(cls).to_json(
                value, include={name}, by_alias=True, fallback=text_of, warnings=False
            )
            shown.update(_finite(from_json(written)))
        except Exception:  # as above
            is_shown = name not in form.coded and hasattr(value, name)
            plain = tree_of(getattr(value, name), depth + 1) if is_shown else _unwritten(cls, name)
            shown[form.aliases.get(name, name)] = plain
    return shown


def _names_of(value: Any, form: _Form) -> Iterable[str]:
    return dict.fromkeys((*form.names, *(getattr(value, "__pydantic_extra__", None) or ())))


@lru_cache(maxsize=1024)  # cached, so that it is logged once
def _unwritten(cls: type, name: str) -> None:
    """Return None for what the user's code failed to serialize, and log where: only the users can fix it."""
    where = f"{cls.__qualname__}.{name}" if name else cls.__qualname__
    logger.warning("value shown as null: %s, which cannot be serialized as JSON", where)


class _Form(NamedTuple):
    """How a class serializes its instances."""

    names: tuple[str, ...]
    """The names of its fields and computed fields."""
    aliases: Mapping[str, str]
    coded: frozenset[str]
    """The fields that the user's code serializes."""
    is_written_by_code: bool
    is_root: bool


@lru_cache(maxsize=1024)
def _form_of(cls: type) -> _Form:
    decorators = getattr(cls, "__pydantic_decorators__", None)
    computed = {} if decorators is None else {name: each.info for name, each in decorators.computed_fields.items()}
    fields: Mapping[str, Any] = getattr(cls, "__pydantic_fields__", None) or {}
    named = {name: getattr(field, "serialization_alias", None) for name, field in fields.items()}
    named |= {name: info.alias for name, info in computed.items()}
    is_root = issubclass(cls, RootModel)
    schema = TypeAdapter(cls).core_schema
    found = _fields_schema(schema, "root" if is_root else "")
    names = dict.fromkeys((*found, *computed))
    coded = {name for name, node in found.items() if _has_code(node, _definitions(schema))}
    return _Form(
        tuple(names),
        {name: alias for name, alias in named.items() if isinstance(alias, str)},
        frozenset({*coded, *computed}),
        bool(decorators is not None and decorators.model_serializers),
        is_root,
    )


def aliases_of(value: Any) -> Mapping[str, str]:
    """Return the names of the fields of a model or a dataclass that are serialized under another name, by that name."""
    cls: Any = type(value)
    if _serializer_of(cls) is None:
        return {}
    try:
        return {alias: name for name, alias in _form_of(cls).aliases.items()}
    except Exception:  # a class that pydantic builds in an unknown way
        return {}


# ---- the schema that pydantic has built for a class ------------------------------------------------------------------


def _definitions(schema: Any) -> dict[str, Any]:
    return {each["ref"]: each for each in schema.get("definitions", ())}


def _fields_schema(schema: Any, root: str) -> dict[str, Any]:
    """Return the schemas of a class's fields by name. `root`: the name of the one field of a root model."""
    definitions = _definitions(schema)
    while schema["type"] not in ("model-fields", "dataclass-args"):
        if root and schema["type"] == "model":
            return {root: schema["schema"]}
        schema = definitions[schema["schema_ref"]] if schema["type"] == "definition-ref" else schema["schema"]
    fields = schema["fields"]
    return dict(fields) if isinstance(fields, dict) else {field["name"]: field for field in fields}


def _has_code(schema: Any, definitions: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """Whether the user's code serializes any part of this schema. Nested models and dataclasses are left out: each is checked alone."""
    if isinstance(schema, list | tuple):
        return any(_has_code(each, definitions, seen) for each in schema)
    if not isinstance(schema, dict):
        return False
    if schema.get("type") in ("model", "dataclass"):
        return False
    if schema.get("type") == "definition-ref":
        ref = schema["schema_ref"]
        return ref not in seen and _has_code(definitions.get(ref), definitions, seen | {ref})
    writer = (schema.get("serialization") or {}).get("function")
    if writer is not None and not getattr(writer, "__module__", "").startswith("pydantic."):
        return True
    if schema.get("serialization_exclude_if") is not None:
        return True
    return any(_has_code(part, definitions, seen) for key, part in schema.items() if key not in ("metadata", "default"))
