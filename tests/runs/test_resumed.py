"""A resume has a checkpoint of its own: committed before the first method begins again, seen by readers, and no progress."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from flows import Steps, run_that_is

from asyncflow import Flow, errors, start
from asyncflow._runs import passes
from asyncflow._runtime.observe import events_from
from asyncflow.events import MethodFailed, RunFailed, RunResumed
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.checkpoint import decode_progress, encode_progress
from asyncflow.testing import Fail, FaultyPersistence

UNFINISHED = pytest.mark.parametrize("status", ["interrupted", "failed"])


CALLS: dict[str, Any] = {
    "resume": lambda flow, run_id: flow._instance.resume(run_id),
    "kickoff": lambda flow, run_id: flow.kickoff({"id": run_id}),
    "start": lambda flow, run_id: flow._instance.start(run_id, None),
}


@pytest.mark.clauses("D1", "X3")
@pytest.mark.parametrize(
    ("call", "status"),
    [(call, status) for call in CALLS for status in ("interrupted", "failed") if (call, status) != ("start", "failed")],
)
async def test_a_resume_is_stored_before_a_method_begins_again(call: str, status: str, store: Any) -> None:
    run_id = await run_that_is(status, store)
    before = await store.load(run_id)
    flow = Steps("hang", persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(CALLS[call], flow, run_id)
        await flow.hanging.wait()
        now = await store.load(run_id)
        group.cancel_scope.cancel()

    assert (now.kind, now.status, now.seq, now.pass_number) == ("resumed", "running", before.seq + 1, 1)
    progress = decode_progress(now.progress)
    assert (list(progress.pending), progress.failed, progress.held) == (["second:1"], set(), set())
    assert (now.state, now.inputs, now.outcome) == (before.state, before.inputs, None)


@pytest.mark.clauses("X3")
@UNFINISHED
async def test_no_method_begins_again_where_the_resume_cannot_be_stored(status: str, store: Any) -> None:
    run_id = await run_that_is(status, store)
    flow = Steps(persistence=FaultyPersistence(store, Fail()))

    with pytest.raises(errors.StorageWriteError):
        await flow.kickoff({"id": run_id})

    assert (flow.ran, flow.status, flow.pending) == ([], status, ("second:1",))
    assert (await Steps.load(run_id, persistence=store)).status == status
    assert await Steps.resume(run_id, persistence=store) == "one two three"


async def test_the_history_and_the_events_show_each_resume(log: Any) -> None:
    run_id = await run_that_is("failed", log)
    with pytest.raises(errors.MethodError):
        await Steps("fail", persistence=log).kickoff({"id": run_id})
    await Steps.resume(run_id, persistence=log)

    rows = await log.history(run_id)
    history = await (await Steps.load(run_id, persistence=log)).history()
    kinds = ["started", "method", "failed", "resumed", "failed", "resumed", "method", "finished"]
    assert [entry.kind for entry in history] == kinds
    assert [entry.status for entry in history if entry.kind == "resumed"] == ["running"] * 2
    assert all(entry.changed == {} and entry.error == "" for entry in history if entry.kind == "resumed")
    events = [event for row in rows[3:6] for event in events_from(row)]
    assert [type(event) for event in events] == [RunResumed, MethodFailed, RunFailed, RunResumed]
    assert events[0] == RunResumed(run_id=run_id, flow="Steps", seq=3, n=0, at=rows[3].at, pass_number=1)


async def test_a_fork_as_of_a_resume_runs_what_was_resumed(log: Any) -> None:
    run_id = await run_that_is("failed", log)
    await Steps.resume(run_id, persistence=log)

    fork = await Steps.fork(run_id, seq=3, persistence=log)

    assert (fork.status, fork.pending) == ("interrupted", ("second:1",))
    assert await fork.kickoff() == "one two three"


class Endless(Flow[dict[str, Any]]):
    """It hangs whenever it is begun."""

    @start()
    async def hang(self) -> None:
        self.state["text"] = "x" * 10_000
        await anyio.sleep_forever()


async def test_resumes_without_progress_store_the_state_rarely(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "RESUMES", 4)
    before: list[Checkpoint] = []
    text = {"id": "x", "text": "x" * 10_000}
    for count in range(7):
        with anyio.move_on_after(5) as scope:
            flow = Endless(persistence=log)
            async with anyio.create_task_group() as group:
                group.start_soon(flow.kickoff, text if not count else {"id": "x"})
                while len(rows := await log.history("x")) <= len(before):  # noqa: ASYNC110 - a storage sends no event
                    await anyio.sleep(0.001)
                before = rows
                group.cancel_scope.cancel()
        assert not scope.cancelled_caught

    assert [row.kind for row in before[1:]] == ["resumed"] * 6
    assert [row.seq for row in before if row.is_complete] == [0, 5]
    assert sum(row.size for row in before) < 45_000
    assert (await Endless.load("x", persistence=log)).pending == ("hang:1",)


@pytest.mark.clauses("X3")
async def test_a_run_that_has_nothing_left_to_run_is_ended_by_a_resume(log: Any) -> None:
    run_id = await run_that_is("interrupted", log)
    stored = await log.load(run_id)
    progress = decode_progress(stored.progress)
    progress.pending.clear()
    empty = await _with_progress(log, stored, progress)

    for _ in range(3):
        await Steps.resume(run_id, persistence=log)

    newest = await log.load(run_id)
    assert (newest.seq, newest.status) == (empty.seq + 2, "finished")


async def _with_progress(log: Any, stored: Checkpoint, progress: Any) -> Checkpoint:
    """Store a progress that no flow leaves, as damage or another program may."""
    epoch = await log.acquire(stored.run_id)
    seq = stored.seq + 1
    row = stored._replace(
        seq=seq, base=seq, kind="edited", epoch=epoch, progress=encode_progress(progress), previous=stored.digest
    ).sealed()
    await log.append(row)
    await log.release(stored.run_id, epoch)
    return row


async def test_the_first_deltas_after_a_resume_are_deltas(log: Any) -> None:
    run_id = await run_that_is("failed", log)
    await Steps.resume(run_id, persistence=log)

    rows = await log.history(run_id)
    assert [(row.kind, row.is_complete) for row in rows[3:5]] == [("resumed", True), ("method", False)]


@pytest.mark.clauses("X3")
async def test_a_resume_that_is_a_delta_also_clears_what_had_failed(store: Any) -> None:
    run_id = await run_that_is("failed", store)
    await (await Steps.load(run_id, persistence=store)).update_state(size=7)  # a snapshot, of a run that has failed
    flow = Steps("hang", persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff, {"id": run_id})
        await flow.hanging.wait()
        now = await store.load(run_id)
        group.cancel_scope.cancel()

    progress = decode_progress(now.progress)
    assert (now.kind, progress.failed, progress.held) == ("resumed", set(), set())
    assert (await Steps.load(run_id, persistence=store)).status == "interrupted"
