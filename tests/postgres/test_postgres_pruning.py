"""`prune` of a PostgreSQL storage: as SQLite's, and by the server's clock."""

import time
from typing import Any

import psycopg
import pytest
import retention

from asyncflow import Flow, start
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.persistence.postgres.pruning import PostgresTrees


@pytest.fixture
def other(conninfo: str, schema: str) -> PostgresFlowPersistence:
    return PostgresFlowPersistence(conninfo, schema=schema)


@pytest.mark.found("R1")
@retention.each_meanwhile
async def test_a_run_that_resumes_after_it_was_listed_is_kept_in_postgres(
    persistence: Any, other: Any, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retention.what_goes_on_is_kept(persistence, other, meanwhile, monkeypatch)


@pytest.mark.found("R1", "R5")
async def test_the_newest_are_counted_again_in_each_batch_in_postgres(
    persistence: Any, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retention.the_newest_are_counted_anew_in_each_batch(persistence, other, monkeypatch)


@pytest.mark.found("R5")
async def test_runs_pruned_from_postgres_before_a_cancellation_are_gone_and_reported(
    persistence: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await retention.what_was_done_before_a_cancellation_is_kept(persistence, monkeypatch, caplog)


@pytest.mark.found("R5")
async def test_many_runs_are_pruned_from_postgres_by_few_statements(
    persistence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await retention.many_runs_take_few_statements(persistence, monkeypatch, PostgresTrees)


class Short(Flow[dict[str, Any]]):
    @start()
    async def only(self) -> int:
        return 1


@pytest.mark.found("R4")
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("whose", ["the pruner's", "the writer's"])
async def test_a_clock_that_is_wrong_by_an_hour_prunes_no_fresh_run(
    persistence: PostgresFlowPersistence, whose: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    wrong = lambda: right() + hours * 3600.0  # noqa: E731 - a clock
    flow = Short(persistence=persistence)
    async with persistence:
        with monkeypatch.context() as patch:
            if whose == "the writer's":
                patch.setattr(time, "time", wrong)
            await flow.kickoff()
        with monkeypatch.context() as patch:
            if whose == "the pruner's":
                patch.setattr(time, "time", wrong)
            gone = await persistence.prune(older_than=600.0)

        assert gone == 0
        assert await persistence.load(flow.run_id) is not None
        assert await persistence.prune(older_than=0.0) == 1


@pytest.mark.found("R4")
async def test_a_run_is_old_by_the_servers_clock(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer's was an hour ahead."""
    right = time.time
    async with persistence:
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: right() + 3600.0)
            await Short(persistence=persistence).kickoff()
        sql.execute(f"UPDATE {schema}.runs SET ended_at = ended_at - 900")

        assert await persistence.prune(older_than=600.0) == 1


@pytest.mark.found("R11")
async def test_leases_of_dead_owners_go_from_postgres(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection, schema: str
) -> None:
    async with persistence:
        await Short(persistence=persistence).kickoff()
        sql.execute(f"INSERT INTO {schema}.owners VALUES ('dead', now() - interval '2 minutes')")
        sql.execute(f"INSERT INTO {schema}.owners VALUES ('late', now() - interval '2 seconds')")
        await Short(persistence=persistence).kickoff()
    async with persistence:
        await Short(persistence=persistence).kickoff()

    assert [owner for (owner,) in sql.execute(f"SELECT owner FROM {schema}.owners")] == ["late"]
