"""A runner runs no more flows at once than it may; who asks for more waits or is refused."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest
from owned import Steps, Work, gate, gates, ran

from asyncflow import Flow, FlowRunner, errors, start


async def test_no_more_run_at_once_than_are_allowed_and_in_order(storage: Any) -> None:
    at_once: list[int] = []
    running = 0
    gate("g")

    class Counted(Flow[Work]):
        @start()
        async def only(self) -> None:
            nonlocal running
            running += 1
            at_once.append(running)
            ran.append(self.run_id)
            await gates["g"].wait()
            await anyio.lowlevel.checkpoint()
            running -= 1

    async with FlowRunner(storage, max_running=3) as runner:
        handles = [await runner.start(Counted, run_id=f"{n:02}") for n in range(20)]
        gates["g"].set()
        for handle in handles:
            await handle.result()

    assert max(at_once) == 3
    assert all(abs(place - int(name)) < 3 for place, name in enumerate(ran))  # trio lets those begin in its own order


async def test_an_overloaded_runner_raises_or_waits(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1, max_queued=1, overload="raise") as runner:
        handles = [await runner.start(Steps, {"gate": "g"}) for _ in range(2)]
        with pytest.raises(errors.RunnerOverloadedError, match="has 2 runs"):
            await runner.start(Steps)
        gates["g"].set()
        for handle in handles:
            await handle.result()
        assert await runner.run(Steps) == 2

    gate("g")
    async with FlowRunner(storage, max_running=1, max_waiting=0) as runner:  # the former name
        first = await runner.start(Steps, {"gate": "g"})
        with anyio.move_on_after(0.02) as scope:
            await runner.start(Steps)
        gates["g"].set()

        assert scope.cancelled_caught
        assert await first.result() == await runner.run(Steps) == 2


async def test_a_flow_that_fails_ends_nothing_else(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        other = await runner.start(Steps, {"gate": "g"})
        for _ in range(3):
            with pytest.raises(errors.MethodError):
                await runner.run(Steps, {"fails": True})
        gates["g"].set()

        assert await other.result() == 2
