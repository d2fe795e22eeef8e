"""The first byte of a stored value: which codec wrote it. It is white space, so that the stored value stays JSON.

An annotation may change between writing and reading. The byte determines whether a string is a string or a date in its JSON
form, and whether `{"$date": ...}` is a tag or a dict of the user's. Values stored by 0.1 have no such byte.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BY_ANNOTATION", "MIXED", "SAME", "TAGGED", "TYPED", "has_tags"]

TAGGED: Final = b" "
"""Written entirely with tags: only `tagged.py` reads it."""

SAME: Final = b"\t"
"""Written by an annotation under which the value equals its JSON: it can be read without the annotation, and has no tags."""

TYPED: Final = b"\n"
"""Written by an annotation without `Any`, which is needed to read it. It has no tags."""

MIXED: Final = b"\r"
"""Written by an annotation, which is needed to read it, with tags where the annotation says `Any`."""

BY_ANNOTATION: Final = frozenset((SAME, TYPED, MIXED))
"""The marks of what an annotation wrote."""


def has_tags(data: bytes) -> bool:
    """Whether there may be tags."""
    return b'{"$' in data
