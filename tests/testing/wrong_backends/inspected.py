"""Mistakes in what backends show of owners, and in searching their runs."""

from typing import Any

from asyncflow.persistence import RunEntry, RunOwner, RunSearch

from .right import Right, caught_by


@caught_by("the_owner_of_a_run_is_known_until_it_is_released")
class ShowsTheFormerOwner(Right):
    async def owner_of(self, run_id: str) -> RunOwner | None:
        return RunOwner("me", True, True) if run_id in self._rows else None


@caught_by("the_owner_of_a_run_is_known_until_it_is_released")
class ShowsNoOwner(Right):
    async def owner_of(self, run_id: str) -> RunOwner | None:
        return None


@caught_by("the_catalog_is_searched")
class SearchesInAnyCase(Right):
    async def runs(self, *, search: RunSearch | None = None, **options: Any) -> list[RunEntry]:
        search = search or RunSearch()
        lower = search._replace(id_prefix=(search.id_prefix or "").lower(), id_part=(search.id_part or "").lower())
        found = await super().runs(**options)
        return [e for e in found if lower.fits(e._replace(run_id=e.run_id.lower()))]


@caught_by("the_catalog_is_searched")
class ForgetsTheTime(Right):
    async def runs(self, *, search: RunSearch | None = None, **options: Any) -> list[RunEntry]:
        known = None if search is None else search._replace(changed_since=None)
        return await super().runs(search=known, **options)
