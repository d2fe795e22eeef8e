"""DBOS: a workflow of steps. It stores the result of each step, not the state, which replay rebuilds."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from dbos import DBOS, SetWorkflowID

from . import STEPS, Change, Peer, Record, State, Turns, put, rest


@DBOS.step()
async def step(state: State) -> State:
    if state.pause:
        await rest(state.pause)
    return state.model_copy(update={"count": state.count + 1})


@DBOS.workflow()
async def chain(pause: float) -> State:
    state = State(id=DBOS.workflow_id or "", pause=pause)
    for _ in range(STEPS):
        state = await step(state)
    return state


@DBOS.step()
async def branch(n: int) -> int:
    return n


@DBOS.step()
async def join(got: list[int]) -> int:
    return len(got)


@DBOS.workflow()
async def fan_out(width: int) -> int:
    await branch(0)
    return int(await join(await asyncio.gather(*(branch(n) for n in range(width)))))


TURNS: dict[str, Turns] = {}
"""Those of each cycle: they are the harness's, and not stored."""


@DBOS.step()
async def turn(cycle: str) -> Change | None:
    return TURNS[cycle].turn()


@DBOS.workflow()
async def cycle(records: list[Record]) -> int:
    name = DBOS.workflow_id or ""
    while not TURNS[name].done:
        change = await turn(name)
        if change is not None:
            put(records, change)
    return len(records)


class Stored(Peer):
    """With a system database: a SQLite file as DBOS makes it, or one on a PostgreSQL server."""

    def __init__(self, folder: Path, url: Callable[[Path], str]) -> None:
        super().__init__(folder)
        self.url = url(folder)

    async def __aenter__(self) -> Self:
        DBOS(config={"name": "benchmarks", "system_database_url": self.url, "log_level": "ERROR", "enable_otlp": False})
        DBOS.launch()
        return self

    async def __aexit__(self, *error: object) -> None:
        DBOS.destroy()

    async def run(self, workflow: Any, *args: Any, run_id: str | None = None) -> tuple[str, Any]:
        run_id = run_id or str(uuid.uuid4())
        with SetWorkflowID(run_id):
            handle = await DBOS.start_workflow_async(workflow, *args)
        return run_id, await handle.get_result()

    async def chain(self, pause: float = 0.0) -> str:
        run_id, state = await self.run(chain, pause)
        assert state.count == STEPS
        return run_id

    async def load(self, run_id: str) -> int:
        handle: Any = await DBOS.retrieve_workflow_async(run_id)
        return int((await handle.get_result()).count)

    async def fan_out(self, width: int) -> int:
        return int((await self.run(fan_out, width))[1])

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        run_id = str(uuid.uuid4())
        TURNS[run_id] = turns
        return int((await self.run(cycle, records, run_id=run_id))[1])


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'dbos.sqlite'}"


def _postgres(folder: Path) -> str:
    return os.environ["BENCHMARKS_POSTGRES"].format(database=f"d{uuid.uuid4().hex}")


WAYS: dict[str, Callable[[Path], Peer]] = {
    "sqlite": partial(Stored, url=_sqlite),
    "postgres": partial(Stored, url=_postgres),
}
