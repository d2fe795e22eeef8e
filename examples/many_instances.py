"""Run one flow a thousand times on one storage: one instance for each run, and at most some hundred runs at a time.

The storage commits the checkpoints of many runs in one transaction (group commit), so runs do not wait for the disk one by one.

Each run has its own id and is started with `once=True`. So the program can be restarted after a crash or Ctrl-C: finished runs return
their stored results, the others resume, and completed methods are not run again.
"""

import tempfile
import time
from pathlib import Path

import anyio

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, listen, start

INSTANCES = 1_000
AT_ONCE = 100


calls = 0
"""The number of method calls."""


class Counted(FlowState):
    number: int = 0


class Square(Flow[Counted]):
    @start()
    async def read(self) -> int:
        global calls
        calls += 1
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
            flow = Square(persistence=storage)
            results[number] = await flow.kickoff({"id": f"square-{number}", "number": number}, once=True)

    async def all_of_them(storage: SQLiteFlowPersistence) -> float:
        began = time.perf_counter()
        async with anyio.create_task_group() as group:
            for number in range(INSTANCES):
                group.start_soon(one, number, storage)
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteFlowPersistence(Path(folder, "squares.db")) as storage:
            took = await all_of_them(storage)
            results.clear()
            again = await all_of_them(storage)  # like a restarted program

    assert results == {n: n * n for n in range(INSTANCES)}
    assert calls == INSTANCES
    checkpoints = INSTANCES * 3  # the start and two methods; the last one's is also the run's end
    print(f"{INSTANCES} runs, {AT_ONCE} at a time: {INSTANCES / took:.0f} runs a second")
    print(f"{checkpoints} durable checkpoints: {checkpoints / took:.0f} a second")
    print(f"started again: {INSTANCES / again:.0f} stored results a second, and no method ran again")


if __name__ == "__main__":
    anyio.run(main)
