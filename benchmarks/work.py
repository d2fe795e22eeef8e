"""The work that is measured: a chain of ten trivial async methods over a state of five fields; and ways to do it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from asyncflow import Flow, FlowState, SQLiteFlowPersistence, listen, start
from asyncflow.persistence.queued import QueuedPersistence

__all__ = ["STEPS", "WAYS", "Way"]

STEPS = 10


class State(FlowState):
    """Five fields: `id` and these."""

    count: int = 0
    total: float = 0.0
    name: str = "chain"
    done: bool = False


class Chain(Flow[State]):
    """Each method adds to the state and hands a number on."""

    @start()
    async def step_1(self) -> int:
        self.state.count += 1
        return 1

    @listen(step_1)
    async def step_2(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_2)
    async def step_3(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_3)
    async def step_4(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_4)
    async def step_5(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_5)
    async def step_6(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_6)
    async def step_7(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_7)
    async def step_8(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_8)
    async def step_9(self, n: int) -> int:
        self.state.count += 1
        return n + 1

    @listen(step_9)
    async def step_10(self, n: int) -> int:
        self.state.count += 1
        self.state.done = True
        return n + 1


# ---- ways to do it -------------------------------------------------------------------------------------------------

Run = Callable[[], Awaitable[None]]
"""One run of the chain, from its start to its end."""


@dataclass(frozen=True)
class Way:
    """One way to run the chain. `made(folder)` gives what has to be open meanwhile, and a run."""

    name: str
    durability: str
    """What a power cut may take."""
    made: Callable[[Path], tuple[AbstractAsyncContextManager[Any], Run]]


def _bare(folder: Path) -> tuple[AbstractAsyncContextManager[Any], Run]:
    async def run() -> None:
        async def step(n: int) -> None:
            state.count += 1
            if n < STEPS:
                group.start_soon(step, n + 1)

        state = State()
        async with anyio.create_task_group() as group:
            group.start_soon(step, 1)
        assert state.count == STEPS

    return nullcontext(), run


def _flow(persistence: QueuedPersistence[Any] | None) -> tuple[AbstractAsyncContextManager[Any], Run]:
    async def run() -> None:
        flow = Chain(persistence=persistence)
        assert await flow.kickoff() == STEPS
        assert flow.state.count == STEPS

    return persistence or nullcontext(), run


def _postgres() -> QueuedPersistence[Any]:
    from asyncflow.persistence.postgres import PostgresFlowPersistence

    return PostgresFlowPersistence(os.environ[SERVER], schema="asyncflow_benchmarks")


SERVER = "ASYNCFLOW_TEST_POSTGRES"
"""The environment variable that names a PostgreSQL server; its schema `asyncflow_benchmarks` is made, and kept."""

WAYS = {
    "bare": Way("bare task group", "forgets", _bare),
    "none": Way("asyncflow, no store", "forgets", lambda _: _flow(None)),
    "process": Way(
        "asyncflow, SQLite, process",
        "the newest checkpoints",
        lambda folder: _flow(SQLiteFlowPersistence(folder / "runs.db", durability="process")),
    ),
    "full": Way("asyncflow, SQLite, full", "nothing", lambda folder: _flow(SQLiteFlowPersistence(folder / "runs.db"))),
    "postgres": Way("asyncflow, PostgreSQL", "nothing", lambda _: _flow(_postgres())),
}
