"""Reads of single runs that are asked for at the same time: one statement answers them, and each gets its own rows."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from asyncflow import Flow, SQLiteFlowPersistence, listen, start
from asyncflow._waiting import in_trio
from asyncflow.errors import CheckpointCorruptError
from asyncflow.persistence.sqlite import gathering

pytestmark = pytest.mark.anyio


class Counts(Flow[dict]):
    @start()
    async def first(self) -> int:
        self.state["mine"] = self.state["id"]
        return 1

    @listen(first)
    async def second(self, number: int) -> int:
        self.state["second"] = number + 1
        return number + 1


@asynccontextmanager
async def many_runs(path: Any, count: int) -> AsyncIterator[tuple[SQLiteFlowPersistence, list[str]]]:
    async with SQLiteFlowPersistence(path) as storage:
        run_ids: list[str] = []

        async def one() -> None:
            flow = Counts(persistence=storage)
            await flow.kickoff()
            run_ids.append(flow.run_id)

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(one)
        yield storage, run_ids


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that are executed for gathered reads."""
    found: list[str] = []
    fetched = gathering.Gathered._fetched

    async def counted(self: Any, connection: Any, sql: str, bound: str) -> Any:
        found.append(sql)
        return await fetched(self, connection, sql, bound)

    monkeypatch.setattr(gathering.Gathered, "_fetched", counted)
    return found


async def loaded(storage: Any, run_ids: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def load(run_id: str) -> None:
        try:
            found[run_id] = await storage.load(run_id)
        except Exception as error:
            found[run_id] = error

    async with anyio.create_task_group() as group:
        for run_id in run_ids:
            group.start_soon(load, run_id)
    return found


async def test_each_of_many_loads_at_once_gets_its_own_run(tmp_path: Any, statements: list[str]) -> None:
    async with many_runs(tmp_path / "runs.db", 200) as (storage, run_ids):
        await storage.load(run_ids[0])
        statements.clear()
        found = await loaded(storage, [*run_ids, "00000000-0000-4000-8000-000000000000"])

    for run_id in run_ids:
        assert found[run_id].run_id == run_id
        assert found[run_id].status == "finished"
        assert run_id.encode() in found[run_id].state
    assert found["00000000-0000-4000-8000-000000000000"] is None
    assert any("json_each" in each for each in statements)
    if not in_trio():  # there, a thread of its own asks for them one after the other
        assert len(statements) < 20  # 64 runs a statement


async def test_loads_at_once_return_what_a_single_one_returns(tmp_path: Any) -> None:
    async with many_runs(tmp_path / "runs.db", 20) as (storage, run_ids):
        single = {run_id: await storage.load(run_id) for run_id in run_ids}
        assert await loaded(storage, run_ids) == single


@pytest.mark.clauses("V4")
async def test_a_damaged_run_fails_its_own_load_alone(tmp_path: Any) -> None:
    async with many_runs(tmp_path / "runs.db", 20) as (storage, run_ids):
        await storage.load(run_ids[0])
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            connection.execute(
                "UPDATE checkpoints SET state = x'00' WHERE state IS NOT NULL AND run = (SELECT id FROM runs WHERE run_id = ?)",
                (run_ids[7],),
            )
        connection.close()
        found = await loaded(storage, run_ids)

    assert [run_id for run_id in run_ids if isinstance(found[run_id], Exception)] == [run_ids[7]]
    assert isinstance(found[run_ids[7]], CheckpointCorruptError)


@pytest.mark.clauses("V4")
async def test_a_statement_about_many_that_fails_is_repeated_for_each(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with many_runs(tmp_path / "runs.db", 20) as (storage, run_ids):
        await storage.load(run_ids[0])
        fetched = gathering.Gathered._fetched

        async def failing(self: Any, connection: Any, sql: str, bound: str) -> Any:
            if "json_each" in sql:
                raise sqlite3.DatabaseError("database disk image is malformed")
            return await fetched(self, connection, sql, bound)

        monkeypatch.setattr(gathering.Gathered, "_fetched", failing)
        found = await loaded(storage, run_ids)

    assert {run_id: found[run_id].run_id for run_id in run_ids} == {run_id: run_id for run_id in run_ids}


async def test_a_cancelled_load_costs_the_others_nothing(tmp_path: Any) -> None:
    async with many_runs(tmp_path / "runs.db", 30) as (storage, run_ids):
        for cancelled in (0, 1, 2, 29):
            await storage.load(run_ids[0])
            found: dict[str, Any] = {}
            scopes = {run_id: anyio.CancelScope() for run_id in run_ids}

            async def load(run_id: str, found: dict[str, Any] = found, scopes: Any = scopes) -> None:
                with scopes[run_id]:
                    found[run_id] = await storage.load(run_id)

            async with anyio.create_task_group() as group:
                for run_id in run_ids:
                    group.start_soon(load, run_id)
                await anyio.lowlevel.checkpoint()
                scopes[run_ids[cancelled]].cancel()

            for run_id in run_ids:
                if run_id != run_ids[cancelled]:
                    assert found[run_id].run_id == run_id


async def test_a_load_sees_what_was_stored_before_it_was_asked_for(tmp_path: Any) -> None:
    async with many_runs(tmp_path / "runs.db", 2) as (storage, run_ids):
        wrong: list[str] = []

        async def read(run_id: str) -> None:
            while len(wrong) < 1 and not is_done:
                await storage.load(run_id)

        async def write() -> None:
            nonlocal is_done
            flow = Counts(persistence=storage)
            for number in range(1, 60):
                await flow.kickoff()
                newest = await storage.load(flow.run_id)
                if newest is None or newest.pass_number != number or newest.status != "finished":
                    wrong.append(f"pass {number}: {newest}")
            is_done = True

        is_done = False
        async with anyio.create_task_group() as group:
            for run_id in run_ids * 4:
                group.start_soon(read, run_id)
            group.start_soon(write)
        assert wrong == []
