"""A flow that runners own in these tests, what it did, and the gates that it waits at."""

import contextlib
from collections.abc import Callable
from typing import Any

import anyio

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, SQLiteFlowPersistence, errors, listen, start

ran: list[str] = []
gates: dict[str, anyio.Event] = {}


STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db", durability="process"),
}


class Work(FlowState):
    n: int = 0
    gate: str = ""
    fails: bool = False


class Steps(Flow[Work]):
    """Two methods; the first waits for a gate, if one is named."""

    @start()
    async def first(self) -> int:
        ran.append(f"{self.run_id} first")
        if self.state.gate:
            await gates[self.state.gate].wait()
        self.state.n += 1
        return self.state.n

    @listen(first)
    async def second(self, n: int) -> int:
        ran.append(f"{self.run_id} second")
        if self.state.fails:
            raise LookupError("told to")
        self.state.n = n + 1
        return self.state.n


def gate(name: str) -> anyio.Event:
    gates[name] = anyio.Event()
    return gates[name]


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)


class Other(Steps):
    pass


async def left_behind(storage: Any) -> None:
    """Runs of two flows, interrupted; one that has failed, and one that has finished."""
    gate("g")
    async with FlowRunner(storage, grace=0, patience=0) as runner:
        for name in "xy":
            await runner.start(Steps, {"gate": "g"}, run_id=name)
        await runner.start(Other, {"gate": "g"}, run_id="other")
        with contextlib.suppress(errors.MethodError):
            await runner.run(Steps, {"fails": True}, run_id="failed")
        await runner.run(Steps, run_id="finished")
        await until(lambda: "other first" in ran)
    ran.clear()
    gates["g"].set()
