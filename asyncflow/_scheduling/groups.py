"""Groups: the items of an invocation that runs once for each item of a list. What starts, and when all have completed.

1. Items start in the order of the list, as many at the same time as the limit allows. One that waits for its next attempt counts.
2. Each item is a pending invocation of its own: it completes, fails and is tried again by itself.
3. When the last one completes, the group completes: that is one event, whose result is the list of results.
4. Once a method has failed, or the pass is ending, no further item starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from .._definition.mapping import MOST_WITHOUT_LIMIT

__all__ = ["Gathered", "Group"]


class Gathered(tuple[Any, ...]):
    """The results of all items of a group, in order; opaque here."""

    __slots__ = ()


@dataclass(slots=True)
class Group:
    """The items of one pending invocation. Its size is bounded by their number."""

    count: int
    """How many items there are."""
    limit: int = 0
    """How many may run at the same time; 0: as many as a list can have without a limit."""
    started: int = 0
    """All items with a smaller index were started."""
    done: dict[int, Any] = field(default_factory=dict)
    """The results of the items that have completed, by index; opaque here."""
    running: int = 0
    """How many items are pending: they run, have failed, or wait for their next attempt."""
    dropped: set[int] = field(default_factory=set)
    """The items that started, and that a pass has dropped that is ending."""

    def following(self, *, freed: int = 0) -> Iterator[int]:
        """Yield the items that may start now, `freed` of those that are pending having ended."""
        room = _most(self.limit) - self.running + freed
        left = (index for index in range(self.started, self.count) if index not in self.done)
        return islice(left, max(0, room))

    def unfinished(self, limit: int) -> Iterator[int]:
        """Yield the items with which a resumed pass continues: the first ones that have not completed."""
        left = (index for index in range(self.count) if index not in self.done)
        return islice(left, _most(limit))

    def completes_with(self, index: int) -> bool:
        """Whether all items have completed once this one has. An empty list completes with -1."""
        return len(self.done) + (index >= 0) == self.count

    def gathered(self) -> Gathered:
        """Return the results of all items."""
        return Gathered(self.done[index] for index in range(self.count))


def _most(limit: int) -> int:
    """Return how many items may run at the same time. A class that has lost its limit works on a longer list in this way, too."""
    return limit or MOST_WITHOUT_LIMIT
