"""Resuming in the middle of joins, `or_` listeners and cycles: the end is that of an undisturbed run."""

from typing import Any, Literal

import anyio
import pytest
from flows import Hanging, interrupted

from asyncflow import Flow, and_, listen, or_, router, start


@pytest.mark.clauses("V1")
async def test_a_half_full_join_remembers_what_has_come(store: Any) -> None:
    class Join(Hanging):
        @start()
        async def quick(self) -> list[int]:
            self.ran.append("quick")
            return [1]

        @listen(quick)
        async def between(self) -> None:
            await self.hang()

        @listen(between)
        async def slow(self) -> tuple[int, ...]:
            self.ran.append("slow")
            return 2, 3

        @listen(and_(quick, slow))
        async def join(self, slow: tuple[int, ...], quick: list[int]) -> tuple[list[int], tuple[int, ...]]:
            return quick, slow

    run_id = await interrupted(Join(True, persistence=store))
    flow = Join(False, persistence=store)
    output = await flow.kickoff({"id": run_id})

    assert output == ([1], (2, 3))
    assert flow.ran == ["slow"]


async def test_an_or_that_has_fired_does_not_fire_again_after_a_resume(store: Any) -> None:
    class Once(Hanging):
        @start()
        async def quick(self) -> None: ...

        @listen(quick)
        async def between(self) -> None: ...

        @listen(between)
        async def slow(self) -> None:
            await self.hang()

        @listen(or_(quick, slow))
        async def either(self) -> None:
            self.state.size += 1

    run_id = await interrupted(Once(True, persistence=store))
    flow = Once(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state.size == 1


class Cycle(Hanging):
    @start()
    async def begin(self) -> None: ...

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        if self.state.size == 7:
            await self.hang()
        self.ran.append("turn")
        self.state.size += 1
        return self.state.size

    @listen(turn)
    async def beside(self, n: int) -> None:
        self.state.done.append(str(n))

    @router(and_(turn, beside))
    async def more(self) -> Literal["again"] | None:
        return "again" if self.state.size < 20 else None


@pytest.mark.clauses("E2")
async def test_a_cycle_resumes_in_the_middle(store: Any) -> None:
    run_id = await interrupted(Cycle(True, persistence=store))
    flow = Cycle(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert len(flow.ran) == 13
    assert flow.state.size == 20
    assert flow.state.done == [str(n) for n in range(1, 21)]


@pytest.mark.clauses("E2", "E4")
async def test_a_run_interrupted_at_every_turn_ends_as_an_undisturbed_one(store: Any) -> None:
    class Halting(Hanging):
        @start()
        async def begin(self) -> None: ...

        @listen(or_(begin, "again"))
        async def turn(self) -> None:
            if self.ran:
                await self.hang()
            self.ran.append("turn")
            self.state.size += 1

        @router(turn)
        async def more(self) -> Literal["again"] | None:
            return "again" if self.state.size < 6 else None

    run_id = await interrupted(Halting(True, persistence=store))
    for _ in range(4):
        again = await Halting.load(run_id, hangs=True, persistence=store)
        await interrupted(again)
        assert len(again.ran) == 1
    await Halting.resume(run_id, hangs=False, persistence=store)
    flow = await Halting.load(run_id, hangs=False, persistence=store)

    assert flow.state.size == 6
    assert flow.status == "finished"


async def test_a_run_with_a_dict_state_resumes(store: Any) -> None:
    class Dict(Flow[dict]):
        def __init__(self, hangs: bool, **options: Any) -> None:
            super().__init__(**options)
            self.hangs, self.hanging = hangs, anyio.Event()

        @start()
        async def first(self) -> None:
            self.state["nested"] = {"numbers": [1, 2], "pair": (1, b"x")}

        @listen(first)
        async def second(self) -> None:
            if self.hangs:
                self.hanging.set()
                await anyio.sleep_forever()
            self.state["nested"]["numbers"].append(3)

    run_id = await interrupted(Dict(True, persistence=store))
    flow = Dict(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.state == {"id": run_id, "nested": {"numbers": [1, 2, 3], "pair": (1, b"x")}}
