"""Cycles of any length, and the limit of calls in a pass."""

import gc
import sys
from typing import Literal

import pytest
from small import Counter

from asyncflow import Flow, MemoryFlowPersistence, MethodError, errors, listen, or_, router, start


class Cycle(Flow[Counter]):
    @start()
    async def begin(self) -> None: ...

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.count += 1
        return self.state.count

    @router(turn)
    async def more(self, count: int) -> Literal["again", "enough"]:
        return "enough" if count >= 10_000 else "again"


async def test_a_cycle_of_20_000_steps_neither_nests_nor_grows() -> None:
    measured: list[tuple[int, int]] = []

    class Measured(Cycle):
        async def turn(self) -> int:
            self.state.count += 1
            if self.state.count in (1_000, 9_999):
                gc.collect()
                measured.append((len(gc.get_objects()), depth()))
            return self.state.count

    def depth() -> int:
        frame, n = sys._getframe(), 0
        while frame is not None:
            frame, n = frame.f_back, n + 1
        return n

    flow = Measured(max_method_calls=None)
    output = await flow.kickoff()

    assert output == "enough"
    assert flow.state.count == 10_000
    (early_objects, early_depth), (late_objects, late_depth) = measured
    assert late_objects - early_objects < 500
    assert early_depth == late_depth


@pytest.mark.clauses("V5")
async def test_a_method_called_too_often_in_a_pass_is_a_limit() -> None:
    flow = Cycle(max_method_calls=25)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, errors.LimitExceededError)
    assert caught.value.__cause__.method == "turn"
    assert flow.state.count == 25


@pytest.mark.clauses("V5", "X3")
async def test_a_run_that_met_the_limit_resumes_with_a_higher_one() -> None:
    store = MemoryFlowPersistence()
    flow = Cycle(max_method_calls=25, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError):
        await Cycle.resume(flow.run_id, max_method_calls=50, persistence=store)
    loaded = await Cycle.load(flow.run_id, persistence=store)

    assert loaded.state.count == 50
    assert loaded.pending == ("turn:51",)


async def test_the_limit_counts_each_pass_from_zero() -> None:
    class Short(Cycle):
        max_method_calls = 5

        async def turn(self) -> int:
            self.state.count += 1
            return 10_000 if not self.state.count % 4 else 0

    flow = Short()
    await flow.kickoff()
    await flow.kickoff()

    assert flow.state.count == 8
