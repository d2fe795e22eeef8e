"""The server stopped at once and started again while runs are running: nothing is lost, nothing runs again, all runs finish."""

import random
import signal
from collections import Counter

import anyio
import anyio.to_thread
import pytest
from figures import FACTOR, SEED, tell
from server import Server

from asyncflow import Flow, FlowState, errors, listen, start
from asyncflow.persistence.postgres import PostgresFlowPersistence

TRIALS = max(2, round(2 * FACTOR))
"""On each event loop."""
RUNS = 8
STEPS = 6


async def start_again(server: Server) -> None:
    server.launch()
    await anyio.to_thread.run_sync(server.wait)


class Witness:
    """What bodies do, in order; and when the server is to be stopped."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.started: list[tuple[str, int]] = []
        self.is_time = anyio.Event()

    def start(self, run_id: str, step: int) -> None:
        self.started.append((run_id, step))
        if len(self.started) == self.at:
            self.is_time.set()

    def complaints(self) -> list[str]:
        """The start of a step shows that the checkpoint of the one before it was acknowledged."""
        found = []
        acknowledged: Counter[str] = Counter()
        for run_id, step in self.started:
            if step < acknowledged[run_id]:
                found.append(f"step {step} of {run_id} was started after {acknowledged[run_id] - 1} was acknowledged")
            acknowledged[run_id] = max(acknowledged[run_id], step)
        found += [f"{key} was started {n} times" for key, n in Counter(self.started).items() if n > 2]
        return found


class Work(FlowState):
    done: list[int] = []  # noqa: RUF012 - pydantic copies it


class Chain(Flow[Work]):
    witness: Witness

    @start()
    async def step_0(self) -> int:
        return await self.work(0)

    @listen(step_0)
    async def step_1(self, n: int) -> int:
        return await self.work(n)

    @listen(step_1)
    async def step_2(self, n: int) -> int:
        return await self.work(n)

    @listen(step_2)
    async def step_3(self, n: int) -> int:
        return await self.work(n)

    @listen(step_3)
    async def step_4(self, n: int) -> int:
        return await self.work(n)

    @listen(step_4)
    async def step_5(self, n: int) -> int:
        return await self.work(n)

    async def work(self, n: int) -> int:
        assert self.run_id is not None
        self.witness.start(self.run_id, n)
        self.state.done.append(n)
        await anyio.sleep(0.001)
        return n + 1


@pytest.mark.clauses("D1", "E2", "E4", "L1")
async def test_a_server_that_is_stopped_at_once_and_started_again_loses_nothing(
    private_server: Server, schema: str, anyio_backend: tuple[str, object]
) -> None:
    rng = random.Random(f"{SEED}/{anyio_backend}")
    failed = under_way = 0
    for trial in range(TRIALS):
        witness = Witness(rng.randint(RUNS, RUNS * (STEPS - 3)))
        flow = type("Witnessed", (Chain,), {"witness": witness})
        names = [f"{trial} {n}" for n in range(RUNS)]
        left: list[str] = []
        ended: list[str] = []
        persistence = PostgresFlowPersistence(private_server.conninfo, schema=schema)

        async def go(flow: Chain, name: str, ended: list[str], left: list[str]) -> None:
            try:
                assert await flow.kickoff({"id": name}) == STEPS
                ended.append(name)
            except errors.StorageError:
                left.append(name)

        async with persistence:
            async with anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(go, flow(persistence=persistence), name, ended, left)
                await witness.is_time.wait()
                await anyio.to_thread.run_sync(private_server.stop, signal.SIGQUIT)
                under_way += RUNS - len(ended)
                await start_again(private_server)
            for name in left:
                try:
                    assert await flow.resume(name, persistence=persistence) == STEPS
                except errors.RunNotFoundError:  # its very first checkpoint was not saved
                    assert await flow(persistence=persistence).kickoff({"id": name}) == STEPS
            stored = [await flow.load(name, persistence=persistence) for name in names]
            verdicts = await persistence.verify()

        failed += len(left)
        assert witness.complaints() == [], f"trial {trial} of seed {SEED}"
        assert verdicts == []
        assert {tuple(run.state.done) for run in stored} == {tuple(range(STEPS))}
    tell("R16", trials=TRIALS, faults=TRIALS, acknowledged=TRIALS * RUNS * STEPS, lost=0, resumed=failed)
    assert under_way >= TRIALS


async def test_a_server_that_was_restarted_between_two_operations_is_asked_again(
    private_server: Server, schema: str
) -> None:
    class Quick(Flow[Work]):
        @start()
        async def only(self) -> int:
            return 1

    async with PostgresFlowPersistence(private_server.conninfo, schema=schema) as persistence:
        flow = Quick(persistence=persistence)
        for how in (signal.SIGINT, signal.SIGQUIT):
            assert await flow.kickoff() == 1
            await anyio.to_thread.run_sync(private_server.stop, how)
            await start_again(private_server)
            assert (await Quick.load(flow.run_id, persistence=persistence)).status == "finished"
        assert await Quick(persistence=persistence).kickoff() == 1


async def test_a_run_whose_server_went_away_is_resumed_when_the_server_is_back(
    private_server: Server, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("persistence", "writer"):
        monkeypatch.setattr(f"asyncflow.persistence.postgres.{module}.BUSY_SECONDS", 0.2)
    ran: list[str] = []

    class Stopping(Flow[Work]):
        @start()
        async def first(self) -> int:
            ran.append("first")
            if len(ran) == 1:
                await anyio.to_thread.run_sync(private_server.stop, signal.SIGQUIT)
            return 1

        @listen(first)
        async def second(self, n: int) -> int:
            ran.append("second")
            return n + 1

    async with PostgresFlowPersistence(private_server.conninfo, schema=schema) as persistence:
        flow = Stopping(persistence=persistence)
        try:
            with pytest.raises(errors.StorageWriteError) as caught:
                await flow.kickoff()
            with pytest.raises(errors.StorageNotFoundError):
                await PostgresFlowPersistence(private_server.conninfo, schema=schema).load("any")
        finally:
            await start_again(private_server)
        assert caught.value.outcome in ("not saved", "unknown")
        assert ran == ["first"]

        assert await Stopping.resume(flow.run_id, persistence=persistence) == 2
