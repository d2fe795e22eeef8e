"""A stored run and a class whose methods have changed since: it continues right, or is refused before anything runs."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from flows import OUTPUT, Steps, Work, run_that_is

from asyncflow import (
    Flow,
    FlowRunner,
    MethodError,
    SQLiteFlowPersistence,
    and_,
    listen,
    start,
)
from asyncflow.errors import FlowDefinitionError


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


@pytest.mark.clauses("V3")
async def test_added_methods_take_part_when_a_run_resumes(store: Any) -> None:
    class Grown(Steps):
        name = "Steps"

        @listen(Steps.third)
        async def fourth(self, value: str) -> str:
            self.note("fourth")
            return value + " four"

    run_id = await run_that_is("interrupted", store)

    assert await Grown.resume(run_id, persistence=store) == OUTPUT + " four"


@pytest.mark.clauses("V3")
async def test_a_pending_method_that_is_gone_is_named_and_nothing_changes(store: Any) -> None:
    class Shrunk(Flow[Work]):
        name = "Steps"

        @start()
        async def first(self) -> None: ...

    run_id = await run_that_is("interrupted", store)
    with pytest.raises(FlowDefinitionError, match="second"):
        await Shrunk.resume(run_id, persistence=store)

    assert await Steps.resume(run_id, persistence=store) == OUTPUT


@pytest.mark.clauses("V3")
async def test_a_join_whose_method_is_gone_is_named() -> None:
    from asyncflow import and_

    class Joining(Flow):
        name = "Joining"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def a(self) -> int:
            return 1

        @start()
        async def b(self) -> int:
            while self.pending != ("b:1",):  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
            scope.cancel()
            await anyio.sleep_forever()

        @listen(and_(a, b))
        async def join(self, a: int, b: int) -> int:
            return a + b

    class Without(Flow):
        name = "Joining"
        persistence = SQLiteFlowPersistence("runs.db")

        @start()
        async def a(self) -> int:
            return 1

        @start()
        async def b(self) -> int:
            return 2

    flow = Joining()
    with anyio.CancelScope() as scope:
        await flow.kickoff()
    assert flow.pending == ("b:1",)
    with pytest.raises(FlowDefinitionError, match="join"):
        await Without.resume(flow.run_id)
