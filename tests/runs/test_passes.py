"""Passes: a second `kickoff` of a finished run runs its flow again, over the state that it has."""

import contextlib
from typing import Any

import anyio
import pytest
from flows import ALL, Steps
from small import Counting

from asyncflow import Flow, FlowState, MemoryFlowPersistence, errors, start


async def test_a_second_kickoff_on_an_instance_is_a_new_pass_of_the_same_run(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff()
    run_id = flow.run_id
    await flow.kickoff({"size": 10})

    assert flow.run_id == run_id
    assert flow.ran == ALL + ALL
    assert flow.state.done == ALL + ALL
    assert flow.state.size == 13


async def test_a_second_kickoff_without_a_storage_is_a_new_pass_too() -> None:
    flow = Steps()
    await flow.kickoff()
    run_id = flow.run_id
    await flow.kickoff()

    assert (flow.run_id, flow.state.done) == (run_id, ALL + ALL)


async def test_the_state_may_be_changed_between_two_passes(store: Any) -> None:
    flow = Steps(persistence=store)
    await flow.kickoff()
    flow.state.size = 70
    await flow.kickoff()

    assert flow.state.size == 73


async def test_a_counter_counts_over_passes_and_instances(store: Any) -> None:
    class Counter(Flow[dict]):
        persistence = store

        @start()
        async def begin(self) -> int:
            self.state["runs"] = self.state.get("runs", 0) + 1
            return self.state["runs"]

    first = Counter()
    outputs = [await first.kickoff()]
    for _ in range(3):
        outputs.append(await Counter().kickoff({"id": first.run_id}))

    assert outputs == [1, 2, 3, 4]


async def test_occurrences_start_again_at_one_in_each_pass(log: Any) -> None:
    flow = Steps(persistence=log)
    await flow.kickoff()
    await flow.kickoff()
    history = await flow.history()

    assert [(entry.pass_number, entry.method) for entry in history] == [
        (number, method) for number in (1, 2) for method in ("", "first:1", "second:1", "third:1")
    ]


@pytest.mark.parametrize("persistence", [None, MemoryFlowPersistence], ids=["unstored", "stored"])
async def test_a_run_under_another_id_begins_with_the_initial_state(persistence: Any) -> None:
    flow = Counting(persistence=persistence and persistence())
    await flow.kickoff()

    assert await flow.kickoff({"id": "another"}) == 1


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_run_that_did_not_begin_takes_nothing_from_the_one_before_it(
    is_stored: bool, is_cancelled: bool
) -> None:
    class Order(FlowState):
        items: list[int] = []  # noqa: RUF012 - pydantic copies it
        count: int = 0

    class Counting(Flow[Order]):
        name = "Counting"

        @start()
        async def count(self) -> str:
            self.state.count += 1
            return self.invocation_id

    flow = Counting(persistence=MemoryFlowPersistence() if is_stored else None)
    await flow.kickoff({"id": "a", "count": 100})
    with anyio.CancelScope() as scope, contextlib.suppress(errors.RunInputsError):
        if is_cancelled:
            scope.cancel()
        await flow.kickoff({"id": "b", "items": list(range(1_000)), **({} if is_cancelled else {"unknown": 1})})

    assert (flow.state.count, flow.state.id) == (101, "a") if flow.run_id == "a" else flow.state.count == 0
    assert await flow.kickoff({"id": "b"}) == "b/1/count:1"
    assert (flow.run_id, flow.state.id, flow.state.count) == ("b", "b", 1)
