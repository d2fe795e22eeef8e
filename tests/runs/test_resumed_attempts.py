"""Attempts and pauses over crashes: a resume waits for the rest of the pause, and makes the attempt that follows."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest
from flows import STORES, Work

from asyncflow import (
    Flow,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    SQLiteFlowPersistence,
    and_,
    listen,
    persist,
    start,
    this_invocation,
)
from asyncflow.persistence.checkpoint import decode_progress, encode_progress
from asyncflow.testing import crash_everywhere
from asyncflow.testing.loops import EPOCH, Loop, simulated

DAY = 86_400.0
LONG = Retry(attempts=3, initial=timedelta(days=2), maximum=timedelta(days=2), jitter=0)


class Trying(Flow[Work]):
    """`call` fails in its first attempt, and then waits."""

    name = "Trying"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[tuple[int, float]] = []

    def note(self) -> int:
        attempt = this_invocation().attempt
        self.seen.append((attempt, time.time()))
        self.state.done.append(f"call {attempt}")
        return attempt

    @start(retry=Retry(initial=0.2, jitter=0))
    async def call(self) -> int:
        if self.note() == 1:
            raise ValueError("no")
        return this_invocation().attempt


class TryingLong(Trying):
    name = "TryingLong"

    @start(retry=LONG)
    async def call(self) -> int:
        return await Trying.call(self)


async def paused(flow: Flow[Any], at: Callable[[], object] = lambda: None) -> str:
    """Interrupt the flow in its first pause. `at`: what to do right before. Return the id of the run."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            while flow.status != "waiting" and not ((engine := flow._instance._engine) and engine._steps.pauses):  # noqa: ASYNC110
                await anyio.sleep(0.001)
            at()
            group.cancel_scope.cancel()
    return flow.run_id


@pytest.mark.clauses("R2")
async def test_a_resume_waits_for_the_end_of_the_pause_and_makes_the_next_attempt(store: Any) -> None:
    flow = Trying(persistence=store)
    run_id = await paused(flow)
    failed_at = flow.seen[0][1]
    again = Trying(persistence=store)

    assert await again.kickoff({"id": run_id}) == 2

    assert [attempt for attempt, _ in again.seen] == [2]
    assert again.seen[0][1] >= failed_at + 0.19
    assert (await Trying.load(run_id, persistence=store)).state.done == ["call 2"]


@pytest.mark.clauses("R2")
async def test_a_copy_of_the_file_during_the_pause_is_resumed_as_after_a_crash() -> None:
    store = SQLiteFlowPersistence("runs.db")
    run_id = await paused(Trying(persistence=store), copied)
    with anyio.fail_after(60):
        result = await Trying.resume(run_id, wait=30, persistence=SQLiteFlowPersistence("copy.db"))

    assert result == 2


def copied() -> None:
    for end in ("", "-wal"):
        shutil.copy(f"runs.db{end}", f"copy.db{end}")


@pytest.mark.clauses("R2")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize(("days", "rest"), [(0.5, 1.5), (1.9, 0.1), (2.0, 0.0), (30.0, 0.0)])
@pytest.mark.parametrize("name", ["memory", "two verbs"])  # the threads of SQLite do not live in virtual time
def test_what_is_left_of_a_pause_of_days_is_waited_for(name: str, days: float, rest: float, loop: Loop) -> None:
    store = STORES[name]()
    run_id = simulated(lambda: paused(TryingLong(persistence=store)), seed=1, loop=loop)

    async def resumed() -> float:
        began = anyio.current_time()
        assert await TryingLong.resume(run_id, persistence=store) == 2
        return anyio.current_time() - began

    waited = simulated(resumed, seed=1, loop=loop, start_at=EPOCH + days * DAY)

    assert waited / DAY == pytest.approx(rest, abs=0.001)


@pytest.mark.clauses("R2")
async def test_a_resume_that_is_cancelled_keeps_the_due_time(store: Any) -> None:
    run_id = await paused(TryingLong(persistence=store))
    newest = await store.load(run_id)
    before = decode_progress(newest.progress).attempts["call:1"]
    again = TryingLong(persistence=store)
    with anyio.move_on_after(0.2):
        await again.kickoff({"id": run_id})
    after = decode_progress((await store.load(run_id)).progress).attempts["call:1"]

    assert again.seen == []
    assert (after.failed, after.due) == (1, before.due)


@pytest.mark.clauses("R2")
async def test_an_attempt_that_a_crash_ended_is_not_counted(store: Any) -> None:
    class Hangs(Trying):
        hanging = True

        @start(retry=Retry(initial=0))
        async def call(self) -> int:
            attempt = self.note()
            if attempt == 1:
                raise ValueError("no")
            if self.hanging:
                await anyio.sleep_forever()
            return attempt

    flow = Hangs(persistence=store)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            while len(flow.seen) < 2:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
    Hangs.hanging = False
    again = Hangs(persistence=store)

    assert await again.kickoff({"id": flow.run_id}) == 2
    assert [attempt for attempt, _ in flow.seen + again.seen] == [1, 2, 2]


class Pair(Flow[Work]):
    """One method waits for its next attempt while another one fails permanently."""

    name = "Pair"

    def __init__(self, is_well: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.is_well = is_well
        self.seen: list[str] = []

    @start(retry=Retry(attempts=2, initial=0.3, jitter=0))
    async def shaky(self) -> None:
        attempt = this_invocation().attempt
        self.seen.append(f"shaky {attempt}")
        if attempt < 3 and not self.is_well:
            raise ValueError("shaky")

    @start()
    async def broken(self) -> None:
        self.seen.append("broken")
        while not self.is_well and not self._instance._engine.is_paused:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        if not self.is_well:
            raise LookupError("broken")

    @listen(and_(shaky, broken))
    async def both(self) -> str:
        return "both"


@pytest.mark.clauses("R3", "R4")
async def test_what_waited_when_another_method_failed_is_resumed_with_its_number(store: Any) -> None:
    flow = Pair(persistence=store)
    flow_failed = False
    try:
        await flow.kickoff()
    except MethodError as error:
        flow_failed = [f.method for f in error.failures] == ["broken"]
    again = Pair(is_well=True, persistence=store)

    assert flow_failed
    assert sorted(flow.seen) == ["broken", "shaky 1"]
    assert await again.kickoff({"id": flow.run_id}) == "both"
    assert sorted(again.seen) == ["broken", "shaky 2"]


@pytest.mark.clauses("R4")
async def test_attempts_of_what_only_waited_are_not_granted_again(store: Any) -> None:
    flow = Pair(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    progress = decode_progress((await store.load(flow.run_id)).progress)

    assert {key: (a.failed, a.before, a.due is None) for key, a in progress.attempts.items()} == {
        "shaky:1": (1, 0, False),
        "broken:1": (1, 0, True),
    }
    assert decode_progress(encode_progress(progress)) == progress


async def test_a_run_that_waits_can_be_loaded_forked_and_edited(log: Any) -> None:
    run_id = await paused(Trying(persistence=log))
    loaded = await Trying.load(run_id, persistence=log)
    assert (loaded.status, loaded.pending, loaded.state.done) == ("interrupted", ("call:1",), [])

    fork = await Trying.fork(run_id, persistence=log)
    assert await fork.kickoff() == 2
    loaded.state.done.append("edited")
    await loaded.update_state(loaded.state)
    assert await Trying.resume(run_id, persistence=log) == 2
    assert (await Trying.load(run_id, persistence=log)).state.done == ["edited", "call 2"]


# ---- checkpoints of some methods -------------------------------------------------------------------------------


def partly(store: Any) -> type[Flow[Work]]:
    """A flow in which only `saved` has checkpoints."""

    class Partly(Flow[Work]):
        name = "Partly"
        persistence = store
        seen: list[str] = []  # noqa: RUF012 - shared on purpose

        def note(self) -> int:
            attempt = this_invocation().attempt
            self.seen.append(f"{this_invocation().method} {attempt}")
            self.state.done.append(f"{this_invocation().method} {attempt}")
            return attempt

        @start(retry=Retry(initial=0))
        async def unsaved(self) -> None:
            if self.note() == 1:
                raise ValueError("no")

        @listen(unsaved, retry=Retry(initial=0.2, jitter=0))
        @persist
        async def saved(self) -> int:
            attempt = self.note()
            if attempt == 1:
                raise ValueError("no")
            return attempt

    return Partly


@pytest.mark.clauses("R1", "R2")
async def test_a_method_with_persist_keeps_its_attempts_and_the_state_of_that_time(store: Any) -> None:
    flow_class = partly(store)
    flow = flow_class()
    run_id = await paused_at_saved(flow)
    loaded = await flow_class.load(run_id)

    assert (loaded.state.done, loaded.pending) == (["unsaved 2"], ("saved:1",))
    flow_class.seen.clear()  # type: ignore[attr-defined]
    assert await flow_class.resume(run_id) == 2
    assert flow_class.seen == ["saved 2"]  # type: ignore[attr-defined]
    assert (await flow_class.load(run_id)).state.done == ["unsaved 2", "saved 2"]


async def paused_at_saved(flow: Flow[Any]) -> str:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            while "saved 1" not in flow.seen or not flow._instance._engine._steps.pauses:  # type: ignore[attr-defined]  # noqa: ASYNC110
                await anyio.sleep(0.001)
            group.cancel_scope.cancel()
    return flow.run_id


async def test_a_method_without_persist_is_tried_again_and_stores_nothing(log: Any) -> None:
    flow = partly(log)()

    assert await flow.kickoff() == 2
    rows = await log.history(flow.run_id)
    assert [(row.kind, row.method) for row in rows if row.kind == "retrying"] == [("retrying", "saved:1")]


# ---- crashes at every commit -----------------------------------------------------------------------------------


class Patient(Flow[Work]):
    """Two methods at once, of which one waits for days; then a third that waits, too."""

    name = "Patient"

    @start(retry=LONG)
    async def call(self) -> None:
        if this_invocation().attempt < 3:
            raise ValueError("no")
        self.state.done.append(f"call {this_invocation().attempt}")

    @start()
    async def steady(self) -> None:
        self.state.size += 1

    @listen(and_(call, steady), retry=LONG)
    async def both(self) -> str:
        self.state.done.append(f"both {this_invocation().attempt}")
        if this_invocation().attempt < 2:
            raise ValueError("no")
        return "both"


@pytest.mark.clauses("R1", "R2", "E4")
async def test_a_crash_at_any_commit_loses_neither_attempts_nor_pauses() -> None:
    report = await crash_everywhere(Patient, limit=30 * DAY)

    assert report.crashes >= 3 * 2 * 6


@pytest.mark.clauses("R4")
async def test_a_failure_after_the_last_attempt_survives_a_crash_at_any_commit() -> None:
    class Hopeless(Flow[Work]):
        @start(retry=LONG)
        async def call(self) -> None:
            self.state.done.append("never")
            raise ValueError("no")

    report = await crash_everywhere(Hopeless, limit=30 * DAY)

    assert report.crashes > 0


@pytest.mark.clauses("R2")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_pause_of_days_takes_no_time_in_virtual_time(loop: Loop) -> None:
    store, began = MemoryFlowPersistence(), time.monotonic()

    async def main() -> float:
        await TryingLong(persistence=store).kickoff({"id": "x"})
        return anyio.current_time()

    simulated(main, seed=3, loop=loop)

    assert time.monotonic() - began < 20
    rows = store._rows["x"]
    assert len(rows) == 3


async def test_attempts_that_do_not_fit_are_a_corrupt_checkpoint(log: Any) -> None:
    run_id = await paused(Trying(persistence=log))
    progress = decode_progress((await log.load(run_id)).progress)
    progress.attempts["unknown:1"] = progress.attempts["call:1"]

    with pytest.raises(ValueError, match="refers to unknown invocations"):
        decode_progress(encode_progress(progress))
