"""What cannot be answered: each request gets a status and a text that says what to do, and never a 500."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from shop import Order, Serve

from asyncflow import MemoryFlowPersistence, SQLiteFlowPersistence, errors
from asyncflow.persistence import Checkpoint

CANARY = "hunter2"

ROUTES = ("GET ", "GET /history", "GET /events", "POST /cancel", "POST /resume")
"""The routes of one run."""


NO_IDS = ("unknown", "order", "order-", "ORDER-1", "order-1%20", "%00", "%ff", "x" * 3_000, "")


@pytest.mark.parametrize("route", ROUTES)
async def test_what_is_no_id_of_a_run_is_a_404_that_says_so(serve: Serve, route: str) -> None:
    """The beginning of an id is none, also if only one run has it."""
    storage = MemoryFlowPersistence()
    for n in (1, 2):
        await Order(persistence=storage).kickoff({"id": f"order-{n}", "item": "tea"})
    method, suffix = route.split(" ")
    async with serve(storage) as service:
        for run_id in NO_IDS:
            answer = await service.http.request(method, f"/runs/{run_id}{suffix}")
            assert answer.status_code == 404
            assert answer.json() == {"detail": "No such run. Give the whole id; GET /runs lists the runs."}


async def damaged(seq: int, **values: object) -> SQLiteFlowPersistence:
    """A file with three runs, of which one was changed by another program."""
    storage = SQLiteFlowPersistence("runs.db")
    for run_id in ("before", "broken", "after"):
        await Order(persistence=storage).kickoff({"id": run_id, "item": CANARY, "count": 2})
    with closing(sqlite3.connect("runs.db")) as file, file:
        of_run = "(SELECT id FROM runs WHERE run_id = 'broken')"
        change = ", ".join(f"{column} = ?" for column in values)
        found = file.execute(
            f"UPDATE checkpoints SET {change} WHERE run = {of_run} AND seq = ?", (*values.values(), seq)
        )
        assert found.rowcount == 1
    return SQLiteFlowPersistence("runs.db")


@pytest.mark.found("B5")
@pytest.mark.clauses("V4")
@pytest.mark.parametrize("column", ["progress", "state", "digest", "changes"])
async def test_a_damaged_run_is_a_409_and_the_others_are_shown(
    serve: Serve, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await damaged(1 if column == "changes" else 0, **{column: b'{"' + CANARY.encode()})
    async with serve(storage, recover_every=None) as service:
        answers = {
            route: await service.http.request(*route.replace(" ", " /runs/broken").split(" ")) for route in ROUTES
        }
        listed = (await service.http.get("/runs")).json()["runs"]
        others = [await service.http.get(f"/runs/{run_id}/history") for run_id in ("before", "after")]

    seen = {route: answer.status_code for route, answer in answers.items() if route != "POST /cancel"}
    assert set(seen.values()) <= {200, 202, 409}
    assert (seen["GET /history"], seen["GET /events"]) == (409, 409)
    for answer in (answers["GET /history"], answers["GET /events"]):
        assert answer.headers["content-type"] == "application/json"
        assert "is damaged" in answer.json()["detail"]
        assert "restore the storage from a backup" in answer.json()["detail"]
    assert [run["run_id"] for run in listed] == ["after", "broken", "before"]
    assert [answer.status_code for answer in others] == [200, 200]
    assert "request failed" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.found("B5")
@pytest.mark.parametrize("route", ROUTES)
async def test_a_run_that_cannot_be_decoded_is_a_409_and_its_values_are_not_logged(
    serve: Serve, route: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Damaged(MemoryFlowPersistence):
        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            found = await super().load(run_id, seq)
            return found and found._replace(progress=b'{"' + CANARY.encode(), status="failed")

    storage = Damaged()
    await Order(persistence=MemoryFlowPersistence()).kickoff({"id": "x", "item": "tea"})
    async with serve(storage, recover_every=None) as service:
        where = (await service.order("")).headers["location"]
        method, suffix = route.split(" ")
        answer = await service.http.request(method, f"{where}{suffix}")

    assert answer.status_code in ((200, 409) if suffix in ("/history", "/events") else (409,))
    assert CANARY not in caplog.text


async def test_a_run_of_a_newer_version_is_a_503_that_says_so(serve: Serve) -> None:
    storage = await damaged(2, format=99, version="99.0")
    async with serve(storage, recover_every=None) as service:
        for route in ("/history", "/events"):
            answer = await service.http.get(f"/runs/broken{route}")
            assert (answer.status_code, answer.json()["detail"]) == (
                503,
                "A newer version of asyncflow wrote this. Upgrade the service.",
            )


OF_STORAGES = {
    errors.StorageBusyError: "The storage is busy. Retry later.",
    errors.StorageUnreachableError: "The storage is unreachable. Retry later.",
    errors.StorageVersionError: "A newer version of asyncflow wrote this. Upgrade the service.",
    errors.StorageCorruptError: "The storage is damaged. Nothing was changed; restore it from a backup.",
    errors.StorageReadOnlyError: "The storage cannot be used; see the log of the service. Retry later.",
    errors.ForeignDatabaseError: "The storage cannot be used; see the log of the service. Retry later.",
    errors.StorageOutdatedError: "The storage cannot be used; see the log of the service. Retry later.",
}


@pytest.mark.parametrize("kind", OF_STORAGES)
async def test_a_storage_that_cannot_be_used_is_a_503_and_what_needs_a_cure_is_logged(
    serve: Serve, kind: type[errors.StorageError], caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MemoryFlowPersistence):
        is_failing = False

        async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
            if self.is_failing:
                raise kind("the cause, and the cure")
            return await super().load(run_id, seq)

        async def runs(self, **asked: Any) -> Any:
            if self.is_failing:
                raise kind("the cause, and the cure")
            return await super().runs(**asked)

    storage = Failing()
    async with serve(storage, recover_every=None) as service:
        where = (await service.order("?wait=5")).headers["location"]
        storage.is_failing = True
        with caplog.at_level(logging.ERROR):
            answers = [await service.http.request(*route.replace(" ", f" {where}").split(" ")) for route in ROUTES]
            answers.append(await service.http.get("/runs"))
        storage.is_failing = False

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["detail"] for answer in answers} == {OF_STORAGES[kind]}
    assert all(answer.headers["retry-after"] for answer in answers)
    needs_no_cure = kind in (errors.StorageBusyError, errors.StorageUnreachableError)
    assert ("the cause, and the cure" in caplog.text) != needs_no_cure
