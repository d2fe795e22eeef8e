"""Children of runs that a runner owns: slots and places, recovery, signals, the end of the runner, orphans."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from moments import until as until_stored
from owned import Steps, Work, gate, gates, ran, until

from asyncflow import Flow, FlowRunner, Signal, errors, listen, run_child, sleep, start, wait_for
from asyncflow._runs.cancelling import cancel_stored
from asyncflow.runner import orphans
from asyncflow.testing import FaultyPersistence
from asyncflow.testing.faults import Fail

approved = Signal("approved", str)


class Middle(Flow[Work]):
    """Runs five children at once."""

    @start()
    async def go(self) -> int:
        results = list[int]()

        async def one(n: int) -> None:
            results.append(await run_child(Steps, {"n": n, "gate": self.state.gate}, key=str(n)))

        async with anyio.create_task_group() as group:
            for n in range(5):
                group.start_soon(one, n)
        return sum(results)


class Top(Flow[Work]):
    @start()
    async def go(self) -> int:
        return int(await run_child(Middle, {"gate": self.state.gate}))


class Asks(Flow[Work]):
    """Waits for a signal, in a method or as a listener."""

    @start()
    async def ask(self) -> None:
        ran.append("asks")

    @listen(approved, keep_open=True)
    async def take(self, answer: str) -> str:
        return answer


class AsksInMethod(Flow[Work]):
    @start()
    async def ask(self) -> str:
        ran.append("asks")
        return await wait_for(approved)

    @listen(approved, keep_open=False)
    async def other(self, answer: str) -> None:
        pass


class Chief(Flow[Work]):
    made: Any = Asks

    @start()
    async def go(self) -> str:
        return str(await run_child(Chief.made))


class Naps(Flow[Work]):
    @start()
    async def nap(self) -> str:
        ran.append("naps")
        await sleep(0.05)
        return "slept"


TOTAL = sum(n + 2 for n in range(5))


@pytest.mark.clauses("K9")
@pytest.mark.parametrize("overload", ["wait", "raise"])
async def test_three_levels_run_in_one_slot_and_one_place(storage: Any, overload: Any) -> None:
    async with FlowRunner(storage, max_running=1, max_queued=0, overload=overload) as runner:
        with anyio.fail_after(60):
            assert await runner.run(Top) == TOTAL
            assert await runner.run(Top) == TOTAL


@pytest.mark.clauses("K9")
async def test_many_parents_with_children_run_in_few_slots(storage: Any) -> None:
    most = Most()
    async with FlowRunner(storage, flows=[Steps], max_running=3) as runner:
        with anyio.fail_after(120):
            handles = [await runner.start(most.flow) for _ in range(50)]
            assert [await handle.result() for handle in handles] == [TOTAL] * 50
    assert len(ran) == 500
    assert 1 <= most.at_once <= 3


class Most:
    """Counts how many children run methods at the same time."""

    def __init__(self) -> None:
        self.now = self.at_once = 0
        counted = self

        class Counted(Steps):
            name = "Counted"

            @start()
            async def first(self) -> int:
                counted.now += 1
                counted.at_once = max(counted.at_once, counted.now)
                await anyio.sleep(0.001)
                counted.now -= 1
                return await Steps.first(self)

        class Parents(Middle):
            @start()
            async def go(self) -> int:
                results = list[int]()

                async def one(n: int) -> None:
                    results.append(await run_child(Counted, {"n": n}, key=str(n)))

                async with anyio.create_task_group() as group:
                    for n in range(5):
                        group.start_soon(one, n)
                return sum(results)

        self.flow = Parents


@pytest.mark.clauses("K9")
@pytest.mark.parametrize("made", [Asks, AsksInMethod, Naps])
async def test_a_child_that_waits_holds_no_slot_and_is_reached_by_its_id(storage: Any, made: Any) -> None:
    Chief.made = made
    async with FlowRunner(storage, flows=[made], max_running=1, max_queued=0, park_after=0.0) as runner:
        with anyio.fail_after(60):
            handle = await runner.start(Chief)
            await until(lambda: ran)
            assert await runner.run(Steps, {"n": 1}) == 3
            if made is not Naps:
                child = await runner.get((await storage.children(handle.run_id))[0].run_id)
                await child.signal(approved, "yes")
            assert await handle.result() == ("slept" if made is Naps else "yes")


# ---- who drives a child ----------------------------------------------------------------------------------------------


async def interrupted(storage: Any) -> tuple[str, str]:
    """A parent whose child waits at a gate, after the death of their process: nothing drives either."""
    gate("child")
    async with FlowRunner(storage, grace=0, patience=0) as runner:
        handle = await runner.start(Top, {"gate": "child"})
        await until(lambda: len(ran) == 5)
    ran.clear()
    gates["child"].set()
    return handle.run_id, (await storage.children(handle.run_id))[0].run_id


@pytest.mark.clauses("K5")
@pytest.mark.parametrize("knows", [[Top], [Top, Middle], [Top, Middle, Steps], [Steps, Middle, Top]])
async def test_after_a_crash_parents_and_children_are_recovered_together_or_by_their_parents(
    storage: Any, knows: Any
) -> None:
    run_id, _ = await interrupted(storage)
    async with FlowRunner(storage, flows=knows, max_running=1, max_queued=0, recover_every=0.05) as runner:
        with anyio.fail_after(60):
            assert await (await runner.get(run_id)).result() == TOTAL
    assert sorted(line.split()[1] for line in ran) == ["first"] * 5 + ["second"] * 5


@pytest.mark.clauses("K5")
async def test_a_parent_attaches_to_a_child_that_is_driven_elsewhere(storage: Any) -> None:
    run_id, child = await interrupted(storage)
    gate("child")
    async with FlowRunner(storage, recover_every=None) as other, FlowRunner(storage, recover_every=None) as runner:
        other.add(Middle)
        runner.add(Top)
        with anyio.fail_after(60):
            await other.resume(child)
            await until(lambda: len(ran) == 5)
            handle = await runner.resume(run_id)
            await anyio.sleep(0.05)
            gates["child"].set()
            assert await handle.result() == TOTAL
    assert len(ran) == 10


@pytest.mark.clauses("K5")
async def test_a_child_whose_owner_dies_is_driven_by_its_parent(storage: Any) -> None:
    run_id, child = await interrupted(storage)
    gate("child")
    async with FlowRunner(storage, recover_every=None) as runner:
        runner.add(Top)
        with anyio.fail_after(60):
            async with FlowRunner(storage, recover_every=None, grace=0, patience=0) as other:
                other.add(Middle)
                await other.resume(child)
                await until(lambda: len(ran) == 5)
                handle = await runner.resume(run_id)
                await anyio.sleep(0.05)
            gates["child"].set()
            assert await handle.result() == TOTAL


# ---- the end of the runner, and of the parents -----------------------------------------------------------------------


@pytest.mark.clauses("K10")
async def test_a_runner_that_ends_lets_the_methods_of_children_reach_their_checkpoints(storage: Any) -> None:
    gate("child")
    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=0, patience=30) as runner:
            handle = await runner.start(Top, {"gate": "child"})
            await until(lambda: len(ran) == 5)
            group.start_soon(opened_later, gates["child"])
    assert len(ran) == 5
    (middle,) = await storage.children(handle.run_id)
    assert {entry.seq for entry in await storage.children(middle.run_id)} == {1}
    async with FlowRunner(storage, flows=[Top], recover_every=0.05) as runner:
        with anyio.fail_after(60):
            assert await (await runner.get(handle.run_id)).result() == TOTAL
    assert len(ran) == 10


async def opened_later(opens: anyio.Event) -> None:
    await anyio.sleep(0.1)
    opens.set()


@pytest.mark.clauses("K10")
async def test_a_runner_that_ends_grants_working_children_the_time_to_finish(storage: Any) -> None:
    gate("child")
    async with anyio.create_task_group() as group:
        async with FlowRunner(storage, grace=30) as runner:
            handle = await runner.start(Top, {"gate": "child"})
            await until(lambda: len(ran) == 5)
            group.start_soon(opened_later, gates["child"])
    assert (await storage.load(handle.run_id)).status == "finished"


@pytest.mark.clauses("K8")
async def test_a_cancelled_child_stops_at_once_and_its_parent_gets_the_error(storage: Any) -> None:
    gate("never")
    async with FlowRunner(storage) as runner:
        with anyio.fail_after(60):
            handle = await runner.start(Top, {"gate": "never"})
            await until(lambda: len(ran) == 5)
            await runner.cancel((await storage.children(handle.run_id))[0].run_id)
            with pytest.raises(errors.MethodError) as raised:
                await handle.result()
    assert isinstance(raised.value.__cause__, errors.ChildCancelledError)
    assert {entry.status for entry in await storage.runs(flow="Steps")} == {"cancelled"}


@pytest.mark.clauses("K8")
async def test_a_runner_cancels_orphans_of_any_flow(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_id, child = await interrupted(storage)
    with pytest.raises(errors.StorageWriteError):
        await cancel_stored(FaultyPersistence(storage, Fail(operations=("append",), at=2)), run_id)
    monkeypatch.setattr(orphans, "EVERY", 0.01)
    monkeypatch.setattr(orphans, "PAGE", 2)

    async def are_over() -> bool:
        entries = await storage.runs(limit=100)
        return all(entry.status == "cancelled" for entry in entries)

    with caplog.at_level(logging.INFO, "asyncflow"):
        async with FlowRunner(storage, recover_every=None):
            await until_stored(are_over)
    assert f"orphan cancelled: {child} of Middle" in caplog.text
    assert ran == []


async def test_a_runner_whose_look_for_orphans_fails_looks_again(
    storage: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(orphans, "EVERY", 0.01)
    faulty = FaultyPersistence(storage, Fail(operations=("orphans",), at=1, times=None))
    async with FlowRunner(faulty) as runner:
        await until(lambda: faulty.asked.count("orphans") > 2)
        assert await runner.run(Steps) == 2
    assert caplog.text.count("look for orphans failed") == 1


async def test_no_deadlock_is_reported_for_children(storage: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with FlowRunner(storage, max_running=1) as runner:
        assert await runner.run(Top) == TOTAL
    assert "deadlocked" not in caplog.text
