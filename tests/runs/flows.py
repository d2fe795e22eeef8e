"""Stores, a flow of three methods, and runs of it with the status that a test wants."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import anyio
import pytest
from pydantic import Field

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, errors, listen, start
from asyncflow.persistence import Checkpoint


class TwoVerbs:
    """A backend that only saves and loads."""

    def __init__(self) -> None:
        self.rows: dict[str, list[bytes]] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        rows = self.rows.setdefault(checkpoint.run_id, [])
        if checkpoint.seq != len(rows):
            raise errors.StaleCheckpoint("not the next one")
        rows.append(checkpoint.to_bytes())

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        rows = self.rows.get(run_id, [])
        last = len(rows) - 1 if seq is None else seq
        return Checkpoint.from_bytes(rows[last]) if 0 <= last < len(rows) else None


STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
    "two verbs": TwoVerbs,
}


class Work(FlowState):
    done: list[str] = Field(default_factory=list)
    size: int = 0


class Steps(Flow[Work]):
    """Three steps. In the second one it hangs or fails, as set."""

    name = "Steps"

    def __init__(self, mood: Literal["well", "hang", "fail"] = "well", **options: Any) -> None:
        super().__init__(**options)
        self.mood = mood
        self.ran: list[str] = []
        self.hanging = anyio.Event()

    def note(self, name: str) -> None:
        self.ran.append(name)
        self.state.done.append(name)
        self.state.size += 1

    @start()
    async def first(self) -> str:
        self.note("first")
        return "one"

    @listen(first)
    async def second(self, value: str) -> str:
        self.note("second")
        if self.mood == "fail":
            raise ValueError("told to")
        if self.mood == "hang":
            self.hanging.set()
            await anyio.sleep_forever()
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.note("third")
        return value + " three"


ALL = ["first", "second", "third"]
OUTPUT = "one two three"


@asynccontextmanager
async def running(flow: Flow[Any]) -> AsyncIterator[None]:
    """While this lasts, the flow is running, and hangs; at the end it is cancelled as a task, so interrupted."""
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        with anyio.fail_after(120):
            await flow.hanging.wait()
        yield
        group.cancel_scope.cancel()


async def run_that_is(standing: str, store: Any, inputs: dict[str, Any] | None = None) -> str:
    """The id of a run with that status."""
    flow = Steps("fail" if standing == "failed" else "hang" if standing != "finished" else "well", persistence=store)
    if standing == "finished":
        await flow.kickoff(inputs)
    elif standing == "failed":
        with pytest.raises(MethodError):
            await flow.kickoff(inputs)
    else:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(flow.kickoff, inputs)
                await flow.hanging.wait()
                scope.cancel()
        if standing == "cancelled":
            await (await Steps.load(flow.run_id, persistence=store)).cancel()
    return flow.run_id


UNFINISHED = pytest.mark.parametrize("standing", ["interrupted", "failed"])
ANY = pytest.mark.parametrize("standing", ["interrupted", "failed", "finished", "cancelled"])


async def interrupted(flow: Any) -> str:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            with anyio.fail_after(120):
                await flow.hanging.wait()
            scope.cancel()
    return flow.run_id


class Hanging(Flow[Work]):
    def __init__(self, hangs: bool, **options: Any) -> None:
        super().__init__(**options)
        self.hangs = hangs
        self.hanging = anyio.Event()
        self.ran: list[str] = []

    async def hang(self) -> None:
        if self.hangs:
            self.hanging.set()
            await anyio.sleep_forever()
