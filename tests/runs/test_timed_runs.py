"""Runs with timers across processes: interrupted, resumed, forked, edited, from every kind of storage."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from flows import STORES, TwoVerbs
from moments import interrupted_once, later, stored

from asyncflow import Flow, after, errors, listen, start
from asyncflow._runtime import timing
from asyncflow.persistence.checkpoint import decode_progress

WAIT = 0.4


class Waiting(Flow[dict]):
    """Asks, and reminds after a while."""

    name = "Waiting"
    delay: Any = WAIT

    @start()
    async def ask(self) -> str:
        self.state["asked"] = self.state.get("asked", 0) + 1
        return "well?"

    @listen(after(ask, lambda state: Waiting.delay))
    async def remind(self, question: str) -> str:
        return f"again: {question} {self.state.get('note', '')}".strip()


async def interrupted(storage: Any, delay: Any = WAIT) -> str:
    """A run that stopped while it waited."""
    Waiting.delay = delay
    flow = Waiting(persistence=storage)
    await interrupted_once(flow.kickoff, stored(storage, flow.run_id, 1))
    assert (flow.status in ("waiting", "interrupted"), flow.pending) == (True, ())
    return flow.run_id


async def due(storage: Any, run_id: str) -> float:
    stored = await storage.load(run_id)
    (timer,) = decode_progress(stored.progress).timers.values()
    return timer.due


@pytest.mark.clauses("W1")
async def test_a_resume_waits_for_the_rest_of_the_time(store: Any) -> None:
    run_id = await interrupted(store, 3600)
    end = await due(store, run_id)
    with later(3600 - WAIT), anyio.fail_after(60):
        assert await Waiting.resume(run_id, persistence=store) == "again: well?"

    assert time.time() + 3600 - WAIT >= end


@pytest.mark.clauses("W1")
async def test_a_timer_whose_time_passed_while_the_run_was_interrupted_fires_at_once(store: Any) -> None:
    run_id = await interrupted(store, 3600)
    with later(3601), anyio.fail_after(60):
        assert await Waiting.resume(run_id, persistence=store) == "again: well?"


@pytest.mark.clauses("W2")
async def test_a_trigger_is_not_run_again_and_its_timer_fires_once(store: Any) -> None:
    run_id = await interrupted(store, 0.15)
    await Waiting.resume(run_id, persistence=store)
    again = await Waiting.load(run_id, persistence=store)

    assert (again.status, again.state["asked"]) == ("finished", 1)
    assert await Waiting.resume(run_id, persistence=store) == "again: well?"


async def test_a_kickoff_with_the_id_continues_a_waiting_run(store: Any) -> None:
    run_id = await interrupted(store)

    assert await Waiting(persistence=store).kickoff({"id": run_id}) == "again: well?"


async def test_the_delay_of_a_started_timer_does_not_change_with_the_class(store: Any) -> None:
    run_id = await interrupted(store, timedelta(days=2))
    before = await due(store, run_id)
    Waiting.delay = 0.01
    with anyio.move_on_after(0.1):
        await Waiting.resume(run_id, persistence=store)

    assert await due(store, run_id) == before


async def test_an_edit_keeps_a_waiting_runs_timer(store: Any) -> None:
    run_id = await interrupted(store)
    before = await due(store, run_id)
    flow = await Waiting.load(run_id, persistence=store)
    await flow.update_state(note="edited")

    assert await due(store, run_id) == before
    assert await Waiting.resume(run_id, persistence=store) == "again: well? edited"


async def test_a_fork_waits_as_long_as_the_run_had_left(log: Any) -> None:
    run_id = await interrupted(log, 60)
    await anyio.sleep(0.3)
    fork = await Waiting.fork(run_id, persistence=log)
    later = await due(log, fork.run_id) - await due(log, run_id)

    assert 0.3 <= later < 2
    assert fork.status == "waiting"


async def test_a_cancelled_run_no_longer_waits(store: Any) -> None:
    run_id = await interrupted(store)
    flow = await Waiting.load(run_id, persistence=store)
    await flow.cancel()

    with pytest.raises(errors.RunCancelledError):
        await Waiting.resume(run_id, persistence=store)


async def test_a_class_without_the_listener_of_a_timer_is_refused(store: Any) -> None:
    run_id = await interrupted(store, 60)

    class Without(Flow[dict]):
        name = "Waiting"

        @start()
        async def ask(self) -> str:
            return ""

    with pytest.raises(errors.FlowDefinitionError, match="waits for remind, which Waiting no longer has"):
        await Without.resume(run_id, persistence=store)


@pytest.mark.parametrize("make", [STORES["memory"], STORES["sqlite"], TwoVerbs])
async def test_two_hundred_runs_wait_at_once(make: Callable[[], Any]) -> None:
    storage = make()
    Waiting.delay = 0.2
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(Waiting(persistence=storage).kickoff)


@pytest.mark.clauses("W15")
async def test_without_a_clock_of_its_own_a_storage_uses_that_of_this_machine_at_no_cost(store: Any) -> None:
    assert timing.clock_of(store) is timing.now
    assert Waiting(persistence=store)._instance.setup.clock is timing.now


@pytest.mark.clauses("W15")
async def test_a_storage_of_a_third_party_may_have_a_clock_of_its_own() -> None:
    class Ahead(TwoVerbs):
        clock_offset = 3600.0

    storage = Ahead()
    run_id = await interrupted(storage)
    assert time.time() + 3600 - 60 < await due(storage, run_id) < time.time() + 3600 + 60
    with anyio.fail_after(60):
        assert await Waiting.resume(run_id, persistence=storage) == "again: well?"
