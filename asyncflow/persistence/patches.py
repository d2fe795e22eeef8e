"""The difference of two JSON documents, byte by byte: what a checkpoint holds of a large state of which little has changed.

A patch is a JSON array of what the new document is made of: `[start, end]` is a stretch of the old one's bytes, a text is
new. A state is a JSON object, so that the two are told apart by their first byte; one that is an array is written as a patch
of one text. No structure is looked at: any state has patches, and a list that has grown by one record, or has one changed in
its middle, is some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from pydantic_core import from_json, to_json

__all__ = ["is_patch", "patch_of", "patched"]

SMALL: Final = 512
"""Bytes of a document below which it is written as it is."""

DEPTH: Final = 8
"""How often what differs is halved: a patch keeps some 250 stretches at most."""

HOPELESS: Final = 512
"""A stretch that is a smaller part of what differs than one of so many is no help: nearly everything has changed."""

ANCHOR: Final = 64
"""Bytes that are looked for in the new document, to find where the two are alike again."""

PLACES: Final = (0.49, 0.32, 0.69, 0.2, 0.86)
"""Where anchors are taken, in parts of what differs; uneven, lest all of them meet changes that stand at even distances."""

BLOCK: Final = 1 << 16
"""Bytes that are compared at once, at most."""

Span = tuple[int, int]


def is_patch(document: bytes) -> bool:
    """Whether it is a patch, and no state."""
    return document.startswith(b"[")


def patch_of(old: bytes, new: bytes) -> bytes | None:
    """What makes `new` of `old`, or None where that is not less than half of it. Both are JSON objects in UTF-8."""
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
    """The document that `patch_of` was given. Raises `ValueError` for what is no patch of `old`."""
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
                raise ValueError("it is no patch of the document before it")
    return b"".join(pieces)


def _alike(old: bytes, new: bytes) -> Iterator[tuple[int, int, int]]:
    """Where the documents are alike, in order: the place in the old one, that in the new one, and the length."""
    most = min(len(old), len(new))
    ahead = _whole(old, _ahead(old, new, 0, 0, most))
    behind = _whole(old, len(old) - _behind(old, new, len(old), len(new), most - ahead), up=True)
    if ahead:
        yield 0, 0, ahead
    yield from _inside(old, new, (ahead, behind), (ahead, len(new) - (len(old) - behind)), DEPTH)
    if behind < len(old):
        yield behind, len(new) - (len(old) - behind), len(old) - behind


def _inside(old: bytes, new: bytes, here: Span, there: Span, depth: int) -> Iterator[tuple[int, int, int]]:
    """The same between two places at which they differ: one stretch from the middle, and what is left and right of it."""
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
    """The stretch around some bytes of the old document's middle, where the new one has them, too."""
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
    """How many bytes are the same from these places on."""
    return _same(lambda done, end: old[here + done : here + end] == new[there + done : there + end], most)


def _behind(old: bytes, new: bytes, here: int, there: int, most: int) -> int:
    """How many bytes are the same before these places."""
    return _same(lambda done, end: old[here - end : here - done] == new[there - end : there - done], most)


def _same(are_same: Callable[[int, int], bool], most: int) -> int:
    """How far it is the same: ever larger blocks are compared, and the one that differs is halved."""
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
    """The next place before (or after) this one that cuts no character in two."""
    while 0 < place < len(document) and document[place] & 0xC0 == 0x80:
        place += 1 if up else -1
    return place
