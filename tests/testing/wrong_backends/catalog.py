"""Mistakes in listing, deleting and pruning runs."""

import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel

from asyncflow import errors
from asyncflow.persistence import Checkpoint, RunEntry

from .right import Right, caught_by


class Lists(Right):
    """Lists what it has in a wrong way."""

    async def runs(self, **options: Any) -> list[RunEntry]:
        return self.listed(await super().runs(**options))

    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return found


@caught_by("the_catalog_lists_runs_the_newest_first", "the_catalog_is_read_page_by_page")
class ListsTheOldestFirst(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return found[::-1]


@caught_by("the_catalog_lists_runs_the_newest_first")
class TellsTheFirstCheckpointsTime(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return [entry._replace(updated_at=entry.created_at) for entry in found]


@caught_by("the_catalog_filters_by_flow_and_status")
class ListsFlowsInAnyCase(Right):
    async def runs(self, *, flow: str | None = None, **options: Any) -> list[RunEntry]:
        found = await super().runs(**options)
        return [entry for entry in found if flow is None or entry.flow.lower() == flow.lower()]


@caught_by("the_catalog_finds_runs_by_the_identities_of_their_flows")
class ListsRunsOfAllFlowsOfOneName(Right):
    async def runs(self, *, identities: Collection[str] | None = None, **options: Any) -> list[RunEntry]:
        names = None if identities is None else {identity.rpartition(".")[2].strip(":") for identity in identities}
        return [entry for entry in await super().runs(**options) if names is None or entry.flow in names]


@caught_by("the_catalog_filters_by_flow_and_status")
class ListsAllForAnId(Right):
    async def runs(self, *, run_id: str | None = None, **options: Any) -> list[RunEntry]:
        return await super().runs(**options)


@caught_by("the_catalog_filters_by_flow_and_status")
class CutsBeforeItChooses(Right):
    """A page of what fits, among the newest of all."""

    async def runs(
        self,
        *,
        run_id: str | None = None,
        flow: str | None = None,
        status: str | None = None,
        identities: Collection[str] | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[RunEntry]:
        page = await super().runs(run_id=run_id, before=before, limit=limit)
        return [
            entry
            for entry in page
            if flow in (None, entry.flow)
            and status in (None, entry.status)
            and (identities is None or entry.identity in identities)
        ]


@caught_by("the_catalog_lists_interrupted_runs_apart_from_those_that_are_driven")
class CallsAllThatRunInterrupted(Right):
    async def runs(self, *, status: Any = None, **options: Any) -> list[RunEntry]:
        return await super().runs(status="unfinished" if status == "interrupted" else status, **options)


@caught_by("the_catalog_filters_by_flow_and_status", "the_catalog_shows_that_a_released_run_has_no_owner")
class TellsThatAllAreDriven(Lists):
    def listed(self, found: list[RunEntry]) -> list[RunEntry]:
        return [entry._replace(is_driven=True) for entry in found]


@caught_by("the_catalog_is_read_page_by_page")
class CountsPagesFromTheTop(Right):
    """With an offset: what is begun meanwhile moves the pages."""

    async def runs(self, *, before: int | None = None, limit: int = 100, **options: Any) -> list[RunEntry]:
        found = await super().runs(limit=10**6, **options)
        begin = before or 0
        page = found[begin : begin + limit]
        return [entry._replace(position=begin + limit) for entry in page]


@caught_by("a_history_begins_after_a_seq")
class TellsAllOfTheHistory(Right):
    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        return await super().history(run_id)


@caught_by("a_deleted_run_stays_unknown")
class ForgetsTheNewestCheckpointAlone(Right):
    async def delete(self, run_id: str) -> bool:
        return bool(self._rows.get(run_id)) and bool(self._rows[run_id].pop())


@caught_by("a_deleted_run_stays_unknown")
class BringsBackWhatWasDeleted(Right):
    """Takes the next checkpoint of a run that it has forgotten."""

    async def store(self, checkpoint: Checkpoint) -> None:
        if checkpoint.seq and checkpoint.run_id not in self._rows:
            self.put(checkpoint)
        else:
            await super().store(checkpoint)


@caught_by("a_deleted_run_stays_unknown")
class MakesAnEmptyRunOfWhatIsRefused(Right):
    async def store(self, checkpoint: Checkpoint) -> None:
        self._rows.setdefault(checkpoint.run_id, [])
        await super().store(checkpoint)


@caught_by("a_deleted_run_stays_unknown")
class KeepsTheHistoryOfWhatWasDeleted(Right):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, list[bytes]] = {}

    async def delete(self, run_id: str) -> bool:
        self.kept.setdefault(run_id, self._rows.get(run_id, []))
        return await super().delete(run_id)

    async def history(self, run_id: str, *, after: int = -1) -> list[Checkpoint]:
        if run_id in self.kept and run_id not in self._rows:
            return [Checkpoint.from_bytes(row) for row in self.kept[run_id]][after + 1 :]
        return await super().history(run_id, after=after)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await super().load(run_id, seq) if run_id in self._rows else None


@caught_by("a_deleted_run_stays_unknown")
class ListsWhatWasDeleted(Right):
    async def delete(self, run_id: str) -> bool:
        entry = self._entries.get(run_id)
        is_done = await super().delete(run_id)
        self._entries.update({run_id: entry} if entry else {})
        return is_done


class Prunes(Right):
    """Forgets what has ended, but takes something wrong for it."""

    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status != "running" and entry.updated_at < before

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        kept: Counter[str] = Counter()
        gone = 0
        for entry in await self.runs(limit=10**6):
            kept[entry.flow] += 1
            if kept[entry.flow] > keep_last and self.has_ended(entry, time.time() - older_than):
                gone += await self.delete(entry.run_id)
        return gone


@caught_by("the_newest_of_each_flow_are_kept")
class CountsWhatHasNotEnded(Prunes): ...


@caught_by("only_what_ended_long_ago_is_pruned")
class PrunesByTheBeginning(Prunes):
    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status != "running" and entry.created_at < before


@caught_by("only_what_ended_long_ago_is_pruned")
class KeepsWhatHasFailed(Prunes):
    def has_ended(self, entry: RunEntry, before: float) -> bool:
        return entry.status in ("finished", "cancelled") and entry.updated_at < before


@caught_by("a_run_that_is_resumed_while_others_are_pruned_is_kept")
class ListsFirstAndDeletesLater(Right):
    """Each deletion asks only whether a process drives the run: it may have been resumed, and have ended, since it was listed."""

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        before = time.time() - older_than
        found = await self.runs(limit=10**6)
        gone = 0
        for entry in found:
            if entry.status != "running" and entry.updated_at < before:
                await anyio.lowlevel.checkpoint()
                with suppress(errors.RunLockedError):
                    gone += await self.delete(entry.run_id)
        return gone


@caught_by("a_run_that_is_resumed_while_others_are_pruned_is_kept")
class DeletesTheOldestFirstByAnOldList(Right):
    """The same from the other end of the list."""

    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        before = time.time() - older_than
        found = [e for e in await self.runs(limit=10**6) if e.status != "running" and e.updated_at < before]
        gone = 0
        for entry in reversed(found):
            await anyio.lowlevel.checkpoint()
            if entry.run_id not in self._driven:
                gone += await self.delete(entry.run_id)
        return gone


@caught_by("a_run_with_a_living_owner_is_not_deleted")
class ForgetsWhatIsDriven(Right):
    async def delete(self, run_id: str) -> bool:
        self._driven.discard(run_id)
        return await super().delete(run_id)


@caught_by("only_what_ended_long_ago_is_pruned")
class PrunesWhatIsInterrupted(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        found = await self.runs(limit=10**6)
        return sum([await self.delete(entry.run_id) for entry in found])


@caught_by("the_newest_of_each_flow_are_kept")
class KeepsTheNewestOfAll(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        found = await self.runs(limit=10**6)
        return sum([await self.delete(entry.run_id) for entry in found[keep_last:]])
