"""The requirements for backends that offer these capabilities: history, owners, fences, sessions."""

from __future__ import annotations

import unittest
from functools import partial

import anyio
import anyio.lowlevel

from ..errors import StaleCheckpoint
from ..persistence.checkpoint import Checkpoint
from ..persistence.fence import Fence
from ..persistence.protocol import CheckpointHistory, CheckpointLog, Fencing, FlowPersistence, Ownership, Sessions
from ._checkpoints import Chain, differences
from ._promises import Promises, expect, has, in_time, moments, must, needed, session, store, together

__all__ = ["Fences", "History", "Owners", "SessionsOpenAndClose"]


class History(Promises):
    """The tests of `CheckpointHistory`: `history`."""

    @in_time
    async def test_a_history_holds_every_checkpoint_in_order(self, persistence: FlowPersistence) -> None:
        keeper = needed(persistence, CheckpointHistory)
        chain, other = Chain("a"), Chain("A")
        async with session(persistence):
            assert list(await keeper.history("a")) == [], "`history` of an unknown run must be an empty list"
            await store(persistence, other.add())
            for n in range(12):
                await store(persistence, chain.add(whole=n % 5 == 0 or not has(persistence, CheckpointLog)))
            found = await keeper.history("a")
        seqs = [checkpoint.seq for checkpoint in found]
        assert seqs == list(range(12)), (
            f"`history` must hold every checkpoint of the run in order of seq, and holds {seqs}"
        )
        for checkpoint, expected in zip(found, chain.rows, strict=True):
            wrong = differences(checkpoint, expected)
            assert not wrong, (
                f"`history` must hold checkpoints as they were stored, deltas as deltas; {wrong} of {checkpoint.seq} differ"
            )


class Owners(Promises):
    """The tests of `Ownership`: `acquire`, `release` and `place`."""

    @in_time
    async def test_an_unknown_run_has_no_owner(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            for _ in range(2):
                epoch = await owner.acquire("a")
                assert epoch == 0, f"`acquire` of an unknown run must return 0, and returned {epoch}"
            assert await persistence.load("a") is None, "`acquire` of an unknown run must store nothing"
            await store(persistence, chain.add())
            expect(
                await persistence.load("a"),
                chain.rows[0],
                "a run starts with epoch 1, also after `acquire` found no such run",
            )

    @in_time
    async def test_every_acquiring_raises_the_epoch(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            epochs = [1]
            for _ in range(3):
                await owner.release("a", epochs[-1])
                epochs.append(await owner.acquire("a"))
                chain.epoch = epochs[-1]
                await store(persistence, chain.add())
        assert epochs == sorted(set(epochs)), (
            f"`acquire` must return a higher epoch each time, and returned {epochs[1:]}"
        )

    @in_time
    async def test_commits_of_an_old_epoch_are_stale_and_write_nothing(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            await owner.release("a", 1)
            new = await owner.acquire("a")
            for epoch in (1, new - 1, new + 1):
                chain.epoch = epoch
                await _fenced(persistence, chain.instead(), f"epoch {epoch}, where {new} owns the run")
            chain.epoch = new
            await store(persistence, chain.add())
            expect(await persistence.load("a"), chain.rows[-1], "the new owner's checkpoint")

    @in_time
    async def test_acquire_by_force_takes_over_a_run(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            with must("`acquire` by force must take over a run with any owner"):
                new = await owner.acquire("a", force=True)
            await _fenced(persistence, chain.instead(), f"epoch 1, where {new} was acquired by force,")
            chain.epoch = new
            await store(persistence, chain.add())
            expect(await persistence.load("a"), chain.rows[-1], "the checkpoint of the owner that took over by force")

    @in_time
    async def test_releasing_never_raises_and_takes_nothing_from_others(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        chain = Chain("a")
        async with session(persistence):
            with must("`release` must never raise for a run that is unknown, or released already"):
                await owner.release("unknown", 1)
                await store(persistence, chain.add())
                await owner.release("a", 1)
                await owner.release("a", 1)
            chain.epoch = await owner.acquire("a")
            with must("`release` of an old epoch must take nothing from the new owner"):
                await owner.release("a", 1)
                await store(persistence, chain.add())
            expect(
                await persistence.load("a"),
                chain.rows[-1],
                "`release` of an old epoch must take nothing from the new owner",
            )

    @in_time
    async def test_a_run_that_has_ended_is_free(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        async with session(persistence):
            for status in ("finished", "cancelled"):
                await store(persistence, Chain(status).add(kind=status, status=status))
                with must(f"a run whose last checkpoint is {status} must be free without `release`"):
                    await owner.acquire(status)

    @in_time
    async def test_an_acquiring_cancelled_at_any_await_can_be_repeated(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        # the runtime runs `acquire` to its end (shielded), even if its caller is cancelled natively
        for moment in moments(persistence, "an acquire", natively=False):
            chain = moment.chain
            async with session(persistence):
                await store(persistence, chain.add())
                await owner.release(chain.run_id, 1)
            async with moment.context():
                await moment.strike(partial(owner.acquire, chain.run_id))
                async with session(persistence):
                    chain.epoch = await owner.acquire(chain.run_id)
                    assert chain.epoch > 1, f"{moment.title}: the next one must return a higher epoch"
                    await store(persistence, chain.add())
                    expect(await persistence.load(chain.run_id), chain.rows[-1], f"{moment.title}: the run continues")

    @in_time
    async def test_a_place_identifies_a_storage(self, persistence: FlowPersistence) -> None:
        place = needed(persistence, Ownership).place
        assert isinstance(hash(place), int)
        async with session(persistence):
            assert needed(persistence, Ownership).place == place, "`place` must be the same while a session is open"
        view = self.another(persistence)
        if view is not None and view is not persistence:
            assert needed(view, Ownership).place == place, "`place` must be equal for two views of the same storage"

    @in_time
    async def test_another_view_of_the_storage_knows_and_fences_the_same_runs(
        self, persistence: FlowPersistence
    ) -> None:
        needed(persistence, Ownership)
        view = self.another(persistence)
        if view is None:
            raise unittest.SkipTest("there is no other view of the storage: `another` returned None")
        chain = Chain("a")
        async with session(persistence), session(view):
            await store(persistence, chain.add())
            expect(await view.load("a"), chain.rows[-1], "another view of the storage must see what was stored")
            await needed(persistence, Ownership).release("a", 1)
            new = await needed(view, Ownership).acquire("a")
            await _fenced(persistence, chain.instead(), f"epoch 1, where another view has acquired epoch {new},")
            chain.epoch = new
            await store(view, chain.add())
            expect(await persistence.load("a"), chain.rows[-1], "what another view has stored must be seen")


class Fences(Promises):
    """The tests of `Fencing`: `fence`."""

    @in_time
    async def test_a_fence_holds_for_the_owner_of_a_run(self, persistence: FlowPersistence) -> None:
        chain = Chain("a")
        async with session(persistence):
            fence = _fence(persistence)
            stretch = fence.stretch
            await store(persistence, chain.add())
            assert fence.holds(stretch), (
                "a fence must hold for a run that was just stored, in the stretch from before that"
            )
            stretch = await fence.confirm("a", 1)
            assert fence.holds(stretch), "a fence must hold right after `confirm`, in the stretch that it returned"
            await needed(persistence, Ownership).release("a", 1)
            stretch = fence.stretch
            epoch = await needed(persistence, Ownership).acquire("a")
            assert fence.holds(stretch), "a fence must hold for a run that was just acquired"
            await fence.confirm("a", epoch)

    @in_time
    async def test_a_fence_confirms_no_run_that_is_not_its_owner_s(self, persistence: FlowPersistence) -> None:
        owner = needed(persistence, Ownership)
        async with session(persistence):
            fence = _fence(persistence)
            await _not_confirmed(fence, "unknown", 1, "is unknown")
            await store(persistence, Chain("a").add())
            new = await owner.acquire("a", force=True)
            await _not_confirmed(fence, "a", 1, "was acquired under a higher epoch")
            await owner.release("a", new)
            await _not_confirmed(fence, "a", new, "was released")
            await store(persistence, Chain("b").add(kind="finished", status="finished"))
            await _not_confirmed(fence, "b", 1, "has finished")


def _fence(persistence: FlowPersistence) -> Fence:
    fence = needed(persistence, Fencing).fence()
    assert fence is not None, "`fence` must return the owner's fence while a session is open"
    return fence


async def _not_confirmed(fence: Fence, run_id: str, epoch: int, what: str) -> None:
    try:
        await fence.confirm(run_id, epoch)
    except StaleCheckpoint:
        return
    raise AssertionError(f"`confirm` must raise StaleCheckpoint for a run that {what}, and raised nothing")


class SessionsOpenAndClose(Promises):
    """The tests of `Sessions`: `session`."""

    @in_time
    async def test_sessions_are_nested_and_used_again(self, persistence: FlowPersistence) -> None:
        opener = needed(persistence, Sessions)
        chain = Chain("a")
        for _ in range(3):
            async with opener.session():
                async with opener.session():
                    await store(persistence, chain.add())
                await store(persistence, chain.add())  # the outer session is still open
                expect(
                    await persistence.load("a"),
                    chain.rows[-1],
                    "a session stays open until the last that entered has left",
                )
            expect(
                await persistence.load("a"), chain.rows[-1], "what was stored in a session is there when it is closed"
            )
            await store(persistence, chain.add())
        async with opener.session():
            expect(
                await persistence.load("a"), chain.rows[-1], "what was stored is there when a session is opened again"
            )

    @in_time
    async def test_sessions_are_opened_and_closed_by_many_at_once(self, persistence: FlowPersistence) -> None:
        opener = needed(persistence, Sessions)
        chains = [Chain(f"run {n}") for n in range(8)]

        async def use(chain: Chain) -> None:
            for _ in range(3):
                async with opener.session():
                    await store(persistence, chain.add())
                    expect(
                        await persistence.load(chain.run_id),
                        chain.rows[-1],
                        "within a session, others open and close theirs",
                    )

        await together(partial(use, chain) for chain in chains)
        for chain in chains:
            expect(
                await persistence.load(chain.run_id),
                chain.rows[-1],
                "what was stored in a session is there when it is closed",
            )

    @in_time
    async def test_a_session_passes_errors_on_and_closes(self, persistence: FlowPersistence) -> None:
        opener = needed(persistence, Sessions)
        chain = Chain("a")
        raised = LookupError("raised within the session")
        passed: Exception | None = None
        try:
            async with opener.session():
                await store(persistence, chain.add())
                raise raised
        except Exception as error:  # any exception that the session turns it into
            passed = error
        assert passed is raised, f"a session must raise unchanged what was raised within it, but raised {passed!r}"
        async with opener.session():
            expect(await persistence.load("a"), chain.rows[-1], "after an error within a session")

    @in_time
    async def test_a_session_cancelled_at_any_await_can_be_opened_again(self, persistence: FlowPersistence) -> None:
        opener = needed(persistence, Sessions)

        async def open_and_close() -> None:
            async with opener.session():
                await anyio.lowlevel.checkpoint()

        for moment in moments(persistence, "opening and closing a session"):
            async with moment.context():
                await moment.strike(open_and_close)
                async with opener.session():
                    checkpoint = moment.chain.add()
                    await store(persistence, checkpoint)
                    expect(await persistence.load(checkpoint.run_id), checkpoint, moment.title)


async def _fenced(persistence: FlowPersistence, wrong: Checkpoint, what: str) -> None:
    before = await persistence.load(wrong.run_id)
    try:
        await store(persistence, wrong)
    except StaleCheckpoint:
        pass
    else:
        raise AssertionError(f"a commit of {what} must raise StaleCheckpoint, but was stored")
    assert await persistence.load(wrong.run_id) == before, (
        f"a commit of {what} must write nothing, and the run has changed"
    )
