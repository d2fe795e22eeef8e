"""The file of a `SQLiteFlowPersistence`: how it is made, named, synchronized, lost and put back."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from database import PATH, Seen, Steps, Work, sql
from small import Slow

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, errors, start
from asyncflow.persistence.sqlite.database import MIGRATIONS


async def test_the_file_is_for_its_owner_alone() -> None:
    before = os.umask(0)
    try:
        async with Steps.persistence:
            await Steps().kickoff()
            modes = {name: stat.S_IMODE(os.stat(name).st_mode) for name in os.listdir()}
    finally:
        os.umask(before)

    assert modes.pop("runs.db.owners") == 0o700
    assert set(modes) == {"runs.db", "runs.db-wal", "runs.db-shm"}
    assert set(modes.values()) == {0o600}


@pytest.mark.clauses("D3")
@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("process", 1)])
async def test_durability_is_wal_with_full_or_normal(durability: Any, synchronous: int, seen: Seen) -> None:
    await Steps(persistence=SQLiteFlowPersistence(PATH, durability=durability)).kickoff()
    writers = [settings for settings in seen.settings if settings["foreign_keys"]]

    assert [settings["synchronous"] for settings in writers] == [synchronous]
    assert {settings["journal_mode"] for settings in seen.settings} == {"wal"}
    assert {(settings["trusted_schema"], settings["cell_size_check"]) for settings in writers} == {(0, 1)}
    assert {settings["busy_timeout"] for settings in seen.settings} == {5000}


@pytest.mark.clauses("D3")
async def test_the_durability_of_the_default_storage_is_the_flows(seen: Seen) -> None:
    @asyncflow.persist
    class Relaxed(Flow[Work]):
        durability = "process"

        @start()
        async def first(self) -> None: ...

    await Relaxed().kickoff()
    await Relaxed(durability="full").kickoff()

    assert [settings["synchronous"] for settings in seen.settings if settings["foreign_keys"]] == [1, 2]


def test_an_unknown_durability_is_refused() -> None:
    with pytest.raises(ValueError, match="durability"):
        SQLiteFlowPersistence(PATH, durability="maybe")


async def test_an_empty_file_becomes_a_database() -> None:
    await anyio.Path(PATH).touch()
    flow = Steps()
    await flow.kickoff()

    assert flow.status == "finished"


def remove_database() -> None:
    for name in (PATH, f"{PATH}-wal", f"{PATH}-shm"):
        os.unlink(name)


def put_another_there() -> None:
    os.rename(PATH, "kept.db")
    Path(PATH).write_bytes(Path("kept.db").read_bytes())


@pytest.mark.clauses("D1")
@pytest.mark.parametrize("lose", [remove_database, put_another_there])
async def test_a_file_that_goes_away_while_it_is_in_use_takes_nothing_more(lose: Callable[[], None]) -> None:
    ran: list[str] = []

    class Loses(Steps):
        async def second(self, value: str) -> str:
            lose()
            return value

        async def third(self, value: str) -> str:
            ran.append("third")
            return value

    storage = SQLiteFlowPersistence(PATH)
    async with storage:
        flow = Loses(persistence=storage)
        with pytest.raises(errors.StorageNotFoundError, match="moved, deleted or replaced while it was in use"):
            await flow.kickoff()
        for look in (storage.load(flow.run_id), storage.history(flow.run_id), storage.runs(), storage.verify()):
            with pytest.raises(errors.StorageNotFoundError):
                await look
        with pytest.raises(errors.StorageNotFoundError):
            await Steps(persistence=storage).kickoff()
    assert ran == []


async def test_a_file_that_is_put_back_is_usable_again() -> None:
    storage = SQLiteFlowPersistence(PATH)
    async with storage:
        await Steps(persistence=storage).kickoff({"id": "x"})
        os.rename(PATH, "elsewhere.db")
        with pytest.raises(errors.StorageNotFoundError):
            await storage.load("x")
        os.rename("elsewhere.db", PATH)

        assert await Steps.resume("x", persistence=storage) is not None
        assert await Steps(persistence=storage).kickoff() is not None


async def test_the_database_says_whose_it_is() -> None:
    await Steps().kickoff()

    assert sql("PRAGMA application_id") == [(0x61666C77,)]
    assert sql("PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert sql("PRAGMA integrity_check") == [("ok",)]


async def test_after_the_last_use_everything_is_in_one_file() -> None:
    flow = Steps()
    await flow.kickoff()

    assert os.listdir() == ["runs.db"]
    assert (await Steps.load(flow.run_id)).state.done == ["first", "second", "third"]


@pytest.mark.clauses("L2")
async def test_a_relative_path_is_the_same_file_after_chdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        flow = Slow(persistence=storage)
        flow.go_on.set()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await flow.kickoff()
        loaded = await Slow.load(flow.run_id, persistence=storage)
        assert os.listdir(tmp_path / "runs.db.owners") != []

    assert loaded.result == "done"
    assert os.listdir(".") == []
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "runs.db"]


def test_a_file_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="MemoryFlowPersistence"):
        SQLiteFlowPersistence(":memory:")
