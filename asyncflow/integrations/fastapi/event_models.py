"""The models of server-sent events, for the OpenAPI schema: derived from the events, and used for nothing else."""

from dataclasses import MISSING, Field, fields
from datetime import datetime
from typing import Any, Final, Literal, get_type_hints

import pydantic

from ... import events
from ...events import Event

__all__ = ["MODELS", "documented_events"]


def _model_of(kind: type[Event]) -> Any:
    """Return the model of the data of an event."""
    hints = get_type_hints(kind)
    shown: dict[str, Any] = {"event": (Literal[kind.__name__], ...)}
    shown |= {field.name: (_shown_as(hints[field.name]), _default(field)) for field in fields(kind)}
    shown["at"] = (datetime | None, pydantic.Field(description="When it happened."))
    shown["note"] = (str | None, pydantic.Field(None, description="Says that a field was too large, and is cut."))
    return pydantic.create_model(kind.__name__, __doc__=kind.__doc__, **shown)


def _default(field: Field[Any]) -> Any:
    return ... if field.default is MISSING else field.default


def _shown_as(hint: Any) -> Any:
    """Return the type of a field in JSON."""
    return list[str] if hint == tuple[str, ...] else hint


_KINDS: Final = [
    kind
    for kind in (getattr(events, name) for name in events.__all__)
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
]

MODELS: Final[tuple[type[pydantic.BaseModel], ...]] = tuple(map(_model_of, _KINDS))
"""The model of each event, with the name of its class."""


def documented_events() -> dict[str, Any]:
    """Return the documentation of a stream of them. It has no references: not every FastAPI would find the models."""
    schemas = [model.model_json_schema(mode="serialization") for model in MODELS]
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"oneOf": schemas, "discriminator": {"propertyName": "event"}},
    }
    item = {"type": "object", "required": ["data"], "properties": {"data": data}}
    return {
        "description": "The events. `data` of each is JSON.",
        "content": {"text/event-stream": {"itemSchema": item}},
    }
