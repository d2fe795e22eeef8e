"""Runs that stop before their end, though no caller asked for it: they end nothing else, are reported, and are recovered."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from owned import STORES, Steps, Work, gate, gates, ran, until

import asyncflow
from asyncflow import Flow, FlowRunner, MemoryFlowPersistence, SQLiteFlowPersistence, errors, listen, start
from asyncflow.persistence import Checkpoint, RunEntry
from asyncflow.runner.recovery import AGAIN
from asyncflow.testing import Fail, Fault, FaultyPersistence, LoseReply


class NoError(BaseException):
    """What `except Exception` does not catch."""


class Odd(Flow[dict[str, Any]]):
    """Lets out what is no error, the first time."""

    @start()
    async def once(self) -> str:
        ran.append("odd")
        if len(ran) == 1:
            await self.fail()
        return "well"

    async def fail(self) -> None:
        raise NoError


class Impatient(Odd):
    """Awaits a task of its own that was cancelled."""

    async def fail(self) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
        task.cancel()
        await task


async def left_behind(storage: Any, run_id: str = "x", flow: type[Flow[Any]] = Steps) -> None:
    gate("g")
    async with FlowRunner(storage, grace=0, patience=0) as runner:
        await runner.start(flow, {"gate": "g"}, run_id=run_id)
        await until(lambda: ran)
    ran.clear()


# ---- nothing else ends -----------------------------------------------------------------------------------------------


class CancelsItself(Odd):
    """Cancels its own task."""

    async def fail(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep(60)


def odd_flows(backend: str) -> list[type[Odd]]:
    return [Odd] if backend == "trio" else [Odd, Impatient, CancelsItself]


async def test_what_is_no_error_ends_its_own_run_only(storage: Any, anyio_backend_name: str) -> None:
    for flow in odd_flows(anyio_backend_name):
        ran.clear()
        gate("g")
        async with FlowRunner(storage, recover_every=None) as runner:
            odd = await runner.start(flow)
            await until(lambda: not runner.running)
            other = await runner.start(Steps, {"gate": "g"})
            with pytest.raises(errors.RunInterruptedError, match="that one of its methods raised") as raised:
                await odd.result()
            gates["g"].set()

            assert await other.result() == 2
            assert isinstance(raised.value.__cause__, NoError | asyncio.CancelledError)


async def test_a_run_that_stopped_so_is_recovered(storage: Any, anyio_backend_name: str) -> None:
    for flow in odd_flows(anyio_backend_name):
        ran.clear()
        async with FlowRunner(storage, recover_every=0.005) as runner:
            handle = await runner.start(flow)
            with pytest.raises(errors.RunInterruptedError):
                await handle.result()

            with anyio.fail_after(120):
                assert await (await runner.get(handle.run_id)).result() == "well"


async def test_a_runner_in_a_cancelled_scope_calls_its_runs_stopped_by_its_end(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gate("g")
    with anyio.CancelScope() as scope:
        async with FlowRunner(storage) as runner:
            handle = await runner.start(Steps, {"gate": "g"})
            await until(lambda: ran)
            scope.cancel()
            with (
                anyio.CancelScope(shield=True),
                pytest.raises(errors.RunInterruptedError, match="its runner shuts down"),
            ):
                await handle.result()  # the runner's tasks are cancelled, and its block is not left yet

    assert not caplog.records


async def test_a_function_that_cannot_make_its_flow_ends_nothing(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await left_behind(storage)
    made: list[Steps] = []

    def make() -> Steps:
        if made:
            raise LookupError("no settings")
        made.append(Steps())
        return made[0]

    async with FlowRunner(storage, flows=[make], recover_every=0.001) as runner:
        await until(lambda: "no settings" in caplog.text)
        assert await runner.run(Steps) == 2


async def test_a_catalog_that_raises_anything_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryFlowPersistence):
        async def runs(self, **which: Any) -> Any:
            raise LookupError("no such table")

    async with FlowRunner(Broken(), flows=[Steps], recover_every=0.001) as runner:
        await until(lambda: "no such table" in caplog.text)
        await anyio.sleep(0.05)
        assert len(caplog.records) == 1, "logged once, though it is retried again and again"
        assert await runner.run(Steps) == 2


# ---- recovered -------------------------------------------------------------------------------------------------------


class FailsOnce:
    """Refuses the end of the first method, once."""

    fails = True

    async def append(self, checkpoint: Checkpoint) -> None:
        if checkpoint.kind == "method" and self.fails:
            self.fails = False
            raise errors.StorageWriteError("the disk is full", outcome="not saved", run_id=checkpoint.run_id)
        await super().append(checkpoint)  # type: ignore[misc]  # of the storage that it is mixed into


class FailingMemory(FailsOnce, MemoryFlowPersistence):
    pass


class FailingSQLite(FailsOnce, SQLiteFlowPersistence):
    pass


@pytest.mark.clauses("L2")
@pytest.mark.parametrize("make", [FailingMemory, lambda: FailingSQLite("runs.db", durability="process")])
async def test_a_run_resumes_when_its_storage_works_again(
    make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    # its owner lives, so no other owner may recover it
    async with FlowRunner(make(), recover_every=0.005) as runner:
        handle = await runner.start(Steps, run_id="x")
        with pytest.raises(errors.StorageWriteError, match="the disk is full"):
            await handle.result()

        with anyio.fail_after(120):
            assert await (await runner.get("x")).result() == 2
        assert await handle.result() == 2, "who has held on to it is told, too"
    assert ran == ["x first", "x first", "x second"]
    assert "run stopped unexpectedly: x of Steps; retry in 0.5 s: " in caplog.text


@pytest.mark.parametrize("fault", [Fail(at=2), LoseReply(at=2)])
@pytest.mark.clauses("L2")
async def test_a_run_whose_resume_the_storage_refused_is_recovered(storage: Any, fault: Fault) -> None:
    await left_behind(storage)
    gates["g"].set()
    shaky = FaultyPersistence(
        storage, fault
    )  # its first checkpoint would create the run; the second one is the resume's
    async with FlowRunner(shaky, recover_every=0.005) as runner:
        with pytest.raises(errors.StorageWriteError):
            await runner.start(Steps, {"gate": "g"}, run_id="x")

        with anyio.fail_after(120):
            assert await (await runner.get("x")).result() == 2
    assert ran == ["x first", "x second"]


@pytest.mark.clauses("L2")
async def test_a_run_that_was_stored_though_its_start_was_refused_is_recovered(storage: Any) -> None:
    async with FlowRunner(FaultyPersistence(storage, LoseReply()), recover_every=0.005) as runner:
        with pytest.raises(errors.StorageWriteError):
            await runner.start(Steps, run_id="x")

        with anyio.fail_after(120):
            assert await (await runner.get("x")).result() == 2
    assert ran == ["x first", "x second"]


class SlowCatalog(SQLiteFlowPersistence):
    """One listing of the runs is held back until it is let go."""

    def __init__(self) -> None:
        super().__init__("runs.db")
        self.is_armed = False
        self.is_listed, self.let_go = anyio.Event(), anyio.Event()

    async def runs(self, **query: Any) -> Any:
        found = await super().runs(**query)
        if self.is_armed:
            self.is_armed = False
            self.is_listed.set()
            await self.let_go.wait()
        return found


@pytest.mark.clauses("L2")
async def test_a_run_that_stops_during_a_scan_which_has_not_seen_it_is_recovered() -> None:
    storage = SlowCatalog()
    async with FlowRunner(FaultyPersistence(storage, LoseReply()), flows=[Steps], recover_every=0.005) as runner:
        storage.is_armed = True
        await storage.is_listed.wait()
        with pytest.raises(errors.StorageWriteError):
            await runner.start(Steps, run_id="x")
        storage.let_go.set()

        with anyio.fail_after(60):
            assert await (await runner.get("x")).result() == 2
    assert ran == ["x first", "x second"]


class Overtaken(MemoryFlowPersistence):
    """Another owner cancels a run between the acquiring and the checkpoint of its resume."""

    async def append(self, checkpoint: Checkpoint) -> None:
        if checkpoint.kind == "resumed":
            await FlowRunner(self).cancel(checkpoint.run_id)
        await super().append(checkpoint)


@pytest.mark.parametrize("verb", ["start", "resume"])
async def test_a_resume_that_another_owner_overtakes_attaches_to_the_run(verb: str) -> None:
    storage = Overtaken()
    await left_behind(storage)
    async with FlowRunner(storage, flows=[Steps], recover_every=None) as runner:
        resume = {"start": partial(runner.start, Steps, run_id="x"), "resume": partial(runner.resume, "x")}[verb]
        handle = await resume()
        with pytest.raises(errors.RunCancelledError):
            await handle.result()
    assert not ran


async def test_a_run_that_cannot_resume_is_reported_and_retried_with_back_off(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Old(Flow[Work]):
        name = "Changed"

        @start()
        async def gone(self) -> None:
            ran.append("gone")
            await gates[self.state.gate].wait()

    class New(Flow[Work]):
        name = "Changed"

        @start()
        async def come(self) -> None: ...

    await left_behind(storage, flow=Old)
    began = anyio.current_time()
    async with FlowRunner(storage, flows=[New], recover_every=0.001) as runner:
        await until(lambda: caplog.records)
        await anyio.sleep(0.1)
        tries = len(caplog.records)
        assert tries <= 2 + (anyio.current_time() - began) / AGAIN

        assert await runner.recover() == 1, "who asks for it is served at once"
        await until(lambda: not runner.running)

    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "run x waits for gone, which Changed no longer has" in caplog.text


async def test_a_run_that_is_deleted_while_it_is_to_be_recovered_stays_deleted(storage: Any) -> None:
    await left_behind(storage)
    gate("place")
    async with FlowRunner(storage, flows=[Steps], max_running=1, max_queued=0, recover_every=None) as runner:
        await runner.start(Steps, {"gate": "place"}, run_id="other")
        await until(lambda: ran)
        async with anyio.create_task_group() as group:
            group.start_soon(runner.recover)
            await anyio.wait_all_tasks_blocked()
            while not runner._places.waiting:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
            assert await storage.delete("x")
            gates["place"].set()
        await until(lambda: not runner.running)

    assert ran == ["other first", "other second"]
    assert await storage.load("x") is None


# ---- driven by another process ---------------------------------------------------------------------------------------

RESUMES = """
import sys
from typing import Any

import anyio
from asyncflow import Flow, SQLiteFlowPersistence, start

class Mended(Flow[dict[str, Any]]):
    name = "Mended"

    @start()
    async def only(self) -> str:
        print("resumed", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        return "well"

anyio.run(lambda: Mended.resume("x", persistence=SQLiteFlowPersistence("runs.db", durability="process")))
"""


class Mended(Flow[dict[str, Any]]):
    """Fails here."""

    name = "Mended"

    @start()
    async def only(self) -> str:
        raise LookupError("not mended here")


def resuming() -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", RESUMES], env=env, stdin=pipe, stdout=pipe, text=True)


@pytest.mark.parametrize("ends", ["well", "killed"])
async def test_a_failed_run_that_another_process_resumes_has_not_ended(ends: str) -> None:
    async with FlowRunner(STORES["sqlite"](), recover_every=None) as runner:
        with pytest.raises(errors.MethodError):
            await runner.run(Mended, run_id="x")
        with resuming() as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert await anyio.to_thread.run_sync(process.stdout.readline) == "resumed\n"
            handle = await runner.start(Mended, run_id="x")
            with anyio.move_on_after(0.2) as waited:
                await handle.result()
            assert waited.cancelled_caught, "it has an outcome of before, and a driver"
            if ends == "killed":
                process.kill()
                process.wait()
                assert await handle.status() == "interrupted", "it was resumed, and that is stored"
                assert await runner.recover() == 1
            else:
                process.stdin.write("go on\n")
                process.stdin.flush()
            with anyio.fail_after(120):
                if ends == "killed":
                    with pytest.raises(errors.MethodError, match="not mended here"):
                        await handle.result()
                else:
                    assert await handle.result() == "well"


# ---- runs that end their process ------------------------------------------------------------------------------------

DEADLY = """
import os, sys
from pathlib import Path
from typing import Any

import anyio
from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, listen, start

def live(method: str) -> str:
    log = Path("lives.log")
    told = log.read_text() if log.exists() else ""
    log.write_text(told + method + "\\n")
    if told.split().count(method) < 2:
        os._exit(9)
    return method

class Deadly(Flow[dict[str, Any]]):
    name = "Deadly"

    @start()
    async def one(self) -> str:
        return live("one")

    @listen(one)
    async def two(self) -> str:
        return live("two")

    @listen(two)
    async def three(self) -> str:
        return live("three")

async def main() -> None:
    storage = SQLiteFlowPersistence("runs.db", durability="process")
    async with FlowRunner(storage, flows=[Deadly], max_takeovers=1, recover_every=0.01) as runner:
        if not await storage.runs():
            await runner.start(Deadly, run_id="x")
        await anyio.sleep(120)

anyio.run(main)
"""


class Deadly(Flow[dict[str, Any]]):
    """The same flow, repaired."""

    name = "Deadly"

    @start()
    async def one(self) -> str:
        return "one"

    @listen(one)
    async def two(self) -> str:
        return "two"

    @listen(two)
    async def three(self) -> str:
        ran.append("three")
        return "three"


def lives(count: int) -> None:
    """The process of a runner, started again and again, that ends in a method of its run each time."""
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    for _ in range(count):
        assert subprocess.run([sys.executable, "-c", DEADLY], env=env, timeout=120).returncode == 9


@pytest.mark.clauses("L2")
async def test_a_run_that_ends_its_processes_is_taken_over_so_often_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await anyio.to_thread.run_sync(lives, 2)  # begun, and taken over once
    storage = STORES["sqlite"]()
    async with FlowRunner(storage, flows=[Deadly], max_takeovers=1, recover_every=0.001) as runner:
        await until(lambda: "x of Deadly" in caplog.text)
        await anyio.sleep(0.1)
        assert [(entry.takeovers, entry.is_driven) for entry in await storage.runs()] == [(1, False)]
        assert ran == []
        assert await runner.run(Steps) == 2

        assert await runner.run(Deadly, run_id="x") == "three", "who asks for it goes on with it"
    (told,) = (record for record in caplog.records if record.name == "asyncflow")
    assert told.levelno == logging.ERROR
    assert told.getMessage().startswith("run quarantined: x of Deadly. ")
    assert "from 1 dead processes" in told.getMessage()


async def test_a_run_is_logged_each_time_it_is_quarantined(caplog: pytest.LogCaptureFixture) -> None:
    dead = RunEntry("x", "Deadly", "interrupted", 1, 3, False, 0.0, 0.0, 1, takeovers=1)
    async with FlowRunner(MemoryFlowPersistence(), flows=[Deadly], max_takeovers=1) as runner:
        for entry in (dead, dead, dead._replace(takeovers=0), dead):  # resumed by hand meanwhile, with progress
            runner._recovery._is_deferred(entry)

    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["run quarantined"] * 2


@pytest.mark.parametrize("most", [2, None])
async def test_how_often_is_for_the_user_to_say(most: int | None) -> None:
    await anyio.to_thread.run_sync(lives, 2)
    storage = STORES["sqlite"]()
    async with FlowRunner(storage, flows=[Deadly], max_takeovers=most):
        await until(lambda: ran)

    assert ran == ["three"]


async def test_recover_also_resumes_a_run_that_was_taken_over_too_often() -> None:
    await anyio.to_thread.run_sync(lives, 2)
    async with FlowRunner(STORES["sqlite"](), flows=[Deadly], max_takeovers=1, recover_every=None) as runner:
        assert await runner.recover() == 1
        await until(lambda: ran)


@pytest.mark.clauses("L2")
async def test_a_run_that_gets_on_is_taken_over_as_often_as_it_takes() -> None:
    await anyio.Path("lives.log").write_text("one\ntwo\n")  # these end one process each, and the third two
    await anyio.to_thread.run_sync(lives, 4)
    storage = STORES["sqlite"]()
    assert [(entry.takeovers, entry.seq) for entry in await storage.runs()] == [(1, 5)], "three resumes"

    async with FlowRunner(storage, flows=[Deadly], max_takeovers=2):
        await until(lambda: ran)
    assert [(entry.takeovers, entry.status) for entry in await storage.runs()] == [(0, "finished")]


def test_a_bound_below_one_is_none() -> None:
    with pytest.raises(ValueError, match="max_takeovers must be at least 1"):
        FlowRunner(MemoryFlowPersistence(), max_takeovers=0)


async def test_a_run_that_was_released_in_order_is_no_suspect() -> None:
    await anyio.to_thread.run_sync(lives, 2)
    storage = STORES["sqlite"]()
    async with storage:
        await storage.release("x", await storage.acquire("x"))
        assert [entry.takeovers for entry in await storage.runs()] == [0]
    async with FlowRunner(storage, flows=[Deadly], max_takeovers=1):
        await until(lambda: ran)


class Suspected(MemoryFlowPersistence):
    """Says of runs how often they were taken over."""

    takeovers: dict[str, int] = {}  # noqa: RUF012 - set by a test

    async def runs(self, **which: Any) -> Any:
        found = await super().runs(**which)
        return [entry._replace(takeovers=self.takeovers.get(entry.run_id, 0)) for entry in found]


@pytest.mark.clauses("L2")
@pytest.mark.parametrize("how", ["gets on", "takes long"])
async def test_runs_that_may_end_processes_are_recovered_alone_and_after_the_others(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Suspected()
    for name in ("worst", "bad", "new", "poor"):
        await left_behind(storage, name)
    gate("g")
    storage.takeovers = {"worst": 9, "bad": 5, "poor": 4, "given up": 10}
    async with FlowRunner(storage, flows=[Steps], recover_every=0.001) as runner:
        await until(lambda: len(ran) == 3)
        await anyio.sleep(0.05)
        assert {line.split()[0] for line in ran} == {"new", "poor", "bad"}

        if how == "gets on":
            storage.takeovers = {"worst": 9}
        else:
            monkeypatch.setattr(runner._recovery, "_alone_until", 0.0)
        await until(lambda: len(ran) == 4)
        gates["g"].set()
        await until(lambda: not runner.running)
    assert ran[3] == "worst first"


# ---- gone, while it is driven here -----------------------------------------------------------------------------------


@pytest.mark.clauses("C4", "L1")
async def test_a_run_that_is_cancelled_and_forgotten_elsewhere_is_stopped_and_its_id_is_free() -> None:
    gate("g")
    stores = [STORES["sqlite"]() for _ in range(2)]
    async with FlowRunner(stores[0], recover_every=0.01) as runner, FlowRunner(stores[1], recover_every=None) as other:
        driven = await runner.start(Steps, {"gate": "g"}, run_id="x")
        await until(lambda: ran)
        await other.cancel("x")
        assert await stores[1].prune(older_than=0) == 1

        with anyio.fail_after(120), pytest.raises((errors.RunNotFoundError, errors.RunFencedError)):
            await driven.result()
        with anyio.fail_after(120):
            assert await other.run(Steps, run_id="x") == 2
    assert ran == ["x first", "x first", "x second"]


async def test_a_full_runner_sees_what_others_have_ended() -> None:
    storage, elsewhere = STORES["sqlite"](), STORES["sqlite"]()
    await left_behind(storage, "waits")
    gate("g")
    async with FlowRunner(storage, flows=[Steps], max_running=1, max_queued=0, recover_every=None) as runner:
        driven = await runner.start(Steps, {"gate": "never"}, run_id="x") if gate("never") else None
        assert driven is not None
        runner._group.start_soon(runner._recovery.keep_scanning, 0.01)  # type: ignore[union-attr]  # it is entered
        await anyio.sleep(0.05)  # what it finds waits for a place
        async with FlowRunner(elsewhere, recover_every=None) as other:
            await other.cancel("x")

        with anyio.fail_after(120), pytest.raises(errors.RunCancelledError):
            await driven.result()
        gates["g"].set()
        await until(lambda: "waits second" in ran)


class Single(Flow[dict[str, Any]]):
    """There is one run of it."""

    initial_state = {"id": "single", "n": 1}  # noqa: RUF012 - as users write it

    @start()
    async def only(self) -> int:
        ran.append("single")
        await gates["g"].wait()
        return int(self.state["n"])


async def test_a_flow_that_brings_its_id_is_driven_once_and_ends_no_runner(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        other = await runner.start(Steps, {"gate": "g"})
        handles = [await runner.start(Single), await runner.start(Single)]
        with pytest.raises(errors.RunInputsError):
            await runner.start(Single, {"n": 2})
        gates["g"].set()

        assert [await handle.result() for handle in handles] == [1, 1]
        assert {handle.run_id for handle in handles} == {"single"}
        assert await other.result() == 2
        await until(lambda: not runner.running)
        assert ran.count("single") == 1
        assert await runner.run(Single, {"n": 3}) == 3, "a new pass, as by kickoff"


async def test_a_place_is_waited_for_so_long(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage, max_running=1, max_queued=0) as runner:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunnerOverloadedError):
            await runner.start(Steps, run_id="y", patience=0.01)
        with pytest.raises(errors.RunnerOverloadedError):
            await runner.start(Steps, run_id="y", patience=0)
        assert await storage.load("y") is None
        gates["g"].set()
        assert await (await runner.start(Steps, run_id="y", patience=60)).result() == 2
        await until(lambda: not runner.running)
        assert await (await runner.start(Steps, run_id="z", patience=0)).result() == 2


async def test_a_failed_run_that_resumes_meanwhile_still_raises_its_failure() -> None:
    class Moves(MemoryFlowPersistence):
        loads = 0

        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            stored = await super().load(run_id, seq)
            self.loads += 1
            return stored if stored is None or self.loads <= 2 else stored._replace(status="running")

    storage = Moves()
    with pytest.raises(errors.MethodError):
        await Steps(persistence=storage).kickoff({"id": "x", "fails": True})
    async with FlowRunner(storage, flows=[Steps], recover_every=None) as runner:
        storage.loads = 0
        handle = await runner.get("x")
        with pytest.raises(errors.MethodError):
            await handle.result()


# ---- started, and cancelled, by several ------------------------------------------------------------------------------


async def test_a_start_is_not_refused_for_what_another_one_gave(storage: Any) -> None:
    class Typed(Flow[Work]):
        @start()
        async def only(self) -> str:
            return self.state.gate

    results: list[Any] = []

    async def ask(inputs: dict[str, Any]) -> None:
        try:
            results.append(await runner.run(Typed, inputs, run_id="x"))
        except errors.RunInputsError:
            results.append("refused")

    async with FlowRunner(storage) as runner, anyio.create_task_group() as group:
        both: list[dict[str, Any]] = [{"gate": []}, {"gate": "open"}]
        for inputs in both:
            group.start_soon(ask, inputs)

    assert sorted(results) == ["open", "refused"]


@pytest.mark.clauses("C4")
async def test_all_who_cancel_a_run_at_the_same_time_are_served() -> None:
    gate("g")
    async with (
        FlowRunner(STORES["sqlite"]()) as owner,
        FlowRunner(STORES["sqlite"]()) as one,
        FlowRunner(STORES["sqlite"]()) as two,
    ):
        for n in range(5):
            await owner.start(Steps, {"gate": "g"}, run_id=f"{n}")
            async with anyio.create_task_group() as group:
                for runner in (one, two, one, two):
                    group.start_soon(runner.cancel, f"{n}")
            assert await (await one.get(f"{n}")).status() == "cancelled"
        gates["g"].set()


async def test_a_cancel_that_fails_leaves_the_run_to_others() -> None:
    class Failing(SQLiteFlowPersistence):
        async def append(self, checkpoint: Checkpoint) -> None:
            raise errors.StorageWriteError("the disk is full", outcome="not saved")

    await left_behind(STORES["sqlite"]())
    async with FlowRunner(Failing("runs.db")) as runner:
        with pytest.raises(errors.StorageWriteError):
            await runner.cancel("x")

        (entry,) = await runner.persistence.runs()  # type: ignore[attr-defined]  # a SQLite file has a catalog
        assert not entry.is_driven


async def test_a_run_of_this_process_is_not_said_to_be_another_s() -> None:
    gate("g")
    storage = STORES["sqlite"]()
    async with FlowRunner(storage) as runner:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        with pytest.raises(errors.RunLockedError, match="owned by this process"):
            await storage.delete("x")
        gates["g"].set()


@pytest.mark.parametrize(
    "wrong", [{"older_than": -1}, {"older_than": float("nan")}, {"older_than": 0, "keep_last": -1}]
)
async def test_a_prune_that_would_forget_all_is_refused(storage: Any, wrong: dict[str, Any]) -> None:
    await Steps(persistence=storage).kickoff()
    with pytest.raises(
        ValueError, match="older_than must be a number of seconds and keep_last a number of runs, at least 0"
    ):
        await storage.prune(**wrong)

    assert len(await storage.runs()) == 1


# ---- what is no flow, and no storage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Steps, "takes a flow class, or a function that returns a flow, and Steps is neither; write Steps, not Steps"),
        (lambda: 3, "and int is neither"),
        (lambda: Flow, "and Flow itself is neither"),
        (lambda: dict, "and dict is neither"),
    ],
)
async def test_an_argument_that_is_no_flow_class_is_a_type_error(
    wrong: Callable[[], Any], told: str, storage: Any
) -> None:
    async with FlowRunner(storage) as runner:
        with pytest.raises(TypeError, match=told):
            await runner.start(wrong())

        assert await runner.run(Steps) == 2


def test_what_is_no_storage_is_refused_when_the_runner_is_made() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="for a SQLite file, use SQLiteFlowPersistence"):
        FlowRunner("runs.db")  # type: ignore[arg-type]  # what is wrong here


async def test_other_inputs_for_a_run_that_continues_do_not_call_it_interrupted(storage: Any) -> None:
    gate("g")
    async with FlowRunner(storage) as runner:
        await runner.start(Steps, {"gate": "g"}, run_id="x")
        for _ in range(2):
            with pytest.raises(errors.RunInputsError, match="run x was started with other inputs"):
                await runner.start(Steps, {"gate": "h"}, run_id="x")
            gates["g"].set()
            await until(lambda: not runner.running)
