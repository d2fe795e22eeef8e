"""An anyio task group and nothing else: what the event loop itself costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio

from . import STEPS, Peer, Record, State, Turns, put, rest


class TaskGroup(Peer):
    """Each step is a task that starts the next one."""

    async def chain(self, pause: float = 0.0) -> str:
        async def step(n: int) -> None:
            state.count += 1
            if state.pause:
                await rest(state.pause)
            if n < STEPS:
                group.start_soon(step, n + 1)

        state = State(pause=pause)
        async with anyio.create_task_group() as group:
            group.start_soon(step, 1)
        assert state.count == STEPS
        return state.id

    async def fan_out(self, width: int) -> int:
        async def branch(n: int) -> None:
            got.append(n)

        got: list[int] = []
        async with anyio.create_task_group() as group:
            for n in range(width):
                group.start_soon(branch, n)
        return len(got)

    async def cycle(self, records: list[Record], turns: Turns) -> int:
        async def step() -> None:
            change = turns.turn()
            if change is not None:
                put(records, change)
            if not turns.done:
                group.start_soon(step)

        async with anyio.create_task_group() as group:
            group.start_soon(step)
        return len(records)


WAYS: dict[str, Callable[[Path], Peer]] = {"none": TaskGroup}
