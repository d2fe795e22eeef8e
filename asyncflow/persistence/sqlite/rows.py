"""Checkpoints and runs as rows: the SQL that the writer and the readers use, and the digest of a run's head."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from pydantic_core import to_json

from ...errors import CheckpointCorruptError
from ..checkpoint import Checkpoint

__all__ = ["Head", "checkpoint_of", "values_of"]

_COLUMNS = ", ".join(Checkpoint._fields[2:])

COMMIT = f"INSERT INTO commits VALUES ({', '.join('?' * 20)})"
"""See `values_of`. The view's triggers compare and set the run's head; what does not follow is an IntegrityError."""

CHANGES = 2
"""Rows that storing one checkpoint changes: its own, and its run's."""

SELECT_HEAD = (
    "SELECT run_id, flow, status, number, head, head_digest, base, owner, epoch, digest FROM runs WHERE run_id = ?"
)
SELECT_LEASE = "SELECT expires - (julianday('now') - 2440587.5) * 86400.0 FROM owners WHERE owner = ?"
"""Seconds that are left of an owner's lease."""
RENEW = "REPLACE INTO owners VALUES (?, (julianday('now') - 2440587.5) * 86400.0 + ?)"
EXPEL = "DELETE FROM owners WHERE expires < (julianday('now') - 2440587.5) * 86400.0 - 86400.0"
DELETE_CHECKPOINTS = "DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?)"
DELETE_RUN = "DELETE FROM runs WHERE run_id = ?"
SELECT_RUNS = (
    "SELECT run_id, flow, status, number, head, owner, created_at, updated_at, id, "
    "(SELECT expires - (julianday('now') - 2440587.5) * 86400.0 FROM owners WHERE owners.owner = runs.owner) FROM runs "
    "WHERE id < ? AND (?2 IS NULL OR flow = ?2) AND {status} ORDER BY id DESC LIMIT ?3"
)
SELECT_ENDED = (
    "SELECT run_id, flow, updated_at FROM runs WHERE status IN ('finished', 'cancelled', 'failed') ORDER BY id DESC"
)
SELECT_RUN_IDS = "SELECT run_id FROM runs ORDER BY id"
OWN_RUN = "UPDATE runs SET owner = ?, epoch = ?, digest = ? WHERE run_id = ?"
SELECT_CHECKPOINTS = (
    f"SELECT {_COLUMNS} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) "
    "AND seq BETWEEN ? AND ? ORDER BY seq"
)
SELECT_DIGEST = "SELECT digest FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?"
SELECT_BASE = "SELECT base FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?"


class Head(NamedTuple):
    """A run's row: where it stands, and who drives it."""

    run_id: str
    flow: str
    status: str
    number: int
    head: int
    head_digest: bytes
    base: int
    owner: str | None
    epoch: int

    @classmethod
    def read(cls, run_id: str, row: tuple[Any, ...], key: bytes) -> Head:
        """The row that was found for a run. Raises `CheckpointCorruptError` if it fails its digest, or is another run's."""
        head = cls(*row[:-1])
        if head.run_id != run_id or not all(map(isinstance, head, _TYPES)) or head.digest(key) != row[-1]:
            raise CheckpointCorruptError(
                f"the stored head of run {run_id} fails its digest: it was changed since it was saved, or saved under another "
                "key. Nothing was changed, other runs are not affected; restore the database from a backup",
                run_id=run_id,
            )
        return head

    def verify(self, base: int, last: int, stored: list[Checkpoint]) -> None:
        """Whether what was read begins at `base`, ends at `last`, and, if that is the head, is what the head says.

        Raises `CheckpointCorruptError`.
        """
        newest = stored[-1] if stored else None
        if newest is None or newest.seq != last or (last == self.head and newest.digest != self.head_digest):
            raise CheckpointCorruptError(
                f"checkpoint {last} of run {self.run_id} is missing, or is not the one that its head names. Nothing was "
                "changed, other runs are not affected; restore the database from a backup",
                run_id=self.run_id,
                seq=last,
            )
        if stored[0].seq != base:
            raise CheckpointCorruptError(
                f"checkpoint {base} of run {self.run_id} is missing. Nothing was changed, other runs are not affected; "
                "restore the database from a backup",
                run_id=self.run_id,
                seq=base,
            )

    def digest(self, key: bytes = b"") -> bytes:
        """BLAKE2b over the row, 16 bytes; keyed, if there is a key."""
        known = self.head_digest if isinstance(self.head_digest, bytes) else b""
        return _digest(known, (*self[:5], *self[6:]), key)


_TYPES: Any = (str, str, str, int, int, bytes, int, (str, type(None)), int)


def values_of(c: Checkpoint, owner: str, key: bytes) -> tuple[Any, ...]:
    """The parameters of `COMMIT`: the checkpoint, who drives its run, and the digest of the run's head after it.

    A run that is over is nobody's. One that has failed is still its driver's: siblings of the failed method may be at work.
    """
    driver = owner if c.status in ("running", "failed") else None
    head = _digest(c.digest, (c.run_id, c.flow, c.status, c.number, c.seq, c.base, driver, c.epoch), key)
    return (*c, driver, head)


def _digest(head_digest: bytes, fields: tuple[Any, ...], key: bytes) -> bytes:
    return hashlib.blake2b(head_digest + to_json(fields, bytes_mode="hex"), digest_size=16, key=key).digest()


def checkpoint_of(head: Head, row: tuple[Any, ...]) -> Checkpoint:
    """A stored row as a checkpoint; its digests are checked by `fold`."""
    return Checkpoint(head.run_id, head.flow, *row)
