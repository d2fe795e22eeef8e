"""The capability of backends to delete the earlier passes of a run."""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, runtime_checkable

from pydantic_core import to_json

from ..errors import CheckpointCorruptError

__all__ = ["Compaction", "check_first", "first_digest", "valid_first"]


@runtime_checkable
class Compaction(Protocol):
    """Deletes the checkpoints of a run's earlier passes. For backends that keep every checkpoint."""

    async def compact(self, run_id: str) -> int | None:
        """Delete the checkpoints of earlier passes. Return how many were deleted; None for an unknown run.

        The first checkpoint of the present pass, which is complete, becomes the first one of the run; its seq stays as it is. Owners need
        not be asked: nothing reads what is deleted. From then on `history` begins there, `load` returns None for a smaller seq, and a first
        checkpoint that is missing or was replaced is still detected.

        - `run_id`: the id of the run.
        """
        ...


def first_digest(run_id: str, first: int, digest: bytes, key: bytes) -> bytes:
    """Return the digest that protects where a run begins: BLAKE2b, 16 bytes, keyed if there is a key.

    - `first`: the seq of its first checkpoint.
    - `digest`: the digest of that checkpoint.
    - `key`: the storage's secret key; b"" for none.
    """
    return hashlib.blake2b(to_json((run_id, first)) + digest, digest_size=16, key=key).digest()


def check_first(run_id: str, first: int, stored: bytes | None, digest: bytes, key: bytes) -> None:
    """Check where a compacted run begins. Raises `CheckpointCorruptError`.

    - `stored`: the digest that was stored for it; None if the run was not compacted.
    - `digest`: the digest of the checkpoint with the seq `first`.
    """
    if first and stored != first_digest(run_id, first, digest, key):
        raise CheckpointCorruptError(
            f"the first checkpoint of run {run_id}, {first}, is not the one with which it was compacted. Nothing was changed; restore the "
            "storage from a backup",
            run_id=run_id,
            seq=first,
        )


def valid_first(run_id: str, first: Any, head: int) -> int:
    """Return the seq of a run's first checkpoint as it is stored. Raises `CheckpointCorruptError` if no run can begin there.

    - `run_id`: the id of the run.
    - `first`: the stored value.
    - `head`: the seq of its newest checkpoint.
    """
    if type(first) is int and 0 <= first <= head:
        return first
    raise CheckpointCorruptError(
        f"run {run_id} is stored as beginning at a checkpoint that it cannot have. Nothing was changed, other runs are not affected; "
        "restore the database from a backup",
        run_id=run_id,
    )
