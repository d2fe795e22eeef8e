"""Flows in flows, many flows at once, and a second kickoff on a running instance."""

import anyio
import pytest
from small import Counter

from asyncflow import Flow, MethodError, errors, listen, persist, start


async def test_a_flow_inside_a_flow_has_its_own_state() -> None:
    class Inner(Flow[Counter]):
        @start()
        async def first(self) -> int:
            self.state.count += 100
            return self.state.count

    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> int:
            self.state.count = 1
            inner = await Inner().kickoff({"count": 5})
            self.state.count += 1
            return inner + self.state.count

    flow = Outer()

    assert await flow.kickoff() == 105 + 2
    assert flow.state.count == 2


async def test_an_inner_flow_may_use_the_outer_ones_draft() -> None:
    class Inner(Flow[Counter]):
        def __init__(self, outer: "Outer") -> None:
            super().__init__()
            self.outer = outer

        @start()
        async def first(self) -> None:
            self.state.count = 3
            self.outer.state.count += 40

        @listen(first)
        def second(self) -> None:
            self.state.count += 1
            self.outer.state.count += 2

    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> int:
            inner = Inner(self)
            await inner.kickoff()
            return inner.state.count

    flow = Outer()

    assert await flow.kickoff() == 4
    assert flow.state.count == 42


async def test_an_inner_flow_may_be_stored_where_the_outer_one_is() -> None:
    @persist
    class Inner(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count = 1
            return self.run_id

    @persist
    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count = 5
            return await Inner().kickoff()

    flow = Outer()
    inner = await flow.kickoff()

    assert (await Inner.load(inner)).state.count == 1
    assert (await Outer.load(flow.run_id)).state.count == 5


async def test_a_flow_may_run_another_of_its_own_class() -> None:
    class Factorial(Flow[Counter]):
        @start()
        async def first(self) -> int:
            n = self.state.count
            return 1 if n < 2 else n * await Factorial().kickoff({"count": n - 1})

    assert await Factorial().kickoff({"count": 5}) == 120


async def test_a_second_kickoff_on_a_running_instance_is_refused() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count += 1
            inside.set()
            await go_on.wait()
            return "done"

    flow = Slow()
    outputs: list[str] = []

    async def kickoff() -> None:
        outputs.append(await flow.kickoff())

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        await inside.wait()
        with pytest.raises(errors.FlowBusyError):
            await flow.kickoff()
        go_on.set()

    assert outputs == ["done"]
    assert flow.state.count == 1


async def test_a_method_that_kicks_off_its_own_flow_is_refused() -> None:
    class Selfish(Flow):
        @start()
        async def first(self) -> None:
            await self.kickoff()

    with pytest.raises(MethodError) as caught:
        await Selfish().kickoff()

    assert isinstance(caught.value.__cause__, errors.FlowBusyError)


async def test_many_instances_run_at_once_each_with_its_own_state() -> None:
    everybody = anyio.Event()
    inside = 0

    class Member(Flow[Counter]):
        @start()
        async def first(self) -> None:
            nonlocal inside
            self.state.count += 1
            inside += 1
            if inside == 300:
                everybody.set()
            await everybody.wait()

        @listen(first)
        async def second(self) -> None:
            self.state.count *= 2

    flows = [Member() for _ in range(300)]
    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for n, flow in enumerate(flows):
                group.start_soon(flow.kickoff, {"count": n})

    assert [flow.state.count for flow in flows] == [2 * (n + 1) for n in range(300)]
    assert len({flow.run_id for flow in flows}) == 300
