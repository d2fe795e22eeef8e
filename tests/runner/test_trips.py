"""How many trips to the storage a call makes. A trip is a call of the backend: a commit, or a read."""

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest
from moments import interrupted_once, stored

from asyncflow import Flow, FlowRunner, FlowState, MethodError, SQLiteFlowPersistence, errors, start
from asyncflow.persistence import Checkpoint

pytestmark = pytest.mark.anyio


class Trips(SQLiteFlowPersistence):
    """Lists what is called."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.made: list[str] = []

    def append(self, checkpoint: Checkpoint) -> Coroutine[Any, Any, None]:
        self.made.append(f"append {checkpoint.seq}")
        return super().append(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        self.made.append("load")
        return await super().load(run_id, seq)

    async def acquire(self, run_id: str, *, force: bool = False) -> int:
        self.made.append("acquire")
        return await super().acquire(run_id, force=force)

    async def release(self, run_id: str, epoch: int) -> None:
        self.made.append("release")
        await super().release(run_id, epoch)


class Order(FlowState):
    n: int = 0


class Buy(Flow[Order]):
    @start()
    async def only(self) -> int:
        if self.state.n == 13:
            raise ValueError("unlucky")
        return self.state.n


async def test_a_fresh_run_of_a_runner_is_created_by_one_commit(tmp_path: Path) -> None:
    store = Trips(tmp_path / "runs.db")
    async with FlowRunner(store, recover_every=None) as runner:
        await runner.run(Buy, run_id="the first, before which the file is checked for damage")
        del store.made[:]
        assert await runner.run(Buy, {"n": 1}, run_id="a") == 1

    assert store.made == ["append 0", "append 1"]


async def test_a_fresh_kickoff_by_an_id_reads_nothing(tmp_path: Path) -> None:
    store = Trips(tmp_path / "runs.db")
    async with store:
        await Buy(persistence=store).kickoff({"id": "the first, before which the file is checked for damage"})
        del store.made[:]
        assert await Buy(persistence=store).kickoff({"id": "a", "n": 1}) == 1

    assert store.made == ["acquire", "append 0", "append 1"]


async def test_a_run_that_has_ended_is_loaded_when_it_cannot_be_created(tmp_path: Path) -> None:
    store = Trips(tmp_path / "runs.db")
    async with FlowRunner(store, recover_every=None) as runner:
        await runner.run(Buy, {"n": 1}, run_id="a")
        del store.made[:]
        assert await runner.run(Buy, {"n": 1}, run_id="a") == 1

    assert store.made == ["append 0", "load"]


@pytest.mark.clauses("L2")
async def test_an_interrupted_run_is_acquired_and_loaded_when_it_cannot_be_created(tmp_path: Path) -> None:
    """Its inputs are checked before that, so that a refused call changes nothing."""
    is_first = True

    class Hangs(Buy):
        @start()
        async def only(self) -> int:
            if is_first:
                await anyio.sleep_forever()
            return self.state.n

    store = Trips(tmp_path / "runs.db")
    await interrupted_once(lambda: Hangs(persistence=store).kickoff({"id": "a", "n": 1}), stored(store, "a", 0))
    is_first = False
    async with FlowRunner(store, recover_every=None) as runner:
        await runner.run(Buy, run_id="the first, before which the file is checked for damage")
        del store.made[:]
        assert await runner.run(Hangs, {"n": 1}, run_id="a") == 1

    assert store.made[:4] == ["append 0", "load", "acquire", "load"]


@pytest.mark.clauses("L4")
async def test_other_inputs_for_a_stored_run_are_refused_also_where_no_state_can_be_made_of_them(
    tmp_path: Path,
) -> None:
    async with FlowRunner(SQLiteFlowPersistence(tmp_path / "runs.db"), recover_every=None) as runner:
        await runner.run(Buy, {"n": 1}, run_id="a")
        with pytest.raises(errors.RunInputsError, match="other inputs"):
            await runner.start(Buy, {"n": 2}, run_id="a")
        with pytest.raises(errors.RunInputsError, match="other inputs"):
            await runner.start(Buy, {"n": "many"}, run_id="a")
        with pytest.raises(errors.RunInputsError, match="n"):
            await runner.start(Buy, {"n": "many"}, run_id="b")
        with pytest.raises(errors.RunNotFoundError):
            await runner.get("b")


async def test_a_stored_failure_is_its_outcome_and_the_run_is_not_started_again(tmp_path: Path) -> None:
    store = Trips(tmp_path / "runs.db")
    async with FlowRunner(store, recover_every=None) as runner:
        for _ in range(2):
            with pytest.raises(MethodError):
                await runner.run(Buy, {"n": 13}, run_id="a")

    assert [made for made in store.made if made.startswith("append")] == ["append 0", "append 1", "append 0"]


async def test_of_many_starts_of_one_id_through_two_runners_one_creates_the_run(tmp_path: Path) -> None:
    ones = [SQLiteFlowPersistence(tmp_path / "runs.db") for _ in range(2)]
    results = list[int]()

    async def started(runner: FlowRunner) -> None:
        results.append(await runner.run(Buy, {"n": 7}, run_id="a"))

    async with FlowRunner(ones[0], recover_every=None) as first, FlowRunner(ones[1], recover_every=None) as second:
        async with anyio.create_task_group() as group:
            for runner in (first, second) * 10:
                group.start_soon(started, runner)
        assert len(await ones[0].history("a")) == 2

    assert results == [7] * 20


async def test_replayed_starts_do_not_split_the_commits_of_other_runs(tmp_path: Path) -> None:
    """A refused first checkpoint is found by halving its batch: the others are not committed one by one."""
    store = Trips(tmp_path / "runs.db")
    async with FlowRunner(store, recover_every=None) as runner:
        await runner.run(Buy, {"n": 0}, run_id="0")
        results = list[int]()

        async def run(n: int) -> None:
            results.append(await runner.run(Buy, {"n": n}, run_id=str(n)))

        async with anyio.create_task_group() as group:
            for n in range(100):
                if n != 13:
                    group.start_soon(run, n)

    assert sorted(results) == [n for n in range(100) if n != 13]
