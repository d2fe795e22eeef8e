"""Plain methods that wait in their threads for other flows: those find threads for their own plain methods."""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.from_thread
import pytest
from loops import on_asyncio

import asyncflow
from asyncflow import Flow, FlowRunner, SQLiteFlowPersistence, start
from asyncflow._runtime import threads
from asyncflow._runtime.threads import THREADS

pytestmark = pytest.mark.found("B9")

MANY = THREADS + 5


class Waiting(Flow[dict[str, Any]]):
    """Its plain method waits for what it is given."""

    def __init__(self, wait_for: Callable[[], Any], **options: Any) -> None:
        super().__init__(**options)
        self.wait_for = wait_for

    @start()
    def waits(self) -> Any:
        return self.wait_for()


class Plain(Flow[dict[str, Any]]):
    @start()
    def plain(self) -> int:
        return 1


class Between(Flow[dict[str, Any]]):
    """An async method between two plain ones."""

    @start()
    async def between(self) -> Any:
        return await Waiting(lambda: anyio.from_thread.run(Plain().kickoff)).kickoff()


async def all_of(make: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results of more at once than there are threads."""
    results: list[Any] = []

    async def one() -> None:
        results.append(await make())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(MANY):
                group.start_soon(one)
    return results


def on_the_loop(flow: Callable[[], Flow[Any]]) -> Callable[[], Any]:
    return lambda: anyio.from_thread.run(flow().kickoff)


THREE_DEEP = on_the_loop(lambda: Waiting(on_the_loop(lambda: Waiting(on_the_loop(Plain)))))


@pytest.mark.parametrize(
    "wait_for",
    [on_the_loop(Plain), THREE_DEEP, on_the_loop(Between), lambda: asyncflow.run(Plain())],
    ids=["one deep", "three deep", "with an async one between", "a loop of its own"],
)
async def test_plain_methods_that_wait_for_flows_leave_these_their_threads(wait_for: Callable[[], Any]) -> None:
    assert await all_of(lambda: Waiting(wait_for).kickoff()) == [1] * MANY


async def test_so_they_do_where_the_flows_are_stored() -> None:
    store = SQLiteFlowPersistence("runs.db")
    wait_for = on_the_loop(lambda: Plain(persistence=store))

    assert await all_of(lambda: Waiting(wait_for, persistence=store).kickoff()) == [1] * MANY


async def test_so_they_do_where_a_runner_or_a_portal_runs_the_flows() -> None:
    async with FlowRunner(SQLiteFlowPersistence("runs.db"), flows=[Plain]) as runner:
        by_runner = await all_of(lambda: Waiting(lambda: anyio.from_thread.run(runner.run, Plain)).kickoff())
    async with anyio.from_thread.BlockingPortal() as portal:
        by_portal = await all_of(lambda: Waiting(lambda: portal.call(Plain().kickoff)).kickoff())

    assert by_runner == by_portal == [1] * MANY


@on_asyncio
async def test_so_they_do_where_asyncio_hands_the_flows_to_the_loop() -> None:
    loop = asyncio.get_running_loop()

    def wait_for() -> Any:
        return asyncio.run_coroutine_threadsafe(Plain().kickoff(), loop).result()

    assert await all_of(lambda: Waiting(wait_for).kickoff()) == [1] * MANY


async def test_methods_that_wait_for_runs_of_unknown_depth_get_more_threads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(threads, "STALL", 0.05)
    async with anyio.from_thread.BlockingPortal() as portal:
        # A portal's own context is the one in which it was entered: that of the test, outside all methods.
        def wait_for() -> Any:
            return contextvars.Context().run(portal.call, Plain().kickoff)

        results = await all_of(lambda: Waiting(wait_for).kickoff())

    assert results == [1] * MANY
    assert [r.message.partition(":")[0] for r in caplog.records if r.name == "asyncflow"] == ["worker threads blocked"]


async def test_the_threads_of_a_stall_are_given_up_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(threads, "STALL", 0.02)
        async with anyio.from_thread.BlockingPortal() as portal:
            await all_of(lambda: Waiting(lambda: contextvars.Context().run(portal.call, Plain().kickoff)).kickoff())

    await test_plain_methods_that_wait_for_nothing_share_forty_threads()


async def test_plain_methods_that_wait_for_nothing_share_forty_threads() -> None:
    now = most = 0
    lock = threading.Lock()

    def counted() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        anyio.from_thread.run(anyio.sleep, 0.01)
        with lock:
            now -= 1

    await all_of(lambda: Waiting(counted).kickoff())

    assert most <= THREADS
