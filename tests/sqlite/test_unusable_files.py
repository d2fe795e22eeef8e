"""What cannot be a storage at the path: the right error, and nothing is touched."""

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from database import PATH, Steps, sql

import asyncflow
from asyncflow import SQLiteFlowPersistence, errors


def a_folder() -> None:
    PATH.mkdir()


def garbage() -> None:
    PATH.write_bytes(b"not a database, but long enough to be looked at " * 100)


def a_short_text() -> None:
    PATH.write_text("hello")


def another_programs() -> None:
    sql("CREATE TABLE bookmarks (url TEXT)")
    sql("INSERT INTO bookmarks VALUES ('https://example.org')")


def another_programs_in_wal() -> None:
    sql("PRAGMA journal_mode = WAL")
    another_programs()


def another_application() -> None:
    sql("PRAGMA application_id = 1234")


def another_version() -> None:
    sql("PRAGMA user_version = 7")


def a_newer_version() -> None:
    asyncflow.run(Steps())
    sql("PRAGMA user_version = 99")


TROUBLES: dict[str, tuple[Callable[[], None], type[errors.StorageError]]] = {
    "a folder": (a_folder, errors.StorageNotFoundError),
    "garbage": (garbage, errors.StorageNotADatabaseError),
    "a short text": (a_short_text, errors.StorageNotADatabaseError),
    "another program's": (another_programs, errors.ForeignDatabaseError),
    "another program's in WAL": (another_programs_in_wal, errors.ForeignDatabaseError),
    "another application id": (another_application, errors.ForeignDatabaseError),
    "another user version": (another_version, errors.ForeignDatabaseError),
    "a newer version": (a_newer_version, errors.StorageVersionError),
}


def picture() -> dict[str, str]:
    """The names and the contents of everything here."""
    found = sorted(Path().rglob("*"))
    return {
        str(path): "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest() + oct(path.stat().st_mode)
        for path in found
    }


@pytest.mark.parametrize(("make", "error"), TROUBLES.values(), ids=TROUBLES)
@pytest.mark.parametrize("call", ["kickoff", "resume", "load"])
async def test_a_file_that_is_no_asyncflow_storage_is_refused_and_left_as_it_was(
    make: Callable[[], None], error: type[errors.StorageError], call: str
) -> None:
    ran: list[str] = []

    class Never(Steps):
        async def first(self) -> str:
            ran.append("first")
            return ""

    await anyio.to_thread.run_sync(make)
    before = picture()
    with pytest.raises(error) as caught:
        await {
            "kickoff": lambda: Never().kickoff(),
            "resume": lambda: Never.resume("x"),
            "load": lambda: Never.load("x"),
        }[call]()

    assert type(caught.value) is error
    assert "runs.db" in str(caught.value)
    assert ran == []
    assert picture() == before


async def test_a_parent_that_is_a_file_is_no_folder() -> None:
    await anyio.Path("file").write_text("a file")
    before = picture()
    with pytest.raises(errors.StorageNotFoundError):
        await Steps(persistence=SQLiteFlowPersistence("file/runs.db")).kickoff()

    assert picture() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("what", ["the file", "the folder"])
async def test_what_cannot_be_written_is_read_only(what: str) -> None:
    await Steps().kickoff()
    os.chmod("runs.db" if what == "the file" else ".", 0o400 if what == "the file" else 0o500)
    try:
        with pytest.raises(errors.StorageReadOnlyError):
            await Steps().kickoff()
    finally:
        os.chmod(".", 0o700)


async def test_a_database_locked_by_another_program_is_waited_for_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("asyncflow.persistence.sqlite.database.BUSY_SECONDS", 0.3)
    await Steps().kickoff()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with contextlib.closing(sqlite3.connect(PATH, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(count)
            with pytest.raises(errors.StorageBusyError) as caught:
                await Steps().kickoff()
            group.cancel_scope.cancel()
        other.execute("ROLLBACK")
    flow = Steps()
    await flow.kickoff()

    waited = re.search(r" for ([\d.]+) seconds", str(caught.value))
    assert turns > 100
    assert waited is not None
    assert float(waited[1]) >= 0.3, "and more on a busy machine"
    assert flow.status == "finished"
