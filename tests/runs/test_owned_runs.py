"""A run has one owner: when the owner's process is killed the run resumes at once; while it lives, callers may wait."""

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from flows import Steps

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, errors, start

KILLED = """
import os, sys, anyio
from asyncflow import *
from asyncflow.persistence import *

class Count(FlowState):
    done: list[str] = []

class Killed(Flow[Count]):
    name = "Killed"
    persistence = SQLiteFlowPersistence("runs.db")

    def note(self, name):
        with open("effects.txt", "a") as file:
            file.write(name + chr(10))
        self.state.done.append(name)

    @start()
    async def first(self) -> str:
        self.note("first")
        return "one"

    @listen(first)
    def second(self, value: str) -> str:
        self.note("second")
        return value + " two"

    @listen(second)
    async def third(self, value: str) -> str:
        self.note("third")
        if HANGS:
            print("ready", flush=True)
            await anyio.sleep_forever()
        return value + " three"

    @listen(third)
    async def fourth(self, value: str) -> str:
        self.note("fourth")
        return value + " four"
"""


@pytest.mark.clauses("D1", "D2", "E2", "E4", "L2")
async def test_a_run_whose_process_was_killed_can_be_resumed_at_once(is_trio: bool) -> None:
    backend = "trio" if is_trio else "asyncio"
    program = f"HANGS = True\n{KILLED}\nanyio.run(Killed().kickoff, {{'id': 'killed'}}, backend={backend!r})"
    names: dict[str, Any] = {"HANGS": False, "__name__": "killed"}
    exec(KILLED, names)
    killed = names["Killed"]
    path = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    async with await anyio.open_process([sys.executable, "-c", program], env=path, stderr=None) as process:
        with anyio.fail_after(120):
            assert process.stdout is not None
            assert (await process.stdout.receive()).strip() == b"ready"
        with pytest.raises(errors.RunLockedError):
            await killed.resume("killed")
        process.kill()
        await process.wait()
    output = await killed.resume("killed")
    loaded = await killed.load("killed")
    effects = await anyio.Path("effects.txt").read_text()

    assert output == "one two three four"
    assert effects.split() == ["first", "second", "third", "third", "fourth"]
    assert loaded.state.done == ["first", "second", "third", "fourth"]
    assert [entry.method for entry in await loaded.history()] == ["", "first:1", "second:1", "", "third:1", "fourth:1"]


@pytest.mark.clauses("L2")
@pytest.mark.parametrize("call", ["resume", "kickoff"])
async def test_a_run_that_is_driven_can_be_waited_for(call: str) -> None:
    ran: list[str] = []
    go = anyio.Event()
    store = SQLiteFlowPersistence("runs.db")

    class Slow(Flow[dict[str, int]]):
        @start()
        async def only(self) -> int:
            ran.append("only")
            await go.wait()
            return 1

    async def ask(wait: float) -> Any:
        if call == "resume":
            return await Slow.resume("run", wait=wait, persistence=store)
        return await Slow(persistence=store).kickoff({"id": "run"}, wait=wait)

    async with anyio.create_task_group() as group:
        group.start_soon(Slow(persistence=store).kickoff, {"id": "run"})
        while not ran:  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)
        with pytest.raises(errors.RunLockedError):
            await ask(0.03)
        go.set()
        assert await ask(5) == 1

    assert len(ran) == (1 if call == "resume" else 2)  # a kickoff of one that has finished is a new pass


async def test_what_asking_takes_is_part_of_the_wait() -> None:
    class Taken(SQLiteFlowPersistence):
        async def acquire(self, run_id: str, *, force: bool = False) -> int:
            asked.append(run_id)
            await anyio.sleep(0.2)
            raise errors.RunLockedError("taken", run_id=run_id)

    asked: list[str] = []
    with pytest.raises(errors.RunLockedError):
        await Steps.resume("run", wait=0.3, persistence=Taken("runs.db"))

    assert len(asked) in (1, 2), "not six times, as between the pauses alone"
