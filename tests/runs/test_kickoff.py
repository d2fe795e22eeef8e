"""`kickoff` with an id: by the status of the run of that id, it continues it, begins a pass or a run, or is refused."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from flows import ALL, OUTPUT, UNFINISHED, Steps, run_that_is, running
from small import Slow

from asyncflow import SQLiteFlowPersistence, errors
from asyncflow._runs import instance as driving
from asyncflow.persistence._database.ownership_rules import Liveness


@pytest.mark.clauses("E2", "X3")
@UNFINISHED
async def test_kickoff_with_the_id_of_an_unfinished_run_continues_it(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = Steps(persistence=store)
    output = await flow.kickoff({"id": run_id})

    assert output == OUTPUT
    assert flow.ran == ["second", "third"]
    assert flow.state.done == ALL
    assert (flow.run_id, flow.status) == (run_id, "finished")


async def test_kickoff_with_the_id_of_a_finished_run_is_a_new_pass_over_its_state(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = Steps(persistence=store)
    output = await flow.kickoff({"id": run_id, "size": 100})

    assert output == OUTPUT
    assert flow.ran == ALL
    assert flow.state.done == ALL + ALL
    assert flow.state.size == 103
    assert flow.run_id == run_id


@pytest.mark.clauses("C4")
async def test_kickoff_with_the_id_of_a_cancelled_run_is_refused(store: Any) -> None:
    run_id = await run_that_is("cancelled", store)
    flow = Steps(persistence=store)
    with pytest.raises(errors.RunCancelledError):
        await flow.kickoff({"id": run_id})

    assert flow.ran == []


async def test_kickoff_with_an_unknown_id_is_a_new_run_under_it(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "order-7"})
    loaded = await Steps.load("order-7", persistence=store)

    assert flow.run_id == flow.state.id == "order-7"
    assert loaded.state == flow.state


@pytest.mark.clauses("L2")
async def test_kickoff_of_a_run_that_is_running_elsewhere_is_refused(store: Any) -> None:
    elsewhere, here = Steps("hang", persistence=store), Steps(persistence=store)
    async with running(elsewhere):
        with pytest.raises(errors.RunLockedError) as caught:
            await here.kickoff({"id": elsewhere.run_id})

    assert caught.value.run_id == elsewhere.run_id
    assert here.ran == []


@pytest.mark.clauses("L4")
async def test_of_two_creators_of_one_id_exactly_one_wins(store: Any) -> None:
    flows = [Steps("hang", persistence=store) for _ in range(5)]
    lost: list[Steps] = []

    async def kickoff(flow: Steps) -> None:
        try:
            await flow.kickoff({"id": "the-one"})
        except errors.RunLockedError:
            lost.append(flow)

    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for flow in flows:
                group.start_soon(kickoff, flow)
            while len(lost) < 4 or not any(flow.hanging.is_set() for flow in flows):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    assert len(lost) == 4
    assert [flow.ran for flow in lost] == [[]] * 4


@pytest.mark.clauses("L2", "L4")
@pytest.mark.parametrize("call", ["kickoff", "resume"])
async def test_a_run_that_was_created_between_acquiring_and_loading_is_not_driven_twice(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    load, came = driving.load_owned, []

    async def late(setup: Any, run_id: str, claim: Any, **how: Any) -> Any:
        if not came:  # another process, which this one's registry knows nothing of, makes the run at this moment
            came.append(run_id)
            monkeypatch.setattr("asyncflow._runs.ownership._DRIVEN", {})
            group.start_soon(first.kickoff, {"id": "x"})
            await first.inside.wait()
            monkeypatch.setattr(
                "asyncflow.persistence.sqlite.owners.Owner.liveness", lambda owner, other: Liveness.ALIVE
            )
        return await load(setup, run_id, claim, **how)

    monkeypatch.setattr(driving, "load_owned", late)
    async with anyio.create_task_group() as group:
        second = Slow(persistence=SQLiteFlowPersistence("./runs.db"))
        tried = (
            second.kickoff({"id": "x"})
            if call == "kickoff"
            else Slow.resume("x", persistence=SQLiteFlowPersistence("./runs.db"))
        )
        with anyio.fail_after(120), pytest.raises(errors.RunLockedError):
            await tried
        first.go_on.set()

    assert first.status == "finished"
    assert not second.inside.is_set()
