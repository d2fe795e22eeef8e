"""Child runs in PostgreSQL, where many are created in one statement, and two owners meet."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from family import Grandparent, Parent, Wide, fails, gate, gates, has_run, only_child, ran, tree
from moments import interrupted_once, until

from asyncflow import FlowRunner, errors
from asyncflow._runs.cancelling import cancel_stored
from asyncflow.persistence.postgres import PostgresFlowPersistence


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()
    fails.clear()


@pytest.mark.clauses("K5")
async def test_children_created_together_are_stored_with_their_parent(persistence: Any) -> None:
    flow = Wide(persistence=persistence)
    async with persistence:
        assert await flow.kickoff({"n": 50}) == [10 * n for n in range(50)]
        assert await tree(persistence, flow.run_id) == ["finished"] * 50
        assert await persistence.verify() == []


@pytest.mark.clauses("K5", "K8")
async def test_a_method_that_runs_again_continues_its_child_and_a_cancellation_reaches_the_tree(
    persistence: Any,
) -> None:
    opened = gate("continued")
    async with persistence:
        flow = Grandparent(persistence=persistence)
        await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "continued"}), has_run("second 4"))
        opened.set()
        assert await Grandparent.resume(flow.run_id, persistence=persistence) == 141
        assert ran == ["go", "first 4", "second 4", "go", "second 4"]

        gate("continued")
        ran.clear()
        flow = Grandparent(persistence=persistence)
        await interrupted_once(lambda: flow.kickoff({"n": 5, "gate": "continued"}), has_run("second 5"))
        await cancel_stored(persistence, flow.run_id)
        assert await tree(persistence, flow.run_id) == ["cancelled", "cancelled"]


@pytest.mark.clauses("K8")
async def test_another_process_s_cancellation_of_the_parent_refuses_new_children(
    persistence: Any, conninfo: str, schema: str
) -> None:
    opened = gate("elsewhere")
    async with persistence, PostgresFlowPersistence(conninfo, schema=schema) as other:
        flow, raised = Parent(persistence=persistence), list[BaseException]()

        async def kick() -> None:
            try:
                await flow.kickoff({"n": 4, "gate": "elsewhere"})
            except errors.AsyncflowError as error:
                raised.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(kick)
            await until(has_run("second 4"))
            await cancel_stored(other, flow.run_id)
            opened.set()
        assert isinstance(raised[0], errors.RunFencedError)
        assert await tree(persistence, flow.run_id) == ["cancelled"]


@pytest.mark.clauses("K5")
async def test_a_parent_attaches_to_a_child_that_another_process_drives(
    persistence: Any, conninfo: str, schema: str
) -> None:
    gate("elsewhere")
    async with persistence, PostgresFlowPersistence(conninfo, schema=schema) as other:
        flow = Grandparent(persistence=persistence)
        await interrupted_once(lambda: flow.kickoff({"n": 4, "gate": "elsewhere"}), has_run("second 4"))
        ran.clear()
        async with FlowRunner(other, recover_every=None) as runner:
            runner.add(Parent)
            await runner.resume((await only_child(persistence, flow.run_id)).run_id)
            await until(has_run("second 4"))
            results = list[Any]()

            async def resume() -> None:
                results.append(await Grandparent.resume(flow.run_id, persistence=persistence))

            async with anyio.create_task_group() as group:
                group.start_soon(resume)
                await anyio.sleep(0.1)
                gates["elsewhere"].set()
        assert results == [141]
        assert ran == ["go", "second 4"]
