"""`update_state`: an edit of a stored state is a checkpoint of its own."""

from typing import Any

import pytest
from flows import OUTPUT, UNFINISHED, Steps, run_that_is, running

from asyncflow import Flow, MemoryFlowPersistence, MethodError, errors, start


@UNFINISHED
async def test_an_edit_is_seen_by_what_runs_afterwards(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, persistence=store)
    await flow.update_state({"done": ["edited"]}, size=40)
    await flow.kickoff()

    assert flow.ran == ["second", "third"]
    assert (flow.state.done, flow.state.size) == (["edited", "second", "third"], 42)


async def test_an_edit_is_a_checkpoint_of_its_own(log: Any) -> None:
    run_id = await run_that_is("interrupted", log)
    flow = await Steps.load(run_id, persistence=log)
    await flow.update_state(size=40)
    edit = (await flow.history())[-1]

    assert (edit.kind, edit.changed, edit.method, edit.seq) == ("edited", {"size": 40}, "", 2)
    assert flow.state.size == 40
    assert (await Steps.load(run_id, seq=1, persistence=log)).state.size == 1


async def test_an_edit_does_not_change_the_status_of_a_finished_run(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = await Steps.load(run_id, persistence=store)
    await flow.update_state(size=40)
    loaded = await Steps.load(run_id, persistence=store)

    assert (loaded.status, loaded.state.size, loaded.result) == ("finished", 40, OUTPUT)


@pytest.mark.parametrize("changes", [{"size": "many"}, {"unknown": 1}, {"id": "another"}])
async def test_an_edit_that_does_not_fit_is_refused(changes: dict[str, Any], store: Any) -> None:
    run_id = await run_that_is("interrupted", store)
    flow = await Steps.load(run_id, persistence=store)
    with pytest.raises(errors.RunInputsError):
        await flow.update_state(changes)

    assert (await store.load(run_id)).seq == 1
    assert (await Steps.load(run_id, persistence=store)).state.size == 1


@pytest.mark.clauses("L2")
async def test_a_run_that_is_running_elsewhere_is_not_edited(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        flow = await Steps.load(elsewhere.run_id, persistence=store)
        with pytest.raises(errors.RunLockedError):
            await flow.update_state(size=3)


async def test_equal_inputs_still_continue_after_an_edit(store: Any) -> None:
    run_id = await run_that_is("interrupted", store, {"size": 10})
    await (await Steps.load(run_id, persistence=store)).update_state(size=90)
    flow = Steps(persistence=store)
    await flow.kickoff({"id": run_id, "size": 10})

    assert flow.state.size == 92


async def test_an_edit_that_would_be_passed_over_is_refused_with_the_cure() -> None:
    class Fetching(Flow[dict[str, str]]):
        @start()
        async def fetch(self) -> str:
            if self.state["url"] == "bad":
                raise ValueError
            return self.state["url"]

    flow = Fetching(persistence=MemoryFlowPersistence())
    with pytest.raises(MethodError):
        await flow.kickoff({"url": "bad"})
    flow.state["url"] = "good"
    with pytest.raises(errors.StateError, match="update_state"):
        await flow.kickoff()
    await flow.update_state(url="good")

    assert await flow.kickoff() == "good"
