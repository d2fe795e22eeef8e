"""The requirements for backends that can delete the earlier passes of a run."""

from __future__ import annotations

from ..persistence.compaction import Compaction
from ..persistence.protocol import CheckpointHistory, FlowPersistence
from ._checkpoints import Chain
from ._promises import Promises, expect, has, in_time, needed, session, store

__all__ = ["Compacted"]


class Compacted(Promises):
    """The tests of `Compaction`: `compact`."""

    @in_time
    async def test_a_compacted_run_begins_with_its_present_pass(self, persistence: FlowPersistence) -> None:
        compaction = needed(persistence, Compaction)
        chain, other = Chain("a"), Chain("A")
        async with session(persistence):
            assert await compaction.compact("a") is None, "`compact` of an unknown run must return None"
            for number in (1, 1, 2, 2):
                for each in (chain, other):
                    await store(persistence, each.add(pass_number=number))
            gone = [await compaction.compact("a") for _ in range(2)]
            assert gone == [2, 0], f"`compact` must return how many checkpoints it deleted: 2, then 0, not {gone}"
            expect(await persistence.load("a"), chain.rows[-1], "the newest checkpoint stays")
            expect(await persistence.load("a", 2), chain.rows[2], "the first checkpoint of the present pass stays")
            for seq in (0, 1):
                assert await persistence.load("a", seq) is None, f"`load` of the deleted checkpoint {seq} must be None"
            expect(await persistence.load("A", 0), other.rows[0], "other runs stay as they are")
            await store(persistence, chain.add(pass_number=2))
            if has(persistence, CheckpointHistory):
                keeper = needed(persistence, CheckpointHistory)
                for after, expected in ((-1, [2, 3, 4]), (0, [2, 3, 4]), (2, [3, 4])):
                    seqs = [checkpoint.seq for checkpoint in await keeper.history("a", after=after)]
                    assert seqs == expected, (
                        f"`history` after {after} of a compacted run must hold what is left, {expected}, and holds {seqs}"
                    )
