"""Damaged rows: each is found, and hurts its own run alone."""

from typing import Any

import anyio
import anyio.abc
import pytest
from database import PATH, Steps, changed, made, sql, two_runs

from asyncflow import SQLiteFlowPersistence, errors
from asyncflow.persistence import Checkpoint
from asyncflow.persistence.sqlite import rows

CHECKPOINT = [
    "pass_number",
    "format",
    "version",
    "kind",
    "status",
    "at",
    "method",
    "base",
    "state",
    "progress",
    "changes",
    "result",
    "inputs",
    "outcome",
    "previous",
    "digest",
]
HEAD = [*rows._HEAD[1:]]


async def assert_corrupt_alone(damaged: str, other: str) -> None:
    def evidence() -> list[tuple[Any, ...]]:
        return sql("SELECT * FROM checkpoints") + sql("SELECT run_id, flow, status, head, head_digest, base FROM runs")

    before = evidence()
    for call in (Steps.load, Steps.resume, Steps.fork):
        with pytest.raises(errors.CheckpointCorruptError) as caught:
            await call(damaged)
        assert caught.value.run_id == damaged
    with pytest.raises(errors.CheckpointCorruptError):
        await Steps().kickoff({"id": damaged})

    assert evidence() == before
    assert await Steps.resume(other) == "one two three"


@pytest.mark.clauses("V4")
@pytest.mark.parametrize("column", CHECKPOINT)
async def test_a_changed_bit_in_a_checkpoint_is_found_and_hurts_that_run_only(column: str) -> None:
    damaged, other = await two_runs()
    (key, value), *_ = sql(
        f"SELECT id, {column} FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) "
        f"AND {column} IS NOT NULL AND length({column}) > 0 ORDER BY seq DESC",
        damaged,
    )
    sql(f"UPDATE checkpoints SET {column} = ? WHERE id = ?", changed(value), key)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("column", HEAD)
async def test_a_changed_bit_in_the_head_of_a_run_is_found_and_hurts_that_run_only(column: str) -> None:
    damaged, other = await two_runs()
    ((value,),) = sql(f"SELECT {column} FROM runs WHERE run_id = ?", damaged)
    sql(f"UPDATE runs SET {column} = ? WHERE run_id = ?", changed(value), damaged)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("seq", [0, 1, 2, 3])
async def test_a_missing_checkpoint_is_found(seq: int) -> None:
    damaged, other = await two_runs()
    sql("DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = ?) AND seq = ?", damaged, seq)

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
async def test_a_checkpoint_of_another_run_in_its_place_is_found() -> None:
    damaged, other = await two_runs()
    run = "(SELECT id FROM runs WHERE run_id = ?)"
    for column in ("state", "changes", "previous", "digest", "at"):
        sql(
            f"UPDATE checkpoints SET {column} = (SELECT {column} FROM checkpoints WHERE run = {run} AND seq = 2) "
            f"WHERE run = {run} AND seq = 2",
            other,
            damaged,
        )

    await assert_corrupt_alone(damaged, other)


@pytest.mark.clauses("D4", "V4")
async def test_an_old_head_with_its_own_digest_is_found() -> None:
    # a stale copy of the row, as a lost write leaves it: valid in itself, and yet behind the checkpoints
    class Peek(Steps):
        name = "Steps"

        async def second(self, value: str) -> str:
            old.extend(sql("SELECT * FROM runs"))
            raise ValueError

    old: list[tuple[Any, ...]] = []
    flow = Peek()
    with pytest.raises(errors.MethodError):
        await flow.kickoff()
    marks = ", ".join("?" * len(old[0]))
    sql(f"REPLACE INTO runs VALUES ({marks})", *old[0])

    with pytest.raises(errors.CheckpointCorruptError):
        await Steps.load(flow.run_id)
    (found,) = await Steps.persistence.verify(flow.run_id)
    assert isinstance(found, errors.CheckpointCorruptError)


@pytest.mark.clauses("V4")
async def test_an_unknown_id_in_a_damaged_database_is_no_new_run() -> None:
    async with Steps.persistence:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(Steps().kickoff)
    ((size,),) = sql("PRAGMA page_size")
    ((page,),) = sql("SELECT rootpage FROM sqlite_schema WHERE name = 'checkpoints'")
    data = await anyio.Path(PATH).read_bytes()
    start_at = (page - 1) * size
    await anyio.Path(PATH).write_bytes(data[:start_at] + b"\xff" * size + data[start_at + size :])
    ran: list[str] = []

    class Never(Steps):
        name = "Steps"

        async def first(self) -> str:
            ran.append("first")
            return ""

    for call in (lambda: Never().kickoff({"id": "lost?"}), lambda: Never.load("lost?"), lambda: Never.resume("lost?")):
        with pytest.raises(errors.StorageCorruptError):
            await call()

    assert ran == []


async def test_a_part_of_a_wrong_type_hurts_its_own_run_alone() -> None:
    runs = [made(name) for name in "abcd"]
    runs[2] = runs[2]._replace(state="{}")  # type: ignore[arg-type]  # as a caller's mistake
    failed: list[str] = []

    async with SQLiteFlowPersistence(PATH) as persistence:

        async def append(checkpoint: Checkpoint) -> None:
            try:
                await persistence.append(checkpoint)
            except errors.StorageError:
                failed.append(checkpoint.run_id)

        async with anyio.create_task_group() as group:
            for checkpoint in runs:
                group.start_soon(append, checkpoint)

    assert failed == ["c"]
    assert [run_id for (run_id,) in sql("SELECT run_id FROM runs ORDER BY run_id")] == ["a", "b", "d"]
