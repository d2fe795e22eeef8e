"""Durations as callers give them: seconds, or a timedelta."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

__all__ = ["Seconds", "seconds"]

Seconds = float | timedelta
"""A duration: seconds, or a timedelta."""


def seconds(duration: Any) -> float | None:
    """Return a duration in seconds; None if it is neither a finite number nor a timedelta."""
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, int | float) and not isinstance(duration, bool) and math.isfinite(duration):
        return float(duration)
    return None
