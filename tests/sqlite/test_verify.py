"""`verify`: finds damage that loading does not meet."""

import contextlib
import sqlite3

import pytest
from answers import (
    CHANGES,
    KEYS,
    TAKEN,
    WAITS,
    Answers,
    answer,
    assert_it_is_found_and_nothing_is_taken_twice,
    changes,
    is_read,
    three_signals,
)
from database import PATH, Steps, changed, sql, two_runs

from asyncflow import SQLiteFlowPersistence, errors


async def two_passes() -> str:
    """A finished run of two passes: loading begins at the second."""
    flow = Steps()
    await flow.kickoff()
    await flow.kickoff()
    return flow.run_id


@pytest.mark.clauses("V4")
async def test_a_sound_database_verifies() -> None:
    await two_passes()
    damaged, _ = await two_runs()

    assert await Steps.persistence.verify() == []
    assert await Steps.persistence.verify(damaged) == []


@pytest.mark.clauses("D4", "V4")
@pytest.mark.parametrize("column", ["state", "changes", "previous", "digest", "method"])
async def test_damage_that_loading_does_not_meet_is_found_by_verifying(column: str) -> None:
    other = await two_passes()
    damaged = await two_passes()
    run = "run = (SELECT id FROM runs WHERE run_id = ?) AND seq = 2"
    ((value,),) = sql(f"SELECT {column} FROM checkpoints WHERE {run}", damaged)
    sql(f"UPDATE checkpoints SET {column} = ? WHERE {run}", changed(value), damaged)
    assert (await Steps.load(damaged)).status == "finished"

    (found,) = await Steps.persistence.verify()

    assert isinstance(found, errors.CheckpointCorruptError)
    assert (found.run_id, found.seq) == (damaged, 2)
    assert [type(error) for error in await Steps.persistence.verify(damaged)] == [errors.CheckpointCorruptError]
    assert await Steps.persistence.verify(other) == []


@pytest.mark.clauses("V4")
async def test_checkpoints_whose_run_is_gone_are_found_by_verifying() -> None:
    run_id = await two_passes()
    sql("DELETE FROM runs WHERE run_id = ?", run_id)

    (found,) = await Steps.persistence.verify()

    assert isinstance(found, errors.StorageCorruptError)
    assert "8 checkpoints belong to no run" in str(found)


async def test_an_unknown_run_cannot_be_verified() -> None:
    await two_passes()

    with pytest.raises(errors.RunNotFoundError):
        await Steps.persistence.verify("unknown")


@pytest.mark.clauses("V4")
@pytest.mark.parametrize(
    ("name", "text", "damaged"),
    [
        ("runs", "UNIQUE", "UNIQUe"),
        ("checkpoints", "REFERENCES", "REFERENCEs"),
        ("commits", "NULL AS at", "NULL as at"),
        ("store_first", "BEGIN", "BEGIn"),
        ("store_running", "NEW.seq - 1", "NEW.seq - 3"),
        ("store_other", "NEW.epoch", "OLD.epoch"),
    ],
)
async def test_a_damaged_schema_is_found_and_what_others_added_is_theirs(name: str, text: str, damaged: str) -> None:
    # else a trigger that compares too little would commit what does not follow, and one that compares too much would fence
    flow = Steps()
    await flow.kickoff()
    sql("CREATE INDEX somebody_elses ON checkpoints (at)")
    assert await Steps.resume(flow.run_id) == "one two three"
    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = ?", (text, damaged, name))

    with pytest.raises(errors.StorageCorruptError, match=rf"its schema differs from the original \({name}\)"):
        await Steps.resume(flow.run_id)


# ---- signals ---------------------------------------------------------------------------------------------------------

OF_HURT = "run = (SELECT id FROM runs WHERE run_id = 'hurt') AND key = ?"


async def hurt_and_sound() -> SQLiteFlowPersistence:
    storage = SQLiteFlowPersistence(PATH, durability="process")
    for run_id in ("hurt", "sound"):
        await three_signals(storage, run_id)
    return storage


@pytest.mark.clauses("V4", "W6")
@pytest.mark.parametrize(("key", "column"), CHANGES)
async def test_a_changed_row_of_a_signal_is_found_and_nothing_is_taken_twice(key: str, column: str) -> None:
    async with await hurt_and_sound() as storage:
        assert await storage.verify() == []
        sql(f"UPDATE signals SET {column} = ? WHERE {OF_HURT}", changes(key)[column], key)

        await assert_it_is_found_and_nothing_is_taken_twice(storage, "hurt", "sound", is_read=is_read(key, column))


@pytest.mark.clauses("V4", "W6")
async def test_an_old_copy_of_the_row_of_a_taken_signal_is_found_and_it_is_not_taken_twice() -> None:
    columns = "payload, taken, digest"
    async with await hurt_and_sound() as storage:
        await storage.send("hurt", answer(1, "old"))
        (as_it_was,) = sql(f"SELECT {columns} FROM signals WHERE {OF_HURT}", "old")
        sql("DELETE FROM signals WHERE key = 'old'")
        sql(f"UPDATE signals SET key = 'old' WHERE {OF_HURT}", TAKEN)
        sql(f"UPDATE signals SET ({columns}) = (?, ?, ?) WHERE {OF_HURT}", *as_it_was, "old")

        await assert_it_is_found_and_nothing_is_taken_twice(storage, "hurt", "sound", is_read=False)


@pytest.mark.clauses("V4", "W6")
async def test_the_row_of_a_taken_signal_that_is_gone_is_found_and_it_is_not_taken_twice() -> None:
    async with await hurt_and_sound() as storage:
        sql(f"DELETE FROM signals WHERE {OF_HURT}", TAKEN)

        await assert_it_is_found_and_nothing_is_taken_twice(storage, "hurt", "sound", is_read=False)


@pytest.mark.clauses("V4")
async def test_the_signals_of_an_ended_pass_are_verified_too() -> None:
    async with await hurt_and_sound() as storage:
        for run_id in ("hurt", "sound"):
            await storage.send(run_id, answer(5, " made for a sender without a key"))
            assert await Answers.resume(run_id, persistence=storage) == [1, 0]
        assert await storage.verify() == []
        for key in KEYS:
            sql(f"UPDATE signals SET sender = 'eve' WHERE {OF_HURT}", key)
            (found,) = await storage.verify()
            assert isinstance(found, errors.CheckpointCorruptError)
            assert found.run_id == "hurt"
            sql(f"UPDATE signals SET sender = 'ann' WHERE {OF_HURT}", key)
        assert await storage.verify() == []


@pytest.mark.clauses("V4", "W6")
async def test_a_changed_row_stops_neither_the_end_nor_the_signals_of_another_run() -> None:
    async with await hurt_and_sound() as storage:
        sql(f"UPDATE signals SET sender = 'eve' WHERE {OF_HURT}", WAITS)

        with pytest.raises(errors.CheckpointCorruptError):
            await storage.send("hurt", answer(0, WAITS))
        assert not await storage.send("sound", answer(0, WAITS))


async def test_the_time_of_a_signal_may_be_a_whole_number() -> None:
    async with await hurt_and_sound() as storage:
        await storage.send("sound", answer(5, "later")._replace(at=7))

        assert [each.signal.at for each in await storage.inbox("sound")] == [1.5, 7.0]


@pytest.mark.clauses("V4")
async def test_signals_whose_run_is_gone_are_found_by_verifying() -> None:
    async with await hurt_and_sound() as storage:
        sql("DELETE FROM checkpoints WHERE run = (SELECT id FROM runs WHERE run_id = 'hurt')")
        sql("DELETE FROM runs WHERE run_id = 'hurt'")

        (found,) = await storage.verify()

    assert "3 signals belong to no run" in str(found)
