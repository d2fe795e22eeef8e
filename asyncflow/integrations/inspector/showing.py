"""Values as text that a page can show: JSON, cut where it is long, without characters that change what surrounds them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pydantic_core import to_json, to_jsonable_python

__all__ = [
    "LONGEST",
    "Shown",
    "ago",
    "clock_time",
    "json_text",
    "moment",
    "one_line",
    "path_text",
    "safe",
    "seconds_text",
    "shown",
    "shown_end",
    "shown_text",
    "tree_of",
]

LONGEST: Final = 6_000
"""The longest value that a page shows, in characters."""

ODD: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
"""Characters that are invisible, or that change the direction or the lines of a text: controls, bidi marks, lone surrogates."""


class Shown(NamedTuple):
    """A value as text."""

    text: str
    """What is shown of it."""
    note: str = ""
    """What was left out; '' if nothing was."""


def safe(text: str) -> str:
    """Return the text with odd characters written as JSON writes them, such as `\\u202e`: JSON stays the same JSON."""
    return ODD.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    number = ord(character)
    if number < 0x10000:
        return f"\\u{number:04x}"
    return f"\\u{0xD7C0 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"


def shown_text(text: str, longest: int = LONGEST) -> Shown:
    """Return a text to be shown, cut if it is long."""
    if len(text) <= longest:
        return Shown(safe(text))
    return Shown(safe(text[:longest]), f"cut: {longest:,} of {len(text):,} characters are shown")


def shown(value: Any, longest: int = LONGEST) -> Shown:
    """Return a value as indented JSON; a text of several lines as it is."""
    if isinstance(value, str) and "\n" in value:
        return shown_text(value, longest)
    return shown_text(json_text(value), longest)


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return a value as JSON. What JSON lacks is written as its text."""
    return to_json(value, indent=indent, inf_nan_mode="constants", bytes_mode="base64", fallback=_text_of).decode(
        "utf-8", "replace"
    )


def tree_of(value: Any) -> Any:
    """Return any value as dicts, lists, texts, numbers, booleans and None; as a text if it refers to itself or cannot be read."""
    try:
        return to_jsonable_python(value, by_alias=False, bytes_mode="base64", fallback=_text_of)
    except Exception:  # a user's serializer may raise anything
        return f"<{type(value).__name__}>"


def _text_of(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # a foreign __str__ may raise anything
        return f"<{type(value).__name__}>"


def shown_end(value: Any, longest: int = 4 * LONGEST) -> Shown:
    """Return a text to be shown whose end matters most, such as a traceback; or what `redact` returned in its place."""
    text = value if isinstance(value, str) else json_text(value)
    if len(text) <= longest:
        return Shown(safe(text))
    return Shown(safe(text[-longest:]), f"cut: the last {longest:,} of {len(text):,} characters are shown")


def path_text(path: tuple[str | int, ...]) -> str:
    """Return a place in a state as text: `items[3].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return one_line(text.removeprefix(".") or "(all)")


def one_line(value: Any, longest: int = 120) -> str:
    """Return a value as one short line of JSON; a text without quotes."""
    text = value if isinstance(value, str) else json_text(value, None)
    text = " ".join(text[: 4 * longest].split())
    return safe(text if len(text) <= longest else f"{text[: longest - 1]}…")


# ---- times --------------------------------------------------------------------------------------------------------------


def _date(at: float | None) -> datetime | None:
    if at is None or not math.isfinite(at):
        return None
    try:
        return datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):  # outside of the years 1 to 9999
        return None


def moment(at: float | None) -> str:
    """Return a time as UTC: `2026-11-30 22:45:01`."""
    date = _date(at)
    return "" if date is None else f"{date:%Y-%m-%d %H:%M:%S}"


def clock_time(at: float | None) -> str:
    """Return the time of the day, with milliseconds."""
    date = _date(at)
    return "" if date is None else f"{date:%H:%M:%S}.{date.microsecond // 1000:03d}"


def seconds_text(seconds: float) -> str:
    """Return a duration: `12 ms`, `3.4 s`, `5 min 2 s`, `3 h 5 min`, `2 d 4 h`."""
    seconds = max(seconds, 0.0)
    if not math.isfinite(seconds):
        return "without end"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, below in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def ago(at: float | None, now: float) -> str:
    """Return how long ago a time is, or how soon it will be."""
    if at is None:
        return ""
    if not math.isfinite(at):
        return "never"
    distance = now - at
    if abs(distance) < 1:
        return "now"
    whole = float(round(abs(distance)))
    text = seconds_text(whole).replace(".0 s", " s")
    return f"{text} ago" if distance > 0 else f"in {text}"
