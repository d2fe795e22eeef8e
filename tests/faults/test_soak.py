"""R28: runs by the thousand, for long, in a process that is killed and started again now and then; and round by round in one.

What a process holds (memory, file handles, threads) must be level: within a generation, from one to the next, and from round to
round. With `ASYNCFLOW_FAULTS` above 1 it is the long form: so many minutes, with 10,000 runs.
"""

import gc
import logging
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import anyio
import pytest
from crew import Crew, Work, held
from figures import FACTOR, SEED, tell

from asyncflow import Flow, FlowRunner, FlowState, SQLiteFlowPersistence, listen, start

MINUTES = FACTOR if FACTOR > 1 else 0.0
RUNS = 10_000 if MINUTES else 300
GENERATIONS = max(3, round(MINUTES))
SECONDS = MINUTES * 60 / GENERATIONS or 2.5
"""That a generation lives, once it has settled."""

SAMPLE = SECONDS / 12
MEMORY = (24 if MINUTES else 3) << 20
"""Bytes that what a process holds may rise by: some 6 % of it. Usual is a third of that."""

BLOCKS = 0.5 if MINUTES else 2.0
"""Of memory that a run may leave: pydantic keeps the last 16,384 short texts that it has read, one of every fifth run here."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")


def rise(points: list[tuple[float, float]]) -> float:
    """How much a line through the points rises from the first to the last of them."""
    slope, _ = statistics.linear_regression(*zip(*points, strict=True))
    return slope * (points[-1][0] - points[0][0])


class Generation:
    """What one of the processes held, from when it had settled until it was killed."""

    def __init__(self, crew: Crew, pid: str) -> None:
        self.crew, self.pid = crew, pid

    @property
    def samples(self) -> list[tuple[int, ...]]:
        """Runs, bytes, file handles, threads."""
        self.crew.logged()
        return [sample for sample in self.crew.holds[self.pid] if sample[0] == RUNS]

    def live(self, seconds: float) -> None:
        """Settle: all runs are alive, and three samples are taken of that. Then live for so long."""
        self.crew.until(lambda: self.crew.has_begun(self.pid, RUNS) and len(self.samples) >= 3, 0.1, 600)
        until = time.monotonic() + seconds
        self.crew.until(lambda: time.monotonic() > until, 0.1, 600)

    def levels(self) -> list[float]:
        return [statistics.median(column) for column in zip(*self.settled, strict=True)]

    @property
    def settled(self) -> list[tuple[int, ...]]:
        return self.samples[2:]


@pytest.mark.clauses("E1", "E2", "L2")
def test_what_a_runner_s_process_holds_is_level_though_it_is_killed_now_and_then(tmp_path: Path) -> None:
    steps, pause = 8 * GENERATIONS, SECONDS / 4
    work = Work(
        f"{tmp_path}/log", f"{tmp_path}/runs.db", recover_every=1.0, steps=steps, seconds=pause, sample_every=SAMPLE
    )
    generations: list[Generation] = []
    dice = random.Random(SEED)
    with Crew(work) as crew:
        for _ in range(GENERATIONS):
            generation = Generation(crew, crew.begin((0, RUNS)))
            generations.append(generation)
            generation.live(SECONDS * dice.uniform(0.8, 1.2))
            crew.kill(generation.pid)
        crew.begin()
        anyio.run(crew.until_all_end, RUNS, 300 + 3 * steps * pause)
        complaints, codes = crew.complaints(), crew.dismiss()
        done = Counter(line[2] for line in crew.logged() if line[0] == "end")

    levels = [generation.levels() for generation in generations]
    for generation, level in zip(generations, levels, strict=True):
        print(f"generation {generation.pid}: {len(generation.settled)} samples, {level}")
        rises = [rise([(n, s[i]) for n, s in enumerate(generation.settled)]) for i in (1, 2, 3)]
        assert rises[0] < MEMORY, f"memory rises within a generation: {rises}"
        assert abs(rises[1]) < 3, f"file handles rise: {rises}"
        assert abs(rises[2]) < 3, f"threads rise: {rises}"
    rises = [rise([(n, level[i]) for n, level in enumerate(levels[1:])]) for i in (1, 2, 3)]  # of resources in use
    again = sum(count - 1 for count in done.values())
    print(f"from the second generation to the last: {rises}; {again} effects again, of steps that were not saved")
    assert rises[0] < MEMORY, f"memory rises from generation to generation: {levels}"
    assert abs(rises[1]) < 3
    assert abs(rises[2]) < 3
    assert complaints == []
    assert codes == [0]
    assert len(done) == RUNS * steps, "a step was left out"
    assert crew.run_again >= RUNS / 2, "nobody was at work when it was killed"
    assert anyio.run(work.storage().verify) == []
    tell("R28", trials=RUNS, faults=GENERATIONS, acknowledged=len(done))


# ---- within one process --------------------------------------------------------------------------------------------


class Note(FlowState):
    n: int = 0


class Notes(Flow[Note]):
    @start()
    async def first(self) -> int:
        self.state.n += 1
        return self.state.n

    @listen(first)
    async def left(self, n: int) -> int:
        await anyio.sleep(0.001)
        return n

    @listen(first)
    async def right(self, n: int) -> int:
        if n < 0:
            raise ValueError("told to")
        self.state.n += n
        return n


def ours() -> Counter[str]:
    """The living objects of our classes, by class."""
    gc.collect()
    classes = (type(thing) for thing in gc.get_objects())
    return Counter(cls.__qualname__ for cls in classes if str(cls.__module__).startswith("asyncflow"))


async def test_a_round_of_runs_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that finish, that fail, that are cancelled, that are watched, and that no caller awaits."""
    monkeypatch.setattr(logging.getLogger("asyncio"), "disabled", True)  # pytest would keep what the debug mode says
    monkeypatch.setattr(logging.getLogger("asyncflow"), "disabled", True)  # and the exceptions of runs that failed
    rounds, runs = (20, 1_000) if MINUTES else (6, 100)
    found: list[tuple[int, ...]] = []
    known: list[Counter[str]] = [Counter()]

    async def one(runner: FlowRunner, n: int) -> None:
        handle = await runner.start(Notes, {"n": (n, -9)[n % 5 == 0]})
        if n % 5 == 1:
            await handle.cancel()
        elif n % 5 == 2:
            async for _ in handle.events():
                pass
        elif n % 5 == 3:
            with anyio.move_on_after(0.001):
                await handle.result()

    async with FlowRunner(SQLiteFlowPersistence(tmp_path / "runs.db", durability="process")) as runner:
        for _ in range(rounds):
            async with anyio.create_task_group() as group:
                for n in range(runs):
                    group.start_soon(one, runner, n)
            with anyio.fail_after(120):
                while runner.running:  # noqa: ASYNC110 - no event to wait for
                    await anyio.sleep(0.01)
            await anyio.sleep(0.05)
            objects = ours()
            left, known[0] = sum((objects - known[0]).values()), objects
            found.append((left, *held().values(), sys.getallocatedblocks()))
    print(f"of each round: objects of ours that it has left, bytes, files, threads, blocks of memory: {found}")

    settled = found[2:]  # caches are full
    rises = [rise(list(enumerate(column))) for column in zip(*settled, strict=True)]
    assert max(left for left, *_ in settled) <= 3, "objects are left"
    assert rises[1] < MEMORY
    assert rises[2] < 3
    assert rises[3] < 3
    assert rises[4] / (len(settled) - 1) / runs < BLOCKS, "each run leaves some memory"
    tell("R28", trials=0, faults=0)
