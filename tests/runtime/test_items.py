"""`each`: one invocation for each item of a list, on every loop; stored and not stored, tried again, resumed, ended early."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    RetryAfter,
    SQLiteFlowPersistence,
    after,
    and_,
    each,
    finish,
    listen,
    merge,
    start,
    this_invocation,
)
from asyncflow._runtime.parking import PARK_AFTER
from asyncflow.errors import (
    CapabilityMissingError,
    FlowDefinitionError,
    LimitExceededError,
    ResultNotStorableError,
)
from asyncflow.events import MethodFinished
from asyncflow.persistence import Checkpoint


class Page(BaseModel):
    url: str
    seen: datetime | None = None


class Total(FlowState):
    total: Annotated[int, merge.add] = 0


class TwoVerbs:
    """A backend that writes whole checkpoints."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def save(self, checkpoint: Checkpoint) -> None:
        self.kept[checkpoint.run_id] = checkpoint.to_bytes()

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return Checkpoint.from_bytes(self.kept[run_id]) if run_id in self.kept else None


KINDS: dict[str, Callable[[], Any]] = {
    "not stored": lambda: None,
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
    "two verbs": TwoVerbs,
}


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


@pytest.fixture(params=[name for name in KINDS if name != "not stored"])
def stored(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


class Numbers(Flow[Total]):
    """Works on numbers: `calls` has the items in the order of their starts."""

    items: tuple[int, ...] = (0, 1, 2, 3, 4)
    fails: frozenset[int] = frozenset()

    def __init__(self, **init: Any) -> None:
        super().__init__(**init)
        self.calls: list[int] = []
        self.most = self.running = 0

    @start()
    async def fetch(self) -> list[int]:
        return list(self.items)

    @listen(each(fetch), limit=2)
    async def work(self, item: int) -> str:
        self.calls.append(item)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(0.001 * (5 - item % 5))
            if item in type(self).fails:
                raise ValueError(item)
        finally:
            self.running -= 1
        self.state.total += item
        return f"result {item}"

    @listen(work)
    async def done(self, results: list[str]) -> list[str]:
        return results


RESULTS = [f"result {item}" for item in range(5)]


@pytest.mark.clauses("N1", "N3")
async def test_the_method_runs_once_for_each_item_and_completes_with_the_list_of_results(storage: Any) -> None:
    flow = Numbers(persistence=storage)

    assert await flow.kickoff() == RESULTS
    assert sorted(flow.calls) == [0, 1, 2, 3, 4]
    assert flow.method_outputs["work"] == RESULTS
    assert flow.state.total == 10


@pytest.mark.clauses("N2")
async def test_no_more_items_than_the_limit_run_at_the_same_time_and_they_start_in_order(storage: Any) -> None:
    flow = Numbers(persistence=storage)
    await flow.kickoff()

    assert flow.most == 2
    assert flow.calls[:2] == [0, 1]


@pytest.mark.clauses("N3")
async def test_an_empty_list_completes_at_once_with_an_empty_list(storage: Any) -> None:
    class Empty(Numbers):
        items = ()

    flow = Empty(persistence=storage)

    assert await flow.kickoff() == []
    assert flow.calls == []
    assert flow.method_outputs["work"] == []


async def test_the_items_of_the_last_method_are_the_output(storage: Any) -> None:
    class Last(Flow[dict]):
        @start()
        async def fetch(self) -> tuple[Page, ...]:
            return (Page(url="a"), Page(url="b"))

        @listen(each(fetch))
        async def work(self, page: Page) -> Page:
            return Page(url=page.url * 2)

    flow = Last(persistence=storage)
    expected = [Page(url="aa"), Page(url="bb")]

    assert await flow.kickoff() == expected
    if storage is not None:
        loaded = await Last.load(flow.run_id, persistence=storage)
        assert loaded.result == expected
        assert await Last.resume(flow.run_id, persistence=storage) == expected


async def test_values_that_are_written_in_different_ways_come_back_as_they_were(storage: Any) -> None:
    values: list[Any] = [{"$date": "none"}, datetime(2026, 1, 2), (1, 2), None, b"x", [1.5]]

    class Mixed(Flow[dict]):
        @start()
        async def fetch(self) -> list[Any]:
            return list(values)

        @listen(each(fetch))
        async def typed(self, value: Any) -> Any:
            return value

        @listen(each(fetch))
        async def untyped(self, value):
            return value

        @listen(and_(typed, untyped))
        async def both(self, typed: list[Any], untyped: list[Any]) -> bool:
            return typed == values and untyped == values

    assert await Mixed(persistence=storage).kickoff()


async def test_each_item_gets_a_value_of_its_own(storage: Any) -> None:
    class Sharing(Flow[dict]):
        @start()
        async def fetch(self) -> list[dict[str, int]]:
            return [{"n": 0}] * 3

        @listen(each(fetch))
        async def work(self, item: dict[str, int]) -> int:
            item["n"] += 1
            return item["n"]

    assert await Sharing(persistence=storage).kickoff() == [1, 1, 1]


async def test_a_method_without_a_parameter_runs_as_often_as_there_are_items(storage: Any) -> None:
    class Blind(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [7, 8, 9]

        @listen(each(fetch))
        async def work(self) -> int | None:
            return this_invocation().item

    assert await Blind(persistence=storage).kickoff() == [0, 1, 2]


async def test_plain_methods_and_lists_of_lists(storage: Any) -> None:
    class Nested(Flow[dict]):
        @start()
        def fetch(self) -> list[int]:
            return [1, 2, 3]

        @listen(each(fetch))
        def rows(self, n: int) -> list[int]:
            return [n] * n

        @listen(each(rows), limit=1)
        def sums(self, row: list[int]) -> int:
            return sum(row)

        @listen(sums)
        def total(self, sums: list[int]) -> int:
            return sum(sums)

    assert await Nested(persistence=storage).kickoff() == 1 + 4 + 9


async def test_timers_joins_and_named_outputs_see_the_one_event(storage: Any) -> None:
    class Joined(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [1, 2]

        @listen(each(fetch), output=True)
        async def work(self, n: int) -> int:
            return n * 10

        @start()
        async def other(self) -> str:
            return "other"

        @listen(and_(work, other))
        async def joined(self, work: list[int], other: str) -> None:
            self.state["joined"] = [work, other]

        @listen(after(work, 0.001))
        async def later(self, results: list[int]) -> None:
            self.state["later"] = results

    flow = Joined(persistence=storage)

    assert await flow.kickoff() == [10, 20]
    assert flow.state["joined"] == [[10, 20], "other"]
    assert flow.state["later"] == [10, 20]


# ---- failures, attempts, resumes -------------------------------------------------------------------------------


@pytest.mark.clauses("N1", "N4", "X3")
async def test_a_resume_runs_only_the_items_that_did_not_complete(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "fails", frozenset((2,)))
    monkeypatch.setattr(Numbers, "items", tuple(range(20)))
    flow = Numbers(persistence=stored)
    with pytest.raises(MethodError) as raised:
        await flow.kickoff()
    assert [failure.invocation_id for failure in raised.value.failures] == [f"{flow.run_id}/1/work:1[2]"]
    assert 19 not in flow.calls, "once an item has failed, no further one starts"
    done = set(flow.calls) - {2}

    monkeypatch.setattr(Numbers, "fails", frozenset())
    again = await Numbers.load(flow.run_id, persistence=stored)
    assert await again.kickoff({"id": flow.run_id}) == [f"result {item}" for item in range(20)]

    assert not done & set(again.calls)
    assert again.state.total == sum(range(20))


@pytest.mark.clauses("N4")
async def test_all_items_that_run_when_one_fails_are_stored_and_all_failures_are_reported(stored: Any) -> None:
    class Two(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2, 3]

        @listen(each(fetch), limit=3)
        async def work(self, n: int) -> int:
            await anyio.sleep(0.001 * n)
            if n < 2:
                raise ValueError(n)
            return n

    flow = Two(persistence=stored)
    with pytest.raises(MethodError) as raised:
        await flow.kickoff()

    assert len(raised.value.failures) == 2
    assert set(flow.pending) == {"work:1", "work:1[0]", "work:1[1]"}


@pytest.mark.clauses("N5")
async def test_each_item_has_its_own_attempts(storage: Any) -> None:
    seen: list[tuple[int, int]] = []

    class Trying(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch), retry=Retry(attempts=3, initial=0.001, jitter=0.0))
        async def work(self, n: int) -> int:
            attempt = this_invocation().attempt
            seen.append((n, attempt))
            if attempt <= n:
                raise RetryAfter(0.001)
            return attempt

    assert await Trying(persistence=storage).kickoff() == [1, 2, 3]
    assert sorted(seen) == [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]


@pytest.mark.clauses("N5")
async def test_a_merge_conflict_runs_an_item_again_without_a_policy(storage: Any) -> None:
    class Counting(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [1] * 5

        @listen(each(fetch))
        async def work(self, n: int) -> None:
            before = self.state.get("sum", 0)
            await anyio.sleep(0.001)
            self.state["sum"] = before + n

    flow = Counting(persistence=storage)
    await flow.kickoff()

    assert flow.state["sum"] == 5


@pytest.mark.clauses("N5")
async def test_items_that_wait_for_their_next_attempt_count_for_the_limit(storage: Any) -> None:
    began: list[int] = []

    class Waiting(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2, 3]

        @listen(each(fetch), limit=2, retry=Retry(attempts=2, initial=0.05, jitter=0.0))
        async def work(self, n: int) -> int:
            began.append(n)
            if this_invocation().attempt == 1:
                raise ValueError(n)
            return n

    assert await Waiting(persistence=storage).kickoff() == [0, 1, 2, 3]
    assert began[:2] == [0, 1]
    assert began[2] in (0, 1)


@pytest.mark.clauses("N5", "W11")
async def test_a_run_whose_items_all_wait_is_parked_and_woken() -> None:
    storage = MemoryFlowPersistence()

    class Long(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch), limit=2, retry=Retry(attempts=2, initial=PARK_AFTER * 10, jitter=0.0))
        async def work(self, n: int) -> int:
            if this_invocation().attempt == 1:
                raise ValueError(n)
            return n

    flow = Long(persistence=storage)
    await flow.kickoff(until="waiting")

    assert (await storage.runs())[0].status == "waiting"
    assert set(flow.pending) == {"work:1", "work:1[0]", "work:1[1]"}


@pytest.mark.clauses("N2")
async def test_another_limit_counts_from_the_next_resume_on(stored: Any) -> None:
    class Wide(Numbers):
        name = "Limited"
        fails = frozenset((0,))

    class Narrow(Numbers):
        name = "Limited"

        @listen(each(Numbers.fetch), limit=1)
        async def work(self, item: int) -> str:
            return await super().work(item)

    flow = Wide(persistence=stored)
    with pytest.raises(MethodError):
        await flow.kickoff()
    again = await Narrow.load(flow.run_id, persistence=stored)

    assert await again.kickoff({"id": flow.run_id}) == RESULTS
    assert again.most == 1


@pytest.mark.clauses("N6")
async def test_the_items_count_as_one_call_of_the_method(storage: Any) -> None:
    class Few(Numbers):
        max_method_calls = 1

    assert await Few(persistence=storage).kickoff() == RESULTS


# ---- the end before its time -----------------------------------------------------------------------------------


@pytest.mark.clauses("N7")
async def test_an_item_can_end_the_run_and_its_result_is_the_output(storage: Any) -> None:
    class Searching(Flow[dict]):
        calls = 0

        @start()
        async def fetch(self) -> list[int]:
            return list(range(100))

        @listen(each(fetch), limit=2)
        async def look(self, n: int) -> str:
            type(self).calls += 1
            if n == 3:
                finish()
            return f"found {n}"

        @listen(look)
        async def never(self) -> None:
            raise AssertionError("the run has ended")

    Searching.calls = 0
    flow = Searching(persistence=storage)

    assert await flow.kickoff() == "found 3"
    assert Searching.calls < 10
    assert flow.pending == ()
    if storage is not None:
        assert await Searching.resume(flow.run_id, persistence=storage) == "found 3"


# ---- limits and mistakes ---------------------------------------------------------------------------------------


async def test_a_method_without_a_limit_takes_at_most_a_thousand_items(stored: Any) -> None:
    class Unlimited(Flow[dict]):
        count = 1_001

        @start()
        async def fetch(self) -> list[int]:
            return [0] * self.count

        @listen(each(fetch))
        async def work(self, n: int) -> int:
            return n

    with pytest.raises(MethodError) as raised:
        await Unlimited(persistence=stored).kickoff()
    error = raised.value.__cause__

    assert isinstance(error, LimitExceededError)
    assert "1001 items" in str(error)
    assert "limit=" in str(error)


async def test_a_backend_that_writes_whole_checkpoints_takes_at_most_a_thousand_items() -> None:
    class Many(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0] * 1_001

        @listen(each(fetch), limit=10)
        async def work(self, n: int) -> int:
            return n

    with pytest.raises(MethodError) as raised:
        await Many(persistence=TwoVerbs()).kickoff()

    assert isinstance(raised.value.__cause__, CapabilityMissingError)


async def test_a_result_that_is_no_list_fails_the_method_that_returned_it() -> None:
    class Lying(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return {1: 2}  # type: ignore[return-value]

        @listen(each(fetch))
        async def work(self, n: int) -> int:
            return n

    with pytest.raises(MethodError) as raised:
        await Lying().kickoff()

    assert isinstance(raised.value.__cause__, FlowDefinitionError)
    assert "returned a dict" in str(raised.value.__cause__)


@pytest.mark.parametrize(("value", "where"), [(object(), "[1]"), ({"a": object()}, "[1].a")])
async def test_an_item_that_cannot_be_stored_is_named_with_its_place(value: Any, where: str) -> None:
    class Storing(Flow[dict]):
        @start()
        async def fetch(self) -> list[Any]:
            return [1, value]

        @listen(each(fetch))
        async def work(self, n: Any) -> int:
            return 0

    with pytest.raises(MethodError) as raised:
        await Storing(persistence=MemoryFlowPersistence()).kickoff()

    assert isinstance(raised.value.__cause__, ResultNotStorableError)
    assert where in str(raised.value.__cause__)


async def test_a_result_of_an_item_that_cannot_be_stored_fails_that_item() -> None:
    class Storing(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1]

        @listen(each(fetch))
        async def work(self, n: int) -> Any:
            return object() if n else n

    with pytest.raises(MethodError, match=r"work:1\[1\]") as raised:
        await Storing(persistence=MemoryFlowPersistence()).kickoff()

    assert isinstance(raised.value.__cause__, ResultNotStorableError)


# ---- what others see -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_events_name_the_items_and_then_the_whole(kind: str) -> None:
    async with FlowRunner(KINDS[kind](), flows=[Numbers]) as runner:
        handle = await runner.start(Numbers)
        await handle.result()
        events = [event async for event in handle.events() if isinstance(event, MethodFinished)]

    keys = [event.invocation for event in events]
    assert sorted(keys[1:6]) == [f"work:1[{n}]" for n in range(5)]
    assert keys[6:] == ["work:1", "done:1"]
    assert events[6].enabled == ("done:1",)
