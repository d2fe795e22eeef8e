"""How a checkpoint is stored: which of three views it is inserted into (`formats.sql`), and the values for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final, NamedTuple

from ..checkpoint import Checkpoint
from ..head import head_after
from ..jobs import Append

__all__ = ["CHANGES", "Appends", "Insert"]

CHANGES: Final = 2
"""Rows that storing one checkpoint changes: its own, and its run's."""

_FIELDS: Final = Checkpoint._fields
_STATE, _PREVIOUS = map(_FIELDS.index, ("state", "previous"))

_LARGE: Final = 1 << 16
"""Bytes that cost more to copy than an adapter does to look for."""


class Insert(NamedTuple):
    """Statements for one view. Its trigger compares and sets the run's head; what does not follow is an IntegrityError."""

    many: str
    """Within a transaction."""
    one: str
    """A transaction of its own: Python's sqlite3 begins one for what starts with INSERT, and would be asked to end it."""
    about: Callable[[Checkpoint], tuple[Any, ...]]
    """The values before the parts."""
    has_owner: bool


def _insert(view: str, *left_out: str, has_owner: bool) -> Insert:
    """`left_out`: the fields before the parts that the view does not have."""
    known = [n for n, name in enumerate(_FIELDS[:_STATE]) if name not in left_out]
    owner = ("NULLIF(?, 0)",) if has_owner else ()
    places = ", ".join((*("?",) * len(known), *("NULLIF(?, 0)",) * (_PREVIOUS - _STATE), "?", "?", *owner, "?"))
    sql = f"INSERT INTO {view} VALUES ({places})"
    return Insert(sql, f"WITH here AS (SELECT 1) {sql}", itemgetter(*known), has_owner)


_FIRST: Final = _insert("first_appends", has_owner=True)
_RUNNING: Final = _insert("running_appends", "flow", "identity", "status", has_owner=False)
_OTHER: Final = _insert("other_appends", "flow", "identity", has_owner=True)


class Appends:
    """Knows which runs this owner has left running, so that the next checkpoint of each is stored at the least cost.

    The triggers compare all the same: if this is out of date, a checkpoint is refused, never stored wrongly. It is forgotten with
    each job that may change a run's owner, and after each error.
    """

    def __init__(self, owner: str, key: bytes) -> None:
        self._owner = owner
        self._key = key
        self._running: set[str] = set()
        self._stored: list[Checkpoint] = []
        """In this transaction, of runs that were not known to be running or are not any more."""

    def insert(self, job: Append) -> tuple[Insert, list[Any]]:
        """The statement that stores a checkpoint, and its values.

        Python's sqlite3 binds numbers, texts and bytearrays as they are. For bytes and None it looks for an adapter first, and
        drops an AttributeError for each: a third of its time. So None is bound as 0, and bytes, unless they are large, as a copy.
        """
        c = job.checkpoint
        owner, head = head_after(c, self._owner, self._key)
        if c.status == "running" and c.run_id in self._running:
            insert = _RUNNING
        else:
            insert = _OTHER if c.seq else _FIRST
            self._stored.append(c)
        content: Any = c[_STATE:_PREVIOUS]
        parts = [0 if v is None else bytearray(v) if type(v) is bytes and len(v) < _LARGE else v for v in content]
        owned = (owner or 0,) if insert.has_owner else ()
        return insert, [*insert.about(c), *parts, bytearray(c.previous), bytearray(c.digest), *owned, bytearray(head)]

    def inserts(self, jobs: Iterable[Append]) -> list[tuple[Insert, list[list[Any]]]]:
        """The statements that store these. In their order each checkpoint comes after the earlier ones of its run."""
        rows: dict[str, list[list[Any]]] = {_FIRST.many: [], _RUNNING.many: [], _OTHER.many: []}
        for job in jobs:
            insert, values = self.insert(job)
            rows[insert.many].append(values)
        return [(insert, rows[insert.many]) for insert in (_FIRST, _RUNNING, _OTHER) if rows[insert.many]]

    def committed(self) -> None:
        """The transaction was committed."""
        for checkpoint in self._stored:
            if checkpoint.status == "running":
                self._running.add(checkpoint.run_id)
            else:
                self._running.discard(checkpoint.run_id)
        self._stored.clear()

    def forget(self, run_id: str) -> None:
        """Another owner may change this run."""
        self._running.discard(run_id)

    def forget_all(self) -> None:
        """It is not known what is stored."""
        self._running.clear()
        self._stored.clear()
