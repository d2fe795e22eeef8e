"""Owners of runs in a SQLite file: epochs, leases, other processes, and forked children."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from database import PATH, Steps, Work, rows_of, sql
from here import Here

import asyncflow
from asyncflow import Flow, MethodError, SQLiteFlowPersistence, errors, listen, start
from asyncflow.persistence._database.run_head import Head
from asyncflow.persistence.sqlite import rows


async def test_owners_are_known_to_all_whichever_way_the_file_is_named() -> None:
    await anyio.Path("real.db").touch()
    os.symlink("real.db", "link.db")
    async with SQLiteFlowPersistence("link.db"), SQLiteFlowPersistence("real.db"):
        assert len(os.listdir("real.db.owners")) == 2
        assert "link.db.owners" not in os.listdir()


@pytest.mark.clauses("L2")
async def test_a_run_that_could_not_be_released_is_released_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncflow.persistence.sqlite.database.BUSY_SECONDS", 0.05)
    storage = SQLiteFlowPersistence(PATH, lease=0.6)
    async with storage:
        with pytest.raises(errors.MethodError):
            await Fails(persistence=storage).kickoff({"id": "x"})
        epoch = await storage.acquire("x")
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(errors.StorageBusyError):
                await storage.release("x", epoch)
            other.execute("ROLLBACK")

        with anyio.fail_after(120):
            while (await storage.runs())[0].is_driven:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.01)
        assert await storage.acquire("x") == epoch + 1
        await anyio.sleep(0.5)
        assert (await storage.runs())[0].is_driven, "it is tried no more"

        storage._shared.current.unreleased.add("x", epoch + 2)  # type: ignore[union-attr]  # it is open
        assert await storage.acquire("x") == epoch + 2
        await anyio.sleep(0.5)
        assert (await storage.runs())[0].is_driven, "whoever takes it up keeps it"


class Fails(Steps):
    async def first(self) -> str:
        raise LookupError


def taken_over_by_another_process() -> None:
    """What the database holds once another owner has acquired its only run."""
    ((*fields, _),) = sql(rows.SELECT_HEAD.partition(" WHERE")[0])
    head = Head(*fields)
    new = head._replace(owner="another", epoch=head.epoch + 1)
    sql(rows.OWN_RUN, new.owner, new.epoch, new.digest(), head.run_id)


@pytest.mark.clauses("L1")
async def test_an_owner_that_was_overtaken_is_fenced_and_starts_nothing() -> None:
    ran: list[str] = []

    class Overtaken(Steps):
        async def second(self, value: str) -> str:
            ran.append("second")
            taken_over_by_another_process()
            return value

        async def third(self, value: str) -> str:
            ran.append("third")
            return value

    flow = Overtaken()
    with pytest.raises(errors.RunFencedError) as caught:
        await flow.kickoff()

    assert (caught.value.run_id, caught.value.seq) == (flow.run_id, 2)
    assert ran == ["second"]
    assert [row[0] for row in rows_of(flow.run_id)] == [0, 1]
    assert sql("SELECT owner, epoch FROM runs") == [("another", 2)]


@pytest.mark.clauses("L1")
async def test_every_taking_over_raises_the_epoch() -> None:
    class Failing(Steps):
        async def third(self, value: str) -> str:
            raise ValueError

    flow = Failing()
    epochs = []
    for _ in range(3):
        with pytest.raises(errors.MethodError):
            await flow.kickoff()
        epochs += sql("SELECT epoch, owner FROM runs")

    assert epochs == [(1, None), (2, None), (3, None)]


@pytest.mark.clauses("X2", "L2")
async def test_a_failed_run_has_no_owner_even_if_a_sibling_ended_after_the_failure() -> None:
    # on_error="cancel": what was under way when the failure was stored must not say that the run is running
    raised = anyio.Event()

    class Three(Flow[Work]):
        persistence = SQLiteFlowPersistence(PATH)
        on_error = "cancel"

        @start()
        async def shaky(self) -> None:
            raised.set()
            raise ValueError

        @start()
        async def quick(self) -> None:
            await raised.wait()

        @start()
        async def patient(self) -> None:
            await anyio.sleep_forever()

    async with Three.persistence:
        flow = Three()
        with anyio.fail_after(120), pytest.raises(errors.MethodError):
            await flow.kickoff()
        head = sql("SELECT status, owner FROM runs")

    assert flow.status == "failed"
    assert head == [("failed", None)]


@pytest.mark.clauses("C4", "L2")
async def test_an_interrupted_run_has_no_owner() -> None:
    inside = anyio.Event()

    class Slow(Steps):
        async def second(self, value: str) -> str:
            inside.set()
            await anyio.sleep_forever()
            return value

    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            group.start_soon(Slow().kickoff)
            await inside.wait()
            group.cancel_scope.cancel()
        head = sql("SELECT status, owner FROM runs")

    assert head == [("running", None)]


HOLDER = """
import sys, anyio
from asyncflow import *

class Steps(Flow[dict]):
    name = "Steps"
    persistence = SQLiteFlowPersistence("runs.db")

    @start()
    async def first(self):
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(Steps().kickoff, {"id": "held"})
"""


class Held(Flow[dict]):
    name = "Steps"
    persistence = Here(PATH)

    @start()
    async def first(self) -> str:
        return "freed"


@pytest.mark.clauses("L3")
async def test_a_lease_that_has_run_out_spoils_no_commit_where_no_owner_took_over() -> None:
    class Late(Steps):
        persistence = SQLiteFlowPersistence(PATH, lease=3600)  # not to be renewed meanwhile

        @listen(Steps.first)
        async def second(self, value: str) -> str:
            sql("UPDATE owners SET expires = 0")
            return value + " late"

    async with Late.persistence:
        flow = Late()
        assert await flow.kickoff() == "one late three"
        expired = sql("SELECT expires FROM owners")

    assert expired == [(0.0,)]
    assert rows_of(flow.run_id, "kind, epoch") == [("started", 1), ("method", 1), ("method", 1), ("finished", 1)]


@contextlib.asynccontextmanager
async def holder() -> AsyncIterator[anyio.abc.Process]:
    """A process that drives the run `held`, and is killed at the end."""
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    async with await anyio.open_process([sys.executable, "-c", HOLDER], env=env, stderr=None) as process:
        try:
            with anyio.fail_after(120):
                assert process.stdout is not None
                assert (await process.stdout.receive()).strip() == b"ready"
            yield process
        finally:
            process.kill()
        await process.wait()


@pytest.mark.clauses("L2")
async def test_a_run_of_another_process_is_locked_until_that_is_dead_and_then_free_at_once() -> None:
    async with holder():
        loaded = await Held.load("held")
        for call in (
            lambda: Held().kickoff({"id": "held"}),
            lambda: Held.resume("held"),
            lambda: loaded.update_state(x=1),
            lambda: loaded.cancel(),
        ):
            with pytest.raises(errors.RunLockedError) as caught:
                await call()
            assert (caught.value.run_id, bool(caught.value.owner)) == ("held", True)
        other = Held()
        await other.kickoff()

    assert await Held.resume("held") == "freed"
    assert other.status == "finished"


@pytest.mark.clauses("L2")
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
async def test_a_run_of_a_process_that_was_stopped_for_days_is_free() -> None:
    # old leases are cleared away, and one that is missing must not make its owner alive again
    async with holder() as process:
        process.send_signal(signal.SIGSTOP)
        sql("UPDATE owners SET expires = expires - 200000")
        await Held().kickoff()

        assert await Held.resume("held") == "freed"
    await Held().kickoff()


@pytest.mark.clauses("L2")
async def test_a_run_in_this_process_is_locked_for_another_persistence_object_too() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Steps):
        async def first(self) -> str:
            inside.set()
            await go_on.wait()
            return ""

    flow = Slow(persistence=SQLiteFlowPersistence("runs.db"))
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await inside.wait()
        with pytest.raises(errors.RunLockedError):
            await Slow.resume(flow.run_id, persistence=SQLiteFlowPersistence("./runs.db"))
        go_on.set()

    assert flow.status == "finished"


FORKED = """
import anyio, os, sys
from asyncflow import Flow, SQLiteFlowPersistence, start, errors

class Work(Flow[dict]):
    @start()
    async def work(self):
        if (pid := os.fork()) == 0:
            try:
                await Work.load("x", persistence=storage)
            except errors.ForkedProcessError:
                os._exit(7)
            finally:
                os._exit(8)
        print("child left with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)

storage = SQLiteFlowPersistence("runs.db")

async def main():
    async with storage:
        await Work(persistence=storage).kickoff({"id": "x"})
    print("parent finished", flush=True)

anyio.run(main)
"""


@pytest.mark.clauses("L2")
def test_a_forked_child_neither_uses_nor_takes_what_its_parent_has_open() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120, env=env)

    assert done.stdout.splitlines() == ["child left with 7", "parent finished"]
    assert done.returncode == 0


@pytest.mark.clauses("L2", "X2")
async def test_a_run_is_its_drivers_until_the_siblings_of_a_failed_method_have_left() -> None:
    owners: list[Any] = []

    class Failing(Flow[dict]):
        name = "Failing"
        on_error = "cancel"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def bad(self) -> None:
            raise ValueError

        @start()
        async def slow(self) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with contextlib.closing(sqlite3.connect("runs.db")) as other:
                    owners.extend(other.execute("SELECT status, owner IS NULL FROM runs").fetchall())

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()
    with contextlib.closing(sqlite3.connect("runs.db")) as other:
        after = other.execute("SELECT status, owner IS NULL FROM runs").fetchall()

    assert owners == [("failed", 0)]
    assert after == [("failed", 1)]
