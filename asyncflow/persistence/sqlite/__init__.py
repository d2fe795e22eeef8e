"""The default backend: SQLite through aiosqlite, with group commit."""

from .persistence import SQLiteFlowPersistence

__all__ = ["SQLiteFlowPersistence"]
