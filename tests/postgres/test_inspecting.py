"""Runs of PostgreSQL, as they are shown."""

import os
from typing import Any

import anyio
import pytest

from asyncflow import Flow, errors, inspection, listen, start


class Sale(Flow):
    @start()
    async def take(self) -> None:
        self.state["n"] = 1

    @listen(take)
    async def pay(self) -> None:
        if self.state.get("hangs"):
            await anyio.sleep_forever()
        raise ValueError("no money")


async def test_runs_are_listed_shown_and_followed(persistence: Any) -> None:
    async with persistence:
        for n in range(5):
            with pytest.raises(errors.MethodError):
                await Sale(persistence=persistence).kickoff({"id": f"run-{n}"})

        first = await inspection.list_runs(persistence, id_text="un-", status="failed", limit=2)
        rest = await inspection.list_runs(persistence, id_text="un-", status="failed", before=first.next)
        narrow = await inspection.list_runs(persistence, flow="Sale", examine=2)
        shown = await inspection.run_detail(persistence, await inspection.find_run(persistence, "run-3"))
        changes = await inspection.diff(persistence, "run-3", 0)
        part = await inspection.run_history(persistence, "run-3", after=0, limit=1)
        events = [type(event).__name__ async for event in inspection.follow(persistence, "run-3")]

    assert [entry.run_id for entry in first + rest] == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert len(narrow) == 2
    assert narrow.next is not None
    assert [(error.invocation, error.message) for error in shown.errors] == [("pay:1", "no money")]
    assert [(each.path, each.kind, each.after) for each in changes] == [(("n",), "added", 1)]
    assert [entry.method for entry in part] == ["take:1"]
    assert events == ["RunStarted", "MethodFinished", "MethodFailed", "RunFailed"]


async def test_a_run_that_is_driven_shows_the_process_and_its_lease(persistence: Any) -> None:
    flow = Sale(persistence=persistence)
    async with persistence, anyio.create_task_group() as group:
        group.start_soon(flow.kickoff, {"hangs": True})
        while flow.pending != ("pay:1",):  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.02)
        shown = await inspection.run_detail(persistence, flow.run_id)
        group.cancel_scope.cancel()

    assert shown.driver is not None
    assert shown.driver.process.startswith(f"process {os.getpid()} on ")
    assert shown.driver.is_here
    assert shown.driver.seconds_left is None or shown.driver.seconds_left > 0
    assert [(each.method, each.doing) for each in shown.pending] == [("pay", "running")]
