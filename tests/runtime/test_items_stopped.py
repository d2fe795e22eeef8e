"""Lists that are worked on when something stops the run: cancellation at every await, time limits, failures, a shutdown, a kill."""

import time
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from moments import until
from small import Log
from test_cancellation import Way, cancelled_every_way, go_on, stored_history

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    SQLiteFlowPersistence,
    each,
    listen,
    start,
    this_invocation,
)
from asyncflow.errors import MethodTimeoutError, RunTimeoutError

STORES: dict[str, Any] = {"memory": MemoryFlowPersistence, "sqlite": lambda: SQLiteFlowPersistence("runs.db")}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


class Mapped(Flow[Log]):
    """Two lists, the second of them of a plain method, and what comes of them."""

    def __init__(self, effects: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects

    def note(self) -> None:
        key = self.invocation_id.rpartition("/")[2]
        self.effects.append(key)
        self.state.sums[key] = len(self.state.sums)

    @start()
    async def fetch(self) -> list[int]:
        self.note()
        return [1, 2, 3]

    @listen(each(fetch), limit=2)
    async def square(self, n: int) -> int:
        self.note()
        await anyio.lowlevel.checkpoint()
        return n * n

    @listen(each(square), limit=2)
    def halve(self, n: int) -> float:
        self.note()
        return n / 2

    @listen(halve)
    async def total(self, halves: list[float]) -> list[float]:
        self.note()
        return halves


KEYS = {"fetch:1", *(f"{name}:1[{n}]" for name in ("square", "halve") for n in range(3)), "total:1"}


@cancelled_every_way
@pytest.mark.clauses("C1", "C2", "C3", "C4", "N1", "N3")
async def test_a_run_cancelled_at_any_await_of_its_lists_resumes_as_if_undisturbed(cancelled: Way) -> None:
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    struck, at = True, 0
    while struck and at < 60:
        at += 1
        effects: list[str] = []
        flow = Mapped(effects, persistence=persistence)
        with anyio.fail_after(120):
            struck = await cancelled(flow.kickoff, at)
        completed = [entry.method for entry in await stored_history(flow) if entry.kind in ("method", "finished")]
        before = len(effects)
        output = await go_on(Mapped, flow.run_id, effects, persistence)
        loaded = await Mapped.load(flow.run_id, effects=[], persistence=persistence)
        methods = [entry.method for entry in await loaded.history() if entry.kind in ("method", "finished")]

        assert output == [0.5, 2.0, 4.5], at
        assert loaded.state.sums.keys() == KEYS, at
        assert set(effects[before:]).isdisjoint(completed), at
        assert all(effects.count(key) == 1 for key in completed), at
        assert all(effects.count(key) <= 2 for key in effects), at
        assert sorted(methods) == sorted(KEYS), at

    assert at > 6


@cancelled_every_way
@pytest.mark.clauses("C2", "C4", "N1")
async def test_a_resume_in_the_middle_of_a_list_cancelled_at_any_await_can_be_resumed_again(cancelled: Way) -> None:
    persistence = SQLiteFlowPersistence("runs.db", durability="process")
    whole = Mapped([], persistence=persistence)
    await whole.kickoff()
    struck, at = True, 0
    while struck and at < 40:
        at += 1
        source = await Mapped.fork(whole.run_id, seq=2, effects=[], persistence=persistence)
        effects: list[str] = []
        resume = partial(Mapped.resume, source.run_id, effects=effects, persistence=persistence)
        with anyio.fail_after(120):
            struck = await cancelled(resume, at)
        output = await resume()

        assert output == [0.5, 2.0, 4.5], at
        assert "fetch:1" not in effects, at
        assert len([key for key in set(effects) if key.startswith("square")]) == 2, at


# ---- time limits -----------------------------------------------------------------------------------------------------


@pytest.mark.clauses("N5")
async def test_an_item_that_takes_too_long_fails_and_a_resume_runs_it_alone(store: Any) -> None:
    seen: list[int] = []

    class Slow(Flow[dict]):
        is_slow = True

        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch), timeout=0.2)
        async def work(self, n: int) -> int:
            seen.append(n)
            if n == 1 and type(self).is_slow:
                await anyio.sleep_forever()
            return n

    flow = Slow(persistence=store)
    with pytest.raises(MethodError, match=r"work:1\[1\]") as raised:
        await flow.kickoff()
    assert isinstance(raised.value.__cause__, MethodTimeoutError)
    assert flow.pending == ("work:1", "work:1[1]")

    Slow.is_slow = False
    assert await Slow.resume(flow.run_id, persistence=store) == [0, 1, 2]
    assert sorted(seen) == [0, 1, 1, 2]
    assert seen[-1] == 1


@pytest.mark.clauses("N1", "N5")
async def test_an_attempt_of_a_plain_item_that_takes_too_long_is_followed_by_another_one(store: Any) -> None:
    seen: list[tuple[int, int]] = []

    class Slow(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch), limit=2, timeout=0.5, retry=Retry(attempts=3, initial=0.001, jitter=0.0))
        def work(self, n: int) -> int:
            attempt = this_invocation().attempt
            seen.append((n, attempt))
            if n == 1 and attempt == 1:
                time.sleep(1.0)
            return n

    assert await Slow(persistence=store).kickoff() == [0, 1, 2]
    assert {(1, 1), (1, 2)} <= {*seen}


@pytest.mark.clauses("N1")
async def test_a_time_limit_of_the_run_in_the_middle_of_a_list_keeps_what_has_completed(store: Any) -> None:
    seen: list[int] = []

    class Long(Flow[dict]):
        hangs = True

        @start()
        async def fetch(self) -> list[int]:
            return list(range(5))

        @listen(each(fetch), limit=2)
        async def work(self, n: int) -> int:
            seen.append(n)
            if n > 2 and type(self).hangs:
                await anyio.sleep_forever()
            return n

    flow = Long(persistence=store, run_timeout=0.3)
    with pytest.raises(RunTimeoutError):
        await flow.kickoff()
    assert flow.pending == ("work:1", "work:1[3]", "work:1[4]")

    Long.hangs = False
    assert await Long.resume(flow.run_id, persistence=store, run_timeout=None) == [0, 1, 2, 3, 4]
    assert sorted(seen) == [0, 1, 2, 3, 3, 4, 4]


# ---- failures, a shutdown, another process ---------------------------------------------------------------------------


@pytest.mark.clauses("N4")
async def test_a_failed_item_cancels_the_others_if_the_flow_says_so(store: Any) -> None:
    ended: list[int] = []

    class Strict(Flow[dict]):
        on_error = "cancel"
        fails = True

        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2, 3]

        @listen(each(fetch), limit=3)
        async def work(self, n: int) -> int:
            if n == 1 and type(self).fails:
                raise ValueError(n)
            if n and type(self).fails:
                await anyio.sleep_forever()
            ended.append(n)
            return n

    flow = Strict(persistence=store)
    with pytest.raises(MethodError, match=r"work:1\[1\]"):
        await flow.kickoff()
    assert flow.status == "failed"

    Strict.fails = False
    assert await Strict.resume(flow.run_id, persistence=store) == [0, 1, 2, 3]
    assert sorted(ended) == [0, 1, 2, 3]


@pytest.mark.clauses("N1", "N2")
async def test_a_runner_that_shuts_down_in_the_middle_of_a_list_leaves_the_rest_to_the_next(store: Any) -> None:
    seen: list[int] = []
    gate = anyio.Event()

    class Served(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return list(range(6))

        @listen(each(fetch), limit=2)
        async def work(self, n: int) -> int:
            seen.append(n)
            if n == 3:
                await gate.wait()
            return n

    async def is_at_the_gate() -> bool:
        return 3 in seen

    async with FlowRunner(store, flows=[Served], grace=0.0) as runner:
        handle = await runner.start(Served)
        await until(is_at_the_gate)
    completed = {*seen} - {3}
    seen.clear()
    gate.set()
    async with FlowRunner(store, flows=[Served]) as runner:
        with anyio.fail_after(60):
            assert await (await runner.resume(handle.run_id)).result() == list(range(6))

    assert 3 in seen
    assert not {0, 1, 2} & {*seen}
    assert len(completed & {*seen}) <= 1, "what ran beside the one at the gate"


@pytest.mark.clauses("N1", "W11")
async def test_a_parked_list_is_woken_by_another_runner_and_no_item_is_lost() -> None:
    seen: list[tuple[int, int]] = []

    class Pausing(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return list(range(5))

        @listen(each(fetch), limit=3, retry=Retry(attempts=2, initial=0.5, jitter=0.0))
        async def work(self, n: int) -> int:
            attempt = this_invocation().attempt
            seen.append((n, attempt))
            if n != 1 and attempt == 1:
                raise ValueError(n)
            return n

    one, other = SQLiteFlowPersistence("runs.db"), SQLiteFlowPersistence("./runs.db")

    async def is_parked() -> bool:
        return [entry.status for entry in await one.runs()] == ["waiting"]

    async with one, other:
        async with FlowRunner(one, flows=[Pausing], park_after=0.05) as runner:
            handle = await runner.start(Pausing)
            await until(is_parked)
        async with FlowRunner(other, flows=[Pausing], park_after=0.05) as runner:
            with anyio.fail_after(60):
                assert await (await runner.get(handle.run_id)).result() == list(range(5))

    assert sorted(seen) == sorted([*((n, 1) for n in range(5)), *((n, 2) for n in (0, 2, 3, 4))])


@pytest.mark.clauses("N2")
@pytest.mark.parametrize("limit", [None, 1_000])
async def test_a_thousand_items_run_at_the_same_time(limit: int | None, store: Any) -> None:
    running = 0
    all_run = anyio.Event()

    class Wide(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return list(range(1_000))

        @listen(each(fetch), limit=limit)
        async def work(self, n: int) -> int:
            nonlocal running
            running += 1
            if running == 1_000:
                all_run.set()
            await all_run.wait()
            return n

    with anyio.fail_after(60):
        assert await Wide(persistence=store).kickoff() == list(range(1_000))
