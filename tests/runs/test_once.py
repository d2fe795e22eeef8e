"""`kickoff(..., once=True)`: the same however often it is called."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest

import asyncflow
from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, errors, listen, persist, start

pytestmark = [pytest.mark.found("T16")]


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Any:
    return MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence("runs.db")


class Pays(Flow[dict[str, int]]):
    fails = False
    ran: list[str] = []  # noqa: RUF012 - of all instances

    @start()
    async def pay(self) -> int:
        self.ran.append("pay")
        self.state["paid"] = self.state.get("paid", 0) + 1
        return self.state["paid"]

    @listen(pay)
    async def note(self, paid: int) -> str:
        self.ran.append("note")
        if self.fails:
            raise OSError("fails")
        return f"paid {paid}"


@pytest.fixture(autouse=True)
def _nothing_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pays, "ran", [])


@pytest.mark.parametrize("call", ["kickoff", "kickoff_async"])
async def test_a_run_that_is_kicked_off_once_runs_once_however_often_that_is(storage: Any, call: str) -> None:
    results = [await getattr(Pays(persistence=storage), call)({"id": "x", "n": 1}, once=True) for _ in range(3)]

    assert results == ["paid 1"] * 3
    assert Pays.ran == ["pay", "note"]
    assert (await storage.load("x")).pass_number == 1


async def test_an_instance_that_is_kicked_off_once_runs_once(storage: Any) -> None:
    for flow in (Pays(persistence=storage), Pays()):
        assert [await flow.kickoff(once=True) for _ in range(3)] == ["paid 1"] * 3
        assert flow.status == "finished"
    assert Pays.ran == ["pay", "note"] * 2


async def test_a_failed_run_that_is_kicked_off_once_resumes(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Pays, "fails", True)
        with pytest.raises(errors.MethodError):
            await Pays(persistence=storage).kickoff({"id": "x"}, once=True)

    assert await Pays(persistence=storage).kickoff({"id": "x"}, once=True) == "paid 1"
    assert Pays.ran == ["pay", "note", "note"]


async def test_an_interrupted_run_that_is_kicked_off_once_resumes(storage: Any) -> None:
    flow = await Pays.fork((await run_of(storage)).run_id, seq=1, persistence=storage)

    assert await Pays(persistence=storage).kickoff({"id": flow.run_id}, once=True) == "paid 1"
    assert Pays.ran == ["pay", "note", "note"]


async def run_of(storage: Any) -> Pays:
    flow = Pays(persistence=storage)
    await flow.kickoff()
    return flow


async def test_a_cancelled_run_stays_cancelled(storage: Any) -> None:
    flow = await Pays.fork((await run_of(storage)).run_id, seq=1, persistence=storage)
    await flow.cancel()

    with pytest.raises(errors.RunCancelledError):
        await Pays(persistence=storage).kickoff({"id": flow.run_id}, once=True)


async def test_a_finished_run_is_not_said_to_be_that_of_other_inputs(storage: Any) -> None:
    await Pays(persistence=storage).kickoff({"id": "x", "n": 1}, once=True)

    with pytest.raises(errors.RunInputsError):
        await Pays(persistence=storage).kickoff({"id": "x", "n": 2}, once=True)
    assert await Pays(persistence=storage).kickoff({"id": "x"}, once=True) == "paid 1"


async def test_a_run_that_begins_with_another_s_state_begins_once(storage: Any) -> None:
    source = await run_of(storage)
    begin = partial(Pays.kickoff, inputs={"id": "x"}, restore_from_state_id=source.run_id, once=True)

    assert [await begin(Pays(persistence=storage)) for _ in range(2)] == ["paid 2"] * 2
    assert Pays.ran == ["pay", "note"] * 2


async def test_without_once_a_finished_run_begins_a_new_pass(storage: Any) -> None:
    assert [await Pays(persistence=storage).kickoff({"id": "x"}) for _ in range(3)] == ["paid 1", "paid 2", "paid 3"]


async def test_of_many_that_kick_a_run_off_once_at_the_same_time_one_runs_it(storage: Any) -> None:
    results: list[str] = []

    async def kick_off() -> None:
        results.append(await Pays(persistence=storage).kickoff({"id": "x"}, once=True, wait=30))

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(kick_off)

    assert results == ["paid 1"] * 8
    assert Pays.ran == ["pay", "note"]


def test_synchronous_code_kicks_a_run_off_once() -> None:
    @persist
    class Stored(Pays):
        pass

    assert [asyncflow.run(Stored(), {"id": "x"}, once=True) for _ in range(2)] == ["paid 1"] * 2
    assert Pays.ran == ["pay", "note"]
