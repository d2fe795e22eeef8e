"""What a runner's look for interrupted runs costs, and which runs it gives up."""

import sqlite3
from typing import Any

import anyio
import pytest
from owned import until

from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, start
from asyncflow.persistence import RunEntry
from asyncflow.runner import recovery


class Unknown(Flow[dict[str, int]]):
    @start()
    async def one(self) -> None: ...


class Waiting(Flow[dict[str, int]]):
    """Waits for a person."""

    @start()
    async def wait(self) -> str:
        await approved.wait()
        return "approved"


approved = anyio.Event()


def counting(kind: type[Any]) -> type[Any]:
    class Counting(kind):  # type: ignore[misc]
        listed = looks = 0

        async def runs(self, **asked: Any) -> list[RunEntry]:
            found: list[RunEntry] = await super().runs(**asked)
            self.looks += 1
            self.listed += len(found)
            return found

    return Counting


@pytest.mark.found("R6")
@pytest.mark.parametrize("kind", [SQLiteFlowPersistence, MemoryFlowPersistence])
@pytest.mark.parametrize("flows", [(), (Waiting,)])
async def test_a_look_reads_nothing_of_the_interrupted_runs_of_unknown_flows(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], flows: Any
) -> None:
    monkeypatch.setattr(recovery, "PAGE", 10)
    storage = counting(kind)(**({"path": "runs.db", "durability": "process"} if kind is SQLiteFlowPersistence else {}))
    async with FlowRunner(storage, flows=flows, recover_every=0.001) as runner:
        for n in range(2 * recovery.PAGE):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await Unknown(persistence=storage).kickoff({"id": f"run {n}"})
        storage.listed = 0
        for _ in range(3):
            await runner.recover()

    assert storage.listed == 0
    assert storage.looks >= (3 if flows else 0)


@pytest.mark.found("T14")
@pytest.mark.clauses("L2")
async def test_a_run_that_waits_is_taken_over_as_often_as_its_processes_die(monkeypatch: pytest.MonkeyPatch) -> None:
    """They live for a while with it, so it is not what ends them, though it has no checkpoint since."""
    global approved
    approved = anyio.Event()
    monkeypatch.setattr(recovery, "LIVED", 0)
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await Waiting(persistence=storage).kickoff({"id": "x"})
    async with storage:
        for last in (False, False, True):
            taken_over_from_the_dead(times=9)
            async with FlowRunner(storage, flows=[Waiting], recover_every=0.001, grace=0, patience=0) as runner:
                assert (await storage.runs())[0].takeovers == 9
                await until(lambda: runner.running)
                with anyio.fail_after(60):
                    while (await storage.runs())[0].takeovers:  # noqa: ASYNC110 - no event to wait for
                        await anyio.sleep(0.001)
                if last:
                    approved.set()
                    assert await (await runner.get("x")).result() == "approved"


def taken_over_from_the_dead(*, times: int) -> None:
    """As so many processes have left it that died with it, one after the other."""
    with sqlite3.connect("runs.db", isolation_level=None) as connection:
        connection.execute("UPDATE runs SET takeovers = ?, counted_at = head", (times,))
    connection.close()
