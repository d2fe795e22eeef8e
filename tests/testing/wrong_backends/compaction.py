"""Mistakes with the earlier passes of a run."""

from .right import Right, caught_by


@caught_by("a_compacted_run_begins_with_its_present_pass")
class DeletesTheFirstCheckpointToo(Right):
    async def compact(self, run_id: str) -> int | None:
        rows = self._rows.get(run_id)
        if rows is None:
            return None
        gone = len(rows) - 1
        self._rows[run_id] = rows[-1:]
        return gone


@caught_by("a_compacted_run_begins_with_its_present_pass")
class KnowsNoUnknownRun(Right):
    async def compact(self, run_id: str) -> int | None:
        return await super().compact(run_id) or 0
