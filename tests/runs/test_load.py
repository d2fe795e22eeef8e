"""`load`: shows a run as it is stored, or as it was at an older checkpoint, and runs nothing."""

from typing import Any

import pytest
from flows import ALL, ANY, OUTPUT, UNFINISHED, Steps, Work, run_that_is, running

from asyncflow import Flow, errors, start


@ANY
async def test_load_shows_a_run_and_runs_nothing(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, mood="fail", persistence=store)

    assert (flow.run_id, flow.status) == (run_id, standing)
    assert flow.state.done == (ALL if standing == "finished" else ["first"])
    assert flow.pending == (() if standing == "finished" else ("second:1",))
    assert flow.result == (OUTPUT if standing == "finished" else None)
    assert flow.ran == []


async def test_load_shows_a_run_that_is_running_elsewhere(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        flow = await Steps.load(elsewhere.run_id, persistence=store)

    assert flow.state.done == ["first"]
    assert flow.pending == ("second:1",)


@UNFINISHED
async def test_a_loaded_run_resumes_with_kickoff(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    flow = await Steps.load(run_id, persistence=store)
    output = await flow.kickoff()

    assert output == OUTPUT
    assert flow.ran == ["second", "third"]
    assert flow.run_id == run_id


@pytest.mark.clauses("D2")
async def test_a_run_can_be_loaded_from_its_first_method_on(store: Any) -> None:
    class Asking(Flow[Work]):
        persistence = store

        @start()
        async def first(self) -> tuple[int, str]:
            known = await Asking.load(self.run_id)
            return known.state.size, known.state.id

    flow = Asking()

    assert await flow.kickoff({"size": 3}) == (3, flow.run_id)


@pytest.mark.parametrize("seq", [0, 1, 2, 3])
async def test_load_at_an_older_seq_shows_the_run_as_of_then(seq: int, store: Any) -> None:
    run_id = await run_that_is("finished", store)
    flow = await Steps.load(run_id, seq=seq, persistence=store)

    assert flow.state.done == ALL[:seq]
    assert flow.pending == (*[f"{name}:1" for name in ALL[seq : seq + 1]],)
    assert flow.status == ("finished" if seq == 3 else "interrupted")


@pytest.mark.parametrize("seq", [4, 99, -1])
async def test_a_seq_that_is_not_stored_is_not_found(seq: int, store: Any) -> None:
    run_id = await run_that_is("finished", store)

    with pytest.raises(errors.RunNotFoundError):
        await Steps.load(run_id, seq=seq, persistence=store)
