"""Durations as callers give them: seconds, or a timedelta."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any, TypeGuard

__all__ = ["Seconds", "is_number", "seconds"]

Seconds = float | timedelta
"""A duration: seconds, or a timedelta."""


def seconds(duration: Any) -> float | None:
    """Return a duration in seconds; None if it is neither a finite number nor a timedelta."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    return float(duration) if is_number(duration) else None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a number that a float can express: no infinity, no NaN, and no larger int."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max
