"""Threads that a method starts itself: its state is theirs where only it runs; else the error shows what to write."""

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio
from loops import LOOPS, on_asyncio
from pydantic import ConfigDict, Field

import asyncflow
from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start

pytestmark = pytest.mark.found("C2")


class Pages(FlowState):
    pages: list[str] = Field(default_factory=list)


class Crawl(Flow[Pages]):
    def fetch(self, url: str) -> None:
        self.state.pages.append(url)


def in_pool(work: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))


def in_threads(work: Callable[[str], object]) -> None:
    threads = [threading.Thread(target=work, args=(url,)) for url in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


class Library:
    """Calls back from a thread of its own, which lives as long as it."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        while (call := self.calls.get()) is not None:
            call()
            self.calls.task_done()

    def call_back(self, work: Callable[[str], object]) -> None:
        for url in "abcd":
            self.calls.put(lambda url=url: work(url))
        self.calls.join()


@pytest.fixture
def library() -> Iterator[Library]:
    library = Library()
    yield library
    library.calls.put(None)
    library.thread.join()


@pytest.fixture(params=["pool", "threads", "callbacks"])
def does(request: pytest.FixtureRequest, library: Library) -> Any:
    return {"pool": in_pool, "threads": in_threads, "callbacks": library.call_back}[request.param]


@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_what_the_threads_of_a_plain_method_do_to_the_state_is_kept(does: Any, stored: bool) -> None:
    class Plain(Crawl):
        @start()
        def fetch_all(self) -> int:
            does(self.fetch)
            return len(self.state.pages)

    flow = Plain(persistence=MemoryFlowPersistence() if stored else None)

    assert await flow.kickoff() == 4
    assert sorted(flow.state.pages) == list("abcd")


async def test_what_the_threads_of_an_async_method_do_to_the_state_is_kept(does: Any) -> None:
    class Async(Crawl):
        @start()
        async def fetch_all(self) -> int:
            does(self.fetch)
            return len(self.state.pages)

        @listen(fetch_all)
        async def fetch_more(self) -> int:
            does(self.fetch)
            return len(self.state.pages)

    assert await Async().kickoff() == 8


@on_asyncio
async def test_what_runs_in_an_executor_of_the_event_loop_does_to_the_state_is_kept() -> None:
    class Async(Crawl):
        @start()
        async def fetch_all(self) -> int:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(None, self.fetch, url) for url in "abcd"))
            return len(self.state.pages)

    assert await Async().kickoff() == 4


@on_asyncio
async def test_what_a_thread_hands_to_the_event_loop_is_kept() -> None:
    class Async(Crawl):
        @start()
        async def fetch_all(self) -> int:
            loop, done = asyncio.get_running_loop(), asyncio.Event()

            def work() -> None:  # a client of a message broker, for one
                for url in "abcd":
                    loop.call_soon_threadsafe(self.fetch, url)
                loop.call_soon_threadsafe(done.set)

            threading.Thread(target=work).start()
            await done.wait()
            return len(self.state.pages)

    assert await Async().kickoff() == 4


@pytest.mark.parametrize("anyio_backend", [LOOPS["trio"]], ids=["trio"], indirect=True)
async def test_what_a_thread_hands_to_trio_is_kept() -> None:
    class Async(Crawl):
        @start()
        async def fetch_all(self) -> int:
            token, done = trio.lowlevel.current_trio_token(), trio.Event()

            def work() -> None:
                for url in "ab":
                    token.run_sync_soon(self.fetch, url)
                for url in "cd":
                    trio.from_thread.run_sync(self.fetch, url, trio_token=token)
                token.run_sync_soon(done.set)

            threading.Thread(target=work).start()
            await done.wait()
            return len(self.state.pages)

    assert await Async().kickoff() == 4


class Meeting:
    """Where it is copied in a thread of a method's own, it waits until two threads are about to do so."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.both = threading.Barrier(2)

    def __deepcopy__(self, memo: object) -> "Meeting":
        if threading.current_thread() in self.threads:
            self.both.wait(60)
        return self


class Together(Pages):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    meeting: Meeting = Field(default_factory=Meeting)


@pytest.mark.clauses("E4")
async def test_threads_that_look_first_at_the_same_time_share_one_draft() -> None:
    class Plain(Flow[Together]):
        @start()
        def fetch_all(self) -> int:
            threads = [threading.Thread(target=self.fetch, args=(url,)) for url in "ab"]
            meeting.threads += threads
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return len(self.state.pages)

        def fetch(self, url: str) -> None:
            self.state.pages.append(url)

    meeting = Meeting()

    assert await Plain(initial_state={"meeting": meeting}).kickoff() == 2


async def test_a_thread_may_replace_the_state_and_know_its_invocation() -> None:
    names = []

    class Plain(Crawl):
        @start()
        def fetch_all(self) -> str:
            def work() -> None:
                self.state = Pages(pages=["new"], id=self.run_id)
                names.append(self.invocation_id)

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return self.invocation_id

    flow = Plain()

    assert [await flow.kickoff()] == names
    assert flow.state.pages == ["new"]


class Two(Crawl):
    """Two methods that run at the same time, the first of which starts a thread."""

    def __init__(self, work: Callable[[Any, Pages], object]) -> None:
        super().__init__()
        self.work = work
        self.both, self.done = threading.Barrier(2), threading.Event()
        self.raised: list[Exception] = []

    @start()
    def first(self) -> None:
        state = self.state
        self.both.wait(60)

        def work() -> None:
            try:
                self.work(self, state)
            except Exception as error:
                self.raised.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.done.set()

    @start()
    def second(self) -> None:
        self.both.wait(60)
        self.done.wait(60)


@pytest.mark.parametrize(
    "work",
    [
        lambda flow, state: flow.fetch("a"),
        lambda flow, state: setattr(flow, "state", Pages()),
        lambda flow, state: flow.invocation_id,
    ],
    ids=["read", "written", "named"],
)
async def test_where_several_methods_run_the_error_in_a_thread_shows_what_to_write(work: Any) -> None:
    flow = Two(work)
    await flow.kickoff()

    (told,) = flow.raised
    assert isinstance(told, errors.StateError)
    assert "first, second" in str(told)
    assert "`state = self.state`" in str(told)
    assert flow.state.pages == []


async def test_where_several_methods_run_a_state_that_was_handed_over_is_the_methods() -> None:
    flow = Two(lambda flow, state: state.pages.append("a"))
    await flow.kickoff()

    assert flow.raised == []
    assert flow.state.pages == ["a"]


async def test_a_thread_that_outlives_its_method_gets_an_error_that_says_so_while_the_run_continues() -> None:
    class Gate(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            if checkpoint.method == "first:1":  # it has ended, and nothing else runs
                ended.set()
                await anyio.to_thread.run_sync(told.wait, 60)
            await super().append(checkpoint)

    ended, told = threading.Event(), threading.Event()
    caught: list[Exception] = []

    class Leaky(Crawl):
        @start()
        async def first(self) -> None:
            threading.Thread(target=self.linger).start()

        def linger(self) -> None:
            ended.wait(60)
            try:
                self.fetch("a")
            except Exception as error:
                caught.append(error)
            told.set()

    flow = Leaky(persistence=Gate())
    await flow.kickoff()

    assert [type(error) for error in caught] == [errors.DraftClosedError]
    assert flow.state.pages == []


async def test_the_event_loop_and_the_main_thread_see_from_outside_what_is_committed() -> None:
    inside, looked = threading.Event(), threading.Event()

    class Slow(Crawl):
        @start()
        def first(self) -> None:
            self.state.pages.append("mine")
            inside.set()
            looked.wait(60)

    def look() -> None:  # here, in the loop's thread, which belongs to no method
        flow.state.pages.append("stray")
        seen.append(list(flow.state.pages))
        with pytest.raises(errors.StateError, match="only its methods can set"):
            flow.state = Pages()
        with pytest.raises(LookupError):
            _ = flow.invocation_id

    seen: list[list[str]] = []
    flow = Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await anyio.to_thread.run_sync(inside.wait, 60)
        look()
        looked.set()

    assert seen == [[]]
    assert flow.state.pages == ["mine"]


def test_the_main_thread_sees_what_is_committed_of_a_run_in_another_thread() -> None:
    inside, looked = threading.Event(), threading.Event()

    class Slow(Crawl):
        @start()
        def first(self) -> None:
            self.state.pages.append("mine")
            inside.set()
            looked.wait(60)

    flow = Slow()
    thread = threading.Thread(target=asyncflow.run, args=(flow,))
    thread.start()
    inside.wait(60)
    seen = list(flow.state.pages)
    looked.set()
    thread.join()

    assert seen == []
    assert flow.state.pages == ["mine"]


async def test_each_of_several_flows_has_its_own_threads() -> None:
    class Plain(Crawl):
        @start()
        def fetch_all(self) -> None:
            together.wait(60)
            in_threads(lambda url: self.fetch(self.run_id + url))
            together.wait(60)

    together = threading.Barrier(3)
    flows = [Plain() for _ in range(3)]
    async with anyio.create_task_group() as group:
        for flow in flows:
            group.start_soon(flow.kickoff)

    for flow in flows:
        assert sorted(flow.state.pages) == [flow.run_id + url for url in "abcd"]


async def test_a_flow_that_a_thread_of_a_method_runs_has_a_state_of_its_own() -> None:
    class Inner(Crawl):
        @start()
        def fetch_all(self) -> None:
            in_pool(self.fetch)

    class Outer(Crawl):
        @start()
        def outer(self) -> list[str]:
            inner = Inner()

            def work() -> None:
                self.fetch("before")
                asyncflow.run(inner)
                self.fetch("after")

            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            return sorted(inner.state.pages)

    flow = Outer()

    assert await flow.kickoff() == list("abcd")
    assert flow.state.pages == ["before", "after"]


async def test_a_thread_with_the_context_of_a_method_belongs_to_it_whichever_else_run() -> None:
    context: list[contextvars.Context] = []

    def work(flow: Any, state: Pages) -> None:
        context[0].run(flow.fetch, "a")

    class Known(Two):
        @start()
        def third(self) -> None:
            context.append(contextvars.copy_context())
            self.both.wait(60)
            self.done.wait(60)

    flow = Known(work)
    flow.both = threading.Barrier(3)
    await flow.kickoff()

    assert flow.raised == []
    assert flow.state.pages == ["a"]


async def test_a_failure_in_a_thread_leaves_no_trace_in_the_state() -> None:
    class Fails(Crawl):
        @start()
        def fetch_all(self) -> None:
            in_pool(self.fetch)
            raise ValueError

    flow = Fails()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.state.pages == []
