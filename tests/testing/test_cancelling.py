"""Cancelling at an await: each await is met, in every way of the loop, and what the work does about it is its own."""

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from asyncflow.testing import cancel_everywhere, cancelled_at
from asyncflow.testing.cancelling import MOMENTS, ways

AWAITS = 5


class Work:
    def __init__(self) -> None:
        self.done = 0
        self.cancelled = 0

    async def __call__(self) -> None:
        try:
            for _ in range(AWAITS):
                await anyio.lowlevel.checkpoint()
                self.done += 1
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise


@pytest.mark.parametrize("at", [0, -1])
async def test_awaits_are_counted_from_one(at: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        await cancelled_at(anyio.lowlevel.checkpoint, at)


async def test_the_work_is_cancelled_at_that_await() -> None:
    for way in ways():
        for at in range(1, 4):
            work = Work()
            assert await cancelled_at(work, at, way)
            assert (work.done, work.cancelled) == (at - 1, 1)


async def test_work_with_fewer_awaits_is_not_struck() -> None:
    for way in ways():
        work = Work()
        assert not await cancelled_at(work, 100, way)
        assert (work.done, work.cancelled) == (AWAITS, 0)


async def test_later_means_at_another_await() -> None:
    async def sleeps() -> None:
        seen.append(1)
        await anyio.lowlevel.checkpoint()
        seen.append(2)
        await anyio.sleep_forever()

    for way in ways():
        seen: list[int] = []
        assert await cancelled_at(sleeps, 1, way, later=0.002)
        assert seen == [1, 2]


async def test_what_the_work_raises_is_raised() -> None:
    async def breaks() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            raise LookupError

    for way in ways():
        with pytest.raises(LookupError):
            await cancelled_at(breaks, 1, way)


async def test_everywhere_is_each_await_in_each_way_and_moment() -> None:
    works: list[Work] = []
    looked: list[int] = []

    async def work() -> None:
        works.append(Work())
        await works[-1]()

    async def look() -> None:
        looked.append(works[-1].done)

    struck = await cancel_everywhere(work, look, moments=MOMENTS[:1])

    assert struck >= AWAITS * len(ways())
    assert sum(w.cancelled for w in works) >= AWAITS * len(ways())
    assert set(range(AWAITS)) <= set(looked)
    assert len(looked) == len(works)


async def test_endless_work_is_reported() -> None:
    async def endless() -> Any:
        for _ in range(10):
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                raise

    with pytest.raises(AssertionError, match="not ended after 3 awaits"):
        await cancel_everywhere(endless, most=3)
