"""The default storage: `$ASYNCFLOW_DB`, a file or a PostgreSQL URL; else SQLite at `./asyncflow.db`."""

from __future__ import annotations

import importlib
import os
from typing import Final, Literal

from .protocol import FlowPersistence
from .sqlite import SQLiteFlowPersistence
from .sqlite.path import DEFAULT, VARIABLE, database_path

__all__ = ["default_persistence"]

_POSTGRES: Final = ("postgresql://", "postgres://")

_made: Final[dict[tuple[str, str], FlowPersistence]] = {}
"""One backend for each place and durability. It opens itself once for each event loop."""


def default_persistence(durability: Literal["full", "process"] = "full") -> FlowPersistence:
    """Return the default storage. Raises `ValueError` if `$ASYNCFLOW_DB` names no storage, `ImportError` if it needs an extra."""
    named = os.environ.get(VARIABLE) or DEFAULT
    if named.startswith(_POSTGRES):
        place = named
    else:
        try:
            place = str(database_path(named))
        except ValueError as error:
            raise ValueError(f"${VARIABLE} is not a valid path: {error}") from None
    key = place, durability
    if key not in _made:
        _made.setdefault(key, _of(place, durability))
    return _made[key]


def _of(place: str, durability: Literal["full", "process"]) -> FlowPersistence:
    if not place.startswith(_POSTGRES):
        return SQLiteFlowPersistence(place, durability=durability)
    postgres = importlib.import_module("asyncflow.persistence.postgres")  # an extra, imported on use
    made: FlowPersistence = postgres.PostgresFlowPersistence(place)
    return made
