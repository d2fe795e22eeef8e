"""Persistence: one small protocol, many backends. Public: the protocol, its capabilities, the checkpoint, and two backends."""

from .checkpoint import Checkpoint
from .children import Children
from .compaction import Compaction
from .fence import Fence
from .inbox import Inbox, NewSignal, StoredSignal
from .memory import MemoryFlowPersistence
from .parking import Parking
from .protocol import (
    Catalog,
    CheckpointHistory,
    CheckpointLog,
    Clocked,
    Fencing,
    FlowPersistence,
    Owners,
    Ownership,
    Retention,
    RunEntry,
    RunOwner,
    RunSearch,
    Sessions,
)
from .sqlite import SQLiteFlowPersistence
from .status import Kind, Status

__all__ = [
    "Catalog",
    "Checkpoint",
    "CheckpointHistory",
    "CheckpointLog",
    "Children",
    "Clocked",
    "Compaction",
    "Fence",
    "Fencing",
    "FlowPersistence",
    "Inbox",
    "Kind",
    "MemoryFlowPersistence",
    "NewSignal",
    "Owners",
    "Ownership",
    "Parking",
    "Retention",
    "RunEntry",
    "RunOwner",
    "RunSearch",
    "SQLiteFlowPersistence",
    "Sessions",
    "Status",
    "StoredSignal",
]
