"""What pydantic's validation errors say, without the values that did not fit: these belong to users and their clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from .copying import path_text

__all__ = ["explained", "is_valueless", "reason_of"]

_KNOWN: Final = frozenset(get_args(ErrorType)) - {"value_error", "assertion_error"}

_FROM_SCHEMA: Final = frozenset({"class", "class_name", "expected", "ge", "gt", "le", "lt", "multiple_of", "pattern"})
"""Parts of messages that depend only on the schema, whatever their types are."""

_FIXED: Final = frozenset(
    {
        *("date_from_datetime_parsing", "date_parsing", "datetime_from_date_parsing", "datetime_parsing"),
        *("json_invalid", "time_delta_parsing", "time_parsing", "url_parsing"),
    }
)
"""Errors of parsers that describe the fault in fixed words. Others, such as that of UUIDs, quote what they found."""


def explained(errors: Sequence[ErrorDetails], whole: str = "") -> str:
    """Describe pydantic's validation errors by location and reason, without the user's values. `whole`: names the value itself."""
    located = ((path_text(error["loc"]) or whole, reason_of(error)) for error in errors)
    return "; ".join(f"{where}: {reason}" if where else reason for where, reason in located)


def reason_of(error: ErrorDetails) -> str:
    """Return the message of an error if it contains no part of the input, else the type of the error."""
    return error["msg"] if is_valueless(error) else error["type"]


def is_valueless(error: ErrorDetails) -> bool:
    """Whether the message of an error is pydantic's own and contains no part of the input."""
    context = error.get("ctx", {}).items()
    is_fixed = error["type"] in _FIXED
    return error["type"] in _KNOWN and all(
        is_fixed or key in _FROM_SCHEMA or isinstance(value, int | float) for key, value in context
    )
