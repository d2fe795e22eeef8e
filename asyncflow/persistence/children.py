"""Child runs: runs that belong to a parent run in the same storage. A capability of backends."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine
from typing import Any, Protocol, runtime_checkable

from pydantic_core import to_json

from ..errors import CheckpointCorruptError, ChildRunError, ParentEndedError
from .checkpoint import Checkpoint
from .encoding import parent_named_in
from .protocol import RunEntry

__all__ = ["Children", "check_parent", "check_parent_digest", "has_parent", "parent_digest", "parent_ended"]


@runtime_checkable
class Children(Protocol):
    """Knows the parent of each run, and deletes runs as whole trees.

    For backends that also have `Ownership`, `Catalog` and `CheckpointLog`. If the backend also has `Retention`, then `delete` and `prune`
    delete a run together with all its descendants, in one transaction, unless one of them has a living owner. `delete` raises
    `ChildRunError` for a run whose parent is stored. `prune` and its `keep_last` count only runs without a parent. `runs` accepts `parent`,
    the id of a run: it returns only its direct children.
    """

    def append_child(self, checkpoint: Checkpoint, parent: str) -> Coroutine[Any, Any, None]:
        """Store the first checkpoint of a child run as `append` does, unless its parent is over or not stored.

        - `checkpoint`: the first checkpoint of the child.
        - `parent`: the id of its parent.

        A child is never stored after the end of its parent: the check and the insert are one transaction. Raises what `append` raises,
        `StaleCheckpoint` if a run with this id is stored, and `ParentEndedError` if the parent is finished, cancelled or not stored.
        """
        ...

    async def children(self, run_id: str) -> list[RunEntry]:
        """Return the direct children of a run, in the order in which they were first stored.

        - `run_id`: the id of the run.
        """
        ...

    async def orphans(self, limit: int) -> list[RunEntry]:
        """Return children that are not over although their parent is: it is finished, cancelled or not stored. The oldest child is first.

        - `limit`: the maximum number of runs.
        """
        ...


def parent_ended(run_id: str, parent: str, status: str | None) -> ParentEndedError:
    """Return the error for a child that was not stored.

    - `status`: the status of the parent; None if it is not stored.
    """
    what = "is not stored" if status is None else f"is {status}"
    return ParentEndedError(
        f"child run {run_id} was not stored: its parent, run {parent}, {what}", run_id=run_id, parent=parent
    )


def has_parent(run_id: str, parent: str) -> ChildRunError:
    """Return the error for a child that cannot be deleted alone."""
    return ChildRunError(
        f"run {run_id} is a child of run {parent}, and is deleted with it; nothing was deleted. Delete the run that has no parent, or "
        "cancel this one",
        run_id=run_id,
        parent=parent,
    )


def check_parent(run_id: str, parent: Any, digest: Any, progress: bytes | None, key: bytes) -> None:
    """Check the stored parent of a run against its first checkpoint. Raises `CheckpointCorruptError`.

    - `parent`: the id of the parent; None for none.
    - `digest`: see `parent_digest`; None for none.
    - `progress`: the progress in the first checkpoint of the run, which names the parent too.
    """
    check_parent_digest(run_id, parent, digest, key)
    if parent_named_in(progress) != parent:
        raise _wrong_parent(run_id)


def check_parent_digest(run_id: str, parent: Any, digest: Any, key: bytes) -> None:
    """Check the digest of the stored parent of a run. Raises `CheckpointCorruptError`."""
    expected = parent_digest(run_id, parent, key) if isinstance(parent, str) else None
    if expected != digest or (parent is None) != (digest is None):
        raise _wrong_parent(run_id)


def _wrong_parent(run_id: str) -> CheckpointCorruptError:
    """Return the error for a run whose stored parent was changed."""
    return CheckpointCorruptError(
        f"the parent of run {run_id} is not the one with which it was stored: it was changed since. Nothing was changed, other runs are "
        "not affected; restore the database from a backup",
        run_id=run_id,
    )


def parent_digest(run_id: str, parent: str, key: bytes) -> bytes:
    """Return the digest that protects the stored parent of a run: BLAKE2b, 16 bytes, keyed if there is a key.

    - `key`: the storage's secret key; b"" for none.
    """
    return hashlib.blake2b(to_json((run_id, parent)), digest_size=16, key=key, person=b"parent").digest()
