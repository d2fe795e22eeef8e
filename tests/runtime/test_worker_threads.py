"""Plain methods run in worker threads, at the same time, with the context of the caller."""

import contextvars
import threading
from typing import Any

import anyio
import anyio.to_thread
from small import Counter

from asyncflow import Flow, start

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


async def test_a_plain_method_runs_in_a_worker_thread_with_the_callers_context() -> None:
    class Plain(Flow[Counter]):
        @start()
        def first(self) -> tuple[bool, str]:
            self.state.count = 7
            return threading.current_thread() is caller, colour.get()

    caller = threading.current_thread()
    colour.set("blue")
    flow = Plain()
    output = await flow.kickoff()

    assert output == (False, "blue")
    assert flow.state.count == 7


async def test_an_async_method_sees_the_callers_context() -> None:
    class Asynchronous(Flow):
        @start()
        async def first(self) -> str:
            return colour.get()

    colour.set("green")

    assert await Asynchronous().kickoff() == "green"


async def test_plain_methods_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=60)

    class Threads(Flow):
        @start()
        def a(self) -> None:
            barrier.wait()

        @start()
        def b(self) -> None:
            barrier.wait()

        @start()
        def c(self) -> None:
            barrier.wait()

    flow = Threads()
    await flow.kickoff()

    assert len(flow.method_outputs) == 3


async def test_plain_methods_do_not_wait_for_the_threads_of_others() -> None:
    class Plain(Flow):
        @start()
        def first(self) -> str:
            return "ran"

    others = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(others.total_tokens))]
    for borrower in borrowers:
        others.acquire_on_behalf_of_nowait(borrower)
    try:
        with anyio.fail_after(120):
            output = await Plain().kickoff()
    finally:
        for borrower in borrowers:
            others.release_on_behalf_of(borrower)

    assert output == "ran"


async def test_a_plain_wrapper_around_an_async_method_is_awaited() -> None:
    def wrapped(function: Any) -> Any:
        def call(self: Any) -> Any:
            return function(self)

        return call

    class Wrapped(Flow):
        @start()
        @wrapped
        async def work(self) -> int:
            await anyio.lowlevel.checkpoint()
            return 5

    assert await Wrapped().kickoff() == 5
