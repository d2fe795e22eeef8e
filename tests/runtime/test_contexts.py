"""Context variables: a method begins with those of the caller of the run, and what it sets does not reach later methods or runs."""

import decimal
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    listen,
    or_,
    router,
    start,
)

tenant: ContextVar[str] = ContextVar("tenant")
given: ContextVar[str] = ContextVar("given", default="nothing")


def seen_then_set(name: str) -> str:
    """What a method finds; it sets both, one of which the caller has not."""
    found = f"{tenant.get('nobody')}, {given.get()}"
    tenant.set(name)
    given.set(name)
    return found


class Setting(Flow[dict[str, str]]):
    """Every method sets, async and plain, alone and next to others."""

    @start()
    async def first(self) -> None:
        self.state["first"] = seen_then_set("first")
        await anyio.lowlevel.checkpoint()
        assert tenant.get() == "first"

    @listen(first)
    async def listener(self) -> None:
        self.state["listener"] = seen_then_set("listener")

    @listen(listener)
    def plain(self) -> None:
        self.state["plain"] = seen_then_set("plain")

    @listen(plain)
    async def after_plain(self) -> None:
        self.state["after_plain"] = seen_then_set("after_plain")


class Beside(Setting):
    @start()
    async def second(self) -> None:
        self.state["second"] = seen_then_set("second")

    @listen(second)
    async def its_listener(self) -> None:
        self.state["its_listener"] = seen_then_set("its_listener")


def told(state: dict[str, str]) -> set[str]:
    return {value for name, value in state.items() if name != "id"}


@pytest.mark.found("B13")
@pytest.mark.parametrize("flow", [Setting, Beside])
@pytest.mark.parametrize("store", [None, MemoryFlowPersistence, lambda: SQLiteFlowPersistence("runs.db")])
async def test_a_context_variable_that_a_method_sets_does_not_reach_later_methods_or_runs(
    flow: Any, store: Any
) -> None:
    storage = None if store is None else store()
    given.set("by the caller")
    run = flow(persistence=storage)

    await run.kickoff()
    again = flow(persistence=storage)
    await again.kickoff()

    assert told(run.state) == told(again.state) == {"nobody, by the caller"}
    assert (tenant.get("nobody"), given.get()) == ("nobody", "by the caller")


@pytest.mark.found("B13")
async def test_a_cycle_and_a_router_begin_each_turn_with_the_callers_variables() -> None:
    class Turning(Flow[dict[str, Any]]):
        @start()
        async def begin(self) -> None:
            self.state["seen"] = []

        @router(or_(begin, "more"), emit=["more", "enough"])
        async def turn(self) -> str:
            self.state["seen"].append(seen_then_set("turn"))
            return "more" if len(self.state["seen"]) < 5 else "enough"

    flow = Turning()
    await flow.kickoff()

    assert flow.state["seen"] == ["nobody, nothing"] * 5


@pytest.mark.found("B13")
async def test_a_method_that_raises_or_is_cancelled_leaves_nothing_behind() -> None:
    class Failing(Flow[dict[str, Any]]):
        @start()
        async def fails(self) -> None:
            seen_then_set("fails")
            await anyio.lowlevel.checkpoint()
            raise KeyError("x")

    class Waiting(Flow[dict[str, Any]]):
        @start()
        async def waits(self) -> None:
            seen_then_set("waits")
            await anyio.sleep_forever()

    with pytest.raises(MethodError) as raised:
        await Failing().kickoff()
    with anyio.move_on_after(0.01) as scope:
        await Waiting().kickoff()

    assert scope.cancelled_caught
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__context__ is None
    assert (tenant.get("nobody"), given.get()) == ("nobody", "nothing")


@pytest.mark.found("B13")
async def test_what_a_method_sets_reaches_all_that_it_starts_and_calls() -> None:
    class Calling(Flow[dict[str, Any]]):
        @start()
        async def caller(self) -> None:
            tenant.set("mine")

            async def helper() -> None:
                self.state["task"] = tenant.get("nobody")

            async with anyio.create_task_group() as group:
                group.start_soon(helper)
            self.state["thread"] = await anyio.to_thread.run_sync(lambda: tenant.get("nobody"))
            inner = Inner()
            await inner.kickoff()
            self.state["inner"] = inner.state["seen"]
            self.state["after"] = tenant.get()

    class Inner(Flow[dict[str, Any]]):
        @start()
        async def first(self) -> None:
            tenant.set("the inner one's")

        @listen(first)
        async def second(self) -> None:
            self.state["seen"] = tenant.get("nobody")

    flow = Calling()
    await flow.kickoff()

    assert {k: v for k, v in flow.state.items() if k != "id"} == dict.fromkeys(
        ("task", "thread", "inner", "after"), "mine"
    )


@pytest.mark.found("B13")
async def test_scopes_timeouts_and_decimals_of_a_method_work_and_end_with_it() -> None:
    class Scoped(Flow[dict[str, Any]]):
        @start()
        async def first(self) -> None:
            tenant.set("first")
            with anyio.move_on_after(0.01) as scope:
                await anyio.sleep_forever()
            with pytest.raises(TimeoutError):
                with anyio.fail_after(0):
                    await anyio.sleep_forever()
            decimal.setcontext(decimal.Context(prec=3))
            self.state["cancelled"] = scope.cancelled_caught

        @listen(first)
        async def second(self) -> None:
            self.state["third"] = str(decimal.Decimal(1) / 3)

    flow = Scoped()
    await flow.kickoff()

    assert (flow.state["cancelled"], flow.state["third"]) == (True, "0." + 28 * "3")


@pytest.mark.found("B13")
async def test_a_runner_gives_a_run_the_variables_of_who_started_it() -> None:
    async with FlowRunner(MemoryFlowPersistence(), flows=[Beside]) as runner:
        given.set("by the first")
        first = await runner.start(Beside)
        await first.result()
        given.set("by the second")
        second = await runner.start(Beside)
        await second.result()

        assert told((await first.snapshot()).state) == {"nobody, by the first"}
        assert told((await second.snapshot()).state) == {"nobody, by the second"}
    assert (tenant.get("nobody"), given.get()) == ("nobody", "by the second")


class Incomparable:
    """Such as an array, of which `==` says nothing true or false."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of an array is ambiguous")

    __hash__ = object.__hash__


held: ContextVar[Any] = ContextVar("held", default=None)


@pytest.mark.found("B13")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_values_of_context_variables_are_not_compared(backend: str) -> None:
    mine: list[str] = []

    class Sets(Flow):
        @start()
        async def first(self) -> str:
            held.set(Incomparable())
            return "first"

        @listen(first)
        async def second(self) -> None:
            assert held.get() is mine
            held.set([])  # equal to the caller's, and another one

        @listen(second)
        async def third(self) -> None:
            assert held.get() is mine

    async def main() -> None:
        held.set(mine)
        await Sets().kickoff()
        held.set(Incomparable())
        await Flowing().kickoff()

    class Flowing(Flow):
        @start()
        async def first(self) -> None:
            held.set(Incomparable())

    anyio.run(main, backend=backend)
    assert mine == []
