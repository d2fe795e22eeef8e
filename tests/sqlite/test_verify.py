"""`verify`: finds damage that loading does not meet."""

import contextlib
import sqlite3

import pytest
from database import PATH, Steps, changed, sql, two_runs

from asyncflow import errors


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
