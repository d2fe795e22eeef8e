"""`@persist` on methods: checkpoints after these methods alone, each with the whole state."""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from flows import Hanging, interrupted

from asyncflow import Flow, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, listen, persist, start


class Partly(Hanging):
    """Only `second` has a checkpoint."""

    @start()
    async def first(self) -> None:
        self.ran.append("first")
        self.state.done.append("first")

    @persist
    @listen(first)
    async def second(self) -> None:
        self.ran.append("second")
        self.state.done.append("second")

    @listen(second)
    async def third(self) -> None:
        self.ran.append("third")
        self.state.done.append("third")

    @listen(third)
    async def fourth(self) -> str:
        await self.hang()
        self.ran.append("fourth")
        self.state.done.append("fourth")
        return "end"


async def test_method_level_persist_resumes_from_the_last_checkpoint(store: Any) -> None:
    run_id = await interrupted(Partly(True, persistence=store))
    flow = Partly(False, persistence=store)
    await flow.kickoff({"id": run_id})

    assert flow.ran == ["third", "fourth"]
    assert flow.state.done == ["first", "second", "third", "fourth"]


async def test_only_the_methods_with_persist_have_a_checkpoint(log: Any) -> None:
    flow = Partly(False, persistence=log)
    await flow.kickoff()

    assert [(entry.kind, entry.method) for entry in await flow.history()] == [
        ("started", ""),
        ("method", "second:1"),
        ("finished", "fourth:1"),
    ]


async def test_the_record_of_the_end_holds_the_outcome_only(log: Any) -> None:
    flow = Partly(False, persistence=log)
    await flow.kickoff()
    loaded = await Partly.load(flow.run_id, hangs=False, persistence=log)
    end = (await log.history(flow.run_id))[-1]

    assert (end.state, end.progress) == (None, None)
    assert (loaded.status, loaded.result) == ("finished", "end")
    assert loaded.state.done == ["first", "second"]


async def test_a_finished_run_with_method_level_persist_can_be_loaded(store: Any) -> None:
    flow = Partly(False, persistence=store)
    await flow.kickoff()
    loaded = await Partly.load(flow.run_id, hangs=False, persistence=store)

    assert (loaded.status, loaded.result) == ("finished", "end")
    assert loaded.state.done == ["first", "second"]


@pytest.mark.clauses("X1", "X3")
async def test_a_failed_run_with_method_level_persist_resumes_from_its_last_checkpoint(store: Any) -> None:
    class Failing(Partly):
        async def fourth(self) -> str:
            if self.hangs:
                raise ValueError
            self.state.done.append("fourth")
            return "end"

    flow = Failing(True, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    again = await Failing.load(flow.run_id, hangs=False, persistence=store)
    standing = again.status, again.pending
    await again.kickoff()

    assert standing == ("failed", ("third:1",))
    assert again.ran == ["third"]
    assert again.state.done == ["first", "second", "third", "fourth"]


@pytest.mark.clauses("E4")
async def test_a_method_checkpoint_holds_the_whole_merged_state(log: Any) -> None:
    # what is in flight at the same time is not in it
    class Beside(Hanging):
        @start()
        async def quick(self) -> None:
            self.state.size = 1

        @persist
        @listen(quick)
        async def saved(self) -> None:
            self.state.done.append("saved")

        @listen(saved)
        async def last(self) -> None:
            await self.hang()

        @start()
        async def slow(self) -> None:
            self.state.done.append("half")
            await self.hang()

    run_id = await interrupted_when(Beside(True, persistence=log), lambda flow: len(flow.committed_state().done) == 1)
    loaded = await Beside.load(run_id, hangs=False, persistence=log)

    assert (loaded.state.size, loaded.state.done) == (1, ["saved"])
    assert sorted(loaded.pending) == ["last:1", "slow:1"]


async def interrupted_when(flow: Any, condition: Callable[[Any], bool]) -> str:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await flow.hanging.wait()
            while not condition(flow):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
    return flow.run_id


@pytest.mark.clauses("E4")
@pytest.mark.parametrize("persistence", [MemoryFlowPersistence, lambda: SQLiteFlowPersistence("runs.db")])
async def test_a_method_checkpoint_holds_what_unmarked_methods_did_before(persistence: Any) -> None:
    is_well = False

    class Partly(Flow[dict]):
        @start()
        async def unmarked(self) -> None:
            self.state["x"] = 1

        @persist
        @listen(unmarked)
        async def marked(self) -> None: ...  # looks at no state

        @listen(marked)
        async def last(self) -> Any:
            if not is_well:
                raise RuntimeError
            return self.state.get("x", "lost")

    store = persistence()
    flow = Partly(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    is_well = True

    assert await Partly.resume(flow.run_id, persistence=store) == 1
