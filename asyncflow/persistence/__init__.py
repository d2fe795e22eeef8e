"""REMEMBER: one small protocol, many backends. Public: the protocol, its capabilities, the checkpoint, and two backends."""

from .checkpoint import Checkpoint
from .memory import MemoryFlowPersistence
from .protocol import (
    Catalog,
    CheckpointHistory,
    CheckpointLog,
    FlowPersistence,
    Ownership,
    Retention,
    RunEntry,
    Sessions,
)
from .sqlite import SQLiteFlowPersistence

__all__ = [
    "Catalog",
    "Checkpoint",
    "CheckpointHistory",
    "CheckpointLog",
    "FlowPersistence",
    "MemoryFlowPersistence",
    "Ownership",
    "Retention",
    "RunEntry",
    "SQLiteFlowPersistence",
    "Sessions",
]
