"""REMEMBER: one small protocol, many backends. Public: the protocol, its capabilities, the checkpoint, and two backends."""

from .checkpoint import Checkpoint
from .memory import MemoryFlowPersistence
from .protocol import CheckpointHistory, CheckpointLog, FlowPersistence, Ownership, Sessions
from .sqlite import SQLiteFlowPersistence

__all__ = [
    "Checkpoint",
    "CheckpointHistory",
    "CheckpointLog",
    "FlowPersistence",
    "MemoryFlowPersistence",
    "Ownership",
    "SQLiteFlowPersistence",
    "Sessions",
]
