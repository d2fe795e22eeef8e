"""Lists of runs: every filter, page by page, on backends that search themselves and on those that do not."""

from typing import Any

import pytest

from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, errors, inspection, start
from asyncflow.inspection import listing
from asyncflow.persistence import Catalog, RunEntry, RunSearch
from asyncflow.persistence.sqlite import rows


class Good(Flow):
    @start()
    async def only(self) -> None: ...


class Bad(Flow):
    @start()
    async def only(self) -> None:
        raise ValueError("no")


class OldCatalog(MemoryFlowPersistence):
    """A backend whose catalog was written before runs could be searched for."""

    async def runs(  # type: ignore[override]  # without the keywords that later versions have added
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: Any = None,
        identities: Any = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        return await super().runs(
            run_id=run_id, flow=flow, status=status, identities=identities, before=before, limit=limit
        )


KINDS: dict[str, Any] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db", durability="process"),
    "old": OldCatalog,
}


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


IDS = [f"run-{n:03}" for n in range(7)]


async def seven(store: Any) -> list[RunEntry]:
    """Store seven runs, of which every third has failed. Return their entries, the oldest first."""
    for n, each in enumerate(IDS):
        try:
            await (Good if n % 3 else Bad)(persistence=store).kickoff({"id": each})
        except errors.MethodError:
            assert n % 3 == 0
    return list(await store.runs())[::-1]


async def all_pages(store: Any, **asked: Any) -> list[str]:
    found: list[str] = []
    page = await inspection.list_runs(store, **asked)
    found += [entry.run_id for entry in page]
    while page.next is not None:
        page = await inspection.list_runs(store, **asked, before=page.next)
        found += [entry.run_id for entry in page]
    return found


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("examine", [1, 4, None])
async def test_pages_hold_every_run_that_fits_once(store: Any, limit: int, examine: int | None) -> None:
    entries = await seven(store)
    how: dict[str, Any] = {"limit": limit, "examine": examine}

    assert await all_pages(store, **how) == IDS[::-1]
    assert await all_pages(store, **how, status="failed") == ["run-006", "run-003", "run-000"]
    assert await all_pages(store, **how, flow="Good", id_text="00") == ["run-005", "run-004", "run-002", "run-001"]
    assert await all_pages(store, **how, id_text="run-") == IDS[::-1]
    assert await all_pages(store, **how, id_text="n-005") == ["run-005"]
    assert await all_pages(store, **how, id_text="run-005", status="failed") == []
    assert await all_pages(store, **how, since=entries[5].updated_at) == ["run-006", "run-005"]
    assert await all_pages(store, **how, until=entries[1].created_at) == ["run-001", "run-000"]
    assert await all_pages(store, **how, until=1.0) == []
    assert await all_pages(store, **how, parent="run-001") == []
    assert await all_pages(store, **how, status="unfinished") == []


async def test_a_run_is_found_by_the_beginning_of_its_id(store: Any) -> None:
    await seven(store)
    await Good(persistence=store).kickoff({"id": "run-0031"})

    assert await inspection.find_run(store, "run-003") == "run-003"
    assert await inspection.find_run(store, "run-0031") == "run-0031"
    assert await inspection.find_run(store, "run-006") == "run-006"
    with pytest.raises(
        errors.RunNotFoundError, match=r"several runs .*run-0031, run-006, run-005, run-004, run-003, \.\.\."
    ):
        await inspection.find_run(store, "run-0")
    for unknown in ("un-003", "", "other", "run-003\U0010ffff"):
        with pytest.raises(errors.RunNotFoundError, match="no run"):
            await inspection.find_run(store, unknown)


async def test_many_runs_with_one_beginning_are_listed_in_order(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "FEW", 3)
    monkeypatch.setattr(rows, "FEW", 3)
    await seven(store)

    assert await all_pages(store, id_text="run-", limit=2) == IDS[::-1]


async def test_a_filter_that_makes_no_sense_is_refused(store: Any) -> None:
    with pytest.raises(ValueError, match="status must be one of"):
        await inspection.list_runs(store, status="done")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="limit must be"):
        await inspection.list_runs(store, limit=-1)
    assert await inspection.list_runs(store, limit=0) == []


async def test_a_backend_without_a_catalog_is_refused(store: Any) -> None:
    class Plain:
        async def save(self, checkpoint: Any) -> None: ...

        async def load(self, run_id: str, seq: int | None = None) -> Any:
            return None

    with pytest.raises(errors.CapabilityMissingError, match="Plain does not list its runs"):
        await inspection.list_runs(Plain())
    with pytest.raises(errors.RunNotFoundError):
        await inspection.find_run(Plain(), "a")


async def test_a_search_of_a_catalog_and_what_fits_agree(store: Any) -> None:
    entries = await seven(store)
    if isinstance(store, OldCatalog):
        return
    assert isinstance(store, Catalog)
    for search in (
        RunSearch(id_prefix="run-00"),
        RunSearch(id_part="04"),
        RunSearch(changed_since=entries[3].updated_at, created_until=entries[4].created_at),
        RunSearch(after=entries[2].position),
    ):
        found: Any = await store.runs(search=search)  # type: ignore[call-arg]  # a keyword that a catalog may have
        assert found == [entry for entry in entries[::-1] if search.fits(entry)]


async def test_the_first_page_of_older_runs_begins_at_their_position(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SLACK", 0.0)
    entries = await seven(store)
    for entry in entries:
        page = await inspection.list_runs(store, until=entry.created_at, limit=1, examine=1)
        assert [each.run_id for each in page] == [entry.run_id] or isinstance(store, OldCatalog)
        assert await all_pages(store, until=entry.created_at) == IDS[entries.index(entry) :: -1]
