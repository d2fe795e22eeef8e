"""The requirements for backends that store deltas: compare and set, keep the order, withdraw appends that cannot follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from ..errors import CheckpointWithdrawnError, StaleCheckpoint
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import CheckpointHistory, CheckpointLog, FlowPersistence
from ._checkpoints import Chain
from ._promises import Promises, expect, has, in_time, moments, must, needed, refused, session, store, together
from ._two_verbs import is_well, is_whole

__all__ = ["Log"]

QUEUED: Final = 8
"""The number of appends of one run that are started without waiting for one another."""

LARGE: Final = b'{"a":"' + b"x" * 400_000 + b'"}'
"""A state that takes so long to write that a backend which does not wait for the write is detected."""


class Log(Promises):
    """The tests of `CheckpointLog`: `append`."""

    @in_time
    async def test_deltas_are_folded_on_load(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        async with session(persistence):
            for n in range(12):
                await log.append(chain.add(whole=n in (0, 6)))
                expect(
                    await persistence.load("a"), chain.complete[-1], "`load` returns what `fold` makes of the deltas"
                )
            for complete in chain.complete:
                found = await persistence.load("a", complete.seq)
                if found is not None or has(persistence, CheckpointHistory):
                    expect(found, complete, f"`load` with seq={complete.seq} folds the deltas up to there")

    @in_time
    async def test_saves_and_appends_are_one_chain(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        async with session(persistence):
            for n in range(6):
                checkpoint = chain.add(whole=n % 3 == 0)
                await (persistence.save if n % 3 == 0 else log.append)(checkpoint)
                expect(
                    await persistence.load("a"), chain.complete[-1], "`save` and `append` continue after one another"
                )

    @in_time
    async def test_a_run_of_three_hundred_deltas_loads(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        async with session(persistence):
            for checkpoint in (chain.add(), *chain.extend(300)):
                await log.append(checkpoint)
            expect(await persistence.load("a"), chain.complete[-1], "a run of 300 deltas")

    @in_time
    async def test_appends_started_together_keep_their_order(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        chain.add()
        chain.extend(30)
        left = iter(chain.rows)

        async def append() -> None:
            checkpoint = next(left)  # the first task to run gets the first one: tasks may start in any order
            try:
                await log.append(checkpoint)
            except StaleCheckpoint as stale:
                raise AssertionError(
                    f"appends are queued before their first await, in the order of their calls; checkpoint {checkpoint.seq} came "
                    "out of order, and was refused"
                ) from stale

        async with session(persistence):
            await together(append for _ in chain.rows)
            expect(await persistence.load("a"), chain.complete[-1], "appends started without waiting for one another")

    @in_time
    async def test_appends_of_many_runs_at_once_are_all_stored(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chains = [Chain(f"run {n}") for n in range(40)]

        async def append_all(chain: Chain) -> None:
            for n in range(4):
                await log.append(chain.add(whole=not n))

        async with session(persistence):
            with must("appends of 40 runs at once must all be stored"):
                await together(partial(append_all, chain) for chain in chains)
            for chain in chains:
                expect(await persistence.load(chain.run_id), chain.complete[-1], "appends of 40 runs at once")

    @in_time
    async def test_a_load_during_an_append_sees_all_of_it_or_nothing(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        acknowledged = -1

        async def append() -> None:
            nonlocal acknowledged
            for n in range(24):
                await log.append(chain.add(whole=n % 8 == 0))
                acknowledged = n

        async def look() -> None:
            while acknowledged < 23:
                await is_whole(persistence, chain, acknowledged)
                await anyio.lowlevel.checkpoint()

        async with session(persistence):
            await together((append, look, look))

    @in_time
    async def test_a_wrong_predecessor_is_stale(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chain = await _started(persistence)
            await refused(
                persistence, chain.instead(previous=chain.rows[0].digest), "one that follows an older checkpoint"
            )
            await refused(
                persistence, chain.instead(previous=b"\0" * 16, whole=False), "one that follows an unknown checkpoint"
            )
            await _continues(persistence, chain)

    @in_time
    async def test_a_wrong_epoch_is_stale(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chain = await _started(persistence)
            epoch = chain.rows[-1].epoch
            await refused(persistence, chain.instead(epoch=epoch + 1), "one of an epoch that has not started")
            await _continues(persistence, chain)

    @in_time
    async def test_a_wrong_seq_is_stale(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chain = await _started(persistence)
            for seq in (1, 4, 100):
                await refused(persistence, chain.instead(seq=seq, base=seq), f"seq {seq} where 3 is expected")
            await refused(persistence, Chain("unknown").add(seq=1, base=1), "seq 1 of a run that has not started")
            await _continues(persistence, chain)

    @in_time
    async def test_a_checkpoint_is_not_stored_twice(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chain = await _started(persistence)
            await refused(persistence, chain.rows[-1], "the newest checkpoint once more")
            await refused(persistence, chain.rows[1], "an older checkpoint once more")
            await _continues(persistence, chain)

    @in_time
    async def test_a_second_beginning_of_a_run_is_stale(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chain = await _started(persistence)
            await refused(persistence, chain.rows[0], "the first checkpoint once more")
            await refused(persistence, Chain("a").add(state=b'{"other":1}'), "another first checkpoint of the run")
            await _continues(persistence, chain)

    @in_time
    async def test_of_two_that_follow_one_checkpoint_one_is_stored(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        chain = Chain("a")
        ended: list[tuple[str, Checkpoint]] = []

        async def append(checkpoint: Checkpoint) -> None:
            try:
                await log.append(checkpoint)
                ended.append(("stored", checkpoint))
            except StaleCheckpoint:
                ended.append(("stale", checkpoint))

        async with session(persistence):
            for _ in range(3):
                ended.clear()
                rivals = [chain.instead(state=b'{"who":%d}' % who) for who in range(3)]
                await together(partial(append, rival) for rival in rivals)
                verdicts = Counter(verdict for verdict, _ in ended)
                assert verdicts == {"stored": 1, "stale": 2}, (
                    f"of three checkpoints that follow the same one, exactly one is stored and two are StaleCheckpoint, not {verdicts}"
                )
                winner = next(checkpoint for verdict, checkpoint in ended if verdict == "stored")
                chain.add(state=winner.state)
                expect(
                    await persistence.load("a"), winner, "the one whose `append` has returned is the one that is stored"
                )

    @in_time
    async def test_an_append_cancelled_at_any_await_leaves_the_old_or_the_new(
        self, persistence: FlowPersistence
    ) -> None:
        log = needed(persistence, CheckpointLog)
        for moment in moments(persistence, "an append"):
            first, second = moment.chain.add(), moment.chain.add(whole=False, state=LARGE)
            async with session(persistence):
                await log.append(first)
            async with moment.context():
                is_stored = await moment.strike(partial(log.append, second))
                async with session(persistence):
                    await is_well(persistence, moment, is_stored=is_stored)

    @in_time
    async def test_a_withdrawn_append_withdraws_those_that_follow_it(self, persistence: FlowPersistence) -> None:
        log = needed(persistence, CheckpointLog)
        async with session(persistence):
            for cancelled, turns in _each_of(QUEUED, 3):
                chain = Chain(f"{cancelled} cancelled after {turns} turns of the loop")
                await log.append(chain.add())
                rows = [chain.add(whole=False, state=LARGE), *chain.extend(QUEUED - 1)]
                ended = await _cut(persistence, rows, cancelled, turns)
                await _is_prefix(persistence, chain, ended, cancelled + 1)


async def _started(persistence: FlowPersistence) -> Chain:
    """Store a run of three checkpoints, and return its chain."""
    log = needed(persistence, CheckpointLog)
    chain = Chain("a")
    for checkpoint in (chain.add(), chain.add(whole=False), chain.add(whole=False)):
        await log.append(checkpoint)
    return chain


async def _continues(persistence: FlowPersistence, chain: Chain) -> None:
    with must("after a StaleCheckpoint, the one that follows must be stored"):
        await store(persistence, chain.add(whole=False))
    expect(
        await persistence.load(chain.run_id),
        chain.complete[-1],
        "after a StaleCheckpoint, the one that follows is stored",
    )


# ---- withdrawn appends ---------------------------------------------------------------------------------------------


def _each_of(appends: int, turns: int) -> Iterator[tuple[int, int]]:
    return ((n, turn) for n in range(appends) for turn in range(turns))


async def _cut(persistence: FlowPersistence, rows: list[Checkpoint], cancelled: int, turns: int) -> dict[int, str]:
    """Start all appends, cancel one after some turns of the event loop, and return the outcome of each seq."""
    log = needed(persistence, CheckpointLog)
    ended: dict[int, str] = {}
    scopes = [anyio.CancelScope() for _ in rows]
    left = iter(zip(rows, scopes, strict=True))

    async def append() -> None:
        checkpoint, scope = next(left)  # the first task to run gets the first one: tasks may start in any order
        with scope:
            try:
                await log.append(checkpoint)
                ended[checkpoint.seq] = "stored"
            except CheckpointWithdrawnError:
                ended[checkpoint.seq] = "withdrawn"
            except StaleCheckpoint:
                ended[checkpoint.seq] = "refused as stale"
        if scope.cancelled_caught:
            found = await persistence.load(checkpoint.run_id)
            is_stored = found is not None and found.seq >= checkpoint.seq
            ended[checkpoint.seq] = "cancelled when stored" if is_stored else "cancelled when not stored"

    async def cancel() -> None:
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        scopes[cancelled].cancel()

    await together((*[append] * len(rows), cancel))
    return ended


async def _is_prefix(persistence: FlowPersistence, chain: Chain, ended: dict[int, str], cancelled: int) -> None:
    """Check that the stored run has no gap, and that each append reported its true outcome."""
    found = await persistence.load(chain.run_id)
    head = -1 if found is None else found.seq
    expect(
        found, chain.complete[head], "what remains after a withdrawal is the run up to some checkpoint, without a gap"
    )
    for seq, became in sorted(ended.items()):
        expected = {"stored", "cancelled when stored"} if seq <= head else {"withdrawn", "cancelled when not stored"}
        assert became in expected, (
            f"append {cancelled} of appends 1 to {QUEUED} was cancelled, and in the end the run is stored up to {head}, but append "
            f"{seq} was {became}: a cancellation must be raised only when the outcome is final, and what follows a withdrawn checkpoint is "
            "withdrawn with it (CheckpointWithdrawnError)"
        )
    for checkpoint in chain.rows[head + 1 :]:
        await store(persistence, checkpoint)
    expect(await persistence.load(chain.run_id), chain.complete[-1], "what was withdrawn can be appended again")
