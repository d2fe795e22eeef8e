"""The requirements for backends that store signals: once for each key, in order, and taken with a checkpoint or not at all."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

import anyio

from ..errors import (
    AsyncflowError,
    InboxChanged,
    InboxFullError,
    NotWaitingError,
    RunEndedError,
    RunNotFoundError,
    SignalKeyError,
    StaleCheckpoint,
)
from ..persistence.inbox import CAPACITY, Inbox, NewSignal, StoredSignal
from ..persistence.protocol import FlowPersistence, Retention, offers
from ._checkpoints import AT, Chain
from ._promises import Promises, expect, in_time, moments, must, needed, session, store, together

__all__ = ["Inboxes"]


def signal(n: int = 0, key: str | None = None, **fields: Any) -> NewSignal:
    """Return a signal with a key of its own."""
    return NewSignal("approved", b'{"n":%d}' % n, f"key {n}" if key is None else key, "a sender", AT)._replace(**fields)


async def raised(call: Coroutine[Any, Any, object], kind: type[AsyncflowError], what: str) -> None:
    """Check that a call raises an error of this kind."""
    try:
        await call
    except kind:
        return
    raise AssertionError(f"{what} must raise {kind.__name__}, and returned")


def seen(found: list[StoredSignal], expected: list[NewSignal], why: str) -> None:
    """Check what an inbox holds."""
    assert [stored.signal for stored in found] == expected, f"{why}; the inbox holds {[s.signal.key for s in found]}"
    ids = [stored.id for stored in found]
    assert ids == sorted(set(ids)), f"the ids of signals must rise in the order in which they were sent, and are {ids}"


class Inboxes(Promises):
    """The tests of `Inbox`: `send`, `inbox`, `append_taking`, `append_last`, `set_aside` and `watch`."""

    @in_time
    async def test_signals_are_returned_as_they_were_sent_and_in_that_order(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        sent = [
            signal(1),
            signal(2, payload=b"null", sender=""),
            signal(3, name="größe", sender="'; --"),
            signal(4, key=" made"),
        ]
        async with session(persistence):
            for run_id in ("a", "b"):
                await store(persistence, Chain(run_id).add())
            for each in sent:
                assert await inbox.send("a", each) is True, "`send` of a new signal must return True"
            await inbox.send("b", sent[0])
            seen(await inbox.inbox("a"), sent, "`inbox` must return all signals of a run, the oldest first")
            seen(await inbox.inbox("b"), sent[:1], "another run may have a signal with the same key")
            seen(await inbox.inbox("unknown"), [], "an unknown run has no signals")

    @in_time
    async def test_a_key_stands_for_one_signal(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            await inbox.send("a", signal(1))
            again = await inbox.send("a", signal(1, at=AT + 9, sender="another"))
            assert again is False, "`send` of a signal that the run has received must return False"
            await raised(
                inbox.send("a", signal(1, payload=b"2")), SignalKeyError, "`send` of a used key with another payload"
            )
            await raised(
                inbox.send("a", signal(1, name="other")), SignalKeyError, "`send` of a used key with another name"
            )
            seen(await inbox.inbox("a"), [signal(1)], "a signal with a used key must not be stored")
            (stored,) = await inbox.inbox("a")
            await inbox.append_taking(chain.add(whole=False), stored)
            assert await inbox.send("a", signal(1)) is False, "a key must stay known after its signal was taken"
            await store(persistence, chain.add(kind="finished", status="finished"))
            assert await inbox.send("a", signal(1)) is False, (
                "`send` must recognize a repeated signal also after the run has ended"
            )

    @in_time
    async def test_a_run_that_has_ended_takes_no_signal(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        async with session(persistence):
            await raised(inbox.send("unknown", signal()), RunNotFoundError, "`send` to an unknown run")
            for status in ("finished", "cancelled"):
                await store(persistence, Chain(status).add(kind=status, status=status))
                await raised(inbox.send(status, signal()), RunEndedError, f"`send` to a run that is {status}")
                seen(await inbox.inbox(status), [], f"a run that is {status} must not store a signal")
            await store(persistence, Chain("failed").add(kind="failed", status="failed"))
            with must("a failed run can be resumed, so `send` must store signals for it"):
                assert await inbox.send("failed", signal())

    @in_time
    async def test_a_signal_is_taken_with_a_checkpoint_or_not_at_all(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        chain = Chain("a")
        async with session(persistence):
            await store(persistence, chain.add())
            for n in range(3):
                await inbox.send("a", signal(n, key=f" made {n}" if n == 1 else None))
            first, second, _ = await inbox.inbox("a")
            wrong = chain.instead(previous=b"x" * 16)
            await raised(
                inbox.append_taking(wrong, first),
                StaleCheckpoint,
                "`append_taking` of a checkpoint that does not follow",
            )
            seen(
                [stored for stored in await inbox.inbox("a") if stored.id == first.id],
                [first.signal],
                "`append_taking` that raises must take nothing",
            )
            for stored in (second, first):
                await inbox.append_taking(chain.add(whole=False), stored)
            expect(await persistence.load("a"), chain.complete[-1], "`append_taking` must store its checkpoint")
            seen(await inbox.inbox("a"), [signal(2)], "`append_taking` must take its signal, and no other")
            await raised(
                inbox.append_taking(chain.instead(), first),
                StaleCheckpoint,
                "`append_taking` of a signal that was taken already",
            )
            expect(await persistence.load("a"), chain.complete[-1], "`append_taking` that raises must store nothing")

    @in_time
    async def test_a_pass_does_not_end_before_a_signal_that_came_since(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        chain = Chain("a")
        last: dict[str, Any] = {"kind": "finished", "status": "finished"}
        async with session(persistence):
            await store(persistence, chain.add())
            await inbox.send("a", signal(1))
            (known,) = await inbox.inbox("a")
            await inbox.send("a", signal(2))
            await raised(
                inbox.append_last(chain.instead(**last), known.id),
                InboxChanged,
                "`append_last` with a newer signal in the inbox",
            )
            expect(await persistence.load("a"), chain.complete[-1], "`append_last` that raises must store nothing")
            await inbox.append_last(chain.add(**last), (await inbox.inbox("a"))[-1].id)
            seen(await inbox.inbox("a"), [], "`append_last` must set aside what is left in the inbox")

    @in_time
    async def test_a_signal_and_an_end_at_the_same_moment_exclude_each_other(
        self, persistence: FlowPersistence
    ) -> None:
        inbox = needed(persistence, Inbox)
        async with session(persistence):
            for n in range(10):
                run_id, outcomes = f"run {n}", list[str]()
                chain = Chain(run_id)
                await store(persistence, chain.add())

                async def send(run_id: str = run_id, outcomes: list[str] = outcomes) -> None:
                    try:
                        await inbox.send(run_id, signal())
                        outcomes.append("sent")
                    except RunEndedError:
                        outcomes.append("refused")

                async def end(chain: Chain = chain, outcomes: list[str] = outcomes) -> None:
                    try:
                        await inbox.append_last(chain.add(kind="finished", status="finished"), 0)
                        outcomes.append("ended")
                    except InboxChanged:
                        outcomes.append("changed")

                await together((send, end) if n % 2 else (end, send))
                assert sorted(outcomes) in (["changed", "sent"], ["ended", "refused"]), (
                    f"of a signal and an end that come together one must be refused, and their outcomes were {outcomes}"
                )

    @in_time
    async def test_a_signal_for_an_older_checkpoint_is_refused(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        chain = Chain("a")
        async with session(persistence):
            for row in chain.extend(3, whole=True):
                await store(persistence, row)
            await raised(inbox.send("a", signal(), seq=1), InboxChanged, "`send` with a seq that is not the newest")
            seen(await inbox.inbox("a"), [], "`send` that raises must store nothing")
            assert await inbox.send("a", signal(), seq=2), "`send` with the newest seq must store the signal"
            assert await inbox.send("a", signal(), seq=1) is False, (
                "a signal that was received is recognized before its seq"
            )
            await raised(
                inbox.send("a", signal(1), seq=2), NotWaitingError, "`send` with a seq of a second signal of one name"
            )
            assert await inbox.send("a", signal(2, name="other"), seq=2), "another name has a place of its own"

    @in_time
    async def test_a_signal_that_is_set_aside_leaves_the_inbox(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        async with session(persistence):
            await store(persistence, Chain("a").add())
            for n in (1, 2):
                await inbox.send("a", signal(n))
            await inbox.set_aside((await inbox.inbox("a"))[0], "it does not fit")
            seen(await inbox.inbox("a"), [signal(2)], "`set_aside` must remove its signal, and no other")
            assert await inbox.send("a", signal(1)) is False, "the key of a signal that was set aside must stay known"

    @in_time
    async def test_an_inbox_has_a_capacity(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        async with session(persistence):
            await store(persistence, Chain("a").add())
            await together(partial(inbox.send, "a", signal(n)) for n in range(CAPACITY))
            await raised(inbox.send("a", signal(CAPACITY)), InboxFullError, f"`send` of signal {CAPACITY + 1}")
            assert await inbox.send("a", signal(0)) is False, "a full inbox must recognize a signal that it has"

    @in_time
    async def test_who_watches_a_run_is_called_when_a_signal_arrives(self, persistence: FlowPersistence) -> None:
        inbox = needed(persistence, Inbox)
        other = self.another(persistence)
        arrived: list[str] = []
        async with session(persistence):
            await store(persistence, Chain("a").add())
            await store(persistence, Chain("b").add())
            with inbox.watch("a", lambda: arrived.append("a")):
                await inbox.send("b", signal())
                await inbox.send("a", signal(1))
                await _until(lambda: "a" in arrived, "`watch` must report a signal that was sent here")
                arrived.clear()
                if other is not None and offers(other, Inbox):
                    async with session(other):
                        await other.send("a", signal(2))
                        await _until(lambda: "a" in arrived, "`watch` must report a signal that was sent elsewhere")
            arrived.clear()
            await inbox.send("a", signal(3))
            assert not arrived, "`watch` must report nothing after its context has been left"

    @in_time
    async def test_a_deleted_run_leaves_no_signals(self, persistence: FlowPersistence) -> None:
        inbox, retention = needed(persistence, Inbox), needed(persistence, Retention)
        async with session(persistence):
            for _ in range(2):
                chain = Chain("a")
                await store(persistence, chain.add())
                assert await inbox.send("a", signal()), (
                    "a run must begin with an empty inbox, also under the id of a deleted one"
                )
                await store(persistence, chain.add(kind="cancelled", status="cancelled"))
                await retention.delete("a")
                seen(await inbox.inbox("a"), [], "`delete` must delete the signals of its run")

    @in_time
    async def test_a_sending_cancelled_at_any_await_has_stored_the_signal_or_can_be_repeated(
        self, persistence: FlowPersistence
    ) -> None:
        inbox = needed(persistence, Inbox)
        for moment in moments(persistence, "`send`"):
            run_id = moment.chain.run_id
            await store(persistence, moment.chain.add())
            async with moment.context():
                has_returned = await moment.strike(partial(inbox.send, run_id, signal()))
                stored = await inbox.inbox(run_id)
                assert stored or not has_returned, f"{moment.title}: `send` returned, and stored nothing"
                is_new = await inbox.send(run_id, signal())
                assert is_new is not bool(stored), f"{moment.title}: `send` must store a signal once"
                seen(await inbox.inbox(run_id), [signal()], f"{moment.title}: the signal must be stored once")


async def _until(holds: Any, why: str) -> None:
    with anyio.move_on_after(5):
        while not holds():  # noqa: ASYNC110 - a function of the backend's is called, and no event set
            await anyio.sleep(0.005)
    assert holds(), f"{why}, within seconds"
