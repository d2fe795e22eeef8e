"""`resume`: an unfinished run continues, a finished one returns its result, any other is refused."""

from typing import Any

import pytest
from flows import ALL, OUTPUT, UNFINISHED, Steps, run_that_is, running

from asyncflow import errors


@pytest.mark.clauses("E2", "X3")
@UNFINISHED
async def test_resume_continues_an_unfinished_run(standing: str, store: Any) -> None:
    run_id = await run_that_is(standing, store)
    output = await Steps.resume(run_id, persistence=store)
    loaded = await Steps.load(run_id, persistence=store)

    assert output == OUTPUT
    assert loaded.state.done == ALL
    assert loaded.status == "finished"


async def test_resume_of_a_finished_run_gives_its_result_and_runs_nothing(store: Any) -> None:
    run_id = await run_that_is("finished", store)
    before = (await Steps.load(run_id, persistence=store)).state

    assert await Steps.resume(run_id, mood="fail", persistence=store) == OUTPUT
    assert (await Steps.load(run_id, persistence=store)).state == before


@pytest.mark.clauses("C4")
async def test_resume_of_a_cancelled_run_is_refused(store: Any) -> None:
    run_id = await run_that_is("cancelled", store)

    with pytest.raises(errors.RunCancelledError):
        await Steps.resume(run_id, persistence=store)


@pytest.mark.clauses("L2")
async def test_resume_of_a_run_that_is_running_elsewhere_is_refused(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        with pytest.raises(errors.RunLockedError):
            await Steps.resume(elsewhere.run_id, persistence=store)


@pytest.mark.clauses("L2")
async def test_a_refused_caller_does_not_free_the_run(store: Any) -> None:
    elsewhere = Steps("hang", persistence=store)
    async with running(elsewhere):
        for _ in range(3):
            with pytest.raises(errors.RunLockedError):
                await Steps.resume(elsewhere.run_id, persistence=store)
