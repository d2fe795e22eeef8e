"""What is logged of a commit that is slow, is retried, or has an unclear outcome; and that no value is in it."""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncflow import Flow, SQLiteFlowPersistence, start
from asyncflow.errors import StorageWriteError
from asyncflow.persistence._database import commit_logs
from asyncflow.persistence.sqlite.writer import Writer

CANARY = "canary-4711"


class Report(Flow[dict[str, Any]]):
    @start()
    async def fetch(self) -> str:
        self.state["kept"] = CANARY
        return CANARY


def error(code: int) -> sqlite3.Error:
    failed = sqlite3.OperationalError(f"it failed at {CANARY}")
    failed.sqlite_errorcode, failed.sqlite_errorname = code, "SQLITE_TESTED"
    return failed


def fail(monkeypatch: pytest.MonkeyPatch, code: int, *, after: bool, least: int = 1) -> None:
    """Let the next transaction of at least so many jobs fail, before or after it is committed."""
    real, left = Writer._transaction, [1]

    async def transaction(self: Writer, batch: Sequence[Any]) -> None:
        fails = left[0] > 0 and len(batch) >= least
        if fails:
            left[0] -= 1
        if not fails or after:
            await real(self, batch)
        if fails:
            raise error(code)

    monkeypatch.setattr(Writer, "_transaction", transaction)


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[Any]:
    found = [line for line in caplog.records if line.name == "asyncflow"]
    assert [line for line in found if CANARY in f"{line.getMessage()} {vars(line)}"] == []
    return [line for line in found if line.getMessage().startswith(f"{words}: ")]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "asyncflow")


@pytest.mark.parametrize("after", [True, False])
async def test_a_commit_with_an_unknown_outcome_is_looked_up_and_says_what_was_found(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, after: bool
) -> None:
    async with SQLiteFlowPersistence(tmp_path / "runs.db") as storage:
        await Report(persistence=storage).kickoff()
        fail(monkeypatch, sqlite3.SQLITE_IOERR, after=after)
        if after:
            await Report(persistence=storage).kickoff()
        else:
            with pytest.raises(StorageWriteError):
                await Report(persistence=storage).kickoff()

    (line,) = lines(caplog, "commit looked up")
    assert line.levelno == logging.WARNING
    assert f"{int(after)} of 1 jobs were stored, after OperationalError (SQLITE_TESTED)" in line.getMessage()
    assert (line.jobs, line.seq) == (1, 0)
    assert line.run_id
    assert any(done.getMessage().endswith("; 1 failed") for done in lines(caplog, "commit done")) != after


async def test_a_commit_whose_look_up_fails_is_unclear(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with SQLiteFlowPersistence(tmp_path / "runs.db") as storage:
        await Report(persistence=storage).kickoff()
        fail(monkeypatch, sqlite3.SQLITE_IOERR, after=True)

        async def refused(self: Writer) -> None:
            raise error(sqlite3.SQLITE_CANTOPEN)

        with monkeypatch.context() as patched:
            patched.setattr(Writer, "_open_again", refused)
            with pytest.raises(StorageWriteError, match="may or may not"):
                await Report(persistence=storage).kickoff()

    (line,) = lines(caplog, "commit unclear")
    assert (line.levelno, line.jobs, line.seq) == (logging.WARNING, 1, 0)
    assert lines(caplog, "commit looked up") == []


async def test_a_commit_of_several_jobs_that_fails_is_retried_in_parts_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    async with SQLiteFlowPersistence(tmp_path / "runs.db") as storage:
        await Report(persistence=storage).kickoff()
        fail(monkeypatch, sqlite3.SQLITE_TOOBIG, after=False, least=2)
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(Report(persistence=storage).kickoff)

    (line,) = lines(caplog, "commit retried")
    assert line.levelno == logging.WARNING
    assert line.jobs >= 2
    assert not hasattr(line, "run_id")  # it is of several runs


async def test_a_commit_that_waits_for_another_process_is_slow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(commit_logs, "SLOW", 0.1)
    async with SQLiteFlowPersistence(tmp_path / "runs.db") as storage:
        await Report(persistence=storage).kickoff()
        caplog.clear()
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as group:
            group.start_soon(Report(persistence=storage).kickoff)
            await anyio.sleep(0.3)
            other.execute("ROLLBACK")
        other.close()

    slow = lines(caplog, "commit slow")
    assert slow
    assert slow[0].levelno == logging.WARNING
    assert slow[0].seconds > 0.1
    assert slow[0].bytes > 300
