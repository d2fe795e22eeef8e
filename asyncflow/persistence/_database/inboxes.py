"""The inboxes of runs in a database: what each job about them checks and changes, in the transaction that executes it.

The statements are the same for both databases. `?` stands for a parameter, and `@` for the prefix of a table's name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ...errors import AsyncflowError, CheckpointCorruptError, StaleCheckpoint
from ..children import parent_digest, parent_ended
from ..inbox import (
    CAPACITY,
    FINISH,
    LEFT,
    NewSignal,
    StoredSignal,
    changed,
    ended,
    full,
    key_in_use,
    second,
    unknown_run,
)
from .jobs import Append, AppendChild, AppendLast, AppendTaking, InboxJob, Send, SetAside
from .run_head import Head

__all__ = [
    "ARRIVED",
    "FORGET",
    "NEWEST",
    "PARENT",
    "RECEIVED",
    "TAKERS",
    "UNTAKEN",
    "UNTAKEN_OF",
    "Inboxes",
    "Received",
    "signal_of",
]

_COLUMNS: Final = "s.id, s.name, s.payload, s.key, s.sender, s.at, s.content, s.digest"
_CONTENT: Final = 6
"""Its place among the columns."""
_IN_INBOX: Final = "taken IS NULL AND problem IS NULL"
_OF_RUN: Final = "run = (SELECT id FROM @runs WHERE run_id = ?)"

UNTAKEN: Final = f"SELECT {_COLUMNS} FROM @signals s WHERE {_OF_RUN} AND {_IN_INBOX} ORDER BY s.id"
"""The signals in the inbox of a run, the oldest first: rows for `signal_of`."""
UNTAKEN_OF: Final = (
    f"SELECT r.run_id, {_COLUMNS} FROM @signals s JOIN @runs r ON r.id = s.run "
    f"WHERE r.run_id IN (SELECT value FROM json_each(?)) AND {_IN_INBOX} ORDER BY s.id"
)
"""The same of several runs, each row after the run id."""
ARRIVED: Final = (
    f"SELECT r.run_id, max(s.id) FROM @signals s JOIN @runs r ON r.id = s.run WHERE {_IN_INBOX} AND r.owner = ? "
    + "GROUP BY r.run_id"
)
"""The runs of an owner that have signals in their inboxes, with the id of the newest one."""

RECEIVED: Final = f"SELECT {_COLUMNS}, s.taken, s.problem FROM @signals s WHERE {_OF_RUN} ORDER BY s.id"
"""All signals that a run has received, as far as they are kept: rows for `Received`."""

PARENT: Final = "SELECT parent, parent_digest FROM @runs WHERE run_id = ?"

TAKERS: Final = (
    f"SELECT c.seq, CASE c.kind WHEN 'signal' THEN c.method ELSE '{FINISH}:1' END, "
    "c.kind = 'signal' AND c.pass_number = r.pass_number AND r.status <> 'finished' "
    "FROM @checkpoints c JOIN @runs r ON r.id = c.run WHERE r.run_id = ? AND c.kind IN ('signal', 'ending', 'finished')"
)
"""The checkpoints of a run that took signals, or may have taken the request to finish, and whether the row of the signal must be there."""

_KNOWN: Final = f"SELECT {_COLUMNS}, s.taken, s.problem FROM @signals s WHERE {_OF_RUN} AND key = ?"
_COUNT: Final = f"SELECT count(*) FROM @signals WHERE {_OF_RUN} AND {_IN_INBOX}"
_SAME: Final = f"SELECT count(*) FROM @signals WHERE {_OF_RUN} AND {_IN_INBOX} AND name = ?"
NEWEST: Final = (
    f"SELECT r.run_id, max(s.id) FROM @signals s JOIN @runs r ON r.id = s.run WHERE r.run_id {{these}} AND {_IN_INBOX} "
    + "GROUP BY r.run_id"
)
"""The id of the newest signal in the inbox of each of some runs that has any."""
_INSERT: Final = (
    "INSERT INTO @signals (run, key, name, payload, sender, at, content, digest) "
    "SELECT id, ?, ?, ?, ?, ?, ?, ? FROM @runs WHERE run_id = ?"
)
_WAKE: Final = "UPDATE @runs SET wake_at = 0 WHERE run_id = ? AND wake_at > 0"
"""A signal makes a parked run due at once."""
_HAS: Final = f"SELECT count(*) FROM @signals WHERE id = ? AND {_OF_RUN} AND {_IN_INBOX}"
_TAKE: Final = "UPDATE @signals SET taken = ?, payload = NULL, digest = ? WHERE id = ?"
_SET_ASIDE: Final = f"UPDATE @signals SET problem = ?, digest = ? WHERE id = ? AND {_IN_INBOX}"
FORGET: Final = (
    "DELETE FROM @signals WHERE run IN (SELECT id FROM @runs WHERE run_id {these}) AND substr(key, 1, 1) = ' '"
)
"""Delete the signals without a key of a pass that has ended: until then they show that an unknown commit took place."""


def signal_of(run_id: str, row: Sequence[Any], key: bytes) -> StoredSignal:
    """Decode a row of `UNTAKEN` or `RECEIVED`. Raises `CheckpointCorruptError` if it fails its digest."""
    place, name, payload, idempotency_key, sender, at, content, digest, *state = row
    payload = b"" if payload is None else payload
    signal = StoredSignal(place, run_id, NewSignal(name, payload, idempotency_key, sender, at))
    signal.check(content, digest, key, *state)
    return signal


class Received(NamedTuple):
    """The signals that a run has received, and the checkpoints that took some, read from one snapshot."""

    run_id: str
    rows: Sequence[Sequence[Any]]
    """Rows of `RECEIVED`."""
    takers: Sequence[Sequence[Any]]
    """Rows of `TAKERS`."""
    key: bytes
    """The storage's secret key."""
    parent: Sequence[Any] = (None, None)
    """A row of `PARENT`."""

    def check(self, *, first: int) -> None:
        """Check every row, and that rows and checkpoints agree on what was taken. `first`: the seq of the first checkpoint that is kept.

        An old copy of a row has the right digest, and its signal would be taken again; so would one that is sent again because its key
        was changed. A row without a key is deleted at the end of its pass: only a pass that is not over has a row for each signal.

        Raises `CheckpointCorruptError`.
        """
        taken = {seq: str(method).rpartition(":")[0] for seq, method, _ in self.takers}
        missing = {seq for seq, _, is_needed in self.takers if is_needed}
        for row in self.rows:
            signal, seq = signal_of(self.run_id, row, self.key), row[-2]
            if (
                seq is not None
                and (type(seq) is not int or seq >= first)
                and taken.pop(seq, None) != signal.signal.name
            ):
                raise _disagree(
                    self.run_id, seq, f"signal {signal.id} is stored as taken by it, and it did not take it"
                )
            missing.discard(seq)
        if missing:
            raise _disagree(self.run_id, min(missing), "no signal is stored as taken by it, and it took one")


def _disagree(run_id: str, seq: int, why: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"checkpoint {seq} and the signals of run {run_id} do not agree: {why}. Nothing was changed, other runs are not affected; "
        "restore the database from a backup",
        run_id=run_id,
        seq=seq,
    )


class Inboxes(ABC):
    """Executes jobs about inboxes, on rows that are locked until the commit."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._newest: dict[str, int] = {}
        """See `newest`: of the runs whose checkpoints are to be stored."""
        self._parents: dict[str, tuple[Any, ...]] = {}
        """See `heads`: of the parents of children that are to be stored."""

    @abstractmethod
    async def fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a statement."""

    @abstractmethod
    async def execute(self, sql: str, *values: Any) -> None:
        """Execute a statement."""

    @abstractmethod
    async def head(self, run_id: str) -> tuple[str, int] | None:
        """Return the status and the seq of a run, and lock it; None if it is not stored."""

    @abstractmethod
    async def newest(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Return the id of the newest signal in the inbox of each of some runs that has any, and lock the runs."""

    @abstractmethod
    async def forget(self, run_ids: Sequence[str]) -> None:
        """Delete the signals without a key of some runs."""

    @abstractmethod
    async def heads(self, run_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """Return the rows, for `Head.read`, of those of some runs that are stored, and lock them."""

    @abstractmethod
    async def adopt(self, children: Sequence[tuple[str, str, bytes]]) -> None:
        """Store (run id, id of the parent, `parent_digest`) of runs."""

    async def prepare(self, jobs: Sequence[InboxJob]) -> list[Append]:
        """Execute what comes before the checkpoints of a transaction. Return the checkpoints that must not be stored; set their errors."""
        refused: list[Append] = []
        others = [job for job in jobs if not isinstance(job, Append)]  # a signal comes before the end of its run
        appends = [job for job in jobs if isinstance(job, Append)]
        for other in others:
            await self._try(other)
        others_of = [job.run_id for job in appends if not isinstance(job, AppendChild)]
        parents = [job.parent for job in appends if isinstance(job, AppendChild)]
        self._parents = await self.heads([*parents, *others_of]) if parents else {}
        self._newest = await self.newest(others_of) if others_of else {}
        for job in appends:
            if not await self._try(job):
                refused.append(job)
        return refused

    async def _try(self, job: InboxJob) -> bool:
        """Execute what comes before a checkpoint. Return False for a job that is refused, and set its error."""
        job.error = None
        try:
            await self._prepare(job)
        except AsyncflowError as error:
            job.error = error
        return job.error is None

    async def _prepare(self, job: InboxJob) -> None:
        match job:
            case Send(run_id=run_id, signal=signal, seq=seq):
                head = await self.head(run_id)
                if head is None:
                    raise unknown_run(run_id)
                job.is_new = not await self._has_received(run_id, signal)
                if not job.is_new:
                    return
                if head[0] in ("finished", "cancelled"):
                    raise ended(run_id, head[0], signal)
                if seq not in (None, head[1]):
                    raise changed(run_id)
                if seq is not None and await self.fetch(_SAME, run_id, signal.name) != [(0,)]:
                    raise second(run_id, signal)
                if await self.fetch(_COUNT, run_id) >= [(CAPACITY,)]:
                    raise full(run_id, signal)
                await self._insert(run_id, signal)
            case SetAside(signal=signal, problem=problem):
                await self._set_aside(signal, problem)
            case AppendTaking(signal=signal):
                if await self.fetch(_HAS, signal.id, job.run_id) != [(1,)]:
                    raise StaleCheckpoint(
                        f"checkpoint {job.checkpoint.seq} of run {job.run_id} was not saved: signal {signal.id} is no longer in the "
                        "inbox; another owner has taken over the run",
                        run_id=job.run_id,
                        seq=job.checkpoint.seq,
                    )
            case AppendChild(parent=parent):
                self._check_parent(job.run_id, parent)
            case AppendLast(newest=newest):
                if self._newest.get(job.run_id, newest) > newest:
                    raise changed(job.run_id)
                if job.run_id in self._newest:
                    await self._left(job.run_id)  # what is wrong with a signal is known before anything is stored

    def _check_parent(self, run_id: str, parent: str) -> None:
        """Raise `ParentEndedError` if a child run must not be stored."""
        row = self._parents.get(parent)
        head = None if row is None else Head.read(parent, row, self._key)
        if head is None or head.status in ("finished", "cancelled"):
            raise parent_ended(run_id, parent, None if head is None else head.status)

    async def complete(self, jobs: Sequence[Append]) -> None:
        """Execute what comes after the checkpoints of jobs were stored, in the same transaction."""
        last = [job.run_id for job in jobs if isinstance(job, AppendLast)]
        for job in jobs:
            if isinstance(job, AppendTaking):
                place, taken = job.signal.id, job.checkpoint.seq
                await self.execute(_TAKE, taken, job.signal.digest(self._key, taken), place)
        children = [(job.run_id, job.parent) for job in jobs if isinstance(job, AppendChild)]
        if children:
            await self.adopt([(*each, parent_digest(*each, self._key)) for each in children])
        for run_id in last:
            for signal in await self._left(run_id) if run_id in self._newest else ():
                await self._set_aside(signal, LEFT)
        if last:
            await self.forget(last)

    async def is_stored(self, job: Send | SetAside) -> bool:
        """Whether a job whose commit failed is done."""
        if isinstance(job, Send):
            known = await self.fetch(_KNOWN, job.run_id, job.signal.key)
            return any(row[_CONTENT] == job.signal.content for row in known)
        return await self.fetch(_HAS, job.signal.id, job.run_id) == [(0,)]

    async def _left(self, run_id: str) -> list[StoredSignal]:
        return [signal_of(run_id, row, self._key) for row in await self.fetch(UNTAKEN, run_id)]

    async def _has_received(self, run_id: str, signal: NewSignal) -> bool:
        """Whether a run has received a signal. A row that was changed could say anything, so it is checked."""
        known = await self.fetch(_KNOWN, run_id, signal.key)
        for row in known:
            signal_of(run_id, row, self._key)
            if row[_CONTENT] != signal.content:
                raise key_in_use(run_id, signal)
        return bool(known)

    async def _insert(self, run_id: str, signal: NewSignal) -> None:
        name, payload, key, sender, at = signal = signal._replace(at=float(signal.at))  # as the column returns it
        digest = StoredSignal(0, run_id, signal).digest(self._key)
        await self.execute(_INSERT, key, name, payload, sender, at, signal.content, digest, run_id)
        await self.execute(_WAKE, run_id)

    async def _set_aside(self, signal: StoredSignal, problem: str) -> None:
        await self.execute(_SET_ASIDE, problem, signal.digest(self._key, None, problem), signal.id)
