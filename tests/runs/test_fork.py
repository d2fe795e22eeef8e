"""`fork`: a copy of a stored run under a new id, from any of its checkpoints."""

from typing import Any

import pytest
from flows import ALL, OUTPUT, Steps, run_that_is, running
from small import Counting

from asyncflow import MemoryFlowPersistence


@pytest.mark.parametrize("standing", ["interrupted", "failed", "cancelled"])
async def test_a_fork_is_stored_under_a_new_id_and_resumes_from_there(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    fork = await Steps.fork(run_id, persistence=store)
    stored = await Steps.load(fork.run_id, persistence=store)
    ran_before = list(fork.ran)
    output = await fork.kickoff()
    source = await Steps.load(run_id, persistence=store)

    assert fork.run_id != run_id
    assert (stored.status, stored.state.done, stored.pending) == ("interrupted", ["first"], ("second:1",))
    assert stored.state.id == fork.run_id
    assert ran_before == []
    assert output == OUTPUT
    assert fork.ran == ["second", "third"]
    assert (source.status, source.state.done) == (standing, ["first"])


async def test_a_fork_at_an_older_seq_resumes_from_there(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    fork = await Steps.fork(run_id, seq=1, persistence=store)
    output = await fork.kickoff()

    assert output == OUTPUT
    assert fork.ran == ["second", "third"]
    assert fork.state.done == ALL


async def test_a_fork_of_a_finished_run_is_finished_and_its_kickoff_a_new_pass(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    fork = await Steps.fork(run_id, persistence=store)
    standing = fork.status, fork.result
    await fork.kickoff()

    assert standing == ("finished", OUTPUT)
    assert fork.ran == ALL
    assert fork.state.done == ALL + ALL
    assert (await Steps.load(run_id, persistence=store)).state.done == ALL


async def test_a_run_that_is_running_elsewhere_can_be_forked(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        fork = await Steps.fork(elsewhere.run_id, persistence=store)
        await fork.kickoff()

    assert fork.ran == ["second", "third"]
    assert elsewhere.state.done == ["first"]


async def test_a_fork_can_be_resumed_by_its_id(store: Any) -> None:
    run_id = await run_that_is("interrupted", store)
    fork = await Steps.fork(run_id, persistence=store)

    assert await Steps.resume(fork.run_id, persistence=store) == OUTPUT


async def test_a_fork_of_a_cancelled_run_with_nothing_left_is_finished() -> None:
    store = MemoryFlowPersistence()
    flow = Counting(persistence=store)
    await flow.kickoff()
    await flow.cancel()
    copy = await Counting.fork(flow.run_id, persistence=store)

    assert copy.status == "finished"
    assert await copy.kickoff() == 2
