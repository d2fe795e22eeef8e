"""Find each `Any` in pydantic's schema of an annotation, and build a second schema that writes tags there and reads them.

Only core schemas are examined, so that every form of annotation (aliases, dataclasses, named tuples, generics) is handled
alike. An unknown kind of schema counts as one that has to be read by its annotation.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from pydantic_core import PydanticSerializationError, SchemaSerializer, SchemaValidator

from .advice import placed
from .errors import Refused
from .tagged import tagged, untagged

__all__ = ["Tagging", "is_plain", "settings_of", "tagging_of"]

Schema = Any
"""A core schema (nested dicts, lists and tuples), a list of core schemas, or a part of one."""


# ---- does the value equal its JSON? -----------------------------------------------------------------------------------

_SAME: Final = frozenset(
    ("str", "int", "float", "bool", "none", "nullable", "list", "dict", "union", "definitions", "definition-ref")
)
"""Kinds of schema whose values equal their JSON, if the same is true of the schemas within them."""


def is_plain(schema: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether the schema consists only of JSON's own types and `Any`; and whether there is an `Any`."""
    has_any = False
    todo: list[Any] = [schema]
    while todo:
        part = todo.pop()
        kind = part["type"]
        if "serialization" in part or "config" in part:
            return False, False
        if kind == "any":
            has_any = True
        elif kind == "literal":
            if not {*map(type, part["expected"])} <= {str, int, bool, types.NoneType}:
                return False, False
        elif kind == "typed-dict":
            if _holds_more_than_its_fields(part):
                return False, False
            todo += [field["schema"] for field in part["fields"].values()]
        elif kind not in _SAME or (kind == "dict" and part.get("keys_schema", _ANY)["type"] not in ("str", "any")):
            return False, False
        else:
            has_any = has_any or not _is_said(part)
            todo += _within(part)
    return True, has_any


def _holds_more_than_its_fields(part: Mapping[str, Any]) -> bool:
    return bool(part.get("computed_fields") or part.get("extras_schema") or part.get("extra_behavior") == "allow")


_ANY: Final[Any] = {"type": "any"}


def _is_said(part: Mapping[str, Any]) -> bool:
    """Whether a list or dict schema declares what it holds."""
    if part["type"] == "dict":
        return part.get("keys_schema", _ANY)["type"] != "any" and "values_schema" in part
    return part["type"] != "list" or "items_schema" in part


def _within(part: Mapping[str, Any]) -> Iterator[Any]:
    for name in ("schema", "items_schema", "values_schema"):
        if name in part:
            yield part[name]
    for name in ("choices", "definitions"):
        for each in part.get(name, ()):
            yield each[0] if isinstance(each, tuple) else each


# ---- settings ---------------------------------------------------------------------------------------------------------


def settings_of(schema: Schema) -> set[str]:
    """Return the names of all settings that are enabled in a schema."""
    found: set[str] = set()
    for node in _nodes(schema):
        found |= {name for name, value in node.get("config", {}).items() if value not in (None, False)}
        found |= {"strict"} if node.get("strict") else set()
    return found


_NOT_VALUES: Final = frozenset(("serialization", "metadata", "config", "default", "computed_fields", "cls", "expected"))
"""Parts of a schema that contain no schemas, or none that describe the values."""

_MAPS: Final = frozenset(("fields", "choices"))
"""Parts that are dicts with the user's names as keys."""


def _nodes(schema: Schema) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "type" in schema:
            yield schema
        for name, part in schema.items():
            if name in _MAPS and isinstance(part, dict):
                for each in part.values():
                    yield from _nodes(each)
            elif name not in _NOT_VALUES:
                yield from _nodes(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _nodes(part)


# ---- tags at each Any -------------------------------------------------------------------------------------------------


class Tagging:
    """Writes and reads the values of an annotation with tags at each `Any`."""

    def __init__(self, writes: SchemaSerializer, reads: SchemaValidator, checks: SchemaValidator) -> None:
        self._writes, self._reads, self._checks = writes, reads, checks

    def write(self, value: Any) -> bytes:
        """Return the value as JSON. Raises `Refused`, and pydantic's exceptions."""
        _last.refused = None
        try:
            return self._writes.to_json(value, by_alias=False, round_trip=True, warnings=False)
        except PydanticSerializationError:
            refused, _last.refused = _last.refused, None
            if refused is None:
                raise
        raise placed(value, refused)

    def read(self, data: bytes) -> Any:
        """Return the value of this JSON. Raises `ValidationError`."""
        return self._reads.validate_json(data, by_alias=False, by_name=True)

    def check(self, data: bytes) -> None:
        """Validate JSON in which no `Any` may hold a string, a list or a dict. Raises `ValidationError`, with `TYPE_IS_GONE` for those."""
        self._checks.validate_json(data, by_alias=False, by_name=True)


class _Last(threading.local):
    """Why the latest value in this thread was not written: pydantic converts the exception to text."""

    refused: Refused | None = None


_last: Final = _Last()


def tagging_of(schema: Schema) -> Tagging | None:
    """Return the `Tagging` of an annotation, by its core schema; None if there is no `Any` in it."""
    tags = _Tags()
    changed = tags.put(schema, is_open=False)
    if not tags.are_put:
        return None
    checked = _Tags(_check).put(schema, is_open=False)
    models = {node["cls"] for node in _nodes(schema) if node["type"] in ("model", "dataclass") and "cls" in node}
    with _rebuilt(models) as settings:
        return Tagging(
            SchemaSerializer(changed, None, **settings),
            SchemaValidator(changed, None, **settings),
            SchemaValidator(checked, None, **settings),
        )


def has_any(schema: Schema) -> bool:
    """Whether there is an `Any` in an annotation, by its core schema: unknown fields of a model included."""
    tags = _Tags()
    tags.put(schema, is_open=False)
    return tags.are_put


class _Tags:
    """Replaces each `Any` by a node that writes and reads tags."""

    def __init__(self, read: Callable[[Any], Any] | None = None) -> None:
        self.are_put = False
        self._read = read or _read

    def put(self, schema: Schema, is_open: bool) -> Schema:
        """Return the schema with each `Any` replaced. `is_open`: whether the enclosing model accepts unknown fields."""
        if isinstance(schema, list):
            return [self.put(part, is_open) for part in schema]
        if isinstance(schema, tuple):
            return tuple(self.put(part, is_open) for part in schema)
        if not isinstance(schema, dict):
            return schema
        kind = schema.get("type")
        if kind == "any" or (kind == "dict" and _takes_all(schema)):
            return schema if "serialization" in schema else self._node(schema)  # or its class defines how to write it
        if kind in ("model", "typed-dict"):
            is_open = schema.get("config", {}).get("extra_fields_behavior") == "allow"
        new = {name: self._part(name, part, is_open) for name, part in schema.items()}
        missing = _left_out(schema, is_open)
        if missing is not None and missing not in new:
            new[missing] = self._node(_ANY)
        return new

    def _part(self, name: str, part: Any, is_open: bool) -> Any:
        if name == "serialization" and "schema" in part:  # a serializer around a schema: the items of a sequence
            return {**part, "schema": self.put(part["schema"], is_open)}
        if name in _NOT_VALUES:
            return part
        if name in _MAPS and isinstance(part, dict):
            return {each: self.put(inner, is_open) for each, inner in part.items()}
        return self.put(part, is_open)

    def _node(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the node that replaces an `Any`, or a dict of any keys and values."""
        self.are_put = True
        reads = {"type": "no-info", "function": self._read}
        made: dict[str, Any] = {"type": "function-plain", "function": reads}
        if schema["type"] == "dict":
            made = {"type": "function-before", "function": reads, "schema": schema}
        made["serialization"] = {"type": "function-plain", "function": _written, "return_schema": _ANY}
        return {**made, "ref": schema["ref"]} if "ref" in schema else made


def _left_out(schema: dict[str, Any], is_open: bool) -> str | None:
    """Return the part of a schema that is `Any` if the schema omits it; None if there is none."""
    if schema.get("type") not in ("model-fields", "typed-dict"):
        return _UNSAID.get(schema.get("type"))
    return "extras_schema" if schema.get("extra_behavior", "allow" if is_open else "") == "allow" else None


_UNSAID: Final[dict[Any, str]] = {
    **dict.fromkeys(("list", "set", "frozenset"), "items_schema"),
    "dict": "values_schema",
}
"""The part that is `Any` if a schema omits it, by kind of schema."""


def _takes_all(schema: dict[str, Any]) -> bool:
    """Whether a dict may have any keys: it is tagged as a whole, because JSON's keys are strings."""
    return bool(schema.get("keys_schema", _ANY)["type"] == "any" and schema.get("values_schema", _ANY)["type"] == "any")


def _written(value: Any) -> Any:
    try:
        return tagged(value, "", 0)
    except Refused as refused:
        refused.whole, _last.refused = value, refused
        raise


TYPE_IS_GONE: Final = "the type that it was written with no longer exists"


def _check(tree: Any) -> Any:
    if tree is None or isinstance(tree, bool | int | float):
        return tree
    raise ValueError(TYPE_IS_GONE)


def _read(tree: Any) -> Any:
    try:
        return untagged(tree)
    except (KeyError, TypeError, ArithmeticError, AttributeError) as error:  # pydantic reports only a ValueError
        raise ValueError(f"it has no known type tag ({type(error).__name__})") from None


# ---- pydantic's reuse of built schemas ---------------------------------------------------------------------------------

_building = threading.Lock()


@contextmanager
def _rebuilt(models: set[Any]) -> Iterator[dict[str, Any]]:
    """Make pydantic build a changed schema of these classes: by default it would reuse what it has built for the classes themselves.

    Before 2.13, only the mark that the class is complete can prevent the reuse; pydantic reads this mark while it creates classes.
    """
    try:
        SchemaValidator(_ANY, None, _use_prebuilt=False)
    except TypeError:
        pass
    else:
        yield {"_use_prebuilt": False}
        return
    with _building:
        complete = [model for model in models if vars(model).get("__pydantic_complete__")]
        try:
            for model in complete:
                type.__setattr__(model, "__pydantic_complete__", False)
            yield {}
        finally:
            for model in complete:
                type.__setattr__(model, "__pydantic_complete__", True)
