"""Forms for the payload of a signal, made from the JSON schema of its type; and the JSON that a filled form stands for.

What the schema says only shapes the form: the type itself validates the payload, when the signal is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

__all__ = ["ANY_JSON", "Field", "fields_of", "payload_of"]

MOST: Final = 30
"""A payload with more fields than this is one JSON text."""

PREFIX: Final = "field."

Kind = Literal["text", "lines", "date", "integer", "number", "choice", "json"]


@dataclass(frozen=True, slots=True)
class Field:
    """One input of a form."""

    name: str
    """The key in the payload; '' if the input is the whole payload."""
    label: str
    kind: Kind
    is_required: bool = False
    value: str = ""
    """What the input contains at first; of a choice, the JSON of the chosen option."""
    about: str = ""
    options: tuple[tuple[str, str], ...] = ()
    """Of a choice: the JSON of each option, and its text."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Attributes of the input, such as `min`."""

    @property
    def key(self) -> str:
        """The name of the input."""
        return f"{PREFIX}{self.name}"


ANY_JSON: Final = Field("", "Payload", "json", about="JSON; empty for a signal without a payload.")


def fields_of(payload: Any) -> tuple[Field, ...]:
    """Return the inputs for a payload of this type: none if it has none, one JSON text if its schema says too little."""
    if payload is None or payload is type(None):
        return ()
    try:
        schema = TypeAdapter(payload).json_schema()
    except Exception:  # a type without a JSON schema, or whose own code raises
        return (ANY_JSON,)
    root = _resolved(schema, schema)
    properties = root.get("properties")
    if not isinstance(properties, dict):
        return (_field("", "Payload", root, schema, is_required=True),)
    if len(properties) > MOST or root.get("additionalProperties"):
        return (ANY_JSON,)
    required = root.get("required", ())
    return tuple(
        _field(name, each.get("title") or name, _resolved(each, schema), schema, is_required=name in required)
        for name, each in properties.items()
    )


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a schema with what it refers to."""
    found, seen = dict(node), set[str]()
    while "$ref" in found and found["$ref"] not in seen:
        seen.add(found["$ref"])
        target = schema.get("$defs", {}).get(found.pop("$ref").removeprefix("#/$defs/"), {})
        found = {**target, **found}
    return found


def _field(name: str, label: str, node: dict[str, Any], schema: Mapping[str, Any], *, is_required: bool) -> Field:
    options = node.get("anyOf", ())
    real = [each for each in options if each.get("type") != "null"]
    is_nullable = len(real) < len(options)
    if len(real) == 1:
        node = {**node, **_resolved(real[0], schema)}
    elif options:
        node = {**node, "type": "any"}
    kind = _kind(node)
    chosen = _options(node) if kind == "choice" else ()
    if is_nullable and chosen:
        chosen = (*chosen, ("null", "none"))
    value, about = node.get("default"), str(node.get("description", ""))
    if kind == "json":
        about = f"{about} JSON.".strip()
    return Field(
        name,
        label,
        kind,
        is_required and not (is_nullable and kind != "choice"),
        _written(value, kind) if "default" in node else "",
        about,
        chosen,
        _limits(node, kind),
    )


def _kind(node: Mapping[str, Any]) -> Kind:
    if "enum" in node or "const" in node or node.get("type") == "boolean":
        return "choice"
    match node.get("type"):
        case "integer":
            return "integer"
        case "number":
            return "number"
        case "string" if node.get("format") == "date":
            return "date"
        case "string":
            return "lines" if (node.get("maxLength") or 1_000) > 200 and "format" not in node else "text"
    return "json"


def _options(node: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    values = node.get("enum", [node["const"]] if "const" in node else [True, False])
    texts = {True: "yes", False: "no"} if node.get("type") == "boolean" else {}
    return tuple((to_json(value).decode(), texts.get(value, str(value))) for value in values)


def _limits(node: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    names = {"minimum": "min", "maximum": "max", "maxLength": "maxlength", "multipleOf": "step"}
    found = {attribute: node[name] for name, attribute in names.items() if name in node}
    if kind == "number":
        found.setdefault("step", "any")
    if node.get("format") == "date-time":
        found["placeholder"] = "2026-11-30T22:45:00Z"
    return found


def _written(value: Any, kind: Kind) -> str:
    if kind in ("choice", "json"):
        return to_json(value, fallback=str).decode()
    return "" if value is None else str(value)


def payload_of(fields: tuple[Field, ...], given: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return the JSON of a filled form, and what is wrong with it, by the name of the field.

    - `given`: the content of each input, by its `Field.key`.
    """
    values: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for each in fields:
        text = given.get(each.key, "").replace("\r\n", "\n")
        if text == "" and not (each.is_required and each.kind in ("text", "lines")):
            if each.is_required:
                wrong[each.name] = "A value is needed."
            continue
        try:
            values[each.name] = _read(text, each.kind)
        except ValueError:
            wrong[each.name] = {"json": "This is not JSON.", "choice": "This is no choice."}.get(
                each.kind, "This is not a number."
            )
    if not fields or [each.name for each in fields] == [""]:
        return (to_json(values[""]) if values else b""), wrong
    return to_json(values), wrong


def _read(text: str, kind: Kind) -> Any:
    if kind in ("json", "choice"):
        return from_json(text, allow_inf_nan=False)
    if kind == "integer":
        return int(text)
    if kind == "number":
        return from_json(text.strip(), allow_inf_nan=False)
    return text
