"""What a step costs, counted and not timed: a change that makes it dearer fails here, on any machine.

The bounds are a little above what was counted. A change that makes a step cheaper lowers them; one that must raise one says why.
"""

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import repeat
from typing import Any

import aiosqlite
import anyio
import pytest

from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    and_,
    each,
    listen,
    or_,
    persist,
    router,
    start,
)
from asyncflow._values.copying import copied
from asyncflow.persistence import Checkpoint
from asyncflow.persistence._database import group_commit as commits

pytestmark = pytest.mark.may_block("what watches for that would be counted as well")

STEPS, RUNS = 10, 50
ASYNCIO = [pytest.param(("asyncio", {"debug": False}), id="asyncio")]
"""What is counted is the same work on every loop, and asyncio's own calls are part of it."""


class State(FlowState):
    count: int = 0
    total: float = 0.0
    name: str = "chain"
    done: bool = False


class Turning(Flow[State]):
    """Ten methods, one after the other."""

    @start()
    async def begin(self) -> int:
        self.state.count = 1
        return 1

    @router(or_(begin, "more"), emit=["more", "done"])
    async def turn(self) -> str:
        self.state.count += 1
        return "more" if self.state.count < STEPS - 1 else "done"

    @listen("done")
    async def end(self) -> int:
        self.state.count += 1
        return self.state.count


async def many(persistence: Any, runs: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(runs):
            group.start_soon(Turning(persistence=persistence).kickoff)


@contextmanager
def calls() -> Generator[Counter[str], None, None]:
    """Calls of Python functions, and of those written in C, in this thread."""
    counted: Counter[str] = Counter()

    def count(frame: Any, event: str, arg: Any) -> None:
        counted[event] += 1

    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)


@contextmanager
def lines(of_the_tracer: float = 0.0) -> Generator[Counter[str], None, None]:
    """Lines of Python that are run in this thread, and the bytes that are allocated for them, kept or not.

    After each line it is asked how far memory rose within it, so what is freed at once counts, and what a free list hands out
    does not. Rust's own memory (pydantic's) is not seen. `of_the_tracer`: bytes a line that this itself allocates.
    """
    counted: Counter[str] = Counter()
    traced, last = tracemalloc.get_traced_memory, 0

    def count(frame: Any, event: str, arg: Any) -> Any:
        nonlocal last
        counted["traced"] += traced()[1] - last
        counted["lines"] += 1
        tracemalloc.reset_peak()
        last = traced()[0]
        return count

    gc.collect()
    gc.disable()
    tracemalloc.start()
    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield counted
    finally:
        sys.settrace(before)
        tracemalloc.stop()
        gc.enable()
        counted["bytes"] = round(counted["traced"] - of_the_tracer * counted["lines"])


def of_the_tracer() -> float:
    """Bytes that `lines` itself allocates for a line: two numbers, which each version of Python makes in its own way."""

    def turn(turns: int) -> None:
        for _ in repeat(None, turns):
            pass

    def idle(turns: int) -> Counter[str]:
        with lines() as found:
            turn(turns)
        return found

    idle(100)
    few, many = idle(100), idle(1_100)
    return (many["traced"] - few["traced"]) / (many["lines"] - few["lines"])


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> Generator[list[int], None, None]:
    """How often a method is called."""
    calls = [0]
    method = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return method(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counted)
        yield calls


COUNTED = 1.0 if sys.version_info[:2] == (3, 11) else 1.3
"""Where all this was counted. Other versions of Python report calls and lines, and lay objects out, in their own ways."""


# ---- calls and awaits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
@pytest.mark.parametrize(
    ("is_stored", "python", "in_c"),
    [
        (False, 77, 65),
        (True, 141, 116),
    ],  # 107 before the lease was looked at for each start, and the log for each commit
    ids=["forgets", "durable"],
)
async def test_the_calls_of_a_step_are_so_many(
    monkeypatch: pytest.MonkeyPatch, is_stored: bool, python: int, in_c: int
) -> None:
    monkeypatch.setattr(commits, "TURN", 1e9)  # how many are woken at once depends on how quick the machine is
    persistence = SQLiteFlowPersistence("runs.db") if is_stored else None

    async def counted(runs: int) -> Counter[str]:
        with calls() as found:
            await many(persistence, runs)
        return found

    if persistence is None:
        await many(None, RUNS)
        found = await counted(RUNS)
    else:
        async with persistence:
            await many(persistence, RUNS)
            found = await counted(RUNS)

    steps = RUNS * STEPS
    print(f"{found['call'] / steps:.1f} calls of Python functions a step, {found['c_call'] / steps:.1f} of those in C")
    assert 0.5 * python < found["call"] / steps < COUNTED * python
    assert 0.5 * in_c < found["c_call"] / steps < COUNTED * in_c


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
@pytest.mark.parametrize(
    ("store", "most_lines", "most_bytes"),
    [
        # 515 lines before a method could end a pass, 522 before runs could be observed, logged and stopped at a method (40 lines a
        # run, and two a method);
        # 17,265 bytes by itself, 16,624 after the tests before it
        (None, 530, 17_400),
        (MemoryFlowPersistence, 1_270, 46_500),
    ],  # 1,250 and 42,000 before checkpoints named their format; 46,342 bytes by itself, some less after tests that fill the free lists
    ids=["forgets", "stored"],
)
async def test_the_lines_of_a_step_and_what_they_allocate_are_so_many(
    store: Callable[[], Any] | None, most_lines: int, most_bytes: int
) -> None:
    persistence, runs = store and store(), 10  # no other thread's allocations are among them
    await many(persistence, RUNS)
    with lines(of_the_tracer()) as found:
        await many(persistence, runs)

    steps = runs * STEPS
    print(f"{found['lines'] / steps:.1f} lines of Python a step, {found['bytes'] / steps:,.0f} bytes allocated")
    assert 0.5 * most_lines < found["lines"] / steps < COUNTED * most_lines
    assert 0.5 * most_bytes < found["bytes"] / steps < COUNTED * most_bytes


def yields_of(work: Callable[[], Awaitable[Any]]) -> Any:
    """Awaits the work, and counts how often it has to wait."""

    class Counted:
        count = 0

        def __await__(self) -> Generator[Any, Any, int]:
            inner = work().__await__()
            while True:
                try:
                    waited_for = next(inner)
                except StopIteration:
                    return self.count
                self.count += 1
                yield waited_for

    return Counted()


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_a_stored_step_waits_once() -> None:
    async with SQLiteFlowPersistence("runs.db") as persistence:
        await many(persistence, 1)

        waits = await yields_of(Turning(persistence=persistence).kickoff)

    assert waits == STEPS + 1


# ---- the database --------------------------------------------------------------------------------------------------


LEASE = 3_600.0
"""Seconds, so that it is not renewed in between, however slow the machine is."""


@asynccontextmanager
async def statements(persistence: Any) -> AsyncGenerator[list[str], None]:
    """The statements that its writing connection runs, those of triggers included."""
    found: list[str] = []
    connection = persistence._shared.current.writer._connection
    await connection.set_trace_callback(found.append)
    yield found
    await connection.set_trace_callback(None)


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_a_lone_step_is_one_hop_to_the_connections_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SQLiteFlowPersistence("runs.db", lease=LEASE) as persistence:
        await many(persistence, 1)
        async with statements(persistence) as ran:
            with counting(monkeypatch, aiosqlite.Connection, "_execute") as hops:
                await Turning(persistence=persistence).kickoff()

    assert hops[0] == STEPS + 1
    assert 0 < len(ran) <= 6 * (STEPS + 1), "65: one for a checkpoint, and what its triggers do"


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_many_runs_share_transactions_hops_and_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "TURN", 1e9)
    async with SQLiteFlowPersistence("runs.db", lease=LEASE) as persistence:
        await many(persistence, 1)
        async with statements(persistence) as ran:
            with counting(monkeypatch, aiosqlite.Connection, "_execute") as hops:
                await many(persistence, RUNS)

    transactions = sum(statement.startswith("BEGIN") for statement in ran)
    print(f"{transactions} transactions, {hops[0]} hops and {len(ran)} statements, of {RUNS * (STEPS + 1)} checkpoints")
    assert 0 < transactions <= STEPS + 2, "11: one for all the runs' checkpoints of a step"
    assert hops[0] <= 2 * (STEPS + 1) + 3, "23: the batch and its commit, and a first checkpoint that led"
    assert len(ran) <= 6 * RUNS * (STEPS + 1), "3,272: as for a lone one, and the transactions' own"


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_a_lone_step_writes_so_few_pages() -> None:
    log = anyio.Path("runs.db-wal")
    async with SQLiteFlowPersistence("runs.db", lease=LEASE) as persistence:
        await many(persistence, 1)
        before = (await log.stat()).st_size
        for _ in range(RUNS // 10):
            await many(persistence, 1)
        grown = (await log.stat()).st_size - before

    pages = grown / (4096 + 24) / (RUNS // 10) / (STEPS + 1)
    print(f"{pages:.1f} pages a checkpoint")
    assert 0 < pages <= 4, (
        "3.6: of the runs, of the checkpoints, and of the index of these; at both ends two indexes of runs more"
    )


def stored(rows: list[Checkpoint]) -> list[int]:
    """Bytes that each checkpoint holds, without what is the same for all."""
    return [row.size - 300 for row in rows]


async def test_what_is_stored_of_a_step_does_not_grow() -> None:
    class Long(Turning):
        max_method_calls = None

        @router(or_(Turning.begin, "more"), emit=["more", "done"])
        async def turn(self) -> str:
            self.state.count += 1
            return "more" if self.state.count < 2_000 else "done"

    async with SQLiteFlowPersistence("runs.db") as persistence:
        flow = Long(persistence=persistence)
        await flow.kickoff()
        rows = await persistence.history(flow.run_id)

    sizes = stored(rows)
    assert len(sizes) > 2_000
    assert sum(sizes[100:200]) / 100 < 175
    assert max(sizes[-500:]) <= max(sizes[100:600]) + 20, "a number has more digits in the end"
    assert sum(sizes[-500:]) <= 1.1 * sum(sizes[100:600])


class Failing(Turning):
    """Raises in its last method."""

    @listen("done")
    async def end(self) -> int:
        raise ValueError("no")


class Shrinking(Turning):
    """Begins with a large state, and ends with a small one."""

    @start()
    async def begin(self) -> int:
        self.state.count, self.state.name = 1, ""
        return 1


class Holding(Turning):
    """Ends with a large result in a join that is not fulfilled."""

    @start()
    async def large(self) -> str:
        return "n" * 6_000

    @router(large, emit=["never", "other"])
    async def ask(self) -> str:
        return "other"

    @listen(and_(large, "never"))
    async def joined(self, large: str) -> None: ...


@pytest.mark.parametrize(
    ("flow_class", "size", "ends_as", "is_complete"),
    [
        (Turning, 5, "finished", True),
        (Turning, 10_000, "finished", False),
        (Shrinking, 10_000, "finished", False),
        (Holding, 5, "finished", False),
        (Failing, 5, "failed", False),
    ],
)
async def test_a_finished_run_is_loaded_from_its_last_row_unless_that_would_be_large(
    flow_class: type[Turning], size: int, ends_as: str, is_complete: bool
) -> None:
    name = "n" * size
    async with SQLiteFlowPersistence("runs.db") as persistence:
        flow = flow_class(persistence=persistence)
        with suppress(MethodError):
            await flow.kickoff({"name": name})
        rows = await persistence.history(flow.run_id)
        again = await flow_class.load(flow.run_id, persistence=persistence)

    assert rows[-1].status == again.status == ends_as
    assert [row.is_complete for row in rows] == [True, *[False] * (len(rows) - 2), is_complete]
    assert rows[-1].size < 2_000
    assert again.state.name == ("" if flow_class is Shrinking else name)
    assert again.state.count == STEPS - (ends_as == "failed")


async def test_a_last_method_without_a_checkpoint_leaves_the_outcome_alone() -> None:
    class Partly(Flow[State]):
        @persist
        @start()
        async def first(self) -> int:
            return 1

        @listen(first)
        async def second(self) -> int:
            return 2

    async with SQLiteFlowPersistence("runs.db") as persistence:
        flow = Partly(persistence=persistence)
        await flow.kickoff()
        *_, last = await persistence.history(flow.run_id)

    assert (last.status, last.state, last.progress) == ("finished", None, None)
    assert last.outcome is not None


async def test_a_wide_fan_out_stores_little_for_each_branch() -> None:
    width = 1_000

    def branch(n: int) -> Any:
        async def run(self: Any) -> int:
            return n

        run.__name__ = f"branch_{n}"
        return listen("begin")(run)

    async def begin(self: Any) -> None: ...

    body = {"begin": start()(begin), **{f"branch_{n}": branch(n) for n in range(width)}}
    wide: Any = type("Wide", (Flow,), body)
    path = anyio.Path("wide.db")
    async with SQLiteFlowPersistence(path) as persistence:
        flow = wide(persistence=persistence)
        await flow.kickoff()
        rows = await persistence.history(flow.run_id)

    assert len(rows) == width + 2
    assert sum(stored(rows)) < 440 * width
    assert (await path.stat()).st_size < 650 * width


class PerItem(Flow[State]):
    @start()
    async def fetch(self) -> list[int]:
        return list(range(self.state.count))

    @listen(each(fetch), limit=10)
    async def work(self, item: int) -> int:
        return item

    @listen(work)
    async def join(self, results: list[int]) -> int:
        return len(results)


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
@pytest.mark.parametrize(
    ("store", "most_lines", "most_bytes"),
    [
        (None, 386, 12_800),
        (MemoryFlowPersistence, 975, 38_900),
    ],  # 12,400 bytes before an item looked whether its list has it
    ids=["forgets", "stored"],
)
async def test_an_item_takes_so_many_lines_however_long_its_list_is(
    store: Callable[[], Any] | None, most_lines: int, most_bytes: int
) -> None:
    persistence = store and store()

    async def counted(items: int) -> Counter[str]:
        with lines(of_the_tracer()) as found:
            assert await PerItem(persistence=persistence).kickoff({"count": items}) == items
        return found

    await counted(20)
    few, many = await counted(100), await counted(500)

    found = {what: (many[what] - few[what]) / 400 for what in many}
    print(f"{found['lines']:.1f} lines of Python an item, {found['bytes']:,.0f} bytes allocated")
    assert 0.5 * most_lines < found["lines"] < COUNTED * most_lines
    assert 0.5 * most_bytes < found["bytes"] < COUNTED * most_bytes


@pytest.mark.parametrize("anyio_backend", ASYNCIO, indirect=True)
async def test_an_item_stores_so_few_bytes_however_long_its_list_is() -> None:
    for items in (500, 3_000):
        path = anyio.Path(f"{items}.db")
        async with SQLiteFlowPersistence(path) as persistence:
            flow = PerItem(persistence=persistence)
            await flow.kickoff({"count": items})
            rows = await persistence.history(flow.run_id)

        *ends, last = stored([row for row in rows if row.method.startswith("work:1[") and not row.is_complete])
        print(f"{sum(ends) / len(ends):.0f} bytes an item, {sum(stored(rows)) / items:.0f} with snapshots")
        assert len(rows) == items + 3
        assert len(ends) > 0.9 * items
        assert max(ends) < 100
        assert last < 200, "it completes the whole, too"
        assert sum(stored(rows)) < 530 * items
        assert (await path.stat()).st_size < 1_000 * items


def test_copying_a_small_state_takes_few_calls() -> None:
    state = State()
    copied(state)  # how it is copied is found out once for each class
    with calls() as found:
        copied(state)

    assert found["call"] <= 5
    assert found["c_call"] <= 16
