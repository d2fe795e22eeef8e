"""The byte-level difference of two JSON documents: what a checkpoint holds of a large state if little of it has changed.

A patch is a JSON array of the parts of the new document: `[start, end]` is a range of the old document's bytes, a string is new.
A state is a JSON object, so the first byte distinguishes the two; a state that is an array is written as a patch of one string.
The structure of the JSON is ignored: any state has patches, and for a list that has grown by one record, or has one changed in
its middle, the patch has some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic_core import from_json, to_json

__all__ = ["is_patch", "patch_of", "patched"]

SMALL: Final = 512
"""Size of a document, in bytes, below which it is written whole."""

DEPTH: Final = 8
"""How often the differing part is halved: a patch keeps at most some 250 ranges."""

HOPELESS: Final = 512
"""A range shorter than 1/HOPELESS of the differing part is of no use: nearly everything has changed."""

ANCHOR: Final = 64
"""Bytes that are searched for in the new document, to find where the two are equal again."""

PLACES: Final = (0.49, 0.32, 0.69, 0.2, 0.86)
"""Where anchors are taken, as fractions of the differing part; uneven, so that changes at even distances do not hit all of them."""

BLOCK: Final = 1 << 16
"""Maximum number of bytes that are compared at once."""

Span = tuple[int, int]


def is_patch(document: bytes) -> bool:
    """Whether the document is a patch, not a state."""
    return document.startswith(b"[")


def patch_of(old: bytes, new: bytes) -> bytes | None:
    """Return the patch that turns `old` into `new`, or None if it is more than half as large as `new`. Both are JSON objects in UTF-8."""
    if len(new) < SMALL or len(old) < SMALL:
        return None
    alike = list(_alike(old, new))
    if 2 * sum(length for _, _, length in alike) < len(new):
        return None
    pieces: list[Any] = []
    at = 0
    for start, there, length in (*alike, (0, len(new), 0)):
        if there > at:
            pieces.append(new[at:there].decode())
        if length:
            pieces.append((start, start + length))
        at = there + length
    patch = to_json(pieces)
    return patch if 2 * len(patch) <= len(new) else None


def patched(old: bytes, patch: bytes) -> bytes:
    """Apply a patch: return the new document that `patch_of` received. Raises `ValueError` if it is not a patch of `old`."""
    pieces: list[bytes] = []
    at = 0
    for piece in from_json(patch):
        match piece:
            case str():
                pieces.append(piece.encode())
            case [int(start), int(end)] if at <= start <= end <= len(old):  # in order: it cannot grow without bounds
                pieces.append(old[start:end])
                at = end
            case _:
                raise ValueError("it is not a patch of the previous document")
    return b"".join(pieces)


def _alike(old: bytes, new: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges where the documents are equal, in order: the offset in the old one, the offset in the new one, the length."""
    most = min(len(old), len(new))
    ahead = _whole(old, _ahead(old, new, 0, 0, most))
    behind = _whole(old, len(old) - _behind(old, new, len(old), len(new), most - ahead), up=True)
    if ahead:
        yield 0, 0, ahead
    yield from _inside(old, new, (ahead, behind), (ahead, len(new) - (len(old) - behind)), DEPTH)
    if behind < len(old):
        yield behind, len(new) - (len(old) - behind), len(old) - behind


def _inside(old: bytes, new: bytes, here: Span, there: Span, depth: int) -> Iterator[tuple[int, int, int]]:
    """Yield the equal ranges between two offsets at which they differ: one range from the middle, and those left and right of it."""
    found = (
        _stretch(old, new, here, there) if depth and min(here[1] - here[0], there[1] - there[0]) > 4 * ANCHOR else None
    )
    if found is None:
        return
    start, at, length = found
    yield from _inside(old, new, (here[0], start), (there[0], at), depth - 1)
    yield found
    yield from _inside(old, new, (start + length, here[1]), (at + length, there[1]), depth - 1)


def _stretch(old: bytes, new: bytes, here: Span, there: Span) -> tuple[int, int, int] | None:
    """Return the range around some bytes from the old document's middle that the new document contains, too."""
    grown = (there[1] - there[0]) - (here[1] - here[0])
    for part in PLACES:
        place = here[0] + int((here[1] - here[0]) * part)
        expected = there[0] + place - here[0]
        anchor = old[place : place + ANCHOR]
        near = max(there[0], expected + min(0, grown) - ANCHOR), min(there[1], expected + max(0, grown) + 2 * ANCHOR)
        at = new.find(anchor, *near)
        if at < 0:
            continue
        back = _behind(old, new, place, at, min(place - here[0], at - there[0]))
        on = _ahead(old, new, place, at, min(here[1] - place, there[1] - at))
        start, end = _whole(old, place - back, up=True), _whole(old, place + on)
        if end - start > max(ANCHOR, (here[1] - here[0]) // HOPELESS):
            return start, at - (place - start), end - start
    return None


def _ahead(old: bytes, new: bytes, here: int, there: int, most: int) -> int:
    """Count the equal bytes from these offsets on."""
    return _same(lambda done, end: old[here + done : here + end] == new[there + done : there + end], most)


def _behind(old: bytes, new: bytes, here: int, there: int, most: int) -> int:
    """Count the equal bytes before these offsets."""
    return _same(lambda done, end: old[here - end : here - done] == new[there - end : there - done], most)


def _same(are_same: Callable[[int, int], bool], most: int) -> int:
    """Count the equal bytes: compare ever larger blocks, and halve the block that differs."""
    done, step, is_growing = 0, 64, True
    while step and done < most:
        n = min(step, most - done)
        if are_same(done, done + n):
            done += n
            step = min(2 * step, BLOCK) if is_growing else step // 2
        else:
            is_growing, step = False, n // 2
    return done


def _whole(document: bytes, place: int, up: bool = False) -> int:
    """Return the next offset before (with `up`: after) this one that splits no character."""
    while 0 < place < len(document) and document[place] & 0xC0 == 0x80:
        place += 1 if up else -1
    return place
