"""A process that runs parents with children and grandchildren, for `test_killed_children.py`: it is killed at random moments.

Arguments: the folder, the loop, and "calls" or "runner". Each body writes a line when it begins, which no transaction takes back.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, run_child, start
from asyncflow.errors import RunNotFoundError

RUNS = ("one", "two")
EXPECTED = [n * 10 + 1 for n in range(3)]


def log(*words: object) -> None:
    line = " ".join(map(str, (time.time(), *words)))
    handle = os.open("effects.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


class Number(FlowState):
    n: int = 0


class Grandchild(Flow[Number]):
    name = "Grandchild"

    @start()
    async def one(self) -> int:
        log(self.run_id, "one")
        await anyio.sleep(0.02)
        return 1


class Child(Flow[Number]):
    name = "Child"

    @start()
    async def first(self) -> int:
        log(self.run_id, "first")
        await anyio.sleep(0.01)
        return self.state.n * 10

    @listen(first)
    async def second(self, n: int) -> int:
        log(self.run_id, "second")
        return n + await run_child(Grandchild)


class Top(Flow[Number]):
    name = "Top"

    @start()
    async def go(self) -> list[int]:
        log(self.run_id, "go")
        results = [await run_child(Child, {"n": 0})]

        async def one(n: int) -> None:
            results.append(await run_child(Child, {"n": n}, key=str(n)))

        async with anyio.create_task_group() as group:
            for n in (1, 2):
                group.start_soon(one, n)
        return sorted(results)

    @listen(go)
    async def last(self, results: list[int]) -> list[int]:
        log(self.run_id, "last")
        return results


async def called(storage: Any, run_id: str) -> None:
    try:
        assert await Top.resume(run_id, persistence=storage) == EXPECTED
    except RunNotFoundError:
        assert await Top(persistence=storage).kickoff({"id": run_id}) == EXPECTED


async def served(storage: Any) -> None:
    async with FlowRunner(
        storage, flows=[Grandchild, Child, Top], max_running=1, max_queued=1, recover_every=0.02
    ) as runner:
        for run_id in RUNS:
            handle = await runner.start(Top, run_id=run_id)
            assert await handle.result() == EXPECTED


async def main(driver: str) -> None:
    storage = SQLiteFlowPersistence("runs.db")
    async with storage:
        log("opened", "-")
        if driver == "runner":
            await served(storage)
            return
        async with anyio.create_task_group() as group:
            for run_id in RUNS:
                group.start_soon(called, storage, run_id)


if __name__ == "__main__":
    os.chdir(Path(sys.argv[1]))
    anyio.run(main, sys.argv[3], backend=sys.argv[2])
