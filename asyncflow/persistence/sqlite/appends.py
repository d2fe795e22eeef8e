"""How checkpoints are inserted: the three views that store them (`resumes.sql`), and the values for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from .._database.jobs import Append
from .._database.run_head import head_after
from ..checkpoint import Checkpoint

__all__ = ["CHANGES", "Appends", "Insert"]

CHANGES: Final = 2
"""The number of rows that storing one checkpoint changes: its own row and its run's row."""

_FIELDS: Final = Checkpoint._fields
_STATE, _PREVIOUS = map(_FIELDS.index, ("state", "previous"))
_HEAD: Final = _FIELDS.index("status") + 1

_LARGE: Final = 1 << 16
"""The size in bytes from which copying costs more than the search for an adapter."""


def _as_it_is(part: Any) -> Any:
    return part


class Insert(NamedTuple):
    """The statements for one view. Its trigger compares and sets the run's head, and raises an IntegrityError if they do not match."""

    many: str
    """The statement for use within a transaction."""
    one: str
    """The statement as a transaction of its own. It does not start with INSERT, for which Python's sqlite3 opens a transaction.

    Such a transaction would need a separate commit.
    """
    about: Callable[[Checkpoint], tuple[Any, ...]]
    """Returns a checkpoint's values before the parts."""
    has_owner: bool


def _insert(view: str, *left_out: str, has_owner: bool) -> Insert:
    """Return the statements for a view. `left_out`: those fields before the parts that the view does not have."""
    known = [n for n, name in enumerate(_FIELDS[:_STATE]) if name not in left_out]
    owner = ("NULLIF(?, 0)",) if has_owner else ()
    places = ", ".join((*("?",) * len(known), *("NULLIF(?, 0)",) * (_PREVIOUS - _STATE), "?", "?", *owner, "?"))
    sql = f"INSERT INTO {view} VALUES ({places})"
    return Insert(sql, f"WITH here AS (SELECT 1) {sql}", itemgetter(*known), has_owner)


_FIRST: Final = _insert("first_checkpoints", has_owner=True)
_RUNNING: Final = _insert("running_checkpoints", "flow", "identity", "status", has_owner=False)
_OTHER: Final = _insert("other_checkpoints", "flow", "identity", has_owner=True)


class Appends:
    """Remembers which runs this owner has stored as running, so that their next checkpoints are stored by the cheapest statement.

    The triggers compare in any case: if this memory is out of date, a checkpoint is refused, never stored wrongly. It is cleared for
    a run by each job that may change the run's owner, and for all runs after each error.
    """

    def __init__(self, owner: str, key: bytes) -> None:
        self._owner = owner
        self._key = key
        self._running: set[str] = set()
        self._stored: list[Checkpoint] = []
        """Checkpoints of this transaction whose runs were not known to be running, or no longer are."""

    def insert(self, job: Append) -> tuple[Insert, list[Any]]:
        """Return the statement that stores a checkpoint, and its values.

        Python's sqlite3 binds numbers, texts and bytearrays directly. For bytes and None it first searches for an adapter, and
        discards an AttributeError for each: a third of its time. So None is bound as 0, and bytes as a bytearray copy, unless they
        are large.
        """
        c = job.checkpoint
        owner, head = head_after(c, self._owner, self._key)
        run_id, _, seq, _, kind, status = c[:_HEAD]
        if status == "running" and run_id in self._running and kind != "resumed":
            insert = _RUNNING
        else:
            insert = _OTHER if seq else _FIRST
            self._stored.append(c)
        content: Any = c[_STATE:]
        *parts, previous, digest = content
        bound = bytearray if job.size < _LARGE else _as_it_is
        parts = [0 if part is None else bound(part) if type(part) is bytes else part for part in parts]
        _, _, about, has_owner = insert
        owned = (owner or 0,) if has_owner else ()
        return insert, [*about(c), *parts, bytearray(previous), bytearray(digest), *owned, bytearray(head)]

    def inserts(self, jobs: Iterable[Append]) -> list[tuple[Insert, list[list[Any]]]]:
        """Return the statements that store these checkpoints. In their order, each checkpoint follows the earlier ones of its run."""
        rows: dict[str, list[list[Any]]] = {_FIRST.many: [], _RUNNING.many: [], _OTHER.many: []}
        for job in jobs:
            insert, values = self.insert(job)
            rows[insert.many].append(values)
        return [(insert, rows[insert.many]) for insert in (_FIRST, _RUNNING, _OTHER) if rows[insert.many]]

    def committed(self) -> None:
        """Record that the transaction was committed."""
        for checkpoint in self._stored:
            if checkpoint.status == "running":
                self._running.add(checkpoint.run_id)
            else:
                self._running.discard(checkpoint.run_id)
        self._stored.clear()

    def forget(self, run_id: str) -> None:
        """Forget a run, because another owner may change it."""
        self._running.discard(run_id)

    def forget_all(self) -> None:
        """Forget all runs, because the stored state is unknown."""
        self._running.clear()
        self._stored.clear()
