"""The requirements for every backend: save and load."""

from __future__ import annotations

from functools import partial

import anyio
import anyio.lowlevel

from ..errors import StaleCheckpoint
from ..persistence.checkpoint import Checkpoint
from ..persistence.protocol import CheckpointHistory, FlowPersistence
from ._checkpoints import AWKWARD, IDS, NOT_IDS, Chain
from ._promises import Moment, Promises, expect, has, in_time, moments, session, store, together

__all__ = ["TwoVerbs", "is_whole"]


class TwoVerbs(Promises):
    """The tests of `save` and `load`."""

    @in_time
    async def test_every_field_comes_back_as_it_was_saved(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            for what, fields in AWKWARD.items():
                saved = Chain(f"a run of {what}").add(**fields)
                await persistence.save(saved)
                expect(await persistence.load(saved.run_id), saved, f"fields that hold {what}")

    @in_time
    async def test_it_is_used_without_a_session_too(self, persistence: FlowPersistence) -> None:
        chain = Chain("a")
        for saved in chain.extend(2, whole=True):
            await persistence.save(saved)
            expect(await persistence.load("a"), saved, "after `save` has returned, with no session open")
        assert await persistence.load("b") is None, (
            "`load` of an unknown run must return None, also when no session is open"
        )

    @in_time
    async def test_the_newest_checkpoint_is_loaded(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            for saved in Chain("a").extend(12, whole=True):
                await persistence.save(saved)
                expect(
                    await persistence.load("a"),
                    saved,
                    "as soon as `save` has returned, the newest checkpoint is loaded",
                )

    @in_time
    async def test_a_run_that_is_unknown_is_none(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            for seq in (None, 0, 1):
                found = await persistence.load("unknown", seq)
                assert found is None, f"`load` of an unknown run must return None, and returned {type(found).__name__}"
            await persistence.save(Chain("known").add())
            assert await persistence.load("unknown") is None, (
                "`load` of an unknown run must return None while another run is stored"
            )

    @in_time
    async def test_a_seq_is_that_checkpoint_or_none_and_never_another(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            saved = Chain("a").extend(4, whole=True)
            for checkpoint in saved:
                await persistence.save(checkpoint)
            for checkpoint in saved:
                found = await persistence.load("a", checkpoint.seq)
                if found is not None or checkpoint is saved[-1] or has(persistence, CheckpointHistory):
                    expect(found, checkpoint, f"`load` with seq={checkpoint.seq}")
            for seq in (-1, 4, 5, 1000):
                assert await persistence.load("a", seq) is None, (
                    f"`load` with seq={seq}, which the run does not have, must return None"
                )

    @in_time
    async def test_runs_do_not_see_one_another(self, persistence: FlowPersistence) -> None:
        async with session(persistence):
            chains = [Chain(run_id) for run_id in ("a", "b", "ab")]
            for turn in range(4):
                for chain in chains[turn % 3 :]:
                    await persistence.save(chain.add(state=b'{"run":"%s","n":%d}' % (chain.run_id.encode(), turn)))
            for chain in chains:
                expect(await persistence.load(chain.run_id), chain.rows[-1], "a run that is stored among others")

    @in_time
    async def test_an_id_of_any_legal_form_is_a_run_of_its_own(self, persistence: FlowPersistence) -> None:
        saved: list[Checkpoint] = []
        async with session(persistence):
            for run_id in IDS:
                found = await persistence.load(run_id)
                assert found is None, (
                    f"id {run_id!r} is a different run, unknown so far, but `load` returned run {found.run_id!r}"
                )
                saved.append(Chain(run_id).add(state=b'{"n":%d}' % len(saved)))
                await persistence.save(saved[-1])
            for checkpoint in saved:
                expect(await persistence.load(checkpoint.run_id), checkpoint, f"the run with id {checkpoint.run_id!r}")
            for run_id in NOT_IDS:
                assert await persistence.load(run_id) is None, (
                    f"`load` must compare complete ids, and {run_id!r} was never saved"
                )

    @in_time
    async def test_many_save_at_the_same_time(self, persistence: FlowPersistence) -> None:
        chains = [Chain(f"run {n}") for n in range(12)]

        async def save_all(chain: Chain) -> None:
            for checkpoint in chain.extend(3, whole=True):
                await persistence.save(checkpoint)
                expect(await persistence.load(chain.run_id), checkpoint, "a run saved at the same time as others")

        async with session(persistence):
            await together(partial(save_all, chain) for chain in chains)
            for chain in chains:
                expect(await persistence.load(chain.run_id), chain.rows[-1], "a run saved at the same time as others")

    @in_time
    async def test_a_load_during_a_save_sees_all_of_it_or_nothing(self, persistence: FlowPersistence) -> None:
        chain = Chain("a")
        saved = -1

        async def save() -> None:
            nonlocal saved
            for n in range(16):
                checkpoint = chain.add(state=b'{"a":"%s"}' % (b"x" * (1 if n % 2 else 40_000)))
                await persistence.save(checkpoint)
                for _ in range(n % 5):  # a load that started before the save may have filled a cache by now
                    await anyio.lowlevel.checkpoint()
                await is_whole(persistence, chain, checkpoint.seq)
                saved = checkpoint.seq

        async def look() -> None:
            while saved < 15:
                least = saved
                await is_whole(persistence, chain, least)
                await anyio.lowlevel.checkpoint()

        async with session(persistence):
            await together((save, look, look))

    @in_time
    async def test_a_checkpoint_that_does_not_follow_is_stale_or_stored(self, persistence: FlowPersistence) -> None:
        chain = Chain("a")
        async with session(persistence):
            for checkpoint in chain.extend(2, whole=True):
                await persistence.save(checkpoint)
            wrong = chain.instead(seq=3, base=3)
            try:
                await persistence.save(wrong)
            except StaleCheckpoint:
                expect(
                    await persistence.load("a"),
                    chain.rows[-1],
                    "`save` has raised StaleCheckpoint and must write nothing",
                )
                await persistence.save(chain.add())
                expect(
                    await persistence.load("a"),
                    chain.rows[-1],
                    "after a StaleCheckpoint, the one that follows is saved",
                )
            else:
                expect(await persistence.load("a"), wrong, "`save` has stored a checkpoint that does not follow")

    @in_time
    async def test_a_save_cancelled_at_any_await_leaves_the_old_or_the_new(self, persistence: FlowPersistence) -> None:
        # the runtime runs a plain `save` to its end (shielded), even if its caller is cancelled natively; it cancels only `append`
        for moment in moments(persistence, "a save", natively=False):
            first, second = moment.chain.extend(2, whole=True)
            async with session(persistence):
                await persistence.save(first)
            async with moment.context():
                is_stored = await moment.strike(partial(persistence.save, second))
                async with session(persistence):
                    await is_well(persistence, moment, is_stored=is_stored)

    @in_time
    async def test_a_load_cancelled_at_any_await_leaves_the_backend_usable(self, persistence: FlowPersistence) -> None:
        chain = Chain("a")
        await persistence.save(chain.add())
        for moment in moments(persistence, "a load"):
            async with moment.context():
                await moment.strike(partial(persistence.load, "a"))
                async with session(persistence):
                    expect(await persistence.load("a"), chain.rows[-1], moment.title)
                    await store(persistence, chain.add())
                    expect(await persistence.load("a"), chain.rows[-1], moment.title)


async def is_whole(persistence: FlowPersistence, chain: Chain, least: int) -> None:
    """Check that a load returns a checkpoint of the chain unchanged, and none older than the last acknowledged one."""
    found = await persistence.load(chain.run_id)
    if found is None:
        assert least < 0, f"`load` returned None, after checkpoint {least} was acknowledged"
        return
    assert 0 <= found.seq < len(chain.rows), (
        f"`load` during saves returned checkpoint {found.seq}, which was never saved"
    )
    assert found.seq >= least, f"`load` went back to checkpoint {found.seq}, after checkpoint {least} was acknowledged"
    expect(
        found,
        chain.complete[found.seq],
        "a load during saves must return a complete checkpoint: the new one or the one before",
    )


async def is_well(persistence: FlowPersistence, moment: Moment, *, is_stored: bool) -> None:
    """Check that the second of two checkpoints was stored whole or not at all, that this is final, and that the run can continue."""
    chain, title = moment.chain, moment.title
    old, new = chain.complete
    found = await persistence.load(chain.run_id)
    if is_stored or found is None or found.seq != old.seq:
        expect(
            found,
            new,
            f"{title}, and it returned"
            if is_stored
            else f"{title}: the old or the new checkpoint is stored completely",
        )
    else:
        expect(found, old, f"{title}: the old or the new checkpoint is stored completely")
    await store(persistence, Chain(f"after {chain.run_id}").add())  # operations in progress have had their turn
    again = await persistence.load(chain.run_id)
    assert again == found, (
        f"{title}: the outcome must be final when the cancellation is raised, and it has changed since"
    )
    left = [chain.rows[1]] if found == old else []
    for checkpoint in (*left, chain.add()):
        try:
            await store(persistence, checkpoint)
        except StaleCheckpoint as stale:
            raise AssertionError(
                f"{title}: checkpoint {checkpoint.seq} follows the stored checkpoint, but was rejected"
            ) from stale
    expect(await persistence.load(chain.run_id), chain.complete[-1], f"{title}: the run continues")
