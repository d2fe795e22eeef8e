"""Trees of runs in a database: a run is deleted together with all its descendants, or not at all.

The rows that decide are locked until the commit. A child is stored under the lock of its parent's row, so a tree whose rows are locked
does not grow. What is damaged is not deleted: `verify` reports it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Final

from ...errors import AsyncflowError, CheckpointCorruptError
from ..children import check_parent_digest, has_parent
from .jobs import Delete, Job
from .ownership_rules import Liveness, Verdict, locked, to_delete
from .run_head import Head

__all__ = ["ROOT", "Deletes", "Trees", "prepare_deletes"]

ROOT: Final = "(parent IS NULL OR NOT EXISTS (SELECT 1 FROM @runs p WHERE p.run_id = runs.parent))"
"""The condition for a run that is deleted by itself: it has no parent, or one that is not stored, which only damage can bring about."""

_HEAD: Final = ", ".join((*Head._fields, "entry_digest"))
_ROOT_OF: Final = "SELECT id, parent FROM @runs WHERE run_id = ?"
_IS_STORED: Final = "SELECT run_id FROM @runs WHERE run_id = ?"
_HAS_CHILDREN: Final = "SELECT EXISTS (SELECT 1 FROM @runs WHERE parent IS NOT NULL)"
_BELOW: Final = (
    "WITH RECURSIVE tree (root, id, run_id) AS (SELECT id, id, run_id FROM @runs WHERE id {these} UNION "
    "SELECT t.root, r.id, r.run_id FROM tree t, @runs r WHERE r.parent = t.run_id) "
    "SELECT root, id FROM tree WHERE id <> root LIMIT ?"
)
"""The descendants of some runs. `UNION` keeps one of two equal rows, so parents in a circle, which are damage, end it."""
_ROWS: Final = f"SELECT id, parent, parent_digest, {_HEAD} FROM @runs WHERE id {{these}} ORDER BY run_id {{lock}}"
_DELETE: Final = ("DELETE FROM @checkpoints WHERE run {these}", "DELETE FROM @runs WHERE id {these}")
"""In this order, because checkpoints refer to runs."""

_ALL: Final = (1 << 63) - 1


class Trees(ABC):
    """The trees of runs, on the writing connection, in its transaction."""

    these: str
    """The condition that a column of numbers is one of those of a parameter."""
    lock = skip = ""
    """What a SELECT ends with to lock its rows until the commit, and to leave out those that another transaction has locked."""

    def __init__(self, key: bytes, liveness: Callable[[str], Liveness]) -> None:
        """`liveness`: what is known of an owner, apart from its lease."""
        self._key = key
        self.liveness = liveness

    @abstractmethod
    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement. `?` stands for a parameter, and `@` for the prefix of a table's name."""

    @abstractmethod
    async def execute(self, sql: str, *values: Any) -> None:
        """Execute a statement."""

    @abstractmethod
    def bound(self, ids: Sequence[int]) -> Any:
        """Return the parameter for `these`."""

    @abstractmethod
    async def lease(self, owner: str) -> float | None:
        """Return the remaining seconds of an owner's lease, as `ownership_rules.is_driving` takes them."""

    async def delete(self, ids: Sequence[int]) -> None:
        """Delete runs and their checkpoints."""
        for sql in _DELETE:
            await self.execute(sql.format(these=self.these), self.bound(ids))

    async def deletable(self, roots: Sequence[int], most: int | None) -> dict[int, list[int]] | None:
        """Return the ids of the descendants of each of those runs whose whole tree may be deleted.

        - `roots`: the ids of the runs; their rows are locked.
        - `most`: the maximum of descendants, and of their checkpoints; if there are more, the result is None. None: any number.
        """
        trees: dict[int, list[int]] = {root: [] for root in roots}
        if not roots or await self.fetch(_HAS_CHILDREN) == [(0,)]:  # PostgreSQL returns False, which is equal
            return trees
        found = await self._below(roots, most)
        if most is not None and len(found) > most:
            return None
        rows = await self._rows([place for _, place in found], self.skip)
        if most is not None and sum(row[_SEQ] for row in rows.values() if type(row[_SEQ]) is int) > most:
            return None
        grown = set(await self._below(roots, None)) - set(found) if found and self.skip else set()
        free: dict[str | None, bool] = {None: True}
        for root, place in (*grown, *found):
            if root in trees and not ((root, place) not in grown and await self._is_free(rows.get(place), free)):
                del trees[root]
            elif root in trees:
                trees[root].append(place)
        return trees

    async def below(self, job: Delete) -> list[int]:
        """Lock the tree of a run that is to be deleted, and return the ids of the descendants.

        Raises `ChildRunError` if the run has a parent, `RunLockedError` if a descendant has a living owner, `CheckpointCorruptError`.
        """
        found = await self.fetch(f"{_ROOT_OF} {self.lock}", job.run_id)
        if not found:
            return []
        ((root, parent),) = found
        if parent is not None and await self.fetch(_IS_STORED, parent):
            raise has_parent(job.run_id, parent)
        known: dict[int, tuple[Any, ...]] = {}
        while new := [place for _, place in await self._below([root], None) if place not in known]:
            known |= await self._rows(new, self.lock)  # while it waited for a row, a child may have been stored
            known |= {place: () for place in new if place not in known}
        for row in filter(None, known.values()):
            head = self._head(row)
            if head.owner is not None and await self._verdict(head.owner) is Verdict.LOCKED:
                left = await self.lease(head.owner)
                raise locked(head.run_id, head.owner, self.liveness(head.owner), left)
        return list(known)

    async def _below(self, roots: Sequence[int], most: int | None) -> list[tuple[int, int]]:
        """Return (root, id) of the descendants of some runs, at most one more than `most`."""
        limit = _ALL if most is None else most + 1
        found = await self.fetch(_BELOW.format(these=self.these), self.bound(roots), limit)
        return [(root, place) for root, place in found]

    async def _rows(self, ids: Sequence[int], lock: str) -> dict[int, tuple[Any, ...]]:
        found = await self.fetch(_ROWS.format(these=self.these, lock=lock), self.bound(ids)) if ids else []
        return {row[0]: row for row in found}

    def _head(self, row: tuple[Any, ...]) -> Head:
        """Decode a row of `_ROWS`. Raises `CheckpointCorruptError`."""
        _, parent, digest, *stored = row
        check_parent_digest(stored[0], parent, digest, self._key)
        return Head.read(stored[0], stored, self._key)

    async def _is_free(self, row: tuple[Any, ...] | None, free: dict[str | None, bool]) -> bool:
        """Whether a descendant may be deleted. None: its row is locked by another transaction."""
        if row is None:
            return False
        try:
            owner = self._head(row).owner
        except CheckpointCorruptError:
            return False
        if owner is not None and owner not in free:
            free[owner] = await self._verdict(owner) is Verdict.FREE
        return free[owner]

    async def _verdict(self, owner: str) -> Verdict:
        return to_delete(self.liveness(owner), await self.lease(owner))


_SEQ: Final = 3 + Head._fields.index("head")


class Deletes:
    """The deletions of one transaction: those that are refused, and the descendants that go with the others."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._below: dict[Delete, list[int]] = {}
        self.refused: dict[Job, Exception] = {}

    async def prepare(self, job: Delete) -> None:
        """Lock the tree of a run, and decide whether it may be deleted."""
        job.is_done = False  # this transaction may be a retry
        try:
            self._below[job] = await self._trees.below(job)
        except AsyncflowError as error:
            self.refused[job] = job.error = error

    async def complete(self) -> None:
        """Delete the descendants of the runs that were deleted."""
        for job, below in self._below.items():
            if job.is_done and below:
                await self._trees.delete(below)


async def prepare_deletes(trees: Trees, jobs: Sequence[Job]) -> Deletes:
    """Prepare the deletions among the jobs of a transaction."""
    deletes = Deletes(trees)
    for job in jobs:
        if isinstance(job, Delete):
            await deletes.prepare(job)
    return deletes
