"""The requirements for backends that park runs: a parked run has no owner, is found when it is due, and is woken by a signal."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from ..persistence.inbox import Inbox
from ..persistence.parking import Parking
from ..persistence.protocol import Catalog, FlowPersistence, Ownership, Retention, RunEntry, offers
from ._checkpoints import AT, Chain
from ._inboxes import signal
from ._promises import Promises, in_time, needed, session, store

__all__ = ["ParkedRuns"]

OURS = ("asyncflow.testing.Conformance",)
"""The identity of the runs of `Chain`."""


async def entry_of(persistence: FlowPersistence, run_id: str) -> RunEntry:
    """Return the entry of a run in the catalog."""
    return (await needed(persistence, Catalog).runs(run_id=run_id))[0]


async def parked(persistence: FlowPersistence, run_id: str, wake_at: float, newest: int = 0) -> Chain:
    """Store a run and park it. Return its chain."""
    chain = Chain(run_id)
    await store(persistence, chain.add())
    await needed(persistence, Parking).park(run_id, 1, wake_at=wake_at, newest=newest)
    return chain


async def due(persistence: FlowPersistence, until: float = math.inf, limit: int = 9, of: tuple[str, ...] = OURS) -> str:
    """Return the ids of the parked runs that are due by a time, in order, separated by spaces."""
    found = await needed(persistence, Parking).parked(of, until=until, limit=limit)
    return " ".join(entry.run_id for entry in found)


class ParkedRuns(Promises):
    """The tests of `Parking`: `park`, `parked` and `watch_parked`."""

    @in_time
    async def test_a_parked_run_waits_and_has_no_owner(self, persistence: FlowPersistence) -> None:
        catalog, _ = needed(persistence, Catalog), needed(persistence, Parking)
        async with session(persistence):
            await parked(persistence, "a", AT)
            await parked(persistence, "b", math.inf)
            await store(persistence, Chain("c").add())
            for run_id, wake_at in (("a", AT), ("b", math.inf)):
                entry = await entry_of(persistence, run_id)
                assert (entry.status, entry.wake_at, entry.is_driven) == ("waiting", wake_at, False), (
                    f"the catalog must show a parked run as waiting, with its wake time; it shows {entry}"
                )
            listed = {
                status: " ".join(entry.run_id for entry in await catalog.runs(status=status))
                for status in ("waiting", "running", "interrupted", "unfinished")
            }
            expected = {"waiting": "b a", "running": "c", "interrupted": "", "unfinished": "c"}
            assert listed == expected, f"`runs` must list parked runs as waiting only; it lists {listed}"

    @in_time
    async def test_parked_runs_are_found_by_their_wake_times(self, persistence: FlowPersistence) -> None:
        needed(persistence, Parking)
        async with session(persistence):
            for run_id, wake_at in (("late", AT + 9), ("never", math.inf), ("first", AT), ("second", AT + 1)):
                await parked(persistence, run_id, wake_at)
            found = {
                "all": await due(persistence),
                "some": await due(persistence, until=AT + 1),
                "none": await due(persistence, until=AT - 1),
                "two": await due(persistence, limit=2),
                "of others": await due(persistence, of=("another.Flow",)),
                "of no flow": await due(persistence, of=()),
            }
            some = "first second"
            assert found == {"all": f"{some} late never", "some": some, "none": "", "two": some} | {
                "of others": "",
                "of no flow": "",
            }, (
                f"`parked` must return the parked runs of some flows, the earliest first, up to a time; it returned {found}"
            )

    @in_time
    async def test_acquiring_a_run_ends_its_parking(self, persistence: FlowPersistence) -> None:
        owner, _ = needed(persistence, Ownership), needed(persistence, Parking)
        async with session(persistence):
            chain = await parked(persistence, "a", AT)
            chain.epoch = await owner.acquire("a")
            entry = await entry_of(persistence, "a")
            assert (entry.status, entry.wake_at) == ("running", None), f"an acquired run is not parked; it is {entry}"
            assert await due(persistence) == "", "`parked` must not return a run that was acquired"
            await store(persistence, chain.add())
            await owner.release("a", chain.epoch)
            assert (await entry_of(persistence, "a")).status == "interrupted", "a run that is released is not parked"

    @in_time
    async def test_only_its_owner_parks_a_run(self, persistence: FlowPersistence) -> None:
        owner, parking = needed(persistence, Ownership), needed(persistence, Parking)
        async with session(persistence):
            await store(persistence, Chain("a").add())
            epoch = await owner.acquire("a", force=True)
            await parking.park("a", epoch - 1, wake_at=AT)
            entry = await entry_of(persistence, "a")
            assert (entry.status, entry.wake_at) == ("running", None), (
                "`park` must do nothing if another owner has the run"
            )
            await parking.park("a", epoch, wake_at=AT)
            assert await due(persistence) == "a", "`park` of the owner must park the run"
            await parking.park("unknown", 1, wake_at=AT)

    @in_time
    async def test_a_run_that_has_ended_is_not_parked(self, persistence: FlowPersistence) -> None:
        parking = needed(persistence, Parking)
        async with session(persistence):
            for status in ("failed", "finished", "cancelled"):
                chain = Chain(status)
                await store(persistence, chain.add())
                await store(persistence, chain.add(status=status))
                await parking.park(status, 1, wake_at=AT)
                entry = await entry_of(persistence, status)
                assert (entry.status, entry.wake_at) == (status, None), (
                    f"`park` of a {status} run must release it, and not park it"
                )
            chain = await parked(persistence, "a", AT)
            await store(persistence, chain.add(kind="cancelled", status="cancelled"))
            assert await due(persistence) == "", "`parked` must not return a run that has ended"
            assert (await entry_of(persistence, "a")).wake_at is None, "a run that has ended has no wake time"

    @in_time
    async def test_a_signal_makes_a_parked_run_due(self, persistence: FlowPersistence) -> None:
        inbox, _ = needed(persistence, Inbox), needed(persistence, Parking)
        async with session(persistence):
            await parked(persistence, "a", math.inf)
            await parked(persistence, "b", math.inf)
            await inbox.send("a", signal())
            assert await due(persistence, until=AT) == "a", "`send` must make a parked run due at once, and no other"
            await store(persistence, Chain("c").add())
            await inbox.send("c", signal())
            (entry,) = await needed(persistence, Catalog).runs(run_id="c")
            assert entry.wake_at is None, "`send` must not park a run that is running"

    @in_time
    async def test_a_signal_that_its_owner_has_not_read_makes_a_run_due(self, persistence: FlowPersistence) -> None:
        inbox, parking = needed(persistence, Inbox), needed(persistence, Parking)
        async with session(persistence):
            for run_id in ("read", "unread"):
                await store(persistence, Chain(run_id).add())
                await inbox.send(run_id, signal(1))
                newest = (await inbox.inbox(run_id))[-1].id
                if run_id == "unread":
                    await inbox.send(run_id, signal(2))
                await parking.park(run_id, 1, wake_at=math.inf, newest=newest)
            found = await due(persistence, until=AT)
            assert found == "unread", f"`park` must make a run due if a newer signal is in its inbox; due is {found!r}"

    @in_time
    async def test_who_watches_a_parked_run_is_called_when_it_wakes(self, persistence: FlowPersistence) -> None:
        inbox, parking = needed(persistence, Inbox), needed(persistence, Parking)
        owner, retention = needed(persistence, Ownership), needed(persistence, Retention)
        other = self.another(persistence)
        woken: list[str] = []
        async with session(persistence):
            await parked(persistence, "quiet", math.inf)
            ways: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                "signalled": lambda: inbox.send("signalled", signal()),
                "acquired": lambda: owner.acquire("acquired"),
                "deleted": lambda: retention.delete("deleted"),
            }
            for run_id, how in ways.items():
                await parked(persistence, run_id, math.inf)
                with (
                    parking.watch_parked(run_id, lambda: woken.append("it")),
                    parking.watch_parked("quiet", lambda: woken.append("quiet")),
                ):
                    await how()
                    await _until(lambda: "it" in woken, f"`watch_parked` must report a run that was {run_id}")
                assert "quiet" not in woken, "`watch_parked` must not report a run that stays parked"
                woken.clear()
            await parked(persistence, "elsewhere", math.inf)
            if other is not None and offers(other, Inbox):
                with parking.watch_parked("elsewhere", lambda: woken.append("it")):
                    async with session(other):
                        await other.send("elsewhere", signal())
                    await _until(lambda: "it" in woken, "`watch_parked` must report a signal that was sent elsewhere")


async def _until(holds: Callable[[], bool], why: str) -> None:
    with anyio.move_on_after(5):
        while not holds():  # noqa: ASYNC110 - a function of the backend's is called, and no event set
            await anyio.sleep(0.005)
    assert holds(), f"{why}, within seconds"
