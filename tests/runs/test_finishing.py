"""A run is asked to finish from outside: on a handle, by its id, here or elsewhere."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from moments import interrupted_once, stored, until

from asyncflow import (
    Flow,
    FlowRunner,
    MethodError,
    Signal,
    after,
    and_,
    continue_as,
    errors,
    listen,
    sleep,
    start,
)
from asyncflow._runs import ownership
from asyncflow.persistence import SQLiteFlowPersistence


class Waiting(Flow[dict]):
    """Waits for days, and declares no signals."""

    name = "Waiting"

    @start()
    async def begin(self) -> str:
        self.state["begun"] = True
        return "begun"

    @listen(after(begin, 86_400))
    async def never(self) -> None:
        raise AssertionError("the run was asked to finish")


class Asking(Flow[dict]):
    """Waits for signals."""

    name = "Asking"
    asked = Signal("asked", str)

    @start()
    async def begin(self) -> str:
        return "begun"

    @listen(and_(begin, asked))
    async def answer(self, asked: str) -> str:
        self.state["asked"] = [*self.state.get("asked", ()), asked]
        continue_as()
        return asked


@pytest.mark.clauses("W13")
async def test_a_handle_ends_a_run_that_only_waits(log: Any) -> None:
    async with FlowRunner(log) as runner:
        handle = await runner.start(Waiting)
        await until(stored(log, handle.run_id, 1))
        await handle.finish()
        with anyio.fail_after(60):
            assert await handle.result() == "begun"
        await handle.finish()

        assert (await handle.snapshot()).status == "finished"


@pytest.mark.clauses("W13")
async def test_what_runs_finishes_first_and_nothing_follows(log: Any) -> None:
    goes_on = anyio.Event()

    class Slow(Flow[dict]):
        @start()
        async def slow(self) -> str:
            await goes_on.wait()
            self.state["slow"] = True
            return "slow"

        @start()
        async def sleeper(self) -> None:
            await sleep(86_400)

        @listen(slow)
        async def never(self) -> None:
            raise AssertionError("the run was asked to finish")

    async with FlowRunner(log) as runner:
        handle = await runner.start(Slow)
        await until(stored(log, handle.run_id, 1))
        await handle.finish()
        assert (await handle.status()) == "running"
        before = [checkpoint.kind for checkpoint in await log.history(handle.run_id)]
        goes_on.set()

        with anyio.fail_after(60):
            assert await handle.result() == "slow"
        assert "ending" in before  # the sleeper may be dropped after it, in a checkpoint of its own
        assert (await handle.snapshot()).state["slow"]


@pytest.mark.clauses("W13")
async def test_a_run_that_was_asked_ends_also_after_a_crash(log: Any) -> None:
    class Slow(Flow[dict]):
        name = "Slow"
        is_blocked = True

        @start()
        async def slow(self) -> str:
            if Slow.is_blocked:
                await anyio.sleep_forever()
            return "slow"

        @listen(slow)
        async def never(self) -> None:
            raise AssertionError("the run was asked to finish")

    async with FlowRunner(log, grace=0, patience=0.1) as runner:
        handle = await runner.start(Slow)
        await until(stored(log, handle.run_id, 0))
        await handle.finish()
    Slow.is_blocked = False

    assert await Slow.resume(handle.run_id, persistence=log) == "slow"


@pytest.mark.clauses("W13")
async def test_a_run_that_nothing_drives_ends_in_its_storage(store: Any) -> None:
    flow = Waiting(persistence=store)
    await interrupted_once(flow.kickoff, stored(store, flow.run_id, 1))

    await Waiting.finish_run(flow.run_id, persistence=store)
    await Waiting.finish_run(flow.run_id, persistence=store)
    loaded = await Waiting.load(flow.run_id, persistence=store)

    assert (loaded.status, loaded.pending, loaded.result) == ("finished", (), "begun")
    assert loaded.state["begun"]
    assert await Waiting.resume(flow.run_id, persistence=store) == "begun"


@pytest.mark.clauses("W13")
async def test_a_run_with_signals_is_asked_by_one(log: Any) -> None:
    flow = Asking(persistence=log)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await until(stored(log, flow.run_id, 1))
            await Asking.signal(flow.run_id, Asking.asked, "what", persistence=log)
            await until(stored(log, flow.run_id, 4))
            await Asking.finish_run(flow.run_id, persistence=log)

    assert flow.status == "finished"
    assert flow.state["asked"] == ["what"]
    # While the run is parked, its end is stored by the call; otherwise its driver takes the request first.
    assert [entry.kind for entry in await flow.history()][-1] == "finished"
    await Asking.finish_run(flow.run_id, persistence=log)


@pytest.mark.clauses("W13")
async def test_a_run_without_signals_that_is_driven_elsewhere_cannot_be_asked(log: Any) -> None:
    class Working(Flow[dict]):
        name = "Working"

        @start()
        async def work(self) -> None:
            await anyio.sleep_forever()

    flow = Working(persistence=log)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await until(stored(log, flow.run_id, 0))
        with pytest.raises(errors.RunLockedError, match="declares no signals"):
            await Working.finish_run(flow.run_id, persistence=log)
        group.cancel_scope.cancel()


@pytest.mark.clauses("W13", "W11")
async def test_a_parked_run_finishes_and_so_does_the_call_that_waits_for_it(log: Any) -> None:
    flow = Waiting(persistence=log)
    results: list[Any] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:

            async def drive() -> None:
                results.append(await flow.kickoff())

            group.start_soon(drive)
            while not await log.runs(status="waiting"):  # noqa: ASYNC110 - no event reports what is stored
                await anyio.sleep(0.002)
            await Waiting.finish_run(flow.run_id, persistence=log)

    assert results == ["begun"]
    assert (await Waiting.load(flow.run_id, persistence=log)).status == "finished"


@pytest.mark.clauses("W13")
async def test_another_process_asks_a_run_to_finish(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = SQLiteFlowPersistence("runs.db"), SQLiteFlowPersistence("runs.db")
    flow = Asking(persistence=one)
    with anyio.fail_after(60):
        async with one, other, anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await until(stored(one, flow.run_id, 1))
            await Asking.finish_run(flow.run_id, persistence=other)

    assert flow.status == "finished"
    assert not ownership.is_driven_here(one, flow.run_id)
    assert await one.verify() == []


@pytest.mark.clauses("W13", "V4")
async def test_a_run_that_was_asked_by_a_signal_verifies_before_and_after_its_end() -> None:
    class Busy(Flow[dict]):
        name = "Busy"
        asked = Signal("asked", str)
        may_end = anyio.Event()

        @start()
        async def work(self) -> str:
            await Busy.may_end.wait()
            return "worked"

        @listen(and_(work, asked))
        async def never(self) -> None:
            raise AssertionError("the run was asked to finish")

    storage = SQLiteFlowPersistence("runs.db")
    flow = Busy(persistence=storage)
    with anyio.fail_after(60):
        async with storage, anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await until(stored(storage, flow.run_id, 0))
            await Busy.finish_run(flow.run_id, persistence=storage)
            await until(stored(storage, flow.run_id, 1))
            assert await storage.verify() == []
            Busy.may_end.set()

    assert [entry.kind for entry in await flow.history()] == ["started", "ending", "method", "finished"]
    assert await storage.verify() == []


@pytest.mark.clauses("W13")
async def test_failed_cancelled_and_unknown_runs_are_refused(store: Any) -> None:
    class Failing(Flow[dict]):
        name = "Failing"

        @start()
        async def begin(self) -> None:
            raise ValueError("no")

    flow = Failing(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError, match="resume"):
        await Failing.finish_run(flow.run_id, persistence=store)
    await flow.cancel()
    with pytest.raises(errors.RunCancelledError):
        await Failing.finish_run(flow.run_id, persistence=store)
    with pytest.raises(errors.RunNotFoundError):
        await Failing.finish_run("unknown", persistence=store)
    with pytest.raises(errors.CapabilityMissingError):
        await Failing.finish_run(flow.run_id)


@pytest.mark.clauses("W13")
async def test_a_run_that_continues_is_asked_in_its_next_pass(log: Any) -> None:
    class Endless(Flow[dict]):
        @start()
        async def turn(self) -> int:
            self.state["turns"] = self.state.get("turns", 0) + 1
            continue_as()
            return self.state["turns"]

    async with FlowRunner(log) as runner:
        handle = await runner.start(Endless)
        await until(stored(log, handle.run_id, 5))
        await handle.finish()
        with anyio.fail_after(60):
            turns = await handle.result()

    assert turns is None or turns >= 5
