"""Errors of the storage."""

from __future__ import annotations

from typing import Any

from ._base import AsyncflowError

__all__ = [
    "CheckpointCorruptError",
    "CheckpointWithdrawnError",
    "ForeignDatabaseError",
    "ForkedProcessError",
    "InboxChanged",
    "StaleCheckpoint",
    "StorageBusyError",
    "StorageCorruptError",
    "StorageError",
    "StorageNotADatabaseError",
    "StorageNotFoundError",
    "StorageOutdatedError",
    "StorageReadOnlyError",
    "StorageUnreachableError",
    "StorageVersionError",
    "StorageWriteError",
    "TransferError",
]


class StorageError(AsyncflowError):
    """The storage could not perform an operation."""


class StaleCheckpoint(StorageError):  # noqa: N818 - the protocol's term: an answer of a backend, not a fault
    """Raised by a backend: the checkpoint does not follow the stored one (compare and set failed). Nothing was written."""


class InboxChanged(StorageError):  # noqa: N818 - an answer of a backend, as `StaleCheckpoint` is
    """Raised by a backend: the inbox has received a signal, or the run another checkpoint, since it was read. Nothing was written."""


class CheckpointCorruptError(StorageError):
    """A checkpoint fails its digest, its chain or its decoding. Only this run is affected; the rows are kept."""


class StorageCorruptError(StorageError):
    """The database itself is corrupt."""


class StorageWriteError(StorageError):
    """A commit failed. `outcome` states whether the checkpoint was saved: "not saved" or "unknown"."""

    def __init__(self, message: str, *, outcome: str = "unknown", **where: Any) -> None:
        super().__init__(message, **where)
        self.outcome = outcome


class CheckpointWithdrawnError(StorageWriteError):
    """A checkpoint was not saved because a cancellation withdrew the one before it, in the same run."""


class StorageBusyError(StorageError):
    """The database cannot respond at this moment; retry later.

    Another process held its lock for longer than the busy timeout, or the system has no file handles or threads left.
    """


class StorageReadOnlyError(StorageError):
    """The database, or its folder, is not writable."""


class StorageNotFoundError(StorageError):
    """The database was not found: its server cannot be reached, its folder cannot be created, or the path is a folder.

    Also raised if its file was moved, deleted or replaced while it was in use.
    """


class StorageUnreachableError(StorageNotFoundError):
    """The database server cannot be reached at this moment, or has closed the connection: it may be starting. Retry later."""


class StorageNotADatabaseError(StorageError):
    """The file is not a SQLite database."""


class ForeignDatabaseError(StorageError):
    """The file is a database of another program. It was not changed."""


class StorageVersionError(StorageError):
    """A newer version of asyncflow wrote the database. It was not changed."""


class StorageOutdatedError(StorageError):
    """The schema of the database is of an older version of asyncflow, and opening it to read only does not upgrade it."""


class TransferError(StorageError):
    """An export cannot be imported: its lines were changed, cut, or written by a newer version, or a run of it is stored already."""


class ForkedProcessError(StorageError):
    """A backend that was opened before a fork was used after it."""
