"""The runs that a catalog lists, page by page."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Self

from ..persistence.protocol import Catalog, RunEntry

__all__ = ["RunPages"]


class RunPages:
    """Iterates over the pages of a list of runs, the newest first: `async for page in RunPages(catalog, 100, status="waiting")`.

    It is no generator, so it may be left at any page.
    """

    def __init__(
        self,
        catalog: Catalog,
        size: int,
        *,
        identities: Collection[str] | None = None,
        before: int | None = None,
        **query: Any,
    ) -> None:
        """`size`: runs on a page. The others are those of `Catalog.runs`, which is not asked where there are no identities."""
        self._catalog = catalog
        self._size = size
        self._before = before
        self._query = {"identities": identities, **query}
        self._is_over = identities is not None and not identities

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[RunEntry]:
        """Return the next page. Raises `StopAsyncIteration` once there are no more, and `StorageError`s."""
        if self._is_over:
            raise StopAsyncIteration
        page = await self._catalog.runs(before=self._before, limit=self._size, **self._query)
        self._is_over = len(page) < self._size
        if not page:
            raise StopAsyncIteration
        self._before = page[-1].position
        return page
