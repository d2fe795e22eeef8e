"""Timeouts of attempts: an async method is cancelled, a plain one is left running in its thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    SQLiteFlowPersistence,
    errors,
    start,
    this_invocation,
)
from asyncflow._runtime import threads

STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
}
AT_ONCE = Retry(attempts=3, initial=0)
SHORT = 0.05


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["none", *STORES])
def storage(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


class Log(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it


# ---- async methods ---------------------------------------------------------------------------------------------


class Hanging(Flow[Log]):
    """`call` hangs in its first attempts."""

    name = "Hanging"

    def __init__(self, hangs: int, **options: Any) -> None:
        super().__init__(**options)
        self.hangs = hangs
        self.seen: list[str] = []

    @start(retry=AT_ONCE, timeout=SHORT)
    async def call(self) -> str:
        attempt = this_invocation().attempt
        self.state.done.append(f"call {attempt}")
        self.seen.append(f"call {attempt}")
        if attempt <= self.hangs:
            try:
                await anyio.sleep_forever()
            finally:
                self.seen.append("cancelled")
        return "called"


@pytest.mark.clauses("R6")
async def test_an_async_method_is_cancelled_after_its_timeout_and_tried_again(storage: Any) -> None:
    flow = Hanging(1, persistence=storage)

    assert await flow.kickoff() == "called"

    assert flow.seen == ["call 1", "cancelled", "call 2"]
    assert flow.state.done == ["call 2"]


@pytest.mark.clauses("R6")
async def test_a_method_that_always_hangs_fails_with_a_timeout_error(storage: Any) -> None:
    flow = Hanging(9, persistence=storage)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    cause = caught.value.__cause__
    assert isinstance(cause, errors.MethodTimeoutError)
    assert isinstance(cause, TimeoutError)
    assert (cause.run_id, cause.method) == (flow.run_id, "call")
    assert str(cause) == "Hanging.call took longer than its timeout of 0.05 s; it was cancelled"
    assert [a.type for a in caught.value.failures[0].attempts] == ["asyncflow.errors.MethodTimeoutError"] * 3


async def test_a_timeout_without_a_policy_fails_the_method(storage: Any) -> None:
    class Once(Hanging):
        @start(timeout=timedelta(milliseconds=50))
        async def call(self) -> str:
            return await Hanging.call(self)

    flow = Once(9, persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.seen == ["call 1", "cancelled"]


async def test_a_timeout_of_the_methods_own_is_no_timeout_of_the_attempt(storage: Any) -> None:
    class Own(Flow[dict]):
        @start(timeout=60)
        async def call(self) -> None:
            with anyio.fail_after(0.01):
                await anyio.sleep_forever()

    with pytest.raises(MethodError) as caught:
        await Own(persistence=storage).kickoff()

    assert type(caught.value.__cause__) is TimeoutError


async def test_a_method_within_its_timeout_is_not_disturbed(storage: Any) -> None:
    flow = Hanging(0, persistence=storage)

    assert await flow.kickoff() == "called"


# ---- plain methods ---------------------------------------------------------------------------------------------


class Gate:
    """What a plain method waits for in its thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.began: list[int] = []
        self.ended: list[int] = []
        self.refused: list[Exception] = []


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.event.set()
    end = time.monotonic() + 30
    while threads._left and time.monotonic() < end:
        time.sleep(0.01)
    assert not threads._left


class Stuck(Flow[Log]):
    """The first attempt of `call` runs in its thread until the gate opens."""

    name = "Stuck"

    def __init__(self, gate: Gate, **options: Any) -> None:
        super().__init__(**options)
        self.gate = gate

    @start(retry=AT_ONCE, timeout=SHORT)
    def call(self) -> str:
        attempt = this_invocation().attempt
        self.gate.began.append(attempt)
        self.state.done.append(f"call {attempt}")
        if attempt == 1:
            self.gate.event.wait(30)
            try:
                self.state.done.append("late")
            except Exception as error:
                self.gate.refused.append(error)
        self.gate.ended.append(attempt)
        return "called"


class StuckOnce(Stuck):
    name = "StuckOnce"

    @start(timeout=SHORT)
    def call(self) -> str:
        return Stuck.call(self)


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)


@pytest.mark.clauses("R6")
async def test_a_plain_method_is_tried_again_only_once_its_thread_has_ended(
    storage: Any, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Stuck(gate, persistence=storage)
    outputs: list[str] = []

    async def kickoff() -> None:
        outputs.append(await flow.kickoff())

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        await until(lambda: threads._left)
        await anyio.sleep(4 * SHORT)
        assert gate.began == [1]
        gate.event.set()

    assert (outputs, gate.began, gate.ended) == (["called"], [1, 2], [1, 2])
    assert flow.state.done == ["call 2"]
    assert [type(error) for error in gate.refused] == [errors.DraftClosedError]
    (line,) = [r.message for r in caplog.records if r.message.startswith("plain method timed out:")]
    assert f"Stuck.call ({flow.run_id}/1/call:1) still runs in its thread after 0.05 s" in line


@pytest.mark.clauses("R6")
async def test_the_failed_attempt_is_stored_while_the_thread_still_runs(store: Any, gate: Gate) -> None:
    flow = Stuck(gate, persistence=store)
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await until(lambda: threads._left)
        with anyio.fail_after(60):
            while len(rows := await store.history(flow.run_id)) < 2:  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
        assert [row.kind for row in rows] == ["started", "retrying"]
        assert gate.ended == []
        gate.event.set()


@pytest.mark.clauses("R6")
async def test_a_resume_in_the_same_process_waits_for_the_thread_too(store: Any, gate: Gate) -> None:
    flow = StuckOnce(gate, persistence=store)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    assert "its thread still runs, and its changes to the state are dropped" in str(caught.value.__cause__)

    async with anyio.create_task_group() as group:
        group.start_soon(StuckOnce(gate, persistence=store).kickoff, {"id": flow.run_id})
        await anyio.sleep(3 * SHORT)
        assert gate.began == [1]
        gate.event.set()

    assert gate.began == [1, 2]
    assert (await StuckOnce.load(flow.run_id, gate=gate, persistence=store)).state.done == ["call 2"]


async def test_a_cancel_ends_the_wait_for_a_thread(store: Any, gate: Gate) -> None:
    flow = Stuck(gate, persistence=store)

    async def kickoff() -> None:
        with pytest.raises(errors.RunCancelledError):
            await flow.kickoff()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(kickoff)
            await until(lambda: threads._left)
            await anyio.sleep(SHORT)
            await flow.cancel()

    assert (flow.status, gate.began, gate.ended) == ("cancelled", [1], [])


@pytest.mark.clauses("C1")
@pytest.mark.parametrize("form", [Stuck, StuckOnce])
async def test_a_cancelled_plain_method_is_waited_for_until_its_timeout_and_counts_as_cancelled(
    form: Any, store: Any, gate: Gate
) -> None:
    flow = form(gate, persistence=store)
    with anyio.fail_after(60), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await until(lambda: gate.began)
            scope.cancel()

    assert scope.cancelled_caught
    assert (flow.status, gate.ended) == ("interrupted", [])
    assert [row.kind for row in await store.history(flow.run_id)] == ["started"]


async def test_at_a_bound_of_threads_that_were_left_running_new_plain_methods_wait(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "THREADS", 2)
    monkeypatch.setattr(threads, "STALL", 0.02)
    began = threading.Event()

    class Other(Flow[dict]):
        @start()
        def call(self) -> None:
            began.set()

    other = Other()
    async with anyio.create_task_group() as group:
        for _ in range(2):
            with pytest.raises(MethodError):
                await StuckOnce(gate).kickoff()
        group.start_soon(other.kickoff)
        await anyio.sleep(0.3)
        assert not began.is_set()
        gate.event.set()

    assert began.is_set()


async def test_an_async_function_in_a_plain_wrapper_has_the_timeout_too(storage: Any) -> None:
    class Wrapped(Flow[dict]):
        @start(timeout=SHORT)
        def call(self) -> Any:
            return anyio.sleep_forever()

    with anyio.fail_after(60), pytest.raises(MethodError) as caught:
        await Wrapped(persistence=storage).kickoff()

    assert isinstance(caught.value.__cause__, errors.MethodTimeoutError)
