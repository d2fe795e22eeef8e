"""An ending is final: of two endings of a run exactly one is stored, and every observer gets that one."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, errors, listen, start
from asyncflow._runs.cancelling import cancel_stored
from asyncflow.events import RunCancelled, RunFinished
from asyncflow.persistence import Checkpoint

TRIES = 100
"""On each of the three loops, in each of four ways."""

STORES = {"memory": MemoryFlowPersistence, "sqlite": lambda: SQLiteFlowPersistence("runs.db", durability="process")}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    made = STORES[request.param]()
    if request.param == "memory":
        yield made
    else:
        async with made:
            yield made


class Short(Flow[dict[str, int]]):
    @start()
    async def first(self) -> int:
        await turns(40)
        return 1

    @listen(first)
    async def last(self, n: int) -> int:
        return n + 1


def nearer(at: int, before: str) -> int:
    """Return after how many turns of the event loop to cancel next: around the moment from which on the run has finished.

    On a busy machine that is thousands of turns away, as the loop turns while a commit is written.
    """
    step = 1 + at // 16
    return at + step if before == "running" else max(0, at - step)


async def turns(n: int) -> None:
    for _ in range(n):
        await anyio.lowlevel.checkpoint()


class Seen:
    """The statuses that an observer got of a run, in order, and the outcome of its kickoff."""

    def __init__(self) -> None:
        self.statuses: list[str] = []
        self.outcome: Any = None

    def note(self, checkpoint: Checkpoint) -> None:
        self.statuses.append(checkpoint.status)

    async def kickoff(self, flow: Flow[Any]) -> None:
        flow._instance.watch(self.note)
        try:
            self.outcome = await flow.kickoff()
        except (errors.RunCancelledError, errors.RunFencedError) as error:
            self.outcome = type(error).__name__


async def cancelled_by(how: str, store: Any, flow: Flow[Any]) -> None:
    if how == "flow":
        await flow.cancel()
    else:  # as another process does: nothing is known of the run but what is stored
        await cancel_stored(store, flow.run_id)


@pytest.mark.found("R2")
@pytest.mark.clauses("C4")
@pytest.mark.parametrize("how", ["flow", "stored"])
async def test_a_run_that_is_cancelled_around_its_last_commit_has_one_ending(store: Any, how: str) -> None:
    ends: Counter[str] = Counter()
    at = 0
    while sum(ends.values()) < TRIES or (len(ends) < 2 and sum(ends.values()) < 5 * TRIES):
        flow, seen = Short(persistence=store), Seen()
        async with anyio.create_task_group() as group:
            group.start_soon(seen.kickoff, flow)
            while await store.load(flow.run_id) is None:
                await anyio.lowlevel.checkpoint()
            await turns(at)
            before = (await store.load(flow.run_id)).status
            await cancelled_by(how, store, flow)
            stored = (await store.load(flow.run_id)).status

        endings = [
            entry.status for entry in await store.history(flow.run_id) if entry.status in ("finished", "cancelled")
        ]
        assert endings == [stored]
        assert before in ("running", stored)
        assert [status for status in seen.statuses if status not in ("running", stored)] == []
        assert seen.outcome == 2 if stored == "finished" else seen.outcome in ("RunCancelledError", "RunFencedError")
        assert (await Short.load(flow.run_id, persistence=store)).status == stored
        assert flow.status == stored or seen.outcome == "RunFencedError"
        ends[stored] += 1
        at = nearer(at, before)

    print(ends)
    assert len(ends) == 2


@pytest.mark.found("R2")
@pytest.mark.clauses("C4")
async def test_a_run_of_a_runner_that_is_cancelled_around_its_end_reports_one_ending(store: Any) -> None:
    ends: Counter[str] = Counter()
    at = 0
    async with FlowRunner(store, flows=[Short], recover_every=None) as runner:
        while sum(ends.values()) < TRIES or (len(ends) < 2 and sum(ends.values()) < 5 * TRIES):
            handle = await runner.start(Short)
            await turns(at)
            before = (await store.load(handle.run_id)).status
            await runner.cancel(handle.run_id)
            stored = (await handle.checkpoint()).status
            told = [event async for event in handle.events() if isinstance(event, RunCancelled | RunFinished)]
            try:
                outcome = await handle.result()
            except errors.RunCancelledError:
                outcome = "cancelled"

            assert before in ("running", stored)
            assert outcome == (2 if stored == "finished" else "cancelled")
            assert [type(event) for event in told] == [RunFinished if stored == "finished" else RunCancelled]
            ends[stored] += 1
            at = nearer(at, before)

    print(ends)
    assert len(ends) == 2


@pytest.mark.found("R2")
@pytest.mark.clauses("C4")
async def test_cancelling_a_run_that_has_finished_changes_nothing(store: Any) -> None:
    flow = Short(persistence=store)
    await flow.kickoff()
    kept = await store.load(flow.run_id)
    await flow.cancel()
    await (await Short.load(flow.run_id, persistence=store)).cancel()
    await cancel_stored(store, flow.run_id)

    assert flow.status == "finished"
    assert await store.load(flow.run_id) == kept
    assert await Short.resume(flow.run_id, persistence=store) == 2


@pytest.mark.found("R2")
async def test_a_run_without_a_storage_that_is_cancelled_around_its_end_reports_one_ending() -> None:
    class Pair(Short):
        @listen(Short.last)
        async def left(self) -> int:
            return 2

        @listen(Short.last)
        async def right(self) -> int:
            return 2

    ends: Counter[Any] = Counter()
    for at in range(TRIES):
        flow, seen = Pair(), Seen()
        async with anyio.create_task_group() as group:
            group.start_soon(seen.kickoff, flow)
            await turns(at)
            if flow.status == "running":
                await flow.cancel()

        assert flow.status == ("finished" if seen.outcome == 2 else "cancelled")
        ends[seen.outcome] += 1

    assert set(ends) == {2, "RunCancelledError"}


@pytest.mark.found("R2")
@pytest.mark.clauses("C4")
@pytest.mark.parametrize("owner", ["driving", "interrupted", "acquired"])
async def test_a_stored_run_is_cancelled_no_matter_who_owns_it(store: Any, owner: str) -> None:
    class Waits(Flow[dict[str, int]]):
        @start()
        async def wait(self) -> None:
            started.set()
            await go_on.wait()

    started, go_on = anyio.Event(), anyio.Event()
    flow, seen = Waits(persistence=store), Seen()
    async with anyio.create_task_group() as group:
        if owner == "driving":
            group.start_soon(seen.kickoff, flow)
            await started.wait()
        else:
            with anyio.CancelScope() as scope:
                group.start_soon(_cancel_when, started, scope)
                await flow.kickoff()
        if owner == "acquired":
            await store.acquire(flow.run_id, force=True)  # by a process that has stored nothing yet
        await cancel_stored(store, flow.run_id)
        go_on.set()

    assert (await store.load(flow.run_id)).status == "cancelled"
    assert seen.outcome == ("RunFencedError" if owner == "driving" else None)


async def _cancel_when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


@pytest.mark.found("R2")
@pytest.mark.clauses("C4")
async def test_what_was_stored_after_a_cancel_looked_is_not_undone(monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    """The run finishes, and begins a new pass, between the look at it and the cancel's own checkpoint."""
    flow = Short(persistence=store)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await flow.kickoff({"id": "run"})
    load, looked = store.load, []

    async def late(run_id: str, seq: int | None = None) -> Any:
        found = await load(run_id, seq)
        if not looked:
            looked.append(found.status)
            await Short.resume("run", persistence=store)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await Short(persistence=store).kickoff({"id": "run"})
        return found

    monkeypatch.setattr(store, "load", late)
    await cancel_stored(store, "run")

    assert looked == ["running"]
    assert [c.status for c in await store.history("run") if c.status != "running"] == ["finished"]
    newest = await store.load("run")
    assert (newest.pass_number, newest.status) == (2, "running")
