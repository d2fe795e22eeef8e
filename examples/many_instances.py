"""A thousand runs of one flow at a time, on one storage: one instance each, and no more than some hundred at work.

The storage commits what many runs have ready in one transaction, so they do not queue up for the disk one by one.
"""

import tempfile
import time
from pathlib import Path

import anyio

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, listen, start

INSTANCES = 1_000
AT_ONCE = 100


class Counted(FlowState):
    number: int = 0


class Square(Flow[Counted]):
    @start()
    async def read(self) -> int:
        return self.state.number

    @listen(read)
    async def square(self, number: int) -> int:
        self.state.number = number * number
        return self.state.number


async def main() -> None:
    results: dict[int, int] = {}
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(number: int, storage: SQLiteFlowPersistence) -> None:
        async with limit:
            results[number] = await Square(persistence=storage).kickoff({"number": number})

    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteFlowPersistence(Path(folder, "squares.db")) as storage:
            began = time.perf_counter()
            async with anyio.create_task_group() as group:
                for number in range(INSTANCES):
                    group.start_soon(one, number, storage)
            took = time.perf_counter() - began

    assert results == {n: n * n for n in range(INSTANCES)}
    checkpoints = INSTANCES * 3  # the start and two methods; the last one's is also the run's end
    print(f"{INSTANCES} runs, {AT_ONCE} at a time: {INSTANCES / took:.0f} runs a second")
    print(f"{checkpoints} durable checkpoints: {checkpoints / took:.0f} a second")


if __name__ == "__main__":
    anyio.run(main)
