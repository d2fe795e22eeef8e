"""`restore_from_state_id`: a new run from the start, over the state that another run saved."""

from typing import Any

import pytest
from flows import ALL, ANY, Steps, run_that_is
from small import Counting

from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, errors, start


@ANY
async def test_restoring_is_a_new_run_from_the_start_over_the_saved_state(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    saved = (await Steps.load(run_id, persistence=store)).state
    flow = Steps(persistence=store)
    await flow.kickoff({"size": 50}, restore_from_state_id=run_id)
    source = await Steps.load(run_id, persistence=store)

    assert flow.run_id != run_id
    assert flow.ran == ALL
    assert flow.state.done == saved.done + ALL
    assert flow.state.size == 53
    assert (source.state, source.status) == (saved, standing)


async def test_restoring_into_an_id_of_ones_own(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = Steps(persistence=store)
    await flow.kickoff({"id": "copy"}, restore_from_state_id=run_id)

    assert flow.run_id == "copy"
    assert (await Steps.load("copy", persistence=store)).state.done == ALL + ALL


async def test_a_run_that_is_stored_does_not_begin_with_the_state_of_another() -> None:
    class Count(Flow[dict]):
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def count(self) -> None:
            self.state["n"] = self.state.get("n", 0) + 1

    for run_id in ("a", "b"):
        await Count().kickoff({"id": run_id})
    with pytest.raises(errors.RunInputsError):
        await Count().kickoff({"id": "a"}, restore_from_state_id="b")


async def test_a_refused_restore_changes_nothing() -> None:
    store = MemoryFlowPersistence()
    await Counting(persistence=store).kickoff({"id": "a", "secret": "of a"})
    flow = Counting(persistence=store)
    await flow.kickoff({"id": "b"})
    with pytest.raises(errors.RunInputsError):
        await flow.kickoff({"id": "b"}, restore_from_state_id="a")

    assert flow.state == {"id": "b", "n": 1}


async def test_restoring_on_a_used_instance_is_a_new_run() -> None:
    store = MemoryFlowPersistence()
    flow = Counting(persistence=store)
    await flow.kickoff({"id": "a"})

    assert await flow.kickoff(restore_from_state_id="a") == 2
    assert flow.run_id != "a"
    assert (await Counting.load("a", persistence=store)).state["n"] == 1
