"""A start is fenced on PostgreSQL, too: a process held up past its lease starts nothing that another owner may have resumed."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from held_up import clock, finished_while_it_was_stopped

from asyncflow import Flow, errors, listen, start
from asyncflow.persistence._database.run_head import Head
from asyncflow.persistence.postgres import PostgresFlowPersistence, rows


class Steps(Flow[dict]):
    """The process is held up at the end of `first`'s commit, which is reported here."""

    def __init__(self, held_up: Any, **options: Any) -> None:
        super().__init__(**options)
        self.ran: list[str] = []
        self._instance.watch(lambda checkpoint: held_up() if checkpoint.seq == 1 else None)

    @start()
    async def first(self) -> None:
        self.ran.append("first")

    @listen(first)
    async def second(self) -> None:
        self.ran.append("second")

    @listen(first)
    def beside(self) -> None:
        self.ran.append("beside")


@pytest.mark.found("T1")
@pytest.mark.clauses("L1", "L3", "E2")
@pytest.mark.parametrize("is_replaced", [True, False])
async def test_an_owner_held_up_between_a_commit_and_the_next_start_asks_the_server_first(
    persistence: PostgresFlowPersistence, conninfo: str, is_replaced: bool
) -> None:
    schema = persistence._target.schema

    def held_up() -> None:
        leases.forward(persistence.lease)
        if is_replaced:
            replace(conninfo, schema)

    with clock() as leases:
        flow = Steps(held_up, persistence=persistence)
        with pytest.raises(errors.RunFencedError) if is_replaced else contextlib.nullcontext():
            await flow.kickoff()

    assert sorted(flow.ran) == (["first"] if is_replaced else ["beside", "first", "second"])


def replace(conninfo: str, schema: str) -> None:
    """Another process takes the run over: its epoch rises, under a digest that is right."""
    with psycopg.connect(conninfo, autocommit=True) as other:
        row = other.execute(rows.SELECT_HEAD.format(schema=schema).replace("WHERE run_id = %s", "")).fetchone()
        assert row is not None
        head = Head.read(row[0], row, b"")
        new = head._replace(owner="another", epoch=head.epoch + 1)
        other.execute(rows.OWN_RUN.format(schema=schema), (new.owner, new.epoch, new.digest(b""), new.run_id))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.found("T1")
@pytest.mark.clauses("L1", "L3", "E2")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_process_stopped_between_a_commit_and_the_next_start_starts_nothing(
    persistence: PostgresFlowPersistence, conninfo: str, loop: str
) -> None:
    schema = persistence._target.schema
    made = f"PostgresFlowPersistence({conninfo!r}, schema={schema!r}, lease=0.5)"
    said = finished_while_it_was_stopped(
        f"__import__('asyncflow.persistence.postgres').persistence.postgres.{made}",
        PostgresFlowPersistence(conninfo, schema=schema, lease=0.5),
        loop,
    )

    lines = [line.split() for line in Path("effects.log").read_text().splitlines()]
    assert "RunFencedError" in said, said
    assert [what for what, _ in lines] == ["first", "second"]
    assert lines[1][1] == str(os.getpid())
