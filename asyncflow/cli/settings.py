"""What the options before the command said, for the command."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import anyio

from ..persistence._database.base import DatabasePersistence
from ..persistence.default import storage_at
from .failures import Refusal

__all__ = ["SETTINGS", "Settings", "awaited", "known_run", "named", "to_read", "to_write"]

T = TypeVar("T")


@dataclass
class Settings:
    """The options that may come before the command."""

    db: str | None = None
    as_json: bool = False


SETTINGS: Final = Settings()


def awaited(work: Callable[[], Awaitable[T]], loop: Literal["asyncio", "trio"] = "asyncio") -> T:
    """Run the asynchronous part of a command."""
    return anyio.run(work, backend=loop)


def named(db: str | None, *, read_only: bool = False) -> DatabasePersistence[Any]:
    """Return the storage that the options or the environment name. Raises `Refusal`."""
    given = SETTINGS.db if db is None else db
    if given == "":
        raise Refusal("--db is empty: name a file, or postgresql://user@host/database")
    try:
        return storage_at(given, read_only=read_only)
    except (ValueError, ImportError) as error:
        raise Refusal(str(error)) from None


@asynccontextmanager
async def to_read(db: str | None) -> AsyncIterator[DatabasePersistence[Any]]:
    """Open the storage to read only: nothing is created, upgraded or owned."""
    async with named(db, read_only=True) as storage:
        yield storage


@asynccontextmanager
async def to_write(db: str | None, *, creates: bool = False) -> AsyncIterator[DatabasePersistence[Any]]:
    """Open the storage. Unless `creates` is set, it is neither created nor upgraded: such a storage raises a `StorageError`."""
    if not creates:
        async with named(db, read_only=True):
            pass
    async with named(db) as storage:
        yield storage


async def known_run(storage: DatabasePersistence[Any], text: str) -> str:
    """Return the id of the run that a person means, by the id or its beginning. Raises `RunNotFoundError`."""
    from ..inspection import find_run

    return await find_run(storage, text)
