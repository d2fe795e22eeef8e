"""The time limit of a pass: it counts over interruptions, cancels methods and pauses, and only a resume can set another one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from moments import interrupted_once, later, stored

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    SQLiteFlowPersistence,
    errors,
    listen,
    start,
)
from asyncflow._runtime.observe import events_from
from asyncflow.events import RunFailed
from asyncflow.testing import Delay, FaultyPersistence

STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["none", *STORES])
def storage(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


class Log(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it


class Endless(Flow[Log]):
    """`second` hangs unless the flow is well; a third method fails at once, if wanted."""

    name = "Endless"
    run_timeout = 0.2

    def __init__(self, is_well: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.is_well = is_well
        self.seen: list[str] = []

    @start()
    async def first(self) -> None:
        self.state.done.append("first")

    @listen(first, retry=Retry())
    async def second(self) -> str:
        self.state.done.append("second")
        if not self.is_well:
            try:
                await anyio.sleep_forever()
            finally:
                self.seen.append("cancelled")
        return "end"


@pytest.mark.clauses("R7")
async def test_a_pass_that_takes_too_long_fails_and_its_methods_are_cancelled(storage: Any) -> None:
    flow = Endless(persistence=storage)
    with pytest.raises(errors.RunTimeoutError) as caught:
        await flow.kickoff()

    assert (flow.seen, flow.status, flow.state.done, flow.pending) == (
        ["cancelled"],
        "failed",
        ["first"],
        ("second:1",),
    )
    assert (caught.value.run_id, caught.value.failures) == (flow.run_id, ())
    assert isinstance(caught.value, MethodError)
    assert isinstance(caught.value, TimeoutError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.clauses("R7")
async def test_the_failure_of_a_pass_that_took_too_long_is_stored(store: Any) -> None:
    flow = Endless(persistence=store)
    with pytest.raises(errors.RunTimeoutError):
        await flow.kickoff()
    loaded = await Endless.load(flow.run_id, persistence=store)
    rows = await store.history(flow.run_id)

    assert (loaded.status, loaded.pending, loaded.state.done) == ("failed", ("second:1",), ["first"])
    assert isinstance(loaded.method_error, errors.RunTimeoutError)
    assert loaded.method_error.run_id == flow.run_id
    assert [row.kind for row in rows] == ["started", "method", "failed"]
    assert [type(event) for event in events_from(rows[-1])] == [RunFailed]
    assert "RunTimeoutError" in (await flow.history())[-1].error


@pytest.mark.clauses("R7")
async def test_the_time_limit_counts_over_an_interruption(store: Any) -> None:
    flow = Endless(run_timeout=3600, persistence=store)
    await interrupted_once(flow.kickoff, stored(store, flow.run_id, 1))
    assert flow.status == "interrupted"
    again = Endless(is_well=True, persistence=store)  # its own limit counts for new passes
    with later(3601), pytest.raises(errors.RunTimeoutError):
        await again.kickoff({"id": flow.run_id})

    assert again.seen == []
    assert again.status == "failed"


@pytest.mark.clauses("R7")
@pytest.mark.parametrize("limit", [None, 60, timedelta(hours=1)])
async def test_a_resume_with_a_time_limit_of_its_own_continues(limit: Any, store: Any) -> None:
    flow = Endless(persistence=store)
    with pytest.raises(errors.RunTimeoutError):
        await flow.kickoff()
    with pytest.raises(errors.RunTimeoutError):
        await Endless.resume(flow.run_id, is_well=True, persistence=store)

    assert await Endless.resume(flow.run_id, is_well=True, run_timeout=limit, persistence=store) == "end"
    assert (await Endless.load(flow.run_id, persistence=store)).state.done == ["first", "second"]


async def test_a_run_that_finishes_at_the_same_moment_has_finished(store: Any) -> None:
    class Brief(Flow[dict]):
        run_timeout = 0.2

        @start()
        async def call(self) -> str:
            return "end"

    flow = Brief(persistence=FaultyPersistence(store, Delay(at=2, seconds=0.5)))

    assert await flow.kickoff() == "end"
    assert (flow.status, (await Brief.load(flow.run_id, persistence=store)).status) == ("finished", "finished")


async def test_what_methods_had_raised_before_is_part_of_the_error(store: Any) -> None:
    class Pair(Flow[dict]):
        run_timeout = 0.2

        @start()
        async def broken(self) -> None:
            raise LookupError("broken")

        @start()
        async def hanging(self) -> None:
            await anyio.sleep_forever()

    flow = Pair(persistence=store)
    with pytest.raises(errors.RunTimeoutError) as caught:
        await flow.kickoff()
    loaded = await Pair.load(flow.run_id, persistence=store)

    assert isinstance(loaded.method_error, errors.RunTimeoutError)
    for error in (caught.value, loaded.method_error):
        assert [(f.method, f.type) for f in error.failures] == [("broken", "builtins.LookupError")]


@pytest.mark.clauses("R7")
async def test_a_pause_does_not_outlast_the_time_limit(storage: Any) -> None:
    class Trying(Flow[dict]):
        run_timeout = 0.2

        @start(retry=Retry(attempts=None, initial=timedelta(days=2), maximum=timedelta(days=2)))
        async def call(self) -> None:
            raise ValueError

    with anyio.fail_after(60), pytest.raises(errors.RunTimeoutError):
        await Trying(persistence=storage).kickoff()


async def test_the_handle_of_a_runner_raises_the_time_limits_error(store: Any) -> None:
    async with FlowRunner(store) as runner:
        handle = await runner.start(Endless, run_id="late")
        with pytest.raises(errors.RunTimeoutError):
            await handle.result()
        again = await runner.start(Endless, run_id="late")
        with pytest.raises(errors.RunTimeoutError):
            await again.result()

    assert (await Endless.load("late", persistence=store)).status == "failed"
