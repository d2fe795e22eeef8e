"""A load is cancelled at each of its awaits: it leaves nothing behind, and the next load reads what is stored."""

import time

import anyio
import pytest

from asyncflow import Flow, SQLiteFlowPersistence, start
from asyncflow.persistence.sqlite import rows
from asyncflow.testing import cancel_everywhere


class Count(Flow[dict]):
    name = "Count"

    @start()
    async def one(self) -> int:
        self.state["n"] = 1
        return 1


@pytest.mark.parametrize("is_open", [True, False], ids=["open storage", "opened by the load"])
@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_load_that_is_cancelled_at_any_await_leaves_the_storage_as_it_was(
    is_stored: bool, is_open: bool
) -> None:
    storage = SQLiteFlowPersistence("runs.db")
    await Count(persistence=storage).kickoff({"id": "stored"})
    run_id = "stored" if is_stored else "unknown"

    async def load() -> None:
        await storage.load(run_id)

    async def whole() -> None:
        found = await storage.load(run_id)
        assert (found is not None) == is_stored
        await Count(persistence=storage).kickoff()
        assert await storage.verify("stored") == []

    if is_open:
        async with storage:
            await whole()
            assert await cancel_everywhere(load, whole) >= 2
    else:
        assert await cancel_everywhere(load, whole) >= 6
    assert storage._shared.current is None


async def test_loads_that_are_cancelled_while_others_run_disturb_none() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        ids = [f"run {number}" for number in range(20)]
        for run_id in ids:
            await Count(persistence=storage).kickoff({"id": run_id})
        found: list[str] = []

        async def load(run_id: str, turn: int) -> None:
            with anyio.move_on_after(0.0005 * turn if turn % 2 else 10):
                checkpoint = await storage.load(run_id)
                assert checkpoint is not None
                assert checkpoint.run_id == run_id
                if not turn % 2:
                    found.append(run_id)

        async with anyio.create_task_group() as group:
            for turn in range(6):
                for run_id in ids:
                    group.start_soon(load, run_id, turn)

        assert sorted(found) == sorted(ids * 3)


SLOW = 0.05
"""Seconds of a statement."""


async def test_cancelled_loads_leave_no_statements_for_the_next_one_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        await Count(persistence=storage).kickoff({"id": "run"})
        await storage.load("run")
        connection = storage._shared.current.reader._connection  # type: ignore[union-attr]  # it is open

        def slow() -> None:
            time.sleep(SLOW)

        create = storage._shared.current.home.run  # type: ignore[union-attr]
        await create(lambda: connection.create_function("slow", 0, slow))
        newest = storage._shared.current.reader._newest  # type: ignore[union-attr]
        monkeypatch.setattr(newest, "_one", f"SELECT * FROM ({rows.SELECT_NEWEST}) WHERE slow() IS NULL")
        began = time.monotonic()
        for _ in range(5):
            with anyio.move_on_after(SLOW / 10):
                await storage.load("run")

        assert time.monotonic() - began >= 5 * SLOW  # each has waited for its own
        assert (await storage.load("run")) is not None


@pytest.mark.parametrize("of", ["newest", "history", "one"])
async def test_reads_in_a_cancelled_scope_return_as_they_clean_up_there(of: str) -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        await Count(persistence=storage).kickoff({"id": "run"})
        await storage.load("run")
        found: list[object] = []
        with anyio.CancelScope() as scope:
            scope.cancel()
            if of == "newest":
                found.append(await storage.load("run"))
            elif of == "one":
                found.append(await storage.load("run", 0))
            else:
                found.append(await storage.history("run"))

        assert found
        assert found[0]
