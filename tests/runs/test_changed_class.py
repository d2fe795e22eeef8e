"""A stored run and a class that has changed since: it continues right, or is refused before anything runs."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    and_,
    listen,
    start,
)
from asyncflow.errors import FlowDefinitionError

STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


class Report(Flow[dict]):
    """`a` ends, `b` fails the first time, and `j` joins them."""

    name = "Report"
    is_broken = True

    @start()
    async def a(self) -> None:
        self.note("a")

    @start()
    async def b(self) -> None:
        if self.is_broken:
            raise OSError
        self.note("b")

    @listen(and_(a, b))
    async def j(self) -> list[str]:
        self.note("j")
        return self.state["ran"]

    def note(self, method: str) -> None:
        self.state.setdefault("ran", []).append(method)


class Mended(Report):
    is_broken = False


class WithAThirdBranch(Mended):
    @start()
    async def c(self) -> None:
        self.note("c")

    @listen(and_(Report.a, Report.b, c))
    async def j(self) -> list[str]:
        self.note("j")
        return self.state["ran"]


class WithALateBranch(Mended):
    @listen(Report.b)
    async def c(self) -> None:
        self.note("c")

    @listen(and_(Report.a, Report.b, c))
    async def j(self) -> list[str]:
        self.note("j")
        return self.state["ran"]


class WithAListener(Mended):
    @listen(Report.a)
    async def too_late(self) -> None:
        self.note("too late")


async def failed_run(store: Any) -> str:
    flow = Report(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    return flow.run_id


async def by_resume(cls: type[Flow[Any]], run_id: str, store: Any) -> Any:
    return await cls.resume(run_id, persistence=store)


async def by_kickoff(cls: type[Flow[Any]], run_id: str, store: Any) -> Any:
    return await cls(persistence=store).kickoff({"id": run_id})


async def by_loading_and_kickoff(cls: type[Flow[Any]], run_id: str, store: Any) -> Any:
    return await (await cls.load(run_id, persistence=store)).kickoff()


async def by_a_fork(cls: type[Flow[Any]], run_id: str, store: Any) -> Any:
    return await (await cls.fork(run_id, persistence=store)).kickoff()


async def by_a_runner(cls: type[Flow[Any]], run_id: str, store: Any) -> Any:
    fork = await Report.fork(run_id, persistence=store)  # a failed run has ended for a runner, and a fork of it has not
    async with FlowRunner(store, recover_every=None) as runner:
        return await runner.run(cls, run_id=fork.run_id)


WAYS = [by_resume, by_kickoff, by_loading_and_kickoff, by_a_fork, by_a_runner]


@pytest.mark.found("B8")
@pytest.mark.clauses("V3")
@pytest.mark.parametrize("way", WAYS)
async def test_a_run_whose_join_gained_a_branch_is_refused_and_nothing_runs(
    way: Callable[..., Awaitable[Any]], store: Any
) -> None:
    run_id = await failed_run(store)
    before = await store.load(run_id)
    with pytest.raises(FlowDefinitionError, match="j waits for c, which this run never starts") as refused:
        await way(WithAThirdBranch, run_id, store)

    assert "Put the earlier condition of j back" in refused.value.problems[0]
    assert refused.value.run_id is not None
    assert await store.load(run_id) == before
    assert await Mended.resume(run_id, persistence=store) == ["a", "b", "j"]


@pytest.mark.found("B8")
@pytest.mark.parametrize("way", WAYS)
async def test_a_join_that_gained_a_branch_which_is_still_to_come_waits_for_it(
    way: Callable[..., Awaitable[Any]], store: Any
) -> None:
    assert await way(WithALateBranch, await failed_run(store), store) == ["a", "b", "c", "j"]


@pytest.mark.found("B8")
async def test_a_listener_added_to_what_completed_runs_in_the_next_pass_alone(store: Any) -> None:
    run_id = await failed_run(store)

    assert await WithAListener.resume(run_id, persistence=store) == ["a", "b", "j"]
    flow = WithAListener(persistence=store)
    await flow.kickoff({"id": run_id, "ran": []})
    assert sorted(flow.state["ran"]) == ["a", "b", "j", "too late"]


@pytest.mark.found("B8")
async def test_a_finished_run_begins_a_new_pass_with_the_branches_of_now(store: Any) -> None:
    run_id = await failed_run(store)
    await Mended.resume(run_id, persistence=store)

    flow = WithAThirdBranch(persistence=store)
    await flow.kickoff({"id": run_id, "ran": []})
    assert sorted(flow.state["ran"]) == ["a", "b", "c", "j"]
