"""What an item of a list costs, counted and not timed: the same for each of many as for each of a few."""

import sqlite3
import sys
from contextlib import closing
from typing import Any

import pytest
from test_costs import ASYNCIO

from asyncflow import Flow, MemoryFlowPersistence, SQLiteFlowPersistence, each, listen, start

pytestmark = [
    pytest.mark.may_block("what watches for that would be counted as well"),
    pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True),
]


class Many(Flow[dict]):
    """The state that it ends with does not grow with the number of items."""

    count = 0

    @start()
    async def fetch(self) -> list[int]:
        return list(range(self.count))

    @listen(each(fetch), limit=100)
    async def work(self, n: int) -> int:
        return n

    @listen(work)
    async def add(self, results: list[int]) -> int:
        return sum(results)


def of(count: int) -> type[Many]:
    return type("Many", (Many,), {"count": count})


async def lines_per_item(count: int, persistence: Any) -> float:
    """Lines of Python that are run in this thread."""
    counted = 0

    def line(frame: Any, event: str, arg: Any) -> Any:
        nonlocal counted
        counted += 1
        return line

    flow = of(count)(persistence=persistence)
    sys.settrace(line)
    try:
        total = await flow.kickoff()
    finally:
        sys.settrace(None)
    assert total == count * (count - 1) // 2
    return counted / count


@pytest.mark.clauses("N6")
@pytest.mark.parametrize("is_stored", [False, True])
async def test_an_item_of_many_takes_as_many_lines_as_one_of_a_few(is_stored: bool) -> None:
    few, many = [await lines_per_item(n, MemoryFlowPersistence() if is_stored else None) for n in (400, 3_200)]

    assert many < few * 1.1


@pytest.mark.clauses("N6")
async def test_the_stored_bytes_grow_linearly_with_the_items() -> None:
    per_item: dict[int, float] = {}
    columns = ("state", "progress", "changes", "result", "inputs", "outcome")
    for count in (1_250, 5_000, 20_000):
        async with SQLiteFlowPersistence(f"{count}.db", durability="process") as persistence:
            await of(count)(persistence=persistence).kickoff()
        total = " + ".join(f"coalesce(length({column}), 0)" for column in columns)
        with closing(sqlite3.connect(f"{count}.db")) as connection:
            ((stored,),) = connection.execute(f"SELECT sum({total}) FROM checkpoints")
        per_item[count] = stored / count
    print(per_item)

    assert per_item[5_000] < 700
    assert per_item[20_000] < per_item[5_000] * 1.25
