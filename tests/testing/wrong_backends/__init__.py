"""Backends with one mistake each, such as are easily made, and the conformance test that must catch it."""

from . import catalog, children, compaction, inboxes, inspected, log, ownership, parking, sessions, two_verbs
from .right import ON_ASYNCIO_ALONE, WRONG, Opened

__all__ = [
    "ON_ASYNCIO_ALONE",
    "WRONG",
    "Opened",
    "catalog",
    "children",
    "compaction",
    "inboxes",
    "inspected",
    "log",
    "ownership",
    "parking",
    "sessions",
    "two_verbs",
]
