"""The requirements for backends that report who owns a run, and that search their catalog."""

from __future__ import annotations

import unittest
from typing import Any

from .._runs.reading import takes
from ..persistence.protocol import Catalog, FlowPersistence, Owners, Ownership, RunSearch
from ._checkpoints import AT, Chain
from ._promises import Promises, in_time, needed, session, store

__all__ = ["Inspected"]


class Inspected(Promises):
    """The tests of `Owners`, and of the keyword `search` of `Catalog.runs`."""

    @in_time
    async def test_the_owner_of_a_run_is_known_until_it_is_released(self, persistence: FlowPersistence) -> None:
        owners, ownership = needed(persistence, Owners), needed(persistence, Ownership)
        chain, ended = Chain("a"), Chain("b")
        async with session(persistence):
            assert await owners.owner_of("unknown") is None, "`owner_of` an unknown run must be None"
            await store(persistence, chain.add())
            driven = await owners.owner_of("a")
            is_right = driven is not None and driven.is_alive and driven.is_here and bool(driven.owner)
            assert is_right, f"`owner_of` a run that was just stored here must be this process, and is {driven}"
            await ownership.release("a", 1)
            released = await owners.owner_of("a")
            await ownership.acquire("a")
            again = await owners.owner_of("a")
            await store(persistence, ended.add())
            await store(persistence, ended.add(status="finished"))
            over = await owners.owner_of("b")
        assert released is None, f"`owner_of` a run that was released must be None, and is {released}"
        assert again is not None, "`owner_of` a run that was acquired again must be its owner, and is None"
        assert over is None, f"`owner_of` a run that has ended must be None, and is {over}"

    @in_time
    async def test_the_catalog_is_searched(self, persistence: FlowPersistence) -> None:
        catalog: Any = needed(persistence, Catalog)
        if not takes(catalog.runs, "search"):
            raise unittest.SkipTest(f"`runs` of {type(persistence).__name__} does not take search=")
        async with session(persistence):
            for run_id, steps in (("ab-1", 1), ("ab-2", 3), ("Ab-3", 1), ("b%_ab-4", 2)):
                chain = Chain(run_id)
                for _ in range(steps):
                    await store(persistence, chain.add())
            everything = await catalog.runs()
            for search in (
                RunSearch(id_prefix="ab-"),
                RunSearch(id_part="ab-"),
                RunSearch(id_part="%_"),
                RunSearch(changed_since=AT + 1),
                RunSearch(created_until=AT - 1),
                RunSearch(created_until=AT),
                RunSearch(after=everything[2].position),
                RunSearch(id_prefix="ab-", changed_since=AT + 1, after=everything[-1].position),
            ):
                expected = [entry.run_id for entry in everything if search.fits(entry)]
                found = [entry.run_id for entry in await catalog.runs(search=search)]
                assert found == expected, f"`runs` with {search} must list {expected}, and lists {found}"
            page = [e.run_id for e in await catalog.runs(search=RunSearch(id_part="ab-"), limit=1, flow="Conformance")]
        assert page == ["b%_ab-4"], f"`runs` with a search must list the newest run first, and lists {page}"
