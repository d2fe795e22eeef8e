"""Copies of a database in use, and its free space."""
# ruff: noqa: ASYNC240 - the files are small

from __future__ import annotations

import os
import stat
from pathlib import Path

import anyio
import pytest
from small import Counting

from asyncflow import SQLiteFlowPersistence
from asyncflow.errors import StorageCorruptError, StorageError, StorageWriteError
from asyncflow.persistence.sqlite.upkeep import back_up, vacuum


async def test_a_copy_made_while_runs_are_stored_is_whole() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage, anyio.create_task_group() as group:
        await Counting(persistence=storage).kickoff()

        async def go_on_storing() -> None:
            while True:
                await Counting(persistence=storage).kickoff()

        group.start_soon(go_on_storing)
        seen: list[tuple[int, int]] = []
        count = await back_up(storage.path, Path("copy.db").absolute(), on_pages=lambda *pages: seen.append(pages))
        group.cancel_scope.cancel()

    async with SQLiteFlowPersistence("copy.db") as copy:
        assert await copy.verify() == []
        assert len(await copy.runs(limit=100_000)) == count > 0
    assert seen[-1][0] == seen[-1][1] > 0
    assert stat.S_IMODE(os.stat("copy.db").st_mode) == 0o600


async def test_an_existing_file_and_a_missing_folder_are_refused_and_nothing_is_left() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        await Counting(persistence=storage).kickoff()
    Path("taken.db").write_text("mine")
    before = sorted(os.listdir())

    for copy in ("taken.db", "none/copy.db"):
        with pytest.raises(StorageWriteError, match="Nothing was copied"):
            await back_up(Path("runs.db").absolute(), Path(copy).absolute())

    assert sorted(os.listdir()) == before
    assert Path("taken.db").read_text() == "mine"


async def test_a_damaged_database_gives_no_copy() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        for _ in range(20):
            await Counting(persistence=storage).kickoff()
    data = bytearray(Path("runs.db").read_bytes())
    data[-8192:] = b"\xa5" * 8192
    Path("runs.db").write_bytes(data)

    with pytest.raises((StorageCorruptError, StorageError)):
        await back_up(Path("runs.db").absolute(), Path("copy.db").absolute())

    assert [name for name in os.listdir() if name.startswith("copy")] == []


async def test_free_space_is_returned() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        for _ in range(200):
            await Counting(persistence=storage).kickoff()
        await storage.prune(older_than=0)

    before, after = await vacuum(Path("runs.db").absolute())

    assert after < before
    async with SQLiteFlowPersistence("runs.db") as storage:
        assert await storage.verify() == []
