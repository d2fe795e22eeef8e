"""The head of a run, stored as a row: its newest checkpoint, its status and its owner, protected by a digest of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from ...errors import CheckpointCorruptError
from ..checkpoint import Checkpoint, origin_digest, refuse_newer

__all__ = ["Head", "checkpoint_of", "head_after", "values_of"]


class Head(NamedTuple):
    """The row of a run: its newest checkpoint, its status and its owner."""

    run_id: str
    flow: str
    identity: str
    status: str
    pass_number: int
    head: int
    head_digest: bytes
    base: int
    format: int
    """The format of the newest checkpoint and of this row."""
    version: str
    """The version of asyncflow that wrote them; '' in format 1."""
    owner: str | None
    epoch: int

    @classmethod
    def read(cls, run_id: str, row: Sequence[Any], key: bytes) -> Head:
        """Decode the row that was found for a run; its digest is the last column.

        Raises `CheckpointCorruptError` if the row fails its digest or belongs to another run, and `StorageVersionError` if a newer
        asyncflow wrote it.
        """
        head = cls(*row[:-1])
        if type(head.format) is int:
            refuse_newer(head.format, head.version, f"run {run_id}", run_id=run_id)
        if head.run_id != run_id or not all(map(isinstance, head, _TYPES)) or head.digest(key) != row[-1]:
            raise CheckpointCorruptError(
                f"the stored head of run {run_id} fails its digest: it was changed since it was saved, or saved under another "
                "key. Nothing was changed, other runs are not affected; restore the database from a backup",
                run_id=run_id,
            )
        return head

    def verify(self, base: int, last: int, stored: list[Checkpoint]) -> None:
        """Check that the rows read begin at `base`, end at `last` and, if that is the head, match the head's digest.

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
        """Return the digest of the row: BLAKE2b, 16 bytes, keyed if there is a key."""
        known = self.head_digest if isinstance(self.head_digest, bytes) else b""
        run_id, flow, identity, status, pass_number, head, _, base, form, version, owner, epoch = self
        fields = (run_id, flow, status, pass_number, head, base, owner, epoch)
        return _digest(known, fields, origin_digest(identity, form, version), key)


_TYPES: Any = (str, str, str, str, int, int, bytes, int, int, str, (str, type(None)), int)


def values_of(c: Checkpoint, owner: str, key: bytes) -> tuple[Any, ...]:
    """Return the values stored for a checkpoint: the checkpoint, the owner of its run, and the digest of the run's head after it."""
    return (*c, *head_after(c, owner, key))


def head_after(c: Checkpoint, owner: str, key: bytes) -> tuple[str | None, bytes]:
    """Return the owner of the run after this owner's checkpoint, and the digest of the run's head.

    A run that has finished or was cancelled has no owner. A failed run keeps its owner, because siblings of the failed method may
    still be running.
    """
    run_id, flow, seq, pass_number, _, status, _, _, base, identity, form, version, epoch = c[:_PARTS]
    driver = owner if status in ("running", "failed") else None
    fields = (run_id, flow, status, pass_number, seq, base, driver, epoch)
    return driver, _digest(c[-1], fields, origin_digest(identity, form, version), key)


def _digest(head_digest: bytes, fields: tuple[Any, ...], origin: bytes, key: bytes) -> bytes:
    content = head_digest + to_json(fields, bytes_mode="hex")
    return hashlib.blake2b(content, digest_size=16, key=key, person=origin).digest()


def checkpoint_of(head: Head, row: tuple[Any, ...]) -> Checkpoint:
    """Decode a stored row into a checkpoint. `fold` checks its digests."""
    return Checkpoint._make((head.run_id, head.flow, *row[:_IDENTITY], head.identity, *row[_IDENTITY:]))


_IDENTITY = Checkpoint._fields.index("identity") - 2
_PARTS = Checkpoint._fields.index("state")
