"""The inspector over storages that are missing, damaged, locked, or that can do less than others."""

from pathlib import Path
from typing import Any

import pytest
from press import Count, Publish, running, started, text_of, visited

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence, errors
from asyncflow.persistence import Checkpoint

STORED = "run x: text of the error"


class Failing(MemoryFlowPersistence):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def runs(self, **asked: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "title"),
    [
        (errors.StorageNotFoundError(STORED), 503, "The storage is missing"),
        (errors.StorageBusyError(STORED), 503, "The storage is busy"),
        (errors.StorageUnreachableError(STORED), 503, "The storage cannot be reached"),
        (errors.StorageCorruptError(STORED), 500, "The storage is damaged"),
        (errors.StorageVersionError(STORED), 500, "A newer version of asyncflow wrote this storage"),
        (errors.StorageNotADatabaseError(STORED), 500, "The storage cannot be read"),
        (errors.ForeignDatabaseError(STORED), 500, "The storage cannot be read"),
        (errors.CapabilityMissingError(STORED, capability="Catalog"), 501, "The storage cannot do this"),
    ],
)
async def test_a_storage_that_fails_is_a_page_that_says_what_to_do(error: Exception, status: int, title: str) -> None:
    async with visited(Failing(error), actions=True) as at:
        answers = [await at.get(), await at.get("waiting")]

    assert [answer.status_code for answer in answers] == [status] * 2
    assert title in text_of(answers[0].text)
    assert STORED in text_of(answers[0].text)
    assert (answers[0].headers.get("retry-after") is not None) == (status == 503)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 4_000])
async def test_a_file_that_is_no_database_is_a_page(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runs.db"
    path.write_bytes(content)

    async with visited(SQLiteFlowPersistence(path)) as at:
        answer = await at.get()

    assert answer.status_code == 500
    assert str(path) in text_of(answer.text)
    assert path.read_bytes() == content


async def test_a_damaged_run_is_a_page_and_others_are_shown(storage: Any) -> None:
    async with running(storage) as runner:
        run_id = await started(runner, "failed", fails=True)
    good = (await storage.load(run_id)).run_id

    class Damaged(MemoryFlowPersistence):
        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            raise errors.CheckpointCorruptError("the run is damaged", run_id=run_id)

    async with visited(Damaged()) as at:
        answer = await at.get("run", id=good)
    async with visited(storage) as sound:
        await sound.run(good)

    assert answer.status_code == 500
    assert "Restore the storage from a backup" in text_of(answer.text)


class Small:
    """A backend that only saves and loads."""

    def __init__(self) -> None:
        self.stored: dict[str, Checkpoint] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        self.stored[checkpoint.run_id] = checkpoint

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        stored = self.stored.get(run_id)
        return stored if stored is not None and seq in (None, stored.seq) else None


async def test_a_backend_that_only_saves_and_loads_shows_runs_by_their_ids() -> None:
    storage: Any = Small()
    flow = Count(persistence=storage)
    await flow.kickoff()
    async with visited(storage) as at:
        listed = await at.get()
        page = text_of(await at.run(flow.run_id))
        stream = await at.get("run/events", id=flow.run_id)

    assert listed.status_code == 501
    assert "does not list its runs" in text_of(listed.text)
    assert "n 12" in page
    assert "keeps no history" in page
    assert stream.status_code == 200


async def test_anything_else_than_a_backend_is_refused() -> None:
    from asyncflow.integrations.inspector import inspector

    with pytest.raises(errors.FlowDefinitionError):
        inspector(object(), [Publish])  # type: ignore[arg-type]
