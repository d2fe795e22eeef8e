"""The label of a router's result."""

from __future__ import annotations

from .._definition.definition import MethodDefinition, label_of
from .failures import method_label_error, undeclared_label_error
from .settings import Settings

__all__ = ["label_returned"]


def label_returned(settings: Settings, run_id: str, method: MethodDefinition, result: object) -> str | None:
    """Return the label for a router's result. Raises `UnknownLabelError`."""
    label = label_of(result)
    if label is not None and method.labels is not None and label not in method.labels:
        raise undeclared_label_error(settings.name, run_id, method)
    if label in settings.definition.reserved:
        raise method_label_error(settings.name, run_id, method.name)
    return label
