"""The rows of a SQLite storage: one checkpoint for each step, most of them deltas, and how much they hold."""

import os
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from database import PATH, Steps, Work, made, rows_of, sql
from here import Here

import asyncflow
from asyncflow import Flow, SQLiteFlowPersistence, listen, or_, router, start
from asyncflow.persistence.sqlite import appends

PACKAGE = Path(asyncflow.persistence.sqlite.__file__).parent


@pytest.mark.parametrize(
    "module", sorted(p for p in PACKAGE.iterdir() if p.suffix in (".py", ".sql")), ids=lambda module: module.name
)
def test_no_statement_numbers_its_parameters(module: Path) -> None:
    """Python 3.12.0 to 3.12.3 take `?1` for a named parameter and warn of it, which a strict program makes an error."""
    assert not re.findall(r"\?[0-9]", module.read_text())


@pytest.mark.clauses("D4", "E1")
async def test_a_completed_invocation_has_exactly_one_checkpoint() -> None:
    flow = Steps()
    await flow.kickoff()

    assert rows_of(flow.run_id) == [
        (0, "started", "", "running"),
        (1, "method", "first:1", "running"),
        (2, "method", "second:1", "running"),
        (3, "finished", "third:1", "finished"),
    ]


@pytest.mark.clauses("D4", "L2")
async def test_the_head_of_a_run_names_its_newest_checkpoint() -> None:
    flow = Steps()
    await flow.kickoff()
    (newest,) = sql("SELECT seq, digest FROM checkpoints ORDER BY seq DESC LIMIT 1")
    (head,) = sql("SELECT head, head_digest, status, owner, epoch, flow FROM runs")

    assert head == (*newest, "finished", None, 1, "Steps")


@pytest.mark.clauses("D4")
async def test_each_checkpoint_follows_its_predecessor() -> None:
    flow = Steps()
    await flow.kickoff()
    await flow.kickoff()
    stored = rows_of(flow.run_id, "seq, previous, digest")

    assert [row[0] for row in stored] == list(range(8))
    assert [row[1] for row in stored] == [b"", *[row[2] for row in stored[:-1]]]


class Long(Flow[Work]):
    """Four hundred steps, with a state of which little changes in each."""

    persistence = Here(PATH)

    @start()
    async def begin(self) -> None:
        self.state.done = ["x" * 50]

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.size += 1
        return self.state.size

    @router(turn)
    async def more(self, n: int) -> Literal["again"] | None:
        return "again" if n < 200 else None


async def test_most_rows_are_deltas_and_now_and_then_one_is_complete() -> None:
    flow = Long()
    await flow.kickoff()
    stored = rows_of(flow.run_id, "seq, base, progress IS NOT NULL, state IS NOT NULL")
    complete = [row[0] for row in stored if row[2]]

    assert len(stored) == 402
    assert complete[0] == 0
    assert 2 <= len(complete) <= 40
    assert all(row[3] for row in stored if row[2])
    assert all(base == max(c for c in complete if c <= seq) for seq, base, *_ in stored)


@pytest.mark.clauses("E1")
async def test_a_method_that_does_not_change_the_state_stores_none() -> None:
    flow = Long()
    await flow.kickoff()
    routers = [row for row in rows_of(flow.run_id, "method, progress, state") if row[0].startswith("more")]

    assert len(routers) == 200
    assert all(state is None for _, progress, state in routers if progress is None)


@pytest.mark.clauses("D4", "V4")
async def test_every_seq_folds_to_the_state_and_the_progress_of_its_moment() -> None:
    flow = Long()
    await flow.kickoff()
    async with Long.persistence:
        for seq in range(0, 402, 23):
            then = await Long.load(flow.run_id, seq=seq)
            turns, routed = divmod(max(seq - 1, 0), 2)
            assert then.state.size == turns + routed
            last = ("begin", "more", "turn")[0 if seq == 0 else 2 - routed if seq > 1 else 2]
            assert len(then.pending) == 1, last
            expected = "begin:1" if seq == 0 else f"more:{turns + 1}" if routed else f"turn:{turns + 1}"
            assert then.pending == (expected,)


async def test_a_fan_out_of_300_and_its_join_write_little() -> None:
    n = 300
    body: dict[str, Any] = {"persistence": SQLiteFlowPersistence(PATH), "initial_state": Work}

    async def begin(self: Any) -> None: ...

    body["begin"] = start()(begin)
    branches = []
    for i in range(n):

        async def branch(self: Any) -> None:
            self.state.size = 0

        branch.__name__ = f"branch_{i}"
        body[branch.__name__] = listen(begin)(branch)
        branches.append(branch.__name__)

    async def join(self: Any) -> str:
        return "joined"

    body["join"] = listen(asyncflow.and_(*branches))(join)
    flow = type("Wide", (Flow,), body)()
    output = await flow.kickoff()
    columns = ("state", "progress", "changes", "result", "inputs", "outcome", "previous", "digest", "method")
    ((written,),) = sql(f"SELECT sum({' + '.join(f'coalesce(length({c}), 0)' for c in columns)}) FROM checkpoints")

    assert output == "joined"
    assert written < 400_000
    assert os.stat(PATH).st_size < 600_000


async def test_a_large_state_is_not_written_by_steps_that_leave_it_alone() -> None:
    class Large(Flow[Work]):
        persistence = SQLiteFlowPersistence(PATH)

        @start()
        async def fill(self) -> None:
            self.state.done = ["x" * 1000] * 300

        @listen(or_(fill, "again"))
        async def turn(self) -> None: ...

        @router(turn)
        async def more(self) -> Literal["again"] | None:
            turns.append(1)
            return "again" if len(turns) < 20 else None

    turns: list[int] = []
    flow = Large()
    await flow.kickoff()
    ((written,),) = sql("SELECT sum(coalesce(length(state), 0)) FROM checkpoints")

    assert written < 700_000


@pytest.mark.parametrize("size", [0, 1, appends._LARGE - 3, appends._LARGE, 3 * appends._LARGE])
async def test_parts_of_any_size_are_stored_as_they_are(size: int) -> None:
    state = b'"' + b"\0" * size + b'"'
    given = made("x", state=state, progress=b"", changes=None, outcome=b"''")

    async with SQLiteFlowPersistence(PATH) as persistence:
        await persistence.append(given)

    names = ("state", "progress", "changes", "result", "outcome", "previous")
    assert sql(f"SELECT {', '.join(names)} FROM checkpoints") == [(state, b"", None, None, b"''", b"")]
    assert sql("SELECT typeof(state), typeof(progress), typeof(digest) FROM checkpoints") == [("blob",) * 3]
