"""Three-way merge of lists, tuples and deques: sequences that may grow at an end, and whose items keep their places.

Three values show what was done at the ends (appended, removed), or at which places items were replaced. Whatever
might have been more than that, such as a new order, is not merged.
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

from .copying import ATOMS
from .sameness import wholly_same

__all__ = ["merged"]


def merged(base: Any, ours: Any, theirs: Any) -> Any:
    """Merge three lists, tuples or deques into one of their type, or return None if the changes are incompatible."""
    kind = type(theirs)
    if kind is collections.deque:
        return _deques(base, ours, theirs)
    n = len(base)
    if wholly_same(ours[:n], kind(base)) and wholly_same(theirs[:n], kind(base)):
        return theirs + ours[n:]
    return _by_place(base, ours, theirs) if kind is list else None


def _by_place(base: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> Any:
    """Merge sequences of equal length with items replaced at different places. None if an item may have been moved."""
    if not len(base) == len(ours) == len(theirs):
        return None
    result = list(theirs)
    for i, (b, o, t) in enumerate(zip(base, ours, theirs, strict=True)):
        if wholly_same(o, b):
            continue
        if not wholly_same(t, b):
            return None
        result[i] = o
    return None if _has_moved(base, ours) or _has_moved(base, theirs) else result


def _has_moved(base: Sequence[Any], side: Sequence[Any]) -> bool:
    """Whether an item that changed now equals what another item was before: perhaps a new order, rather than a new value."""
    changed = [new for old, new in zip(base, side, strict=True) if not wholly_same(new, old)]
    return any(wholly_same(new, old) for new in changed if type(new) not in ATOMS for old in base)


class _Ends(NamedTuple):
    """A deque compared with the one before: which part of that is left, and what precedes and follows it."""

    first: int
    last: int
    before: list[Any]
    after: list[Any]


def _deques(base: Any, ours: Any, theirs: Any) -> Any:
    most = theirs.maxlen
    if any(each.maxlen != most for each in (ours, base) if isinstance(each, collections.deque)):
        return None
    start = list(base)
    mine, yours = _ends(start, list(ours), most), _ends(start, list(theirs), most)
    if mine is None or yours is None:
        replaced = _by_place(start, list(ours), list(theirs))
        return None if replaced is None else collections.deque(replaced, most)
    n, first, last = len(start), max(mine.first, yours.first), min(mine.last, yours.last)
    both_took = min(mine.first, yours.first) > 0 or max(mine.last, yours.last) < n
    before, after = mine.before + yours.before, yours.after + mine.after
    both = [*before, *start[first:last], *after]
    is_too_long = most is not None and len(both) > most
    if first > last or both_took or (is_too_long and before and after):
        return None
    return collections.deque(both[:most] if before else both, most)


def _ends(base: list[Any], side: list[Any], most: int | None) -> _Ends | None:
    """Return what was done at one of the ends of a deque; None if none of its items is left, but others are.

    Items that a full deque has lost were pushed out: they count as present, and are pushed out again.
    """
    n, is_full = len(base), len(side) == most
    for gone in range(n if n and side else n + 1):
        left = n - gone
        if left > len(side):
            continue
        if wholly_same(side[:left], base[gone:]):
            found, taken, new = _Ends(0 if is_full else gone, n, [], side[left:]), base[:gone], side[left:]
        elif wholly_same(side[len(side) - left :], base[:left]):
            new = side[: len(side) - left]
            found, taken = _Ends(0, n if is_full else left, new, []), base[left:]
        else:
            continue
        is_replaced = _is_rather_replaced(
            base, side, len(new) + (0 if is_full else gone), is_at_front=bool(found.before)
        )
        return None if is_replaced or _are_moved(new, taken, is_full=is_full) else found
    return None


def _are_moved(new: list[Any], taken: list[Any], *, is_full: bool) -> bool:
    """Whether new items were rather moved from the other end. A full deque may well receive again what it once had."""
    were_there = [any(wholly_same(x, y) for y in taken) for x in new]
    return bool(new) and (all(were_there) if is_full else any(were_there))


def _is_rather_replaced(base: list[Any], side: list[Any], changes: int, *, is_at_front: bool) -> bool:
    """Whether items were rather replaced in place: that explains a deque by fewer changes than those at its ends.

    Of as many changes, those at the back are the more usual, and those at the front the less.
    """
    if len(base) != len(side):
        return False
    replaced = sum(not wholly_same(x, y) for x, y in zip(base, side, strict=True))
    return 0 < replaced < changes or (replaced == changes and is_at_front)
