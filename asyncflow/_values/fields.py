"""Distinguish the fields of a model that were set from those that have their defaults."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .copying import ATOMS, same

__all__ = ["fields_of"]


def fields_of(model: BaseModel) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that were set, and those that have their defaults. A field whose value was changed in place counts as set."""
    known, were_set = type(model).model_fields, model.__pydantic_fields_set__
    found, others = dict[str, Any](model.__pydantic_extra__ or {}), dict[str, Any]()
    for name, value in model.__dict__.items():
        is_set = name in were_set or (name in known and _is_changed(known[name], value))
        (found if is_set else others)[name] = value
    return found, others


def _is_changed(field: FieldInfo, value: Any) -> bool:
    """Whether the value of a field that was not set differs from the default. A factory may return another value at each call."""
    if field.default_factory is not None and type(value) in ATOMS:
        return False
    try:
        return not same(value, field.get_default(call_default_factory=True))
    except Exception:  # a factory, or a comparison, may raise anything
        return True
