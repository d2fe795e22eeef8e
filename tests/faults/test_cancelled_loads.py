"""A load is cancelled at each of its awaits: it leaves nothing behind, and the next load reads what is stored."""

import anyio
import pytest

from asyncflow import Flow, SQLiteFlowPersistence, start
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
