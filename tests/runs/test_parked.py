"""Parked runs under a bare kickoff: what is shown of them, what wakes them, and what they cost."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any, ClassVar

import anyio
import pytest
from flows import STORES, TwoVerbs
from moments import later, stored, until
from pydantic import Field

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    Retry,
    Signal,
    Waiting,
    after,
    and_,
    errors,
    listen,
    or_,
    persist,
    sleep,
    start,
    wait_for,
)
from asyncflow.persistence import SQLiteFlowPersistence
from asyncflow.testing import Fail, FaultyPersistence, LoseReply, cancel_everywhere, crash_everywhere

HOUR = 3600.0


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


class Notes(FlowState):
    text: str = ""
    log: list[str] = Field(default_factory=list)


class Asks(Flow[Notes]):
    """Drafts, waits for an answer or for a day, and ends."""

    name = "Asks"
    answered = Signal("answered", str)
    ran: ClassVar[Counter[str]] = Counter()

    @start()
    async def draft(self) -> str:
        self.ran["draft"] += 1
        self.state.log.append("draft")
        return "a draft"

    @listen(or_(answered, after(draft, timedelta(days=1))))
    async def end(self, answer: str) -> str:
        self.ran["end"] += 1
        self.state.log.append("end")
        return f"ended: {answer}"


class Joins(Flow[dict]):
    name = "Joins"
    answered = Signal("answered", str)

    @start()
    async def draft(self) -> str:
        return "a draft"

    @listen(and_(draft, answered))
    async def end(self, draft: str, answered: str) -> str:
        return f"{draft}: {answered}"


class Retries(Flow[dict]):
    name = "Retries"
    tries = 0

    @start(retry=Retry(initial=HOUR, maximum=HOUR, jitter=0))
    async def call(self) -> int:
        Retries.tries += 1
        if Retries.tries == 1:
            raise ConnectionError("not yet")
        return Retries.tries


@pytest.fixture(autouse=True)
def _anew() -> None:
    Asks.ran, Retries.tries = Counter(), 0


async def parked(flow: Flow[Any]) -> Waiting:
    waiting = await flow.kickoff(until="waiting")
    assert isinstance(waiting, Waiting)
    return waiting


async def entry(store: Any, run_id: str) -> Any:
    return (await store.runs(run_id=run_id))[0]


def is_parked(store: Any, run_id: str) -> Any:
    async def holds() -> bool:
        return any(e.status == "waiting" for e in await store.runs(run_id=run_id))

    return holds


# ---- what is shown -----------------------------------------------------------------------------------------------


@pytest.mark.clauses("W11")
async def test_a_kickoff_until_waiting_returns_what_the_run_waits_for(store: Any) -> None:
    flow = Asks(persistence=store)
    waiting = await parked(flow)
    listed = await entry(store, flow.run_id)

    assert (waiting.run_id, waiting.waits_for) == (flow.run_id, ("answered",))
    assert waiting.due_at == pytest.approx(listed.updated_at + 24 * HOUR, abs=60)
    assert (flow.status, flow.result, flow.method_outputs) == ("waiting", None, {"draft": "a draft"})
    assert (listed.status, listed.wake_at, listed.is_driven) == ("waiting", waiting.due_at, False)
    loaded = await Asks.load(flow.run_id, persistence=store)
    assert (loaded.status, loaded.state.log) == ("waiting", ["draft"])


def test_a_script_begins_a_run_that_waits_and_ends() -> None:
    store = SQLiteFlowPersistence("runs.db")
    waiting = asyncflow.run(Joins(persistence=store), until="waiting")
    assert isinstance(waiting, Waiting)
    asyncflow.run(Signals(persistence=store), {"to": waiting.run_id})

    assert asyncflow.run(Joins(persistence=store), {"id": waiting.run_id}) == "a draft: yes"


class Signals(Flow[dict]):
    """Sends the signal from a flow of its own."""

    @start()
    async def send(self) -> None:
        await Joins.signal(self.state["to"], Joins.answered, "yes", persistence=SQLiteFlowPersistence("runs.db"))


async def test_a_run_that_waits_for_signals_alone_is_due_at_no_time(store: Any) -> None:
    waiting = await parked(Joins(persistence=store))

    assert (waiting.waits_for, waiting.due_at) == (("answered",), None)


async def test_a_kickoff_until_waiting_returns_the_result_of_a_run_that_ends(store: Any) -> None:
    class Ends(Asks):
        name = "Ends"

        @listen(Asks.draft)
        async def other(self) -> str:
            return "other"

    flow = Ends(persistence=store)
    await parked(flow)
    await Ends.signal(flow.run_id, Asks.answered, "yes", persistence=store)

    assert await Ends(persistence=store).kickoff({"id": flow.run_id}, until="waiting") == "ended: yes"


@pytest.mark.parametrize("make", [lambda: None, TwoVerbs])
async def test_a_kickoff_until_waiting_needs_a_backend_that_parks(make: Any) -> None:
    flow = Asks(persistence=make())
    with pytest.raises(errors.CapabilityMissingError, match=r"until=.waiting.*Nothing was started"):
        await flow.kickoff(until="waiting")
    assert Asks.ran == Counter()
    with pytest.raises(ValueError, match="until must be 'end', 'waiting', a number of methods"):
        await flow.kickoff(until="parked")


async def test_a_run_of_which_some_methods_have_no_checkpoint_is_not_parked(store: Any) -> None:
    class Some(Flow[dict]):
        name = "Some"

        @start()
        async def draft(self) -> str:
            return "a draft"

        @persist
        @listen(draft)
        async def check(self) -> None: ...

        @listen(after(check, HOUR))
        async def end(self) -> None: ...

    with pytest.raises(errors.CapabilityMissingError, match="only some of its methods have @persist"):
        await Some(persistence=store).kickoff(until="waiting")


# ---- what wakes it -----------------------------------------------------------------------------------------------


@pytest.mark.clauses("W11")
@pytest.mark.parametrize("flow", [Asks, Joins])
async def test_a_bare_kickoff_waits_for_its_parked_run_and_ends_it(flow: Any, store: Any) -> None:
    run = flow(persistence=store)
    results: list[str] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                results.append(await run.kickoff())

            group.start_soon(drive)
            await until(is_parked(store, run.run_id))
            await until(lambda: _holds(run.status == "waiting"))
            await flow.signal(run.run_id, flow.answered, "yes", persistence=store)

    assert results == [run.result]
    assert results[0].endswith("yes")
    assert (run.status, run.method_outputs["draft"]) == ("finished", "a draft")


async def _holds(value: bool) -> bool:
    return value


@pytest.mark.clauses("W11", "W1")
@pytest.mark.parametrize("how", ["kickoff", "resume"])
async def test_a_parked_run_that_is_due_continues_when_it_is_resumed(how: str, store: Any) -> None:
    run_id = (await parked(Asks(persistence=store))).run_id
    with later(24 * HOUR + 1), anyio.fail_after(60):
        call = (
            Asks(persistence=store).kickoff({"id": run_id})
            if how == "kickoff"
            else Asks.resume(run_id, persistence=store)
        )
        assert await call == "ended: a draft"

    assert Asks.ran == {"draft": 1, "end": 1}


@pytest.mark.clauses("W11", "R2")
async def test_a_long_pause_before_the_next_attempt_parks_the_run(store: Any) -> None:
    run_id = (await parked(Retries(persistence=store))).run_id
    with later(HOUR + 1), anyio.fail_after(60):
        assert await Retries.resume(run_id, persistence=store) == 2
    assert [c.kind for c in await store.history(run_id)] == ["started", "retrying", "finished"]


@pytest.mark.clauses("W11")
async def test_short_waits_stay_in_memory(store: Any) -> None:
    class Short(Flow[dict]):
        name = "Short"

        @start()
        async def ask(self) -> None: ...

        @listen(after(ask, 0.05))
        async def end(self) -> str:
            return "ended"

    flow = Short(persistence=store)
    with anyio.fail_after(60):
        assert await flow.kickoff(until="waiting") == "ended"
    assert [c.kind for c in await store.history(flow.run_id)] == ["started", "method", "timer", "finished"]


@pytest.mark.clauses("W11")
async def test_a_run_whose_method_waits_is_not_parked(store: Any) -> None:
    class Within(Flow[dict]):
        name = "Within"
        answered = Signal("answered", str)

        @start()
        async def ask(self) -> str:
            return await wait_for(self.answered)

        @start()
        async def nap(self) -> None:
            await sleep(HOUR)

    flow = Within(persistence=store)
    with anyio.move_on_after(0.3):
        await flow.kickoff(until="waiting")
    assert flow.status == "interrupted"


@pytest.mark.clauses("W11")
async def test_waking_a_parked_run_stores_one_checkpoint_for_the_signal(store: Any) -> None:
    run_id = (await parked(Joins(persistence=store))).run_id
    await Joins.signal(run_id, Joins.answered, "yes", persistence=store)
    await Joins.resume(run_id, persistence=store)

    assert [c.kind for c in await store.history(run_id)] == ["started", "method", "signal", "method", "finished"]


@pytest.mark.clauses("W11")
async def test_a_signal_that_nothing_waits_for_wakes_a_run_and_does_not_grow_it(store: Any) -> None:
    class Two(Joins):
        name = "Two"
        other = Signal("other")

        @listen(and_(Joins.end, other))
        async def last(self) -> str:
            return "last"

    run_id = (await parked(Two(persistence=store))).run_id
    before = len(await store.history(run_id))
    await Two.signal(run_id, Two.other, persistence=store)
    assert (await entry(store, run_id)).wake_at == 0
    waiting = await Two(persistence=store).kickoff({"id": run_id}, until="waiting")

    assert waiting.waits_for == ("answered",)
    assert (await entry(store, run_id)).status == "waiting"
    assert len(await store.history(run_id)) == before
    await Two.signal(run_id, Two.answered, "yes", persistence=store)
    assert await Two.resume(run_id, persistence=store) == "last"


@pytest.mark.clauses("W11", "R7")
async def test_the_time_limit_of_a_pass_is_part_of_the_wake_time(store: Any) -> None:
    flow = Joins(persistence=store, run_timeout=HOUR)
    waiting = await parked(flow)
    listed = await entry(store, flow.run_id)
    assert waiting.due_at == pytest.approx(listed.created_at + HOUR, abs=60)
    with later(HOUR + 1), anyio.fail_after(60), pytest.raises(errors.RunTimeoutError):
        await Joins.resume(flow.run_id, persistence=store)

    assert (await entry(store, flow.run_id)).status == "failed"


# ---- other calls on it -------------------------------------------------------------------------------------------


@pytest.mark.clauses("W11")
async def test_calls_with_its_id_attach_to_a_waiting_run(store: Any) -> None:
    run_id = (await parked(Asks(persistence=store))).run_id
    results: list[str] = []

    async def attach() -> None:
        results.append(await Asks(persistence=store).kickoff({"id": run_id}))

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(attach)
            group.start_soon(lambda: _resumed(run_id, store, results))
            await anyio.sleep(0.1)
            assert (await entry(store, run_id)).status == "waiting"
            await Asks.signal(run_id, Asks.answered, "yes", persistence=store)

    assert results == ["ended: yes"] * 4
    assert Asks.ran == {"draft": 1, "end": 1}


async def _resumed(run_id: str, store: Any, results: list[str]) -> None:
    results.append(await Asks.resume(run_id, persistence=store))


async def test_a_kickoff_of_a_waiting_run_with_other_inputs_is_refused(store: Any) -> None:
    flow = Asks(persistence=store)
    waiting = await flow.kickoff({"text": "a"}, until="waiting")
    with pytest.raises(errors.RunInputsError, match="send it a signal"):
        await Asks(persistence=store).kickoff({"id": waiting.run_id, "text": "b"})
    again = await Asks(persistence=store).kickoff({"id": waiting.run_id, "text": "a"}, until="waiting")

    assert again == waiting


async def test_a_kickoff_that_is_cancelled_leaves_its_run_parked(store: Any) -> None:
    flow = Asks(persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await until(is_parked(store, flow.run_id))
        group.cancel_scope.cancel()

    assert (await entry(store, flow.run_id)).status == "waiting"


@pytest.mark.clauses("C4")
@pytest.mark.parametrize("by", ["itself", "another instance"])
async def test_a_parked_run_that_is_cancelled_ends_the_call_that_waits_for_it(by: str, store: Any) -> None:
    flow = Asks(persistence=store)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                with pytest.raises(errors.RunCancelledError):
                    await flow.kickoff()

            group.start_soon(drive)
            await until(is_parked(store, flow.run_id))
            await until(lambda: _holds(flow.status == "waiting"))
            canceller = flow if by == "itself" else await Asks.load(flow.run_id, persistence=store)
            await canceller.cancel()

    assert (await entry(store, flow.run_id)).status == "cancelled"


async def test_a_call_that_follows_an_ended_run_leaves_it_without_an_owner(store: Any) -> None:
    flow = Asks(persistence=store)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await until(is_parked(store, flow.run_id))
            await Asks.signal(flow.run_id, Asks.answered, "yes", persistence=store)
            assert await Asks.resume(flow.run_id, wait=30, persistence=store) == "ended: yes"

    assert await store.delete(flow.run_id)


async def test_a_cancel_reaches_a_call_that_follows_a_run_which_another_owner_drives(store: Any) -> None:
    class Works(Asks):
        name = "Works"
        began = anyio.Event()

        @listen(Asks.end)
        async def work(self) -> None:
            Works.began.set()
            await anyio.sleep_forever()

    Works.began = anyio.Event()
    flow = Works(persistence=store)
    with anyio.fail_after(60):
        async with FlowRunner(store, flows=[Works]) as runner, anyio.create_task_group() as group:

            async def drive() -> None:
                with pytest.raises(errors.RunCancelledError):
                    await flow.kickoff()

            group.start_soon(drive)
            await until(is_parked(store, flow.run_id))
            handle = await runner.get(flow.run_id)
            await handle.signal(Works.answered, "yes")
            await Works.began.wait()
            await flow.cancel()

    assert (await entry(store, flow.run_id)).status == "cancelled"


@pytest.mark.parametrize("edit", [{"text": "edited"}, {"text": object()}])
async def test_an_edit_keeps_a_run_parked(edit: Any, store: Any) -> None:
    waiting = await parked(Asks(persistence=store))
    loaded = await Asks.load(waiting.run_id, persistence=store)
    if edit["text"] == "edited":
        await loaded.update_state(**edit)
        assert loaded.status == "waiting"
    else:
        with pytest.raises(errors.RunInputsError):
            await loaded.update_state(**edit)
    listed = await entry(store, waiting.run_id)

    assert (listed.status, listed.wake_at) == ("waiting", waiting.due_at)


async def test_a_fork_of_a_parked_run_is_parked_with_an_empty_inbox(store: Any) -> None:
    waiting = await parked(Joins(persistence=store))
    await Joins.signal(waiting.run_id, Joins.answered, "yes", persistence=store)
    fork = await Joins.fork(waiting.run_id, persistence=store)

    assert (fork.status, (await entry(store, fork.run_id)).status) == ("waiting", "waiting")
    assert await store.inbox(fork.run_id) == []
    await Joins.signal(fork.run_id, Joins.answered, "no", persistence=store)
    assert await fork.kickoff() == "a draft: no"
    assert await Joins.resume(waiting.run_id, persistence=store) == "a draft: yes"


async def test_a_parked_run_can_be_deleted(store: Any) -> None:
    run_id = (await parked(Asks(persistence=store))).run_id

    assert await store.prune(older_than=0) == 0
    assert await store.delete(run_id)
    with pytest.raises(errors.RunNotFoundError):
        await Asks.resume(run_id, persistence=store)


@pytest.mark.clauses("W11")
@pytest.mark.parametrize("fault", [Fail, LoseReply])
@pytest.mark.parametrize("operation", ["park", "acquire", "load"])
async def test_a_fault_while_a_run_is_parked_or_woken_loses_nothing(fault: Any, operation: Any, store: Any) -> None:
    faulty = FaultyPersistence(store, fault(operations=(operation,)))
    flow = Asks(persistence=faulty)
    waiting = await flow.kickoff(until="waiting")
    await Asks.signal(waiting.run_id, Asks.answered, "yes", persistence=store)
    if faulty.hits:
        faulty.heal()
        assert await Asks.resume(waiting.run_id, persistence=store) == "ended: yes"
    else:
        with pytest.raises(errors.StorageError):
            await Asks.resume(waiting.run_id, persistence=faulty)
        assert await Asks.resume(waiting.run_id, persistence=store) == "ended: yes"
    assert Asks.ran == {"draft": 1, "end": 1}


@pytest.mark.clauses("W11", "W6")
async def test_a_signal_that_comes_while_its_run_is_parked_wakes_it(store: Any) -> None:
    park, sent = store.park, []

    async def late(run_id: str, epoch: int, **options: Any) -> None:
        if not sent:
            sent.append(await Asks.signal(run_id, Asks.answered, "yes", persistence=store))
        await park(run_id, epoch, **options)

    store.park = late
    with anyio.fail_after(60):
        assert await Asks(persistence=store).kickoff() == "ended: yes"


@pytest.mark.clauses("W11")
@pytest.mark.parametrize("flow", [Asks, Joins, Retries])
async def test_a_crash_at_any_commit_loses_no_wait(flow: Any) -> None:
    """Parking and waking are commits, too; days pass at once."""

    class Answered(flow):  # type: ignore[misc]  # a class that is only known when the test runs
        name = "Answered"

        @start()
        async def answer(self) -> None:
            if "answered" in self._definition.signals and flow is Joins:
                await flow.signal(
                    self.run_id, flow.answered, "yes", key="once", persistence=self._instance.setup.persistence
                )

    report = await anyio.to_thread.run_sync(lambda: anyio.run(crash_everywhere, Answered if flow is Joins else flow))
    assert report.crashes > 6


@pytest.mark.clauses("W11", "C1", "C2")
async def test_a_cancellation_at_any_await_of_parking_and_waking_loses_nothing() -> None:
    store = MemoryFlowPersistence()
    run_ids: list[str] = []

    async def ends() -> None:
        run_id = run_ids[-1]
        if await store.load(run_id) is None:
            return  # it was cancelled before anything was stored
        await Joins.signal(run_id, Joins.answered, "yes", key="once", persistence=store)
        with anyio.fail_after(60):
            assert await Joins.resume(run_id, wait=30, persistence=store) == "a draft: yes"
        assert [e.is_driven for e in await store.runs(run_id=run_id)] == [False]

    async def parks() -> None:
        flow = Joins(persistence=store)
        run_ids.append(flow.run_id)
        await flow.kickoff(until="waiting")

    async def wakes() -> None:
        await parks()
        await Joins.signal(run_ids[-1], Joins.answered, "yes", key="once", persistence=store)
        await Joins.resume(run_ids[-1], persistence=store)

    assert await cancel_everywhere(parks, ends) > 5
    assert await cancel_everywhere(wakes, ends) > 10


async def test_a_thousand_kickoffs_wait_for_their_parked_runs() -> None:
    store = MemoryFlowPersistence()
    runs = [Joins(persistence=store) for _ in range(1000)]
    results: list[str] = []

    async def drive(run: Joins) -> None:
        results.append(await run.kickoff())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for run in runs:
                group.start_soon(drive, run)
            for run in runs:
                await until(is_parked(store, run.run_id))
            for run in runs:
                await Joins.signal(run.run_id, Joins.answered, "yes", persistence=store)

    assert results == ["a draft: yes"] * 1000


async def test_a_signal_from_another_opening_of_the_file_wakes_a_call() -> None:
    here, there = SQLiteFlowPersistence("runs.db"), SQLiteFlowPersistence("runs.db")
    run = Joins(persistence=here)
    results: list[str] = []
    with anyio.fail_after(60):
        async with there, anyio.create_task_group() as group:

            async def drive() -> None:
                results.append(await run.kickoff())

            group.start_soon(drive)
            await until(stored(there, run.run_id, 1))
            await Joins.signal(run.run_id, Joins.answered, "yes", persistence=there)

    assert results == ["a draft: yes"]
