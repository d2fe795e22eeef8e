"""Whole runs, as they are moved from one database to another: read from one snapshot, and stored in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ..checkpoint import Checkpoint
from ..children import parent_digest
from ..compaction import first_digest
from ..inbox import NewSignal, StoredSignal
from .inboxes import Inboxes
from .jobs import Job
from .run_head import Head

__all__ = ["Restore", "StoredRun", "WholeSignal", "restore"]


class WholeSignal(NamedTuple):
    """A signal that a run has received, as it is kept."""

    name: str
    payload: bytes | None
    """None once it was taken: it is in the checkpoint."""
    key: str
    sender: str
    at: float
    content: bytes
    taken: int | None
    problem: str | None

    def digest(self, run_id: str, key: bytes) -> bytes:
        """Return the digest of its row."""
        signal = NewSignal(self.name, self.payload or b"", self.key, self.sender, self.at)
        return StoredSignal(0, run_id, signal).digest_of(self.content, key, self.taken, self.problem)


class StoredRun(NamedTuple):
    """A run with all that is kept of it."""

    checkpoints: Sequence[Checkpoint]
    """In order; never empty."""
    signals: Sequence[WholeSignal]
    """In the order in which they came."""
    created_at: float
    wake_at: float | None
    parent: str | None


class Restore(Job):
    """Store a whole run, without an owner. `is_new`: whether no run of this id was stored."""

    is_new = False

    def __init__(self, run: StoredRun) -> None:
        super().__init__(run.checkpoints[0].run_id)
        self.run = run
        self.size = sum(checkpoint.size for checkpoint in run.checkpoints)


_HEAD: Final = (
    "run_id",
    "flow",
    "identity",
    "status",
    "pass_number",
    "head",
    "head_digest",
    "base",
    "format",
    "version",
    "owner",
    "epoch",
)
_RUN: Final = (
    *_HEAD,
    "entry_digest",
    "created_at",
    "updated_at",
    "wake_at",
    "parent",
    "parent_digest",
    "first",
    "first_digest",
)
_CHECKPOINT: Final = ("run", *(name for name in Checkpoint._fields if name not in ("run_id", "flow", "identity")))
_SIGNAL: Final = ("run", "name", "payload", "key", "sender", "at", "content", "taken", "problem", "digest")


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO @{table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_INSERT_RUN: Final = _insert("runs", _RUN)
_INSERT_CHECKPOINT: Final = _insert("checkpoints", _CHECKPOINT)
_INSERT_SIGNAL: Final = _insert("signals", _SIGNAL)
_PLACE: Final = "SELECT id FROM @runs WHERE run_id = ?"


async def restore(job: Restore, tables: Inboxes, key: bytes) -> None:
    """Store a run, unless one of its id is stored. The digests of its rows are made for this database's key."""
    run, run_id = job.run, job.run_id
    job.is_new = not await tables.fetch(_PLACE, run_id)  # this may be a retry
    if not job.is_new:
        return
    first, newest = run.checkpoints[0], run.checkpoints[-1]
    head = _head_of(newest)
    parent: tuple[Any, Any] = (
        (None, None) if run.parent is None else (run.parent, parent_digest(run_id, run.parent, key))
    )
    begins = first_digest(run_id, first.seq, first.digest, key) if first.seq else None
    wake_at = run.wake_at if newest.status == "running" else None
    times = float(run.created_at), float(newest.at), wake_at
    await tables.execute(_INSERT_RUN, *head, head.digest(key), *times, *parent, first.seq, begins)
    ((place,),) = await tables.fetch(_PLACE, run_id)
    for c in run.checkpoints:
        values = c._asdict() | {"run": place, "at": float(c.at)}
        await tables.execute(_INSERT_CHECKPOINT, *(values[name] for name in _CHECKPOINT))
    for signal in run.signals:
        values = signal._asdict() | {"run": place, "digest": signal.digest(run_id, key)}
        await tables.execute(_INSERT_SIGNAL, *(values[name] for name in _SIGNAL))


def _head_of(c: Checkpoint) -> Head:
    status = c.status
    return Head(
        *(c.run_id, c.flow, c.identity, status, c.pass_number, c.seq, c.digest, c.base, c.format, c.version),
        None,
        c.epoch,
    )
