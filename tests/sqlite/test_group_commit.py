"""Group commit: many checkpoints in one transaction, each stored, refused or withdrawn by itself."""

import asyncio
import contextlib
import sqlite3
from typing import Any

import anyio
import anyio.abc
import pytest
from database import PATH, Seen, Steps, made, sql
from loops import on_asyncio

from asyncflow import SQLiteFlowPersistence, errors
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database import loop_host
from asyncflow.persistence._database.jobs import Append
from asyncflow.persistence.sqlite.writer import Writer


async def test_many_runs_at_once_need_far_fewer_transactions_than_checkpoints(seen: Seen) -> None:
    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(Steps().kickoff)
    ((checkpoints,),) = sql("SELECT count(*) FROM checkpoints")

    assert checkpoints == 800
    assert seen.commits() < 80


@pytest.mark.found("D1")
@pytest.mark.parametrize("at", range(1, 6))
def test_a_ctrl_c_while_a_commit_wakes_its_waiters_leaves_none_waiting(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A second Ctrl-C is raised in whatever runs at that moment; the event loop then runs on, to cancel what is left."""
    woken = 0
    wake = loop_host._ThisLoop.wake

    def interrupted(self: Any, waiter: Any) -> None:
        nonlocal woken
        woken += 1
        if woken == at:
            raise KeyboardInterrupt
        wake(self, waiter)

    async def main() -> None:
        async with SQLiteFlowPersistence(PATH) as storage, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(Steps(persistence=storage).kickoff)

    monkeypatch.setattr(loop_host._ThisLoop, "wake", interrupted)
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        done, _ = loop.run_until_complete(asyncio.wait((task,), timeout=30))
        assert done
        task.result()
    finally:
        loop.close()

    assert sql("SELECT count(*) FROM runs WHERE status = 'finished'") == [(3,)]


@pytest.mark.clauses("E1")
async def test_a_lone_run_pays_one_transaction_for_each_checkpoint(seen: Seen) -> None:
    async with Steps.persistence:
        await Steps().kickoff()
        before = seen.commits()
        await Steps().kickoff()
        after = seen.commits()

    assert after - before == 4


@pytest.mark.clauses("C2", "D1")
async def test_a_save_that_fails_does_not_fail_its_neighbours_in_the_batch() -> None:
    # an error in a batch reaches its own waiters only
    backend = SQLiteFlowPersistence(PATH)
    stale: list[str] = []

    async def save(checkpoint: Checkpoint) -> None:
        try:
            await backend.save(checkpoint)
        except errors.StaleCheckpoint as error:
            stale.append(str(error.run_id))

    async with backend:
        heads = {}
        for name in ("a", "b", "c"):
            heads[name] = made(name)
            await backend.save(heads[name])
        batch = [
            made("d"),
            made("a", heads["a"]),
            made("b", heads["b"], previous=b"another one"),
            made("c", heads["c"]),
            made("a"),
            made("e"),
        ]
        async with anyio.create_task_group() as group:
            for checkpoint in batch:
                group.start_soon(save, checkpoint)
        seqs = {name: (await backend.load(name)).seq for name in "abcde"}

    assert sorted(stale) == ["a", "b"]
    assert seqs == {"a": 1, "b": 0, "c": 1, "d": 0, "e": 0}


@pytest.mark.clauses("D4", "L1")
@pytest.mark.parametrize(
    "fields",
    [{"seq": 0}, {"seq": 2}, {"previous": b"another"}, {"epoch": 2}, {"epoch": 0}],
    ids=["seq again", "seq gap", "previous", "epoch above", "epoch below"],
)
@pytest.mark.parametrize("status", ["running", "failed", "finished"])
async def test_a_checkpoint_that_does_not_follow_is_stale_and_nothing_is_written(
    status: str, fields: dict[str, Any]
) -> None:
    backend = SQLiteFlowPersistence(PATH)
    async with backend:
        head = made("a")
        await backend.save(head)
        with pytest.raises(errors.StaleCheckpoint):
            await backend.save(made("a", head, status=status, **fields))
        loaded = await backend.load("a")

    assert loaded == head


@pytest.mark.clauses("D4", "L1")
@pytest.mark.parametrize("left", ["running", "failed"])
@pytest.mark.parametrize("tries", [(), ("running", "failed", "finished")], ids=["unnoticed", "refused"])
async def test_an_owner_that_lost_a_run_and_has_it_again_stores_what_follows(tries: tuple[str, ...], left: str) -> None:
    """What a writer knows of a run's status may be out of date: then it is fenced, or stores after what is stored now."""
    mine, other = SQLiteFlowPersistence(PATH), SQLiteFlowPersistence(PATH)
    async with mine, other:
        newest = made("a")
        for _ in range(3):
            await mine.save(newest)
            newest = made("a", newest)
        epoch = await other.acquire("a", force=True)
        newest = newest._replace(epoch=epoch, status=left).sealed()  # type: ignore[arg-type]  # one of them
        await other.append(newest)

        for status in tries:
            with pytest.raises(errors.StaleCheckpoint):
                await mine.append(made("a", newest, status=status, epoch=epoch - 1))
        epoch = await mine.acquire("a", force=True)
        for status in ("running", "running", "failed", "failed", "running", "running", "finished"):
            newest = made("a", newest, status=status, epoch=epoch)
            await mine.append(newest)
            assert await other.load("a") == newest
            ((shown, owner),) = sql("SELECT status, owner IS NOT NULL FROM runs")
            assert (shown, bool(owner)) == (status, status != "finished")

        assert await mine.verify() == []


@pytest.mark.clauses("D4")
@pytest.mark.parametrize("many", [1, 7])
async def test_checkpoints_of_a_run_in_one_transaction_are_stored_in_their_order(many: int) -> None:
    """Also where its status changes among them, so that different statements store them."""
    statuses = ["running"] * 3 + ["failed", "failed"]
    async with SQLiteFlowPersistence(PATH) as storage:
        rows: dict[str, list[Checkpoint]] = {}
        for name in "abcdefg"[:many]:
            rows[name] = [made(name)]
            for status in statuses:
                rows[name].append(made(name, rows[name][-1], status=status))
        opened = storage._shared.current
        assert opened is not None, "entered"
        for rows_of_all in zip(*rows.values(), strict=True):
            for row in rows_of_all:
                opened.commits.put(
                    Append(row)
                )  # the first is committed alone, the others wait for that, and come into one
        await storage.save(made("the last"))

        assert await storage.verify() == []
        for name, chain in rows.items():
            assert await storage.history(name) == chain


@pytest.mark.clauses("L4")
async def test_a_second_creator_of_an_id_is_stale_and_changes_nothing() -> None:
    first, second = SQLiteFlowPersistence(PATH), SQLiteFlowPersistence(PATH)
    async with first, second:
        await first.save(head := made("a"))
        with pytest.raises(errors.StaleCheckpoint):
            await second.save(made("a", at=99.0))
        loaded = await first.load("a")

    assert loaded == head
    assert len(sql("SELECT * FROM runs")) == 1


async def test_starts_that_are_repeated_cost_their_neighbours_one_more_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = list[int]()
    transaction = Writer._transaction

    async def counted(writer: Writer, batch: Any) -> None:
        tried.append(len(batch))
        await transaction(writer, batch)

    async with SQLiteFlowPersistence(PATH) as storage:
        for name in ("a", "b"):
            await storage.save(made(name))
        monkeypatch.setattr(Writer, "_transaction", counted)
        opened = storage._shared.current
        assert opened is not None, "entered"
        jobs = [Append(made(name, at=99.0)) for name in ("first", "c", "a", "d", "b", "e")]
        for job in jobs:
            opened.commits.put(job)
        await storage.save(made("the last"))
        stored = {entry.run_id for entry in await storage.runs()}

    assert [job.run_id for job in jobs if isinstance(job.error, errors.StaleCheckpoint)] == ["a", "b"]
    assert [job.run_id for job in jobs if job.error is None] == ["first", "c", "d", "e"]
    assert stored == {"a", "b", "c", "d", "e", "first", "the last"}
    assert len(tried) <= 3, "the event loop decides whether the first job is committed alone"
    assert tried[-1] == tried[-2] - 2


@pytest.mark.clauses("C2", "C3")
async def test_of_two_cancelled_saves_the_queued_one_is_withdrawn_and_the_other_waited_for() -> None:
    backend = SQLiteFlowPersistence(PATH)
    ended: list[str] = []
    scopes = {name: anyio.CancelScope() for name in ("under way", "queued")}

    async def save(name: str) -> None:
        with scopes[name]:
            await backend.save(made(name))
        ended.append(f"{name} {scopes[name].cancelled_caught}")

    async with backend:
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                group.start_soon(save, "under way")
                await anyio.wait_all_tasks_blocked()
                group.start_soon(save, "queued")
                await anyio.wait_all_tasks_blocked()
                scopes["under way"].cancel()
                scopes["queued"].cancel()
                await anyio.wait_all_tasks_blocked()
                before = list(ended)
                other.execute("ROLLBACK")
        stored = {name: await backend.load(name) is not None for name in scopes}
        await backend.save(made("later"))

    assert before == ["queued True"]
    assert ended == ["queued True", "under way True"]
    assert stored == {"under way": True, "queued": False}


@pytest.mark.clauses("C2")
@on_asyncio
async def test_a_save_that_is_cancelled_again_and_again_during_its_commit_outlasts_it() -> None:
    backend = SQLiteFlowPersistence(PATH)
    async with backend:
        with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            task = asyncio.ensure_future(backend.save(made("a")))
            ended: list[bool] = []
            for _ in range(4):
                await anyio.wait_all_tasks_blocked()
                task.cancel()
                await anyio.wait_all_tasks_blocked()
                ended.append(task.done())
            other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await task
        stored = await backend.load("a")

    assert ended == [False] * 4
    assert stored is not None


async def test_reading_does_not_wait_for_writers() -> None:
    flow = Steps()
    await flow.kickoff()
    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
        async with Steps.persistence:
            other.execute("BEGIN IMMEDIATE")
            with anyio.fail_after(120):
                loaded = await Steps.load(flow.run_id)
                history = await loaded.history()
            other.execute("ROLLBACK")

    assert loaded.state.done == ["first", "second", "third"]
    assert len(history) == 4
