"""The words of a picture: durations, conditions, and texts that are safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from typing import Final

from .._definition.triggers import AllOf, Condition

__all__ = ["condition_in_words", "duration", "marked", "shown"]

LONGEST: Final = 80
"""The longest text of a node or an edge, in characters."""

SIGNS: Final = {
    "completed": "✓",
    "running": "▶",
    "failed": "✗",
    "retrying": "↻",
    "waiting": "…",
    "interrupted": "‖",
    "skipped": "–",
    "not reached": "",
}
"""A sign for each status, so that no picture depends on its colors alone."""


def shown(text: str, longest: int = LONGEST) -> str:
    """Return a text with its control characters and changes of direction made visible, and cut if it is long."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(_visible(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def _visible(character: str) -> str:
    return f"\\u{ord(character):04x}" if character not in "\n\t" else " "


def duration(seconds: float) -> str:
    """Return a duration in words, such as `1 h 30 min`: at most two units."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 or not seconds else "<1 ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    left, found = round(seconds), list[str]()
    for size, unit in units:
        count, left = divmod(left, size)
        if count or found:
            found.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in found[:2] if part)


def condition_in_words(condition: Condition | None, names: Collection[str]) -> str:
    """Return a condition as one writes it: `and_(fetch, or_(parse, "again"))`. `names`: what is no label."""
    if condition is None:
        return ""
    if isinstance(condition, str):
        return condition if condition in names else f'"{condition}"'
    kind = "and_" if isinstance(condition, AllOf) else "or_"
    return f"{kind}({', '.join(condition_in_words(part, names) for part in condition.parts)})"  # type: ignore[arg-type]  # normalised


def marked(text: str, status: str, count: int, seconds: float | None) -> str:
    """Return the text of a node with what a run did with it: sign, number of completions, duration."""
    parts = (
        SIGNS.get(status, ""),
        text,
        f"×{count}" if count > 1 else "",
        "" if seconds is None else f"· {duration(seconds)}",
    )
    return " ".join(part for part in parts if part)
