"""Moments and durations, as people write and read them."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Final

from .failures import Refusal

__all__ = ["ago", "duration", "local", "moment", "until"]

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def duration(text: str) -> float:
    """Return the seconds of a text such as 90, 30s, 10m, 2h, 7d or 1h30m. Raises `Refusal`."""
    parts = _SPAN.findall(text)
    if parts and not _SPAN.sub("", text).strip():
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)
    try:
        seconds = float(text)
        if 0 <= seconds < 1e10:
            return seconds
    except ValueError:
        pass
    raise Refusal(f"{text!r} is no duration: write 30s, 10m, 2h, 7d or 1h30m")


def moment(text: str) -> float:
    """Return seconds since the Unix epoch, of an ISO date or time (local without a zone), or of a duration before now. Raises `Refusal`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return time.time() - duration(text)
    except Refusal:
        raise Refusal(
            f"{text!r} is no time: write a duration before now, such as 10m, 2h or 7d, or 2026-12-31 or 2026-12-31T18:00"
        ) from None


def local(at: float | None) -> str:
    """Return a moment in local time, to the second."""
    try:
        return "" if at is None else datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(at)


def _rounded(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def ago(at: float | None, now: float | None = None) -> str:
    """Return how long ago a moment was, such as 5m."""
    return "" if at is None else _rounded((time.time() if now is None else now) - at)


def until(at: float | None, now: float | None = None) -> str:
    """Return how long it is until a moment, such as `in 5m`."""
    if at is None:
        return ""
    if at == float("inf"):
        return "no time"
    left = at - (time.time() if now is None else now)
    return "now" if left <= 0 else f"in {_rounded(left)}"
