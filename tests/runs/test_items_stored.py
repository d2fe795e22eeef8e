"""Runs with `each` that are stored in the middle of a list: changed classes, forks, edits, older checkpoints, ends from outside."""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio
import pytest
from moments import until
from pydantic import BaseModel

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    and_,
    continue_as,
    each,
    listen,
    or_,
    router,
    start,
    this_invocation,
)
from asyncflow._runtime.parking import PARK_AFTER
from asyncflow.errors import FlowDefinitionError, StateSchemaError

RESULTS = [0, 10, 20, 30, 40]


class Five(Flow[dict]):
    """Works on five items, two at a time, and fails at those in `fails`."""

    name = "five"
    fails: ClassVar[set[int]] = set()
    calls: ClassVar[list[int]] = []

    @start()
    async def fetch(self) -> list[int]:
        return [0, 1, 2, 3, 4]

    @listen(each(fetch), limit=2)
    async def work(self, n: int) -> int:
        type(self).calls.append(n)
        await anyio.lowlevel.checkpoint()
        if n in self.fails:
            raise ValueError(n)
        self.state[f"item {n}"] = n
        return n * 10

    @listen(work)
    async def done(self, results: list[int]) -> list[int]:
        return results


@pytest.fixture(autouse=True)
def _as_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Five, "fails", {2})
    monkeypatch.setattr(Five, "calls", [])


async def stored_in_the_middle(store: Any, flow: type[Flow[Any]] = Five) -> str:
    """A run whose item 2 has failed, and at least the two before it have completed."""
    made = flow(persistence=store)
    with pytest.raises(MethodError):
        await made.kickoff()
    Five.fails.clear()
    Five.calls.clear()
    return made.run_id


# ---- changed classes -------------------------------------------------------------------------------------------------


class WithoutEach(Five):
    @listen(Five.fetch)
    async def work(self, items: list[int]) -> int:
        raise AssertionError("it is refused")


class OtherItems(Five):
    @start()
    async def fetch(self) -> list[str]:
        return []


class Row(BaseModel):
    n: int


class OtherResults(Five):
    @listen(each(Five.fetch), limit=2)
    async def work(self, n: int) -> Row:
        return Row(n=n)


class OtherSource(Five):
    @start()
    async def source(self) -> list[int]:
        return [7]

    @listen(each(source), limit=2)
    async def work(self, n: int) -> int:
        return await super().work(n)


class Unlimited(Five):
    @listen(each(Five.fetch))
    async def work(self, n: int) -> int:
        return await super().work(n)


@pytest.mark.clauses("V3")
async def test_a_class_that_has_lost_each_is_refused_and_the_run_is_as_it_was(store: Any) -> None:
    run_id = await stored_in_the_middle(store)
    with pytest.raises(FlowDefinitionError, match=r"work runs for each item.*has no each\(\) now"):
        await WithoutEach.resume(run_id, persistence=store)

    assert await Five.resume(run_id, persistence=store) == RESULTS


@pytest.mark.clauses("V3")
async def test_a_class_that_has_gained_each_is_refused_while_the_method_waits(store: Any) -> None:
    class Before(Five):
        @listen(Five.fetch)
        async def work(self, items: list[int]) -> int:
            raise ValueError

    run_id = await stored_in_the_middle(store, Before)
    with pytest.raises(FlowDefinitionError, match=r"work waits to run once.*has each\(\) now"):
        await Five.resume(run_id, persistence=store)


@pytest.mark.clauses("V2")
async def test_items_that_the_class_annotates_otherwise_are_refused(store: Any) -> None:
    run_id = await stored_in_the_middle(store)
    with pytest.raises((StateSchemaError, MethodError)) as raised:
        await OtherItems.resume(run_id, persistence=store)

    error = raised.value if isinstance(raised.value, StateSchemaError) else raised.value.__cause__
    assert isinstance(error, StateSchemaError)
    assert await Five.resume(run_id, persistence=store) == RESULTS


@pytest.mark.clauses("N3", "V2")
async def test_results_of_items_that_the_class_annotates_otherwise_are_refused(store: Any) -> None:
    run_id = await stored_in_the_middle(store)
    with pytest.raises((StateSchemaError, MethodError)) as raised:
        await OtherResults.resume(run_id, persistence=store)

    error = raised.value if isinstance(raised.value, StateSchemaError) else raised.value.__cause__
    assert isinstance(error, StateSchemaError)


async def test_a_list_that_was_begun_is_worked_on_to_its_end_whatever_the_class_maps_over_now(store: Any) -> None:
    run_id = await stored_in_the_middle(store)

    assert await OtherSource.resume(run_id, persistence=store) == RESULTS


@pytest.mark.clauses("N2")
async def test_a_class_without_a_limit_starts_all_that_is_left(store: Any) -> None:
    run_id = await stored_in_the_middle(store)

    assert await Unlimited.resume(run_id, persistence=store) == RESULTS
    assert 2 in Five.calls


async def test_a_run_continues_under_the_other_name_of_its_class(store: Any) -> None:
    class Renamed(Five):
        name = "renamed"
        formerly = ("five",)

    run_id = await stored_in_the_middle(store)

    assert await Renamed.resume(run_id, persistence=store) == RESULTS
    assert not {0, 1} & set(Five.calls)


async def test_an_added_join_does_not_run_for_what_came_in_an_earlier_turn_of_a_loop_with_items(log: Any) -> None:
    class Turning(Flow[dict]):
        name = "turning"
        is_well = False

        @start()
        async def prepare(self) -> None: ...

        @listen(or_(prepare, "again"))
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch))
        async def work(self, n: int) -> int:
            if this_invocation().occurrence == 2 and not self.is_well:
                raise ValueError
            return n

        @router(or_(work, "never"))
        async def turn(self) -> str | None:
            return "again" if this_invocation().occurrence == 1 else None

    class Joined(Turning):
        is_well = True

        @listen(and_(Turning.prepare, Turning.work))
        async def joined(self) -> None: ...

    flow = Turning(persistence=log)
    with pytest.raises(MethodError):
        await flow.kickoff()
    assert set(flow.pending) == {"work:2", "work:2[0]", "work:2[1]", "work:2[2]"}

    again = await Joined.load(flow.run_id, persistence=log)
    await again.kickoff({"id": flow.run_id})
    assert again.status == "finished"


# ---- forks, edits, older checkpoints ---------------------------------------------------------------------------------


@pytest.mark.clauses("N1")
async def test_a_fork_in_the_middle_of_a_list_runs_the_rest_and_the_original_its_own(store: Any) -> None:
    run_id = await stored_in_the_middle(store)
    fork = await Five.fork(run_id, persistence=store)

    assert await fork.kickoff() == RESULTS
    first = list(Five.calls)
    assert not {0, 1} & set(first)
    assert await Five.resume(run_id, persistence=store) == RESULTS
    assert Five.calls == first * 2


@pytest.mark.clauses("N1")
async def test_every_checkpoint_of_a_list_loads_and_forks(log: Any) -> None:
    Five.fails.clear()
    flow = Five(persistence=log)
    await flow.kickoff()
    for entry in await flow.history():
        loaded = await Five.load(flow.run_id, seq=entry.seq, persistence=log)
        done = {int(name.split()[1]) for name in loaded.state if name.startswith("item ")}
        Five.calls.clear()
        fork = await Five.fork(flow.run_id, seq=entry.seq, persistence=log)

        assert await fork.kickoff() == RESULTS
        if loaded.status != "finished":
            assert sorted(Five.calls) == sorted(set(range(5)) - done)


async def test_an_edit_in_the_middle_of_a_list_reaches_the_items_that_are_left(store: Any) -> None:
    run_id = await stored_in_the_middle(store)
    flow = await Five.load(run_id, persistence=store)
    await flow.update_state({"edited": True})

    assert await flow.kickoff({"id": run_id}) == RESULTS
    assert flow.state["edited"]
    assert not {0, 1} & set(Five.calls)


async def test_items_of_a_fork_wait_as_long_as_those_of_the_original() -> None:
    store = MemoryFlowPersistence()

    class Long(Flow[dict]):
        @start()
        async def fetch(self) -> list[int]:
            return [0, 1, 2]

        @listen(each(fetch), limit=2, retry=Retry(attempts=2, initial=PARK_AFTER * 10, jitter=0.0))
        async def work(self, n: int) -> int:
            if this_invocation().attempt == 1:
                raise ValueError(n)
            return n

    flow = Long(persistence=store)
    await flow.kickoff(until="waiting")
    fork = await Long.fork(flow.run_id, persistence=store)
    await fork.kickoff(until="waiting")
    due = {entry.run_id: entry.wake_at for entry in await store.runs()}

    assert due[fork.run_id] == pytest.approx(due[flow.run_id], abs=5.0)
    assert due[fork.run_id] > due[flow.run_id]
    assert set(fork.pending) == {"work:1", "work:1[0]", "work:1[1]"}


@pytest.mark.clauses("N2", "W11")
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1)])
async def test_a_parked_run_continues_under_another_limit(before: int, after: int, log: Any) -> None:
    def flow_with(limit: int) -> type[Flow[Any]]:
        class Parked(Flow[dict]):
            name = "parked"
            running = most = 0

            @start()
            async def fetch(self) -> list[int]:
                return list(range(6))

            @listen(each(fetch), limit=limit, retry=Retry(attempts=2, initial=0.3, jitter=0.0))
            async def work(self, n: int) -> int:
                if n < before and this_invocation().attempt == 1:
                    raise ValueError(n)
                type(self).running += 1
                type(self).most = max(self.most, self.running)
                await anyio.sleep(0.01)
                type(self).running -= 1
                return n

        return Parked

    first, other = flow_with(before), flow_with(after)
    async with FlowRunner(log, flows=[first], park_after=0.1) as runner:
        handle = await runner.start(first)
        await until(parked(log))
    async with FlowRunner(log, flows=[other], park_after=0.1) as runner:
        with anyio.fail_after(30):
            assert await (await runner.resume(handle.run_id)).result() == list(range(6))

    assert 0 < other.most <= after
    flow = await other.load(handle.run_id, persistence=log)
    for entry in await flow.history():
        await other.load(handle.run_id, seq=entry.seq, persistence=log)


def parked(store: Any) -> Callable[[], Awaitable[bool]]:
    async def is_parked() -> bool:
        return [entry.status for entry in await store.runs()] == ["waiting"]

    return is_parked


# ---- ends --------------------------------------------------------------------------------------------------------------


async def test_the_items_of_the_next_pass_are_those_of_its_own_list(store: Any) -> None:
    class Passes(Flow[dict]):
        @start()
        async def fetch(self) -> list[str]:
            return ["a", "b"] if not self.state.get("turns") else ["c"]

        @listen(each(fetch), limit=1)
        async def work(self, item: str) -> str:
            if item == "a":
                self.state["turns"] = 1
                continue_as()
            return item

    flow = Passes(persistence=store)

    assert await flow.kickoff() == ["c"]
    assert flow.method_outputs["work"] == ["c"]


@pytest.mark.clauses("W13")
async def test_a_run_that_nothing_drives_finishes_in_the_middle_of_a_list(log: Any) -> None:
    """It was interrupted while it was failing: one item had failed, another one ran."""
    gate = anyio.Event()

    class Hanging(Five):
        @listen(each(Five.fetch), limit=2)
        async def work(self, n: int) -> int:
            if n:
                await gate.wait()
            raise ValueError(n)

    flow = Hanging(persistence=log)
    with anyio.move_on_after(0.1):
        await flow.kickoff()
    await Hanging.finish_run(flow.run_id, persistence=log)
    loaded = await Hanging.load(flow.run_id, persistence=log)

    assert (loaded.status, loaded.pending) == ("finished", ())
