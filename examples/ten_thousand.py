"""Ten thousand live runs in one process, owned by a runner: all wait until the last one has started, then continue.

They are stored before they wait, so that another process could recover them. A line shows the progress.
"""

import functools
import resource
import sys
import tempfile
import time
from pathlib import Path

import anyio

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, start

INSTANCES = 10_000
STARTING = 500
"""Starts in progress at the same time: their checkpoints share transactions."""


class Reminder(FlowState):
    number: int = 0


class Remind(Flow[Reminder]):
    def __init__(self, time: anyio.Event) -> None:
        super().__init__()
        self.time = time

    @start()
    async def wait(self) -> int:
        await self.time.wait()
        return self.state.number

    @listen(wait)
    async def ring(self, number: int) -> int:
        return number + 1


def megabytes() -> float:
    """Return the peak memory of this process."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1024 * 1024 if sys.platform == "darwin" else 1024)


async def main(instances: int = INSTANCES) -> None:
    started, done, most, before, since = 0, 0, 0, megabytes(), time.perf_counter()
    results: set[int] = set()
    all_alive = anyio.Event()
    limit = anyio.CapacityLimiter(STARTING)

    async def one(number: int, runner: FlowRunner) -> None:
        nonlocal started, done, most
        async with limit:
            handle = await runner.start(lambda: Remind(all_alive), {"number": number})
        started += 1
        if started == instances:
            most = runner.running
            all_alive.set()
        results.add(await handle.result())
        done += 1

    async def show_progress(runner: FlowRunner) -> None:
        while done < instances:
            print(f"\r{runner.running:6} alive, {done:6} of {instances} done", end="", file=sys.stderr, flush=True)
            await anyio.sleep(0.2)
        print(file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        storage = SQLiteFlowPersistence(Path(folder, "reminders.db"))
        async with FlowRunner(storage, max_running=instances) as runner, anyio.create_task_group() as group:
            group.start_soon(show_progress, runner)
            for number in range(instances):
                group.start_soon(functools.partial(one, number, runner))

    assert results == set(range(1, instances + 1))
    print(f"{instances} runs in {time.perf_counter() - since:.1f} seconds, {most} alive at once")
    print(f"{megabytes() - before:.0f} MB more than before")


if __name__ == "__main__":
    anyio.run(main)
