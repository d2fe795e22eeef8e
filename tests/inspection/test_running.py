"""Runs that are driven, wait or belong to others, storages that are damaged, and how objects show themselves."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Signal,
    SQLiteFlowPersistence,
    errors,
    inspection,
    listen,
    or_,
    run_child,
    start,
    wait_for,
)
from asyncflow.persistence import Checkpoint


class Inner(Flow):
    go = Signal("go", str)

    @start()
    async def receive(self) -> str:
        return await wait_for(self.go)


class Outer(Flow):
    go = Signal("go", str)
    later = Signal("later", dict)

    @start()
    async def call(self) -> str:
        result: str = await run_child(Inner)
        return result

    @listen(or_(go, later), keep_open=False)
    async def answer(self) -> None: ...


async def test_a_run_that_is_driven_shows_by_whom_and_its_child(store: Any) -> None:
    flow = Outer(persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        with anyio.fail_after(20):
            while len(await store.runs()) < 2:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.02)
        shown = await inspection.run_detail(store, flow.run_id)
        (child,) = shown.children
        below = await inspection.run_detail(store, child.run_id)
        with_class = await inspection.run_detail(store, flow.run_id, flow=Outer)
        group.cancel_scope.cancel()

    assert shown.driver is not None
    assert (shown.driver.is_here, shown.driver.is_alive) == (True, True)
    assert shown.driver.process.startswith(f"process {os.getpid()} on ")
    assert shown.entry.status == "running"
    assert [(wait.kind, wait.name) for wait in shown.waits] == [("child", child.run_id)]
    assert [(each.method, each.state) for each in shown.methods] == [("call", "running")]
    assert below.parent == flow.run_id
    assert {(wait.kind, wait.name) for wait in with_class.waits} >= {("signal", "go"), ("signal", "later")}
    assert (await inspection.run_detail(store, flow.run_id)).driver is None


async def test_signals_that_nothing_has_taken_are_shown(store: Any) -> None:
    class Patient(Flow):
        asked = Signal("asked", dict)
        other = Signal("other", dict)

        @start()
        async def only(self) -> None:
            await wait_for(self.asked)

    flow = Patient(persistence=store)
    with anyio.move_on_after(0.3):
        await flow.kickoff()
    await Patient.signal(flow.run_id, "other", {"password": "x", "n": 1}, key="k", persistence=store)

    shown = await inspection.run_detail(
        store, flow.run_id, redact=lambda path, value: "-" if path[-1] == "password" else value
    )

    (signal,) = shown.inbox
    assert (signal.name, signal.payload, signal.key) == ("other", {"password": "-", "n": 1}, "k")
    assert shown.entry.status == "interrupted"
    assert [(wait.kind, wait.name, wait.method) for wait in shown.waits] == [("signal", "asked", "only")]
    assert [(each.method, each.doing) for each in shown.pending] == [("only", "waiting")]


PROGRAM = """
import anyio
from asyncflow import Flow, SQLiteFlowPersistence, start

class Hangs(Flow):
    @start()
    async def only(self):
        print("running", flush=True)
        await anyio.sleep_forever()

async def main():
    await Hangs(persistence=SQLiteFlowPersistence("runs.db")).kickoff({"id": "hanging"})

anyio.run(main)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="without fcntl, only the lease of another process is known")
def test_a_run_of_another_process_shows_which_one_until_it_dies() -> None:
    Path("program.py").write_text(PROGRAM, encoding="utf-8")
    other = subprocess.Popen([sys.executable, "program.py"], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"running\n"
        store = SQLiteFlowPersistence("runs.db")
        driven = anyio.run(inspection.run_detail, store, "hanging")
    finally:
        other.kill()
        other.wait()
        assert other.stdout is not None
        other.stdout.close()
    left = anyio.run(inspection.run_detail, store, "hanging")

    assert driven.entry.status == "running"
    assert driven.driver is not None
    assert driven.driver.process.startswith(f"process {other.pid} on ")
    assert (driven.driver.is_alive, driven.driver.is_here) == (True, False)
    assert left.entry.status == "interrupted"
    assert left.driver is None or not left.driver.is_alive
    assert [(each.method, each.doing) for each in left.pending] == [("only", "interrupted")]
    assert left.state == {"id": "hanging"}  # its class is not known here


class TwoVerbs:
    def __init__(self) -> None:
        self._inner = MemoryFlowPersistence()
        self.save, self.load = self._inner.save, self._inner.load


async def test_a_backend_with_two_verbs_shows_what_it_has() -> None:
    class Bad(Flow):
        @start()
        async def only(self) -> None:
            raise KeyError("x")

    store = TwoVerbs()
    flow = Bad(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()

    shown = await inspection.run_detail(store, flow.run_id)

    assert shown.entry.status == "failed"
    assert [error.type for error in shown.errors] == ["builtins.KeyError"]
    for call in (inspection.run_history, inspection.timeline):
        with pytest.raises(errors.CapabilityMissingError, match="keeps no history"):
            await call(store, flow.run_id)
    with pytest.raises(errors.CapabilityMissingError, match="keeps no history"):
        async for _ in inspection.follow(store, flow.run_id):
            pass


async def test_unknown_damaged_and_newer_runs_raise_the_errors_of_the_storage() -> None:
    class Fine(Flow):
        @start()
        async def only(self) -> None: ...

    store = MemoryFlowPersistence()
    flow = Fine(persistence=store)
    await flow.kickoff()
    calls: Any = (inspection.run_detail, inspection.run_history, inspection.state_at, inspection.timeline)

    for call in calls:
        with pytest.raises(errors.RunNotFoundError):
            await call(store, "unknown")
    with pytest.raises(errors.RunNotFoundError, match="checkpoint 99"):
        await inspection.diff(store, flow.run_id, 0, 99)
    rows = store._rows[flow.run_id]
    newest = Checkpoint.from_bytes(rows[-1])
    rows[-1] = newest._replace(progress=b"[]").sealed().to_bytes()
    with pytest.raises(errors.CheckpointCorruptError, match="cannot be decoded"):
        await inspection.run_detail(store, flow.run_id)
    rows[-1] = newest._replace(format=99, version="99.0").sealed().to_bytes()
    for call in calls:
        with pytest.raises(errors.StorageVersionError):
            await call(store, flow.run_id)
    rows[-1] = rows[-1].replace(b"finished", b"finishee")
    for call in calls:
        with pytest.raises(errors.CheckpointCorruptError):
            await call(store, flow.run_id)


async def test_events_are_followed_while_a_run_is_driven(store: Any) -> None:
    class Steps(Flow):
        @start()
        async def one(self) -> None: ...

        @listen(one)
        async def two(self) -> None:
            await anyio.sleep(0.3)

    flow = Steps(persistence=store)
    seen: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        while flow.status == "new" or not await store.runs():  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.01)
        with anyio.fail_after(20):
            async for event in inspection.follow(store, flow.run_id):
                seen.append(type(event).__name__)

    assert seen == ["RunStarted", "MethodFinished", "MethodFinished", "RunFinished"]


async def test_objects_show_themselves_without_values_and_passwords(store: Any) -> None:
    flow = Inner(persistence=store)
    with anyio.move_on_after(0.1):
        await flow.kickoff({"secret": "hunter2"})
    runner = FlowRunner(store, flows=[Inner])

    assert repr(flow) == f"<Inner {flow.run_id}: {flow.status}>"
    assert repr(runner) == f"<FlowRunner of Inner in {store!r}: 0 running>"
    assert "hunter2" not in repr((flow, runner, store))


def test_a_postgresql_storage_shows_no_password() -> None:
    postgres = pytest.importorskip("asyncflow.persistence.postgres")

    shown = repr(postgres.PostgresFlowPersistence("postgresql://ada:hunter2@localhost:5432/flows"))

    assert "hunter2" not in shown
    assert "flows" in shown
