"""`FlowRunner`: whoever asks for a run may go away; runs are bounded, drained, attached to, and taken up again."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from owned import STORES, Steps, Work, gate, gates, ran, until

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    SQLiteFlowPersistence,
    errors,
    events,
    listen,
    persist,
    router,
    start,
)
from asyncflow.runner import RunFailure, RunHandle

# ---- starting and awaiting -------------------------------------------------------------------------------------------


async def test_a_run_is_started_and_awaited(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"n": 5})

        assert await handle.result() == 7
        assert await handle.status() == "finished"
        assert (await Steps.load(handle.run_id, persistence=storage)).state.n == 7
        assert await runner.run(Steps, {"n": 1}) == 3


async def test_a_run_that_was_started_is_stored(storage: Any) -> None:
    gate("shut")
    async with FlowRunner(storage, max_running=1, grace=0) as runner:
        handles = [await runner.start(Steps, {"gate": "shut"}) for _ in range(3)]  # two of them wait for their turn
        loaded = [await Steps.load(handle.run_id, persistence=storage) for handle in handles]
        gates["shut"].set()

        assert [flow.state.gate for flow in loaded] == ["shut"] * 3
        assert [await handle.result() for handle in handles] == [2, 2, 2]


async def test_an_id_may_come_in_the_inputs_but_not_another(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        assert (await runner.start(Steps, {"id": "a"})).run_id == "a"
        assert (await runner.start(Steps, {"id": "b"}, run_id="b")).run_id == "b"
        with pytest.raises(errors.RunInputsError, match="a and c"):
            await runner.start(Steps, {"id": "c"}, run_id="a")


async def test_a_caller_that_goes_away_changes_nothing(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"})
        with anyio.move_on_after(0.01) as scope:
            await handle.result()
        assert scope.cancelled_caught
        gates["g"].set()

        assert await handle.result() == 2


async def test_a_caller_that_is_cancelled_while_it_starts_changes_nothing(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await runner.start(Steps, run_id="x")
        await until(lambda: not runner.running)
        began = "x first" in ran

        assert await runner.run(Steps, run_id="x") == 2
        assert ran.count("x first") == 1 or not began


async def test_starting_is_idempotent(storage: Any) -> None:
    gate("g")
    results: list[int] = []

    async def ask() -> None:
        results.append(await runner.run(Steps, {"gate": "g"}, run_id="x"))

    async with FlowRunner(storage) as runner:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
            await until(lambda: ran)
            gates["g"].set()
        results.append(await runner.run(Steps, {"gate": "g"}, run_id="x"))

    assert results == [2] * 6
    assert ran == ["x first", "x second"]


async def test_an_interrupted_run_goes_on(storage: Any) -> None:
    gate("g")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(Steps(persistence=storage).kickoff, {"id": "x", "gate": "g"})
            await until(lambda: ran)
            scope.cancel()
    gates["g"].set()

    async with FlowRunner(storage, recover_every=None) as runner:
        assert await runner.run(Steps, run_id="x") == 2
    assert ran == ["x first", "x first", "x second"]


async def test_a_run_that_failed_gives_its_stored_failure(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with pytest.raises(errors.MethodError) as first:
            await runner.run(Steps, {"fails": True}, run_id="x")
        with pytest.raises(errors.MethodError, match="LookupError: told to") as again:
            await runner.run(Steps, run_id="x")

    assert isinstance(first.value.__cause__, LookupError)
    assert again.value.method == "second"
    assert ran == ["x first", "x second"]


async def test_a_run_that_has_ended_badly_is_attached_to_like_any_other(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, recover_every=None) as runner:
        failed = await runner.start(Steps, {"fails": True}, run_id="failed")
        cancelled = await runner.start(Steps, {"gate": "g"}, run_id="cancelled")
        await cancelled.cancel()
        with pytest.raises(errors.MethodError):
            await failed.result()
        before = len(ran)

        again = await runner.start(Steps, {"fails": True}, run_id="failed")
        assert (again.run_id, await again.status()) == ("failed", "failed")
        with pytest.raises(errors.MethodError, match="LookupError: told to"):
            await again.result()
        again = await runner.start(Steps, {"gate": "g"}, run_id="cancelled")
        assert (again.run_id, await again.status()) == ("cancelled", "cancelled")
        with pytest.raises(errors.RunCancelledError):
            await again.result()
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="failed")
        with pytest.raises(errors.RunFlowMismatchError):
            await runner.start(Other, run_id="failed")
        await until(lambda: not runner.running)

    assert len(ran) == before


async def test_other_inputs_for_a_known_id_are_refused(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        await runner.run(Steps, {"n": 1}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="x")

        assert await runner.run(Steps, {"n": 1}, run_id="x") == 3


async def test_what_is_wrong_with_a_call_is_told_by_start(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": "no number"})
        with pytest.raises(errors.InvalidRunIdError):
            await runner.start(Steps, run_id=" ")
        assert runner.running == 0


# ---- bounds ----------------------------------------------------------------------------------------------------------


async def test_no_more_run_at_once_than_are_allowed_and_in_order(storage: Any) -> None:
    at_once: list[int] = []
    running = 0
    gate("g")

    class Counted(Flow[Work]):
        @start()
        async def only(self) -> None:
            nonlocal running
            running += 1
            at_once.append(running)
            ran.append(self.run_id)
            await gates["g"].wait()
            await anyio.lowlevel.checkpoint()
            running -= 1

    async with FlowRunner(storage, max_running=3) as runner:
        handles = [await runner.start(Counted, run_id=f"{n:02}") for n in range(20)]
        gates["g"].set()
        for handle in handles:
            await handle.result()

    assert max(at_once) == 3
    assert all(abs(place - int(name)) < 3 for place, name in enumerate(ran))  # trio lets those begin in its own order


async def test_an_overloaded_runner_raises_or_waits(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1, max_waiting=1, overload="raise") as runner:
        handles = [await runner.start(Steps, {"gate": "g"}) for _ in range(2)]
        with pytest.raises(errors.RunnerOverloadedError, match="has 2 runs"):
            await runner.start(Steps)
        gates["g"].set()
        for handle in handles:
            await handle.result()
        assert await runner.run(Steps) == 2

    gate("g")
    async with FlowRunner(storage, max_running=1, max_waiting=0) as runner:
        first = await runner.start(Steps, {"gate": "g"})
        with anyio.move_on_after(0.02) as scope:
            await runner.start(Steps)
        gates["g"].set()

        assert scope.cancelled_caught
        assert await first.result() == await runner.run(Steps) == 2


async def test_a_flow_that_fails_ends_nothing_else(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        other = await runner.start(Steps, {"gate": "g"})
        for _ in range(3):
            with pytest.raises(errors.MethodError):
                await runner.run(Steps, {"fails": True})
        gates["g"].set()

        assert await other.result() == 2


# ---- its end ---------------------------------------------------------------------------------------------------------


async def test_it_waits_for_its_runs_when_it_ends(storage: Any) -> None:
    gate("g")

    async def open_later() -> None:
        await anyio.sleep(0.02)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage) as runner:
            handle = await runner.start(Steps, {"gate": "g"})
            group.start_soon(open_later)

    assert await handle.result() == 2


async def test_after_its_grace_runs_stop_at_their_next_checkpoint(storage: Any) -> None:
    gate("g")

    async def open_later() -> None:
        await anyio.sleep(0.05)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=0.001) as runner:
            handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
            await until(lambda: ran)
            group.start_soon(open_later)

    with pytest.raises(errors.RunInterruptedError):
        await handle.result()
    assert ran == ["x first"]
    assert (await Steps.load("x", persistence=storage)).pending == ("second:1",)
    assert await Steps.resume("x", persistence=storage) == 2
    assert ran == ["x first", "x second"]


async def test_a_runner_that_ends_reads_none_of_the_runs_that_it_stops() -> None:
    # nobody asks their instances where they stand; thousands of reads would keep the runner from leaving
    class Read(MemoryFlowPersistence):
        loads = 0

        async def load(self, run_id: str, seq: int | None = None) -> Any:
            self.loads += 1
            return await super().load(run_id, seq)

    storage = Read()
    gate("g")
    async with FlowRunner(storage, grace=0.001, patience=0.001) as runner:
        handles = [await runner.start(Steps, {"gate": "g"}) for _ in range(20)]
        await until(lambda: len(ran) == 20)
        before = storage.loads

    assert storage.loads == before
    assert {await handle.status() for handle in handles} == {"interrupted"}


async def test_a_run_that_is_being_stored_when_it_ends_starts_no_method() -> None:
    class Slow(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            await gates["store"].wait()
            await super().append(checkpoint)

    async def store_when_it_ends() -> None:
        await until(lambda: not runner.is_open)
        await anyio.wait_all_tasks_blocked()
        gates["store"].set()

    storage = Slow()
    gate("store")
    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=0) as runner:
            group.start_soon(partial(runner.start, Steps, run_id="x"))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(store_when_it_ends)

    assert ran == []
    assert await Steps.resume("x", persistence=storage) == 2


async def test_what_comes_to_no_checkpoint_is_cancelled_and_can_be_resumed(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, grace=0, patience=0.01, max_running=1) as runner:
        handles = [await runner.start(Steps, {"gate": "g"}, run_id=name) for name in "xy"]
        await until(lambda: ran)

    gates["g"].set()
    for handle in handles:
        with pytest.raises(errors.RunInterruptedError):
            await handle.result()
        assert await Steps.resume(handle.run_id, persistence=storage) == 2


@pytest.mark.found("T15")
def test_leaving_its_block_takes_less_than_the_ten_seconds_that_docker_waits() -> None:
    class Endless(Flow):
        @start()
        async def wait(self) -> None:
            await anyio.sleep_forever()

    async def leave() -> float:
        async with FlowRunner(MemoryFlowPersistence(), recover_every=None) as runner:
            handle = await runner.start(Endless)
            began = trio.current_time()
        with pytest.raises(errors.RunInterruptedError):
            await handle.result()
        return trio.current_time() - began

    assert 8 < trio.run(leave, clock=trio.testing.MockClock(autojump_threshold=0)) < 10


async def test_an_error_in_its_block_passes_through_and_its_runs_can_be_resumed(storage: Any) -> None:
    gate("g")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is about the block
        async with FlowRunner(storage) as runner:
            await runner.start(Steps, {"gate": "g"}, run_id="x")
            raise ZeroDivisionError

    gates["g"].set()
    assert await Steps.resume("x", persistence=storage) == 2


async def test_a_start_that_its_runner_s_end_cuts_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is given a run that may not even be stored."""
    monkeypatch.setattr("asyncflow.runner.runner.LEAVING", 0.1)

    class Stuck(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            gates["reached"].set()
            await anyio.sleep_forever()

    refused: list[str] = []

    async def ask() -> None:
        with pytest.raises(errors.RunInterruptedError):
            await runner.start(Steps)
        refused.append("refused")

    gate("reached")
    async with anyio.create_task_group() as group:
        async with FlowRunner(Stuck(), grace=0, patience=0) as runner:
            group.start_soon(ask)
            await gates["reached"].wait()

    assert refused == ["refused"]


async def test_outside_its_block_it_starts_nothing(storage: Any) -> None:
    runner = FlowRunner(storage)
    with pytest.raises(errors.RunnerClosedError):
        await runner.start(Steps)
    async with runner:
        assert await runner.run(Steps) == 2
        with pytest.raises(errors.RunnerClosedError):
            await runner.__aenter__()
    with pytest.raises(errors.RunnerClosedError):
        await runner.start(Steps)
    async with runner:
        assert await runner.run(Steps) == 2


# ---- taken up again --------------------------------------------------------------------------------------------------


class Other(Steps):
    pass


async def left_behind(storage: Any) -> None:
    """Runs of two flows, interrupted; one that has failed, and one that has finished."""
    gate("g")
    async with FlowRunner(storage, grace=0, patience=0) as runner:
        for name in "xy":
            await runner.start(Steps, {"gate": "g"}, run_id=name)
        await runner.start(Other, {"gate": "g"}, run_id="other")
        with contextlib.suppress(errors.MethodError):
            await runner.run(Steps, {"fails": True}, run_id="failed")
        await runner.run(Steps, run_id="finished")
        await until(lambda: "other first" in ran)
    ran.clear()
    gates["g"].set()


async def test_interrupted_runs_of_known_flows_are_taken_up(storage: Any) -> None:
    await left_behind(storage)

    async with FlowRunner(storage, flows=[Steps]) as runner:
        await until(lambda: len(ran) == 4 and not runner.running)

    assert sorted(ran) == ["x first", "x second", "y first", "y second"]
    assert (await Other.load("other", persistence=storage)).status == "interrupted"


async def test_interrupted_runs_are_looked_for_again_and_again(storage: Any) -> None:
    async with FlowRunner(storage, flows=[Steps], recover_every=0.01) as runner:
        await left_behind(storage)  # one may be taken up before what ran is forgotten
        await until(lambda: {"x second", "y second"} <= set(ran) and not runner.running)

        assert await runner.run(Steps, run_id="x") == 2


async def test_a_run_that_is_driven_is_left_alone(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, flows=[Steps], recover_every=0.005) as runner:
        async with FlowRunner(storage) as one:
            handle = await one.start(Steps, {"gate": "g"}, run_id="x")
            await anyio.sleep(0.05)
            assert await (await runner.get("x")).status() == "running", "whoever drives it"
            gates["g"].set()
            assert await handle.result() == 2

    assert ran == ["x first", "x second"]


class Slow(MemoryFlowPersistence):
    """A catalog that is out of date when it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.may_answer = anyio.Event(), anyio.Event()

    async def runs(self, **which: Any) -> Any:
        page = await super().runs(**which)
        self.asked.set()
        await self.may_answer.wait()
        return page


async def test_a_runner_that_ends_while_it_looks_for_runs_drains_all_the_same() -> None:
    storage = Slow()
    await left_behind(storage)
    gate("g")

    async def open_later() -> None:
        storage.may_answer.set()
        await anyio.sleep(0.01)
        gates["g"].set()

    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, flows=[Steps], recover_every=0) as runner:
            await storage.asked.wait()
            handle = await runner.start(Steps, {"gate": "g"})
            group.start_soon(open_later)

    assert await handle.result() == 2


async def test_a_run_that_was_started_while_it_was_to_be_taken_up_is_not_taken_up_too(storage: Any) -> None:
    await left_behind(storage)
    async with FlowRunner(storage, flows=[Steps], max_running=2, max_waiting=0, recover_every=None) as runner:
        for name in ("one", "two", "g"):
            gate(name)
        for name in ("one", "two"):
            await runner.start(Steps, {"gate": name})
        async with anyio.create_task_group() as group:
            for waits_for_a_place in (partial(runner.start, Steps, run_id="y"), runner.recover):
                group.start_soon(waits_for_a_place)
                await anyio.wait_all_tasks_blocked()
            for name in ("one", "two", "g"):
                gates[name].set()
                await anyio.wait_all_tasks_blocked()
        await until(lambda: not runner.running)

    assert sorted(line for line in ran if line[1] == " ") == ["x first", "x second", "y first", "y second"]


# ---- attached to -----------------------------------------------------------------------------------------------------


async def test_a_run_is_attached_to_by_its_id(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        here, there = await runner.get("x"), await other.get("x")
        assert await here.status() == "running"
        gates["g"].set()

        assert await here.result() == 2
        assert await there.result() == 2
        with pytest.raises(errors.RunNotFoundError):
            await runner.get("unknown")


async def test_a_start_of_what_somebody_else_drives_attaches(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        handle = await other.start(Steps, {"gate": "g"}, run_id="x")
        gates["g"].set()

        assert await handle.result() == 2
    assert ran == ["x first", "x second"]


# ---- cancelled -------------------------------------------------------------------------------------------------------


async def test_a_run_is_cancelled_for_good(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1) as runner:
        running, waiting = [await runner.start(Steps, {"gate": "g"}, run_id=name) for name in "xy"]
        await until(lambda: ran)
        for handle in (waiting, running):
            await handle.cancel()
            with pytest.raises(errors.RunCancelledError):
                await handle.result()
            assert await handle.status() == "cancelled"
            with pytest.raises(errors.RunCancelledError):
                await runner.run(Steps, run_id=handle.run_id)

        assert await runner.run(Steps) == 2
    assert [line for line in ran if line[0] in "xy"] == ["x first"]


@pytest.mark.clauses("C4")
async def test_a_cancel_elsewhere_ends_what_is_under_way_here() -> None:
    gate("never")
    stores = [STORES["sqlite"]() for _ in range(2)]
    async with FlowRunner(stores[0], recover_every=0.01) as runner, FlowRunner(stores[1], recover_every=None) as other:
        driven = await runner.start(Steps, {"gate": "never"}, run_id="x")
        seen = [type(event).__name__ async for event in taken_until_cancelled(driven, other)]

        with pytest.raises(errors.RunCancelledError):
            await driven.result()
        await until(lambda: not runner.running)
    assert ran == ["x first"]
    assert seen[-1] == "RunCancelled"


async def taken_until_cancelled(handle: RunHandle, other: FlowRunner) -> AsyncIterator[events.Event]:
    """The events of a run that is cancelled when the first has come, to the last."""
    with anyio.fail_after(120):
        async for event in handle.events():
            yield event
            await other.cancel(handle.run_id)


async def test_a_run_that_goes_on_here_is_not_taken_for_lost(storage: Any) -> None:
    class Many(Flow[Work]):
        @start()
        async def only(self) -> int:
            await anyio.sleep(0.002)
            return 1

    async with FlowRunner(storage, recover_every=0.001) as runner:
        handles = [await runner.start(Many) for _ in range(100)]
        assert [await handle.result() for handle in handles] == [1] * 100


async def test_a_full_runner_still_tells_what_has_ended(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1, max_waiting=0, overload="raise", recover_every=None) as runner:
        assert await runner.run(Steps, {"n": 1}, run_id="finished") == 3
        with pytest.raises(errors.MethodError):
            await runner.run(Steps, {"fails": True}, run_id="failed")
        await until(lambda: not runner.running)
        await runner.start(Steps, {"gate": "g"}, run_id="x")

        assert runner.is_full
        assert await runner.run(Steps, {"n": 1}, run_id="finished") == 3
        with pytest.raises(errors.MethodError):
            await runner.run(Steps, run_id="failed")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="finished")
        with pytest.raises(errors.RunnerOverloadedError):
            await runner.start(Steps, run_id="new")
        assert (await runner.start(Steps, {"gate": "g"}, run_id="x")).run_id == "x"
        gates["g"].set()


@pytest.mark.clauses("C4")
async def test_a_run_is_cancelled_whoever_drives_it() -> None:
    gate("g")
    here = SQLiteFlowPersistence("runs.db", durability="process")
    async with FlowRunner(here) as runner, FlowRunner(SQLiteFlowPersistence("runs.db")) as other:
        driven = await runner.start(Steps, {"gate": "g"}, run_id="x")
        await other.cancel("x")
        gates["g"].set()

        with pytest.raises(errors.RunCancelledError):
            await driven.result()
        assert await (await other.get("x")).status() == "cancelled"
    assert ran == ["x first"]


@pytest.mark.clauses("L1")
async def test_of_a_run_that_another_has_taken_over_the_result_is_what_that_one_comes_to() -> None:
    gate("g")
    here, there = (SQLiteFlowPersistence("runs.db", durability="process") for _ in range(2))
    async with FlowRunner(here, recover_every=None) as runner, there:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        await until(lambda: ran)
        await there.release("x", await there.acquire("x", force=True))
        gates["g"].set()
        await until(lambda: not runner.running)
        async with FlowRunner(there, flows=[Steps], recover_every=0.01):
            with anyio.fail_after(120):
                assert await handle.result() == 2

    assert ran == ["x first", "x first", "x second"]


async def test_what_has_ended_or_is_unknown_cannot_be_cancelled(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        await handle.cancel()

        assert await handle.status() == "finished"
        with pytest.raises(errors.RunNotFoundError):
            await runner.cancel("unknown")


async def test_a_run_that_is_cancelled_as_it_begins_is_cancelled_or_finishes(storage: Any) -> None:
    """What somebody knows the result of stays finished."""

    class At(Flow):
        @start()
        async def once(self) -> int:
            return 1

    async def cancel() -> None:
        while await storage.load("x") is None:
            await anyio.lowlevel.checkpoint()
        await runner.cancel("x")

    async with FlowRunner(storage) as runner:
        async with anyio.create_task_group() as group:
            group.start_soon(cancel)
            handle = await runner.start(At, run_id="x")
            try:
                came_to = {1: "finished"}[await handle.result()]
            except errors.RunCancelledError:
                came_to = "cancelled"

        assert await handle.status() == came_to


# ---- events ----------------------------------------------------------------------------------------------------------


def told(event: events.Event) -> str:
    name = type(event).__name__
    return f"{name} {event.invocation}" if isinstance(event, events.MethodFinished | events.MethodFailed) else name


ALL = ["RunStarted", "MethodFinished first:1", "MethodFinished second:1", "RunFinished"]


async def test_events_are_told_as_they_come_and_until_the_end(storage: Any) -> None:
    gate("g")
    seen: list[str] = []
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        with anyio.fail_after(120):
            async for event in handle.events():
                seen.append(told(event))
                if seen == ALL[:1]:
                    gates["g"].set()

        assert seen == ALL
        assert [told(event) async for event in (await runner.get("x")).events()] == ALL


async def test_events_go_on_after_one(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        all_events = [event async for event in handle.events()]
        for n, last in enumerate(all_events):
            rest = [event async for event in handle.events(after=(last.seq, last.n))]
            assert rest == all_events[n + 1 :]


async def test_events_of_a_run_that_fails_end(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"fails": True})
        with anyio.fail_after(120):
            seen = [told(event) async for event in handle.events()]

    assert seen == [*ALL[:2], "MethodFailed second:1", "RunEnded"]


async def test_events_of_a_run_elsewhere_are_told(storage: Any) -> None:
    gate("g")
    seen: list[str] = []
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with anyio.fail_after(120):
            async for event in (await other.get("x")).events():
                seen.append(told(event))
                gates["g"].set()

    assert seen == ALL


# ---- what is the same call, and what is not --------------------------------------------------------------------------


async def test_a_run_that_was_taken_up_is_attached_to_with_its_own_inputs(storage: Any) -> None:
    await left_behind(storage)
    gate("g")  # shut again
    async with FlowRunner(storage, flows=[Steps]) as runner:
        await until(lambda: len(ran) == 2)
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"gate": "g", "n": 1}, run_id="x")
        gates["g"].set()

        assert await handle.result() == 2


async def test_other_inputs_for_what_somebody_else_drives_are_refused(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await other.start(Steps, {"gate": "g", "n": 1}, run_id="x")
        gates["g"].set()


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_a_run_of_another_flow_is_not_attached_to(storage: Any, where: str) -> None:
    gate("g")
    async with FlowRunner(storage) as runner, FlowRunner(storage) as other:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunFlowMismatchError):
            await (runner if where == "here" else other).start(Other, {"gate": "g"}, run_id="x")
        gates["g"].set()


async def test_what_two_runners_start_at_once_is_stored_for_both(storage: Any) -> None:
    seen: list[str] = []

    async def ask(runner: FlowRunner) -> None:
        seen.append((await (await runner.start(Steps, {"n": 1}, run_id="x")).look()).flow)

    async with FlowRunner(storage) as one, FlowRunner(storage) as other, anyio.create_task_group() as group:
        group.start_soon(ask, one)
        group.start_soon(ask, other)

    assert seen == ["Steps", "Steps"]
    assert ran == ["x first", "x second"]


# ---- looked at -------------------------------------------------------------------------------------------------------


async def test_a_run_is_looked_at(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"}, run_id="x")
        begun = await handle.look()
        gates["g"].set()
        await handle.result()
        ended = await (await runner.get("x")).look()

    assert (begun.status, begun.seq, begun.number, begun.inputs) == ("running", 0, 1, {"gate": "g"})
    assert (ended.status, ended.seq, ended.result, ended.error) == ("finished", 2, 2, None)
    assert ended.state == Work(id="x", n=2, gate="g")


async def test_a_failed_run_tells_what_it_failed_with(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"fails": True})
        with contextlib.suppress(errors.MethodError):
            await handle.result()
        view = await handle.look()

    assert view.status == "failed"
    assert view.error == RunFailure(
        method="second", type="builtins.LookupError", message="told to", invocation_id=f"{handle.run_id}/1/second:1"
    )
    assert view.error.traceback.startswith("Traceback")


async def test_a_run_of_an_unknown_flow_is_looked_at_as_json(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        await runner.run(Steps, {"n": 1}, run_id="x")
    async with FlowRunner(storage) as runner:
        view = await (await runner.get("x")).look()

    assert (view.flow, view.state["n"], view.result) == ("Steps", 3, 3)


async def test_events_after_one_that_there_never_was_end_with_the_run(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps)
        await handle.result()
        with anyio.fail_after(120):
            assert [event async for event in handle.events(after=(99, 0))] == []


def test_an_added_flow_is_known() -> None:
    class Routed(Flow[Work]):
        """Goes one of two ways."""

        initial_state = {"n": 1}  # noqa: RUF012 - as users write it

        @start()
        @router()
        def way(self) -> Literal["a", "b"]:
            return "a"

        @listen("a")
        def one(self) -> int:
            return 1

        @listen("b")
        def other(self) -> str:
            return ""

    known = FlowRunner(MemoryFlowPersistence()).add(Routed)

    assert (known.name, known.description, known.state) == ("Routed", "Goes one of two ways.", Work)
    assert (known.preset, known.results) == ({"n"}, (int, str))


# ---- a flow that names a storage of its own ------------------------------------------------------------------------


def marked(storage: Any) -> Any:
    @persist(storage)
    class Marked(Flow):
        @start()
        async def run(self) -> str:
            return "ran"

    return Marked


def attributed(storage: Any) -> Any:
    class Attributed(Flow):
        persistence = storage

        @start()
        async def run(self) -> str:
            return "ran"

    return Attributed


def made(storage: Any) -> Any:
    cls = attributed(None)
    return lambda: cls(persistence=storage)


@pytest.mark.found("T11")
@pytest.mark.parametrize("how", [marked, attributed, made], ids=lambda how: how.__name__)
@pytest.mark.parametrize("known", ["flows=", "start"])
async def test_a_runner_that_stores_elsewhere_than_a_flow_says_so_once(
    how: Any, known: str, caplog: pytest.LogCaptureFixture
) -> None:
    flow = how(SQLiteFlowPersistence("its_own.db"))
    async with FlowRunner(MemoryFlowPersistence(), flows=[flow] if known == "flows=" else []) as runner:
        for _ in range(3):
            assert await runner.run(flow) == "ran"

    (record,) = [r for r in caplog.records if r.name == "asyncflow"]
    assert record.levelname == "WARNING"
    assert "its_own.db" in record.getMessage()
    assert "MemoryFlowPersistence" in record.getMessage()


@pytest.mark.found("T11")
async def test_a_runner_that_stores_where_a_flow_does_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    memory = MemoryFlowPersistence()
    for flow, storage in (
        (marked(memory), memory),
        (attributed(SQLiteFlowPersistence("same.db")), SQLiteFlowPersistence("same.db")),  # another object of one file
        (attributed(None), memory),
        (persist(attributed(None)), memory),  # the default: it names none
    ):
        async with FlowRunner(storage) as runner:
            assert await runner.run(flow) == "ran"

    assert [r for r in caplog.records if r.name == "asyncflow"] == []
