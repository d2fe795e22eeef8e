"""Mistakes with child runs."""

from asyncflow import errors
from asyncflow.persistence import Checkpoint, RunEntry

from .right import Right, caught_by


@caught_by("no_child_is_stored_after_the_end_of_its_parent")
class StoresChildrenOfFinishedRuns(Right):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        try:
            await super().append_child(checkpoint, parent)
        except errors.ParentEndedError:
            if parent not in self._entries:
                raise
            await self.append(checkpoint)


@caught_by("no_child_is_stored_after_the_end_of_its_parent")
class StoresChildrenOfUnknownRuns(Right):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        if parent in self._entries:
            await super().append_child(checkpoint, parent)
        else:
            await self.append(checkpoint)


@caught_by("no_child_is_stored_after_the_end_of_its_parent")
class RefusesChildrenOfFailedRuns(Right):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        if parent in self._entries and self._entries[parent].status == "failed":
            raise errors.ParentEndedError("it has failed", parent=parent)
        await super().append_child(checkpoint, parent)


@caught_by("a_child_is_stored_and_listed_with_its_parent")
class ForgetsTheParentAtTheNextCheckpoint(Right):
    def _enter(self, c: Checkpoint) -> None:
        super()._enter(c)
        self._entries[c.run_id] = self._entries[c.run_id]._replace(parent="")


@caught_by("a_child_is_stored_and_listed_with_its_parent")
class ListsTheNewestChildFirst(Right):
    async def children(self, run_id: str) -> list[RunEntry]:
        return (await super().children(run_id))[::-1]


@caught_by("a_child_is_stored_and_listed_with_its_parent")
class ListsAllDescendants(Right):
    async def children(self, run_id: str) -> list[RunEntry]:
        found = await super().children(run_id)
        for each in tuple(found):
            found += await self.children(each.run_id)
        return found


@caught_by("a_child_is_stored_once")
class AdoptsTheChildOfAnother(Right):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        if checkpoint.run_id in self._entries:
            self._children.setdefault(parent, []).append(checkpoint.run_id)
        await super().append_child(checkpoint, parent)


@caught_by("a_child_is_stored_once")
class OverwritesAChild(Right):
    async def append_child(self, checkpoint: Checkpoint, parent: str) -> None:
        if checkpoint.run_id in self._entries:
            self._forget(checkpoint.run_id)
        await super().append_child(checkpoint, parent)


@caught_by("children_that_have_outlived_their_parents_are_found")
class FindsChildrenOfFailedRuns(Right):
    async def orphans(self, limit: int) -> list[RunEntry]:
        found = [entry for entry in self._entries.values() if entry.parent and entry.status in ("running", "failed")]
        return [entry for entry in found if self._entries[entry.parent].status != "running"][:limit]


@caught_by("children_that_have_outlived_their_parents_are_found")
class FindsNoFailedChildren(Right):
    async def orphans(self, limit: int) -> list[RunEntry]:
        found = await super().orphans(99)
        return [entry for entry in found if entry.status != "failed"][:limit]


@caught_by("a_run_is_deleted_with_its_descendants", "a_deep_tree_is_deleted_whole")
class DeletesOnlyDirectChildren(Right):
    def _tree(self, run_id: str) -> list[str]:
        return [run_id, *self._children.get(run_id, ())]


@caught_by("a_run_is_deleted_with_its_descendants", "a_tree_with_a_living_owner_is_kept")
class DeletesRunsAlone(Right):
    def _tree(self, run_id: str) -> list[str]:
        return [run_id]


@caught_by("a_run_is_deleted_with_its_descendants")
class DeletesChildrenAlone(Right):
    async def delete(self, run_id: str) -> bool:
        if run_id in self._entries:
            self._entries[run_id] = self._entries[run_id]._replace(parent="")
        return await super().delete(run_id)


@caught_by("a_tree_with_a_living_owner_is_kept")
class LooksAtTheOwnerOfTheRootOnly(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        self._driven &= {entry.run_id for entry in self._entries.values() if not entry.parent}
        return await super().prune(older_than=older_than, keep_last=keep_last)


@caught_by(
    "trees_are_pruned_whole_when_their_root_has_ended", "the_newest_runs_that_are_kept_are_runs_without_a_parent"
)
class PrunesChildrenAlone(Right):
    async def prune(self, *, older_than: float, keep_last: int = 0) -> int:
        for entry in list(self._entries.values()):
            self._entries[entry.run_id] = entry._replace(parent="")
        self._children.clear()
        return await super().prune(older_than=older_than, keep_last=keep_last)
