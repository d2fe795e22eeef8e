"""Connections that are cut before and after COMMIT: what became of a checkpoint is found out every time."""

import contextlib
import random
from collections import Counter

import anyio
import psycopg
import pytest
from figures import FACTOR, SEED, tell
from proxy import PLACES, Proxy
from saved import Saved
from waiting import until

from asyncflow import Flow, FlowState, errors, listen, start
from asyncflow.persistence.postgres import PostgresFlowPersistence
from asyncflow.testing._checkpoints import Chain

CUTS = max(14, round(14 * FACTOR))
"""On each event loop."""


@pytest.mark.clauses("D1", "C2", "S1")
async def test_what_became_of_a_checkpoint_is_known_wherever_the_connection_is_cut(
    proxy: Proxy, cut_off: PostgresFlowPersistence, sql: psycopg.Connection, anyio_backend: tuple[str, object]
) -> None:
    rng = random.Random(f"{SEED}/{anyio_backend}")
    schema = cut_off._target.schema
    seen: Counter[str] = Counter()
    chains = [Chain(f"run {n}") for n in range(5)]
    async with cut_off:
        saved = Saved(cut_off)
        await saved.save(*(chain.add() for chain in chains))
        for n in range(CUTS):
            place = PLACES[n % len(PLACES)]
            some = rng.sample(chains, rng.randint(1, len(chains)))
            rows = [chain.add(whole=rng.random() < 0.5, state=b'{"n":%d}' % n) for chain in some]
            proxy.arm(place)
            await saved.save(*rows)
            if place == "late":
                await anyio.sleep(0.15)  # until it has been delivered: nothing may come of it then
            found = sql.execute(f"SELECT run_id, head, head_digest FROM {schema}.runs").fetchall()
            heads = {run_id: (head, digest) for run_id, head, digest in found}
            for row in rows:
                is_there = heads[row.run_id] == (row.seq, row.digest)
                assert saved.told[row.run_id] == ("saved" if is_there else "not saved"), f"{place}, {n} of seed {SEED}"
                seen["saved" if is_there else "not saved"] += 1
            await saved.save(*(row for row in rows if saved.told[row.run_id] != "saved"))
            assert set(saved.told.values()) <= {"saved"}
        verdicts = await cut_off.verify()

    tell("R17", trials=CUTS, faults=proxy.cuts, acknowledged=seen["saved"], lost=0)
    assert verdicts == []
    assert proxy.cuts == CUTS
    assert min(seen["saved"], seen["not saved"]) >= CUTS / 4


@pytest.mark.found("D3")
@pytest.mark.clauses("S1")
async def test_a_commit_that_is_still_under_way_is_waited_for_when_its_connection_is_lost(
    proxy: Proxy, cut_off: PostgresFlowPersistence, sql: psycopg.Connection, conninfo: str
) -> None:
    schema = cut_off._target.schema
    chain = Chain("run")
    saved = Saved(cut_off)
    async with cut_off:
        await saved.save(chain.add())
        with psycopg.connect(conninfo) as other:
            other.execute(f"SELECT FROM {schema}.runs FOR UPDATE")
            proxy.arm("after the request")  # which waits for that lock
            async with anyio.create_task_group() as group:
                group.start_soon(saved.save, chain.add())
                await until(
                    lambda: sql.execute(
                        "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) "
                        "WHERE locktype = 'advisory' AND NOT granted AND query LIKE '%pg_advisory_xact_lock%'"
                    ).fetchall()
                )
                told = dict(saved.told)
                other.rollback()

    assert told == {}, "nobody knows yet"
    assert saved.told == {"run": "saved"}
    assert await cut_off.load("run") == chain.rows[-1]


@pytest.mark.found("D3")
@pytest.mark.clauses("S1")
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_a_save_that_is_delivered_after_it_was_reported_as_failed_is_refused_however_late(
    isolation: str, proxy: Proxy, cut_off: PostgresFlowPersistence, sql: psycopg.Connection
) -> None:
    schema = cut_off._target.schema
    conninfo = psycopg.conninfo.make_conninfo(
        proxy.conninfo, options=f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}"
    )
    late, new = Chain("late"), Chain("new")
    async with PostgresFlowPersistence(conninfo, schema=schema) as storage:
        saved = Saved(storage)
        await saved.save(late.add())
        for row in (late.add(), new.add()):  # a next one, and a first one, whose run is not known yet
            proxy.hold()
            await saved.save(row)
            assert saved.told == {row.run_id: "not saved"}
    proxy.deliver()  # the owner has left, and its lease with it

    assert sql.execute(f"SELECT run_id, head FROM {schema}.runs").fetchall() == [("late", 0)]
    assert sql.execute(f"SELECT count(*) FROM {schema}.owners").fetchall() == [(0,)]


class Steps(Flow[FlowState]):
    @start()
    async def first(self) -> int:
        return 1

    @listen(first)
    async def second(self, n: int) -> int:
        return n + 1

    @listen(second)
    async def third(self, n: int) -> int:
        return n + 1


@pytest.mark.clauses("D1", "E2")
@pytest.mark.parametrize("place", PLACES)
async def test_a_run_whose_connection_is_cut_continues_or_is_resumed(
    place: str, proxy: Proxy, cut_off: PostgresFlowPersistence
) -> None:
    ran: list[str] = []

    class Cut(Steps):
        async def second(self, n: int) -> int:
            ran.append("second")
            if len(ran) == 1:
                proxy.arm(place)
            return n + 1

        async def third(self, n: int) -> int:
            ran.append("third")
            return n + 1

    flow = Cut(persistence=cut_off)
    async with cut_off:
        with contextlib.suppress(errors.StorageWriteError):
            await flow.kickoff()
        was_saved = ran == ["second", "third"]
        is_over = flow.status == "finished"  # the cut may also have met the commit after that one
        result = flow.result if is_over else await Cut.resume(flow.run_id, persistence=cut_off)

    assert was_saved or ran == ["second", "second", "third"]
    assert was_saved or "reply" not in place
    assert not was_saved or "reply" in place or "after" in place or place == "late"  # it may arrive before one looks
    assert result == 3
    assert proxy.cuts == 1


@pytest.mark.clauses("D1")
async def test_a_connection_that_was_lost_while_idle_is_made_again(
    persistence: PostgresFlowPersistence, sql: psycopg.Connection
) -> None:
    chain = Chain("run")
    async with persistence:
        for _ in range(3):
            await persistence.append(chain.add())
            assert await persistence.load("run") == chain.rows[-1]
            sql.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'asyncflow'"
            )
