"""A storage with a key: forged rows are found, too."""

import pytest
from database import PATH, Steps, sql

from asyncflow import SQLiteFlowPersistence, errors
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database.run_head import Head
from asyncflow.persistence.sqlite import rows

KEY = b"a secret of 24 bytes ..."


def forge(run_id: str) -> None:
    """Finish a run by hand, as an attacker who knows the format can: with all its digests."""
    ((*fields, _),) = sql(rows.SELECT_HEAD.partition(" WHERE")[0])
    head = Head(*fields)
    (last,) = sql("SELECT * FROM checkpoints ORDER BY seq DESC LIMIT 1")
    names = [name for _, name, *_ in sql("PRAGMA table_info(checkpoints)")]
    stored = {name: value for name, value in zip(names, last, strict=True) if name in Checkpoint._fields}
    made_up = Checkpoint(
        run_id=run_id, flow=head.flow, identity=head.identity, **{**stored, "state": b'{"id":"x","size":9}'}
    ).sealed()
    sql("UPDATE checkpoints SET state = ?, digest = ? WHERE id = ?", made_up.state, made_up.digest, last[0])
    forged = head._replace(head_digest=made_up.digest)
    sql("UPDATE runs SET head_digest = ?, entry_digest = ?", forged.head_digest, forged.digest())


@pytest.mark.clauses("V4")
@pytest.mark.parametrize("key", [None, KEY])
async def test_what_was_made_up_is_found_where_there_is_a_key(key: bytes | None) -> None:
    storage = SQLiteFlowPersistence(PATH, key=key)
    flow = Steps(persistence=storage)
    await flow.kickoff({"id": "x"})
    assert (await Steps.load("x", persistence=storage)).state.size == 0
    forge("x")

    if key is None:
        assert (await Steps.load("x", persistence=storage)).state.size == 9
    else:
        with pytest.raises(errors.CheckpointCorruptError, match="under another key"):
            await Steps.load("x", persistence=storage)


@pytest.mark.clauses("V4")
async def test_with_its_key_a_run_resumes_and_with_another_it_does_not() -> None:
    class Failing(Steps):
        name = "Steps"

        async def third(self, value: str) -> str:
            raise ValueError

    flow = Failing(persistence=SQLiteFlowPersistence(PATH, key=KEY))
    with pytest.raises(errors.MethodError):
        await flow.kickoff()

    for other in (None, KEY[::-1]):
        with pytest.raises(errors.CheckpointCorruptError):
            await Steps.resume(flow.run_id, persistence=SQLiteFlowPersistence(PATH, key=other))
    assert await Steps.resume(flow.run_id, persistence=SQLiteFlowPersistence(PATH, key=KEY)) == "one two three"


@pytest.mark.parametrize("size", [0, 15, 65])
def test_a_key_has_16_to_64_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="16 to 64 bytes"):
        SQLiteFlowPersistence(PATH, key=b"k" * size)
