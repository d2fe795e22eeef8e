"""The default storage: `$ASYNCFLOW_DB`, a file or a PostgreSQL URL; else SQLite at `./asyncflow.db`.

The parameter `schema` of a URL names the schema, as in `postgresql://host/database?schema=shop`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any, Final, Literal

from ._database.base import DatabasePersistence
from .protocol import FlowPersistence
from .sqlite import SQLiteFlowPersistence
from .sqlite.path import DEFAULT, URL, VARIABLE, database_path

__all__ = ["default_persistence", "storage_at"]

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


def _of(place: str, durability: Literal["full", "process"], *, read_only: bool = False) -> DatabasePersistence[Any]:
    if not place.startswith(_POSTGRES):
        return SQLiteFlowPersistence(place, durability=durability, read_only=read_only)
    postgres = importlib.import_module("asyncflow.persistence.postgres")  # an extra, imported on use
    url, schema = _schema_of(place)
    made: DatabasePersistence[Any] = postgres.PostgresFlowPersistence(url, schema=schema, read_only=read_only)
    return made


def _schema_of(url: str) -> tuple[str, str]:
    """Return a PostgreSQL URL without its parameter `schema`, which libpq does not know, and the schema."""
    start, mark, query = url.partition("?")
    given = query.split("&") if query else []
    named = [each.removeprefix("schema=") for each in given if each.startswith("schema=")]
    left = "&".join(each for each in given if not each.startswith("schema="))
    return f"{start}{mark if left else ''}{left}", named[-1] if named else "asyncflow"


def storage_at(place: str | None = None, *, read_only: bool = False) -> DatabasePersistence[Any]:
    """Return a storage by the text that names it: a path, or a PostgreSQL URL. None: the default one. It does no I/O.

    Raises `ValueError` for a text that names no storage, and `ImportError` if it needs an extra.
    """
    named = place or os.environ.get(VARIABLE) or DEFAULT
    if not named.startswith(_POSTGRES) and (url := URL.match(named)):
        raise ValueError(
            f"{url[0]!r} begins a URL, but a storage is a path or postgresql://user@host/database: of a SQLite file write the path "
            "alone, such as runs.db; for a file with exactly this name, put './' before it"
        )
    return _of(named, "full", read_only=read_only)
