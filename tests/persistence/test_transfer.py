"""Runs that are exported and imported: they are the same, and lines that were changed are refused."""
# ruff: noqa: ASYNC240 - the files are small

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from commands import Ask, Order, stored
from small import Counting

from asyncflow import Flow, SQLiteFlowPersistence, run_child, start
from asyncflow.errors import CheckpointCorruptError, TransferError
from asyncflow.persistence.transfer import Transferred, export_runs, import_runs

KEY = b"0123456789abcdef0123456789abcdef"


class Parent(Flow[dict]):
    name = "Parent"

    @start()
    async def run(self) -> int:
        return await run_child(Counting)  # type: ignore[no-any-return]


async def exported(path: str = "runs.db", **options: Any) -> list[bytes]:
    lines: list[bytes] = []
    await export_runs(SQLiteFlowPersistence(path, read_only=True), lines.append, **options)
    return lines


async def imported(lines: Iterable[bytes], path: str = "copy.db", **options: Any) -> Transferred:
    return await import_runs(SQLiteFlowPersistence(path, key=options.pop("key", None)), lines, **options)


@pytest.fixture
def some() -> None:
    stored("runs.db")


async def test_runs_are_the_same_after_the_import_and_can_be_resumed(some: None) -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        await Parent(persistence=storage).kickoff({"id": "parent-1"})
        await Ask.signal("ask-1", "approved", True, persistence=storage)
    lines = await exported()

    done = await imported(lines, key=KEY)

    async with SQLiteFlowPersistence("copy.db", key=KEY) as copy, SQLiteFlowPersistence("runs.db") as storage:
        assert await copy.verify() == []
        before, after = await storage.runs(), await copy.runs()
        assert [entry._replace(updated_at=0) for entry in before] == [entry._replace(updated_at=0) for entry in after]
        assert [entry.run_id for entry in await copy.children("parent-1")] == [
            entry.run_id for entry in await storage.children("parent-1")
        ]
        for entry in before:
            assert await copy.history(entry.run_id) == await storage.history(entry.run_id)
        assert await Ask.resume("ask-1", persistence=copy) == "approved: True"
    assert done == Transferred(runs=5, checkpoints=len(lines) - 2 - 5 - 1, signals=1)


async def test_a_run_without_its_earlier_passes_is_imported() -> None:
    async with SQLiteFlowPersistence("runs.db") as storage:
        for _ in range(3):
            await Counting(persistence=storage).kickoff({"id": "count"})
        await Counting.compact("count", persistence=storage)

    await imported(await exported(), key=KEY)

    async with SQLiteFlowPersistence("copy.db", key=KEY) as copy:
        assert await copy.verify() == []
        assert await Counting(persistence=copy).kickoff({"id": "count"}) == 4


async def test_a_run_that_exists_is_refused_or_skipped(some: None) -> None:
    lines = await exported()
    await imported(lines)

    with pytest.raises(TransferError, match="is stored already; nothing of it was changed"):
        await imported(lines)

    assert await imported(lines, existing="skip") == Transferred(skipped=3)


async def test_only_some_runs_are_exported(some: None) -> None:
    lines = await exported(run_ids=["good-1", "unknown"])

    assert await imported(lines) == Transferred(runs=1, checkpoints=3)


async def test_a_damaged_run_is_not_exported(some: None) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect("runs.db")) as connection:
        connection.execute("UPDATE checkpoints SET method = 'other' WHERE seq = 1")
        connection.commit()

    with pytest.raises(CheckpointCorruptError):
        await exported()


def changed(line: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(line) | fields).encode() + b"\n"


async def test_lines_that_were_changed_cut_or_reordered_are_refused(some: None) -> None:
    lines = await exported(run_ids=["good-1"])
    assert [json.loads(line)["type"] for line in lines] == ["asyncflow", "run", *["checkpoint"] * 3, "end"]
    wrong: list[list[bytes]] = [
        [],
        lines[:-1],
        lines[:3],
        lines[1:],
        [lines[0], lines[1], lines[3], lines[2], *lines[4:]],
        [*lines[:3], *lines[4:]],
        [lines[0], changed(lines[1], checkpoints=2), *lines[2:]],
        [lines[0], changed(lines[1], parent="other"), *lines[2:]],
        [*lines[:2], changed(lines[2], state='\n{"total":1000000}'), *lines[3:]],
        [*lines[:2], changed(lines[2], method="other"), *lines[3:]],
        [*lines[:-1], changed(lines[-1], digest="00" * 16)],
        [*lines[:-1], changed(lines[-1], runs=7)],
        [changed(lines[0], format=99), *lines[1:]],
        [lines[0], b"nonsense\n", *lines[1:]],
        [lines[0], b"[1]\n", *lines[1:]],
        [lines[0], b'{"type":"other"}\n', *lines[1:]],
    ]
    for number, each in enumerate(wrong):
        with pytest.raises(TransferError):
            await imported(each, f"copy-{number}.db")

    assert Path("copy-8.db").exists()
    async with SQLiteFlowPersistence("copy-8.db") as copy:
        assert await copy.runs() == []


async def test_the_progress_is_reported(some: None) -> None:
    seen: list[Any] = []
    lines = await exported(on_run=lambda *counts: seen.append(counts))
    await imported(lines, on_run=seen.append)

    assert seen == [(1, 3), (2, 3), (3, 3), 1, 2, 3]


async def test_an_order_that_failed_is_resumed_where_it_was_imported(
    some: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    await imported(await exported())
    monkeypatch.setenv("PAYS", "1")

    assert await Order.resume("bad-1", persistence=SQLiteFlowPersistence("copy.db")) == "paid"
