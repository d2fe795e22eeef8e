"""Many runs, as a script and a service have them: started again, failing unseen, stored in one place, and left in time."""

import logging
from typing import Any

import anyio
import pytest
from owned import Steps, gate, gates, ran, until

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, MethodError, errors, start

# ---- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.found("T16")
@pytest.mark.clauses("E2")
async def test_a_script_that_is_started_again_repeats_nothing(storage: Any) -> None:
    results = []
    for _ in range(2):  # the second time everything has finished
        for n in range(3):
            results.append(await Steps(persistence=storage).kickoff({"id": f"item {n}", "n": n}, once=True))

    assert results == [2, 3, 4] * 2
    assert len(ran) == 6


@pytest.mark.found("T16")
async def test_once_resumes_a_run_that_was_interrupted_or_failed(storage: Any) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Steps(persistence=storage).kickoff({"id": "interrupted"}, once=True)
    assert await Steps(persistence=storage).kickoff({"id": "interrupted"}, once=True) == 2

    with pytest.raises(MethodError):
        await Steps(persistence=storage).kickoff({"id": "failed", "fails": True}, once=True)
    with pytest.raises(MethodError):
        await Steps(persistence=storage).kickoff({"id": "failed", "fails": True}, once=True)
    assert ran.count("failed first") == 1
    assert ran.count("failed second") == 2


@pytest.mark.found("T16")
async def test_once_refuses_other_inputs_than_a_finished_run_began_with(storage: Any) -> None:
    await Steps(persistence=storage).kickoff({"id": "x", "n": 1}, once=True)

    with pytest.raises(errors.RunInputsError):
        await Steps(persistence=storage).kickoff({"id": "x", "n": 2}, once=True)
    assert await Steps(persistence=storage).kickoff({"id": "x"}, once=True) == 3


@pytest.mark.found("T16")
async def test_once_without_a_storage_is_once_for_the_instance() -> None:
    flow = Steps()
    assert [await flow.kickoff(once=True) for _ in range(2)] == [2, 2]
    assert len(ran) == 2


# ---- failures that no caller awaits ----------------------------------------------------------------------------------


@pytest.mark.found("T3")
@pytest.mark.parametrize("is_awaited", [True, False])
async def test_a_failure_is_logged_with_its_traceback_unless_a_caller_awaits_it(
    storage: Any, caplog: pytest.LogCaptureFixture, is_awaited: bool
) -> None:
    opened = gate("g")
    async with FlowRunner(storage, recover_every=None) as runner, anyio.create_task_group() as group:
        handle = await runner.start(Steps, {"fails": True, "gate": "g"})

        async def awaits() -> None:
            with pytest.raises(MethodError):
                await handle.result()

        if is_awaited:
            group.start_soon(awaits)
        await until(lambda: ran)
        opened.set()
        await until(lambda: not runner.running)

    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == (0 if is_awaited else 1)
    if told:
        assert handle.run_id in told[0].getMessage()
        assert told[0].exc_info is not None
        assert isinstance(told[0].exc_info[1], MethodError)
        assert "LookupError" in caplog.text


@pytest.mark.found("T3")
async def test_a_failure_that_is_stored_is_not_logged_again_by_who_looks_at_it(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gate("g").set()
    async with FlowRunner(storage, recover_every=None) as runner:
        with pytest.raises(MethodError):
            await (await runner.start(Steps, {"fails": True, "gate": "g"}, run_id="x")).result()
        caplog.clear()
        for _ in range(2):
            await runner.start(Steps, {"fails": True, "gate": "g"}, run_id="x")
            await until(lambda: not runner.running)

    assert [record for record in caplog.records if record.levelno == logging.ERROR] == []


# ---- one word each ---------------------------------------------------------------------------------------------------


@pytest.mark.found("T10")
async def test_every_backend_refuses_an_unknown_status_and_a_negative_limit(storage: Any) -> None:
    with pytest.raises(ValueError, match="status must be one of"):
        await storage.runs(status="runing")
    with pytest.raises(ValueError, match="limit must be a number of runs"):
        await storage.runs(limit=-1)
    assert await storage.runs(limit=0) == []


@pytest.mark.found("T10")
async def test_a_run_is_running_while_a_process_drives_it_and_interrupted_while_none_does(storage: Any) -> None:
    opened = gate("g")
    async with FlowRunner(storage, recover_every=None, grace=0, patience=0) as runner:
        left = await runner.start(Steps, {"gate": "g"})
        await until(lambda: ran)
    async with FlowRunner(storage, recover_every=None) as runner:
        driven = await runner.start(Steps, {"gate": "g"})
        await until(lambda: len(ran) > 1)

        for run_id, status in ((left.run_id, "interrupted"), (driven.run_id, "running")):
            assert (await Steps.load(run_id, persistence=storage)).status == status
            assert await (await runner.get(run_id)).status() == status
        assert [entry.run_id for entry in await storage.runs(status="interrupted")] == [left.run_id]
        assert [entry.run_id for entry in await storage.runs(status="running")] == [driven.run_id]
        words = {entry.run_id: entry.status for entry in await storage.runs(status="unfinished")}
        assert words == {left.run_id: "interrupted", driven.run_id: "running"}
        opened.set()
        await driven.result()

    assert (await Steps.load(driven.run_id, persistence=storage)).status == "finished"


# ---- parents that wait for queued runs -------------------------------------------------------------------------------


class Child(Flow[dict[str, int]]):
    @start()
    async def work(self) -> int:
        return 1


class Parent(Flow[dict[str, int]]):
    @start()
    async def work(self) -> Any:
        await gates["all are at work"].wait()
        return await runners[0].run(Child)


runners: list[FlowRunner] = []


@pytest.mark.found("T7")
@pytest.mark.parametrize("parents", [1, 2])
async def test_it_is_logged_once_when_every_running_run_awaits_a_queued_one(
    storage: Any, caplog: pytest.LogCaptureFixture, parents: int
) -> None:
    async with FlowRunner(storage, max_running=2, recover_every=None, grace=0, patience=0) as runner:
        runners[:] = [runner]
        opened = gate("all are at work")
        handles = [await runner.start(Parent) for _ in range(parents)]
        opened.set()
        if parents == 1:
            assert await handles[0].result() == 1
        else:
            await until(lambda: [record for record in caplog.records if record.name == "asyncflow"])
            assert runner.running == 4

    told = [record.getMessage() for record in caplog.records if "max_running" in record.getMessage()]
    assert len(told) == (parents == 2), told


# ---- another event loop ----------------------------------------------------------------------------------------------


@pytest.mark.found("B4")
async def test_a_runner_that_is_called_on_another_event_loop_refuses_at_once_and_keeps_running() -> None:
    gate("g").set()
    async with FlowRunner(
        MemoryFlowPersistence(), flows=[Steps], recover_every=None, grace=0.5, patience=0.5
    ) as runner:

        def calls() -> None:
            for call in (
                lambda: runner.start(Steps, {"gate": "g"}),
                lambda: runner.run(Steps, {"gate": "g"}),
                lambda: runner.resume("x"),
                lambda: runner.cancel("x"),
                runner.recover,
            ):
                with pytest.raises(errors.RunnerClosedError, match="on another event loop"):
                    anyio.run(call)

        await anyio.to_thread.run_sync(calls)
        assert not runner.running
        assert await runner.run(Steps, {"gate": "g"}) is not None
