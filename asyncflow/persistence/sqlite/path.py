"""Validate the path of a SQLite storage. It uses the text alone and does not access the disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["DEFAULT", "URL", "VARIABLE", "database_path"]

VARIABLE: Final = "ASYNCFLOW_DB"
"""The environment variable that names the default storage."""

DEFAULT: Final = "asyncflow.db"

URL: Final = re.compile(r"(file:|[A-Za-z][A-Za-z0-9+.-]+:/)")
"""The start of a URL. A Windows drive has only one letter, and a `Path` keeps only one of the slashes."""

_POSTGRES: Final = ("postgresql:/", "postgres:/")


def database_path(path: str | bytes | os.PathLike[str] | os.PathLike[bytes] | None) -> Path:
    """Return the absolute path of a database, so that a later `chdir` changes nothing. "~" is the user's home.

    None is the default: `$ASYNCFLOW_DB`, else `asyncflow.db` in the current folder. Raises `ValueError` for a text that names no
    file, and `TypeError` for an object that is no path.
    """
    if path is None:
        return database_path(os.environ.get(VARIABLE) or DEFAULT)
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"the path of a SQLite file must be a str, bytes or Path, not {type(path).__name__}")
    text = os.fsdecode(path)
    if text == ":memory:":
        raise ValueError("':memory:' is not a file; to keep runs in memory, use MemoryFlowPersistence()")
    if "\0" in text:
        raise ValueError(f"{text!r} is not a path: it contains a NUL character")
    if text.startswith(_POSTGRES):
        raise ValueError(
            "a PostgreSQL URL is not a file; use asyncflow.persistence.postgres.PostgresFlowPersistence(conninfo), "
            "which needs the extra postgres, in a checkout of asyncflow: pip install '.[postgres]'"
        )
    if URL.match(text):
        raise ValueError(
            f"'{text.partition(':')[0]}:' begins a URL, but SQLiteFlowPersistence takes a path: write the path alone, such as "
            "'runs.db'; for a file with exactly this name, put './' before it"
        )
    return Path(os.path.abspath(_expanded(text)))


def _expanded(text: str) -> str:
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ValueError(
            f"{text!r}: that user has no home folder; for a file with exactly this name, put './' before it"
        )
    return expanded
