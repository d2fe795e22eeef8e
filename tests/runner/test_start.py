"""`FlowRunner.start`: a run is stored and started once, however often it is asked for, and outlives the caller."""

from typing import Any, Literal

import anyio
import pytest
from owned import Other, Steps, Work, gate, gates, ran, until

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, errors, listen, router, start


async def test_a_run_is_started_and_awaited(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"n": 5})

        assert await handle.result() == 7
        assert await handle.status() == "finished"
        assert (await Steps.load(handle.run_id, persistence=storage)).state.n == 7
        assert await runner.run(Steps, {"n": 1}) == 3


async def test_a_run_that_was_started_is_stored(storage: Any) -> None:
    gate("shut")
    async with FlowRunner(storage, max_running=1, grace=0) as runner:
        handles = [await runner.start(Steps, {"gate": "shut"}) for _ in range(3)]  # two of them wait for their turn
        loaded = [await Steps.load(handle.run_id, persistence=storage) for handle in handles]
        gates["shut"].set()

        assert [flow.state.gate for flow in loaded] == ["shut"] * 3
        assert [await handle.result() for handle in handles] == [2, 2, 2]


async def test_an_id_may_come_in_the_inputs_but_not_another(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        assert (await runner.start(Steps, {"id": "a"})).run_id == "a"
        assert (await runner.start(Steps, {"id": "b"}, run_id="b")).run_id == "b"
        with pytest.raises(errors.RunInputsError, match="a and c"):
            await runner.start(Steps, {"id": "c"}, run_id="a")


async def test_a_caller_that_goes_away_changes_nothing(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        handle = await runner.start(Steps, {"gate": "g"})
        with anyio.move_on_after(0.01) as scope:
            await handle.result()
        assert scope.cancelled_caught
        gates["g"].set()

        assert await handle.result() == 2


async def test_a_caller_that_is_cancelled_while_it_starts_changes_nothing(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await runner.start(Steps, run_id="x")
        await until(lambda: not runner.running)
        began = "x first" in ran

        assert await runner.run(Steps, run_id="x") == 2
        assert ran.count("x first") == 1 or not began


async def test_starting_is_idempotent(storage: Any) -> None:
    gate("g")
    results: list[int] = []

    async def ask() -> None:
        results.append(await runner.run(Steps, {"gate": "g"}, run_id="x"))

    async with FlowRunner(storage) as runner:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask)
            await until(lambda: ran)
            gates["g"].set()
        results.append(await runner.run(Steps, {"gate": "g"}, run_id="x"))

    assert results == [2] * 6
    assert ran == ["x first", "x second"]


async def test_an_interrupted_run_is_resumed(storage: Any) -> None:
    gate("g")
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(Steps(persistence=storage).kickoff, {"id": "x", "gate": "g"})
            await until(lambda: ran)
            scope.cancel()
    gates["g"].set()

    async with FlowRunner(storage, recover_every=None) as runner:
        assert await runner.run(Steps, run_id="x") == 2
    assert ran == ["x first", "x first", "x second"]


async def test_a_run_that_failed_gives_its_stored_failure(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with pytest.raises(errors.MethodError) as first:
            await runner.run(Steps, {"fails": True}, run_id="x")
        with pytest.raises(errors.MethodError, match=r"LookupError \(second:1\): told to") as again:
            await runner.run(Steps, run_id="x")

    assert isinstance(first.value.__cause__, LookupError)
    assert again.value.method == "second"
    assert ran == ["x first", "x second"]


async def test_a_run_that_has_ended_badly_is_attached_to_like_any_other(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, recover_every=None) as runner:
        failed = await runner.start(Steps, {"fails": True}, run_id="failed")
        cancelled = await runner.start(Steps, {"gate": "g"}, run_id="cancelled")
        await cancelled.cancel()
        with pytest.raises(errors.MethodError):
            await failed.result()
        before = len(ran)

        again = await runner.start(Steps, {"fails": True}, run_id="failed")
        assert (again.run_id, await again.status()) == ("failed", "failed")
        with pytest.raises(errors.MethodError, match=r"LookupError \(second:1\): told to"):
            await again.result()
        again = await runner.start(Steps, {"gate": "g"}, run_id="cancelled")
        assert (again.run_id, await again.status()) == ("cancelled", "cancelled")
        with pytest.raises(errors.RunCancelledError):
            await again.result()
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="failed")
        with pytest.raises(errors.RunFlowMismatchError):
            await runner.start(Other, run_id="failed")
        await until(lambda: not runner.running)

    assert len(ran) == before


async def test_other_inputs_for_a_known_id_are_refused(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        await runner.run(Steps, {"n": 1}, run_id="x")
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": 2}, run_id="x")

        assert await runner.run(Steps, {"n": 1}, run_id="x") == 3


async def test_a_mistake_in_a_call_is_raised_by_start(storage: Any) -> None:
    async with FlowRunner(storage) as runner:
        with pytest.raises(errors.RunInputsError):
            await runner.start(Steps, {"n": "no number"})
        with pytest.raises(errors.InvalidRunIdError):
            await runner.start(Steps, run_id=" ")
        assert runner.running == 0


def test_an_added_flow_is_known() -> None:
    class Routed(Flow[Work]):
        """Goes one of two ways."""

        initial_state = {"n": 1}  # noqa: RUF012 - as users write it

        @start()
        @router()
        def way(self) -> Literal["a", "b"]:
            return "a"

        @listen("a")
        def one(self) -> int:
            return 1

        @listen("b")
        def other(self) -> str:
            return ""

    known = FlowRunner(MemoryFlowPersistence()).add(Routed)

    assert (known.name, known.description, known.state) == ("Routed", "Goes one of two ways.", Work)
    assert (known.preset, known.results) == ({"n"}, (int, str))
