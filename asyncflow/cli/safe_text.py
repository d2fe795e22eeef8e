"""Make texts of users safe to show in a terminal: no control sequence and no bidirectional override reaches it.

What could change how a terminal shows a text is replaced by its escape, such as `\\x1b`. Long texts are cut, with a note.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from typing import Any, Final

from pydantic_core import to_jsonable_python

__all__ = ["LINE", "TEXT", "block", "compact", "counted", "cut", "json_text", "one_line", "plain", "pretty"]

LINE: Final = 4_000
"""Characters of a text in one line."""

TEXT: Final = 20_000
"""Characters of a text of several lines."""

PART: Final = 1_000
"""Characters of a text within a value."""

_CONTROL: Final = "\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f"
_INVISIBLE: Final = (
    "\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f"
    "\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff\\U000e0000-\\U000e0fff"
)
"""Characters that order text from right to left, break lines, or are not seen. Joiners within emoji and scripts are left."""

_UNSAFE: Final = re.compile(f"[{_CONTROL}{_INVISIBLE}]")
_UNSAFE_IN_LINE: Final = re.compile(f"[\\t\\n{_CONTROL}{_INVISIBLE}]")
_UNSAFE_IN_JSON: Final = re.compile(f"[\\x7f-\\x9f{_INVISIBLE}]")
_SHORT: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] in _SHORT:
        return _SHORT[match[0]]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


def cut(text: str, most: int) -> str:
    """Return the first characters of a text, with a note of how many are left out."""
    if len(text) <= most:
        return text
    return f"{text[:most]}… ({len(text) - most:,} more characters)"


def one_line(text: str, most: int = LINE) -> str:
    """Return a text as one safe line."""
    return _UNSAFE_IN_LINE.sub(_escape, cut(text, most))


def block(text: str, most: int = TEXT) -> str:
    """Return a text of several lines, safe to show."""
    return _UNSAFE.sub(_escape, cut(text, most)).expandtabs(4)


def plain(value: Any) -> Any:
    """Return a value as JSON values: dataclasses and named tuples become objects with the names of their fields."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    elif is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return to_jsonable_python(value, serialize_unknown=True)


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """Return a value as JSON that is complete, and safe to show: what is unsafe is escaped as JSON does."""
    text = json.dumps(_finite(plain(value)), indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(_json_escape, text)


def _finite(value: Any) -> Any:
    """Return JSON values without infinities, which JSON does not have: they become texts."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"inf": "Infinity", "-inf": "-Infinity"}.get(str(value), "NaN")
    return value


def compact(value: Any, most: int = 200) -> str:
    """Return a value as one line of JSON, cut with a note."""
    return cut(json_text(value, indent=None), most)


def pretty(value: Any, most: int = TEXT) -> str:
    """Return a value as indented JSON. Long texts in it are cut, and then the whole, with notes."""
    return cut(json_text(_shortened(plain(value))), most)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    return cut(value, PART) if isinstance(value, str) else value


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, such as `2 runs`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
