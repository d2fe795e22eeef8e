"""`cancel`: it is final, at any moment, whatever else happens to the run meanwhile."""

import asyncio
import contextlib
import sqlite3
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from loops import on_asyncio
from small import Log, Slow, Waiting, cancel_when

from asyncflow import Flow, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, errors, listen, start
from asyncflow._runs.cancelling import cancel_stored

STORES = {"memory": MemoryFlowPersistence, "sqlite": lambda: SQLiteFlowPersistence("runs.db")}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["none", *STORES])
def storage(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


async def cancelled_run(storage: Any) -> Waiting:
    """A run that was cancelled permanently while its second method ran."""
    flow = Waiting(persistence=storage)

    async def kickoff() -> None:
        with pytest.raises(errors.RunCancelledError):
            await flow.kickoff()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(kickoff)
            await flow.waiting.wait()
            await flow.cancel()
    return flow


@pytest.mark.clauses("C4")
async def test_cancel_ends_the_kickoff_with_its_own_error(store: Any) -> None:
    flow = await cancelled_run(store)

    assert flow.seen == ["cancelled"]
    assert flow.status == "cancelled"
    assert flow.state.done == ["first"]


@pytest.mark.clauses("C4")
async def test_cancel_is_durable_and_final(store: Any) -> None:
    flow = await cancelled_run(store)
    store = SQLiteFlowPersistence("runs.db") if isinstance(store, SQLiteFlowPersistence) else store
    loaded = await Waiting.load(flow.run_id, persistence=store)

    assert loaded.status == "cancelled"
    assert [entry.kind for entry in await loaded.history()] == ["started", "method", "cancelled"]
    for again in (
        lambda: Waiting.resume(flow.run_id, persistence=store),
        lambda: Waiting(persistence=store).kickoff({"id": flow.run_id}),
        lambda: flow.kickoff(),
        lambda: loaded.kickoff(),
    ):
        with pytest.raises(errors.RunCancelledError):
            await again()


@pytest.mark.clauses("C4")
async def test_cancel_is_durable_when_it_returns(store: Any) -> None:
    flow = Waiting(persistence=store)
    statuses: list[str] = []

    async def kickoff() -> None:
        with pytest.raises(errors.RunCancelledError):
            await flow.kickoff()

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        await flow.waiting.wait()
        await flow.cancel()
        statuses.append((await Waiting.load(flow.run_id, persistence=store)).status)

    assert statuses == ["cancelled"]


@pytest.mark.clauses("C4")
async def test_a_stored_run_that_is_not_running_can_be_cancelled(store: Any) -> None:
    flow = Waiting(persistence=store)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel_when, flow.waiting, scope)
            await flow.kickoff()
    await (await Waiting.load(flow.run_id, persistence=store)).cancel()

    with pytest.raises(errors.RunCancelledError):
        await Waiting.resume(flow.run_id, persistence=store)


@pytest.mark.clauses("C4")
async def test_a_cancelled_run_can_be_cancelled_again(store: Any) -> None:
    flow = await cancelled_run(store)
    await flow.cancel()

    assert [entry.kind for entry in await flow.history()] == ["started", "method", "cancelled"]


@pytest.mark.clauses("C4")
async def test_a_method_may_cancel_its_own_run(store: Any) -> None:
    after: list[str] = []

    class Quitting(Flow[Log]):
        persistence = store

        @start()
        async def first(self) -> None:
            self.state.done.append("first")

        @listen(first)
        async def second(self) -> None:
            self.state.done.append("second")
            await self.cancel()
            await anyio.lowlevel.checkpoint()
            after.append("went on")

    flow = Quitting()
    with anyio.fail_after(120), pytest.raises(errors.RunCancelledError):
        await flow.kickoff()

    assert after == []
    assert (flow.status, flow.state.done) == ("cancelled", ["first"])
    assert (await Quitting.load(flow.run_id)).status == "cancelled"


async def test_a_run_without_a_storage_can_be_cancelled_while_it_runs() -> None:
    flow = Waiting()

    async def kickoff() -> None:
        with pytest.raises(errors.RunCancelledError):
            await flow.kickoff()

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            group.start_soon(kickoff)
            await flow.waiting.wait()
            await flow.cancel()

    assert flow.status == "cancelled"


@pytest.mark.found("C3")
@pytest.mark.parametrize("way", ["initial state", "given state"])
async def test_cancel_ends_the_run_that_a_given_state_names(way: str) -> None:
    storage = MemoryFlowPersistence()

    class Waits(Flow[dict[str, Any]]):
        fails = True

        @start()
        async def first(self) -> None:
            if self.fails:
                raise LookupError

    with pytest.raises(errors.MethodError):
        await Waits(persistence=storage).kickoff({"id": "r"})

    if way == "initial state":
        flow = Waits(persistence=storage, initial_state={"id": "r"})
    else:
        flow = Waits(persistence=storage)
        flow.state = {"id": "r"}
    await flow.cancel()

    assert flow.status == "cancelled"
    assert (await storage.load("r")).status == "cancelled"


class Stubborn(Flow[dict]):
    """Takes its time to leave when it is cancelled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside = anyio.Event()

    @start()
    async def work(self) -> None:
        try:
            self.inside.set()
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)


@pytest.mark.clauses("C4")
async def test_cancel_is_final_even_if_the_kickoff_is_cancelled_meanwhile() -> None:
    flow = Stubborn(persistence=SQLiteFlowPersistence("runs.db"))
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cancel_both() -> None:
                await flow.inside.wait()
                group.start_soon(flow.cancel)
                await anyio.sleep(0.02)
                scope.cancel()

            group.start_soon(cancel_both)
            with contextlib.suppress(errors.RunCancelledError):
                await flow.kickoff()

    assert flow.status == "cancelled"
    assert (await Stubborn.load(flow.run_id, persistence=SQLiteFlowPersistence("runs.db"))).status == "cancelled"


@pytest.mark.clauses("C4")
async def test_cancel_at_the_very_beginning_cancels_the_run() -> None:
    flow = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    ended: list[str] = []

    async def kickoff() -> None:
        try:
            await flow.kickoff()
        except errors.RunCancelledError:
            ended.append("cancelled")

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        while not flow._instance.is_busy:
            await anyio.lowlevel.checkpoint()
        await flow.cancel()

    assert (ended, flow.status) == (["cancelled"], "cancelled")


@pytest.mark.clauses("C4")
@on_asyncio
async def test_an_instance_that_was_cancelled_at_its_first_commit_can_be_kicked_off_again() -> None:
    for at in range(12):
        flow = Slow(persistence=SQLiteFlowPersistence("runs.db", durability="process"))
        flow.go_on.set()
        task = asyncio.ensure_future(flow.kickoff())
        for _ in range(at):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await flow.kickoff() == "done"


@pytest.mark.clauses("L2", "C4")
async def test_a_run_that_is_cancelled_again_has_no_owner() -> None:
    store = SQLiteFlowPersistence("runs.db")

    class Idle(Flow[dict[str, int]]):
        @start()
        async def fails(self) -> None:
            raise ValueError

    flow = Idle(persistence=store)
    async with store:
        with pytest.raises(MethodError):
            await flow.kickoff()
        for _ in range(2):
            await flow.cancel()
        with contextlib.closing(sqlite3.connect("runs.db")) as connection:
            assert connection.execute("SELECT owner FROM runs").fetchall() == [(None,)]


@pytest.mark.clauses("C1", "L1")
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_that_a_run_was_deleted_does_not_replace_what_ended_it(is_cancelled: bool) -> None:
    class Waiting(Flow[dict[str, int]]):
        @start()
        async def wait(self) -> None:
            started.set()
            await go_on.wait()

    async def cancel() -> None:
        await started.wait()
        await cancel_stored(store, flow.run_id)
        assert await store.delete(flow.run_id)
        scope.cancel() if is_cancelled else go_on.set()

    started, go_on, store = anyio.Event(), anyio.Event(), MemoryFlowPersistence()
    flow, fenced = Waiting(persistence=store), False
    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.CancelScope() as scope:
            try:
                await flow.kickoff()
            except errors.RunFencedError:
                fenced = True

    assert (scope.cancelled_caught, fenced) == (is_cancelled, not is_cancelled)
    assert flow.status == "interrupted"
