"""What storage says of attempts and failures in the corners: partly stored flows, cancelled siblings, large errors, refused commits."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    errors,
    listen,
    persist,
    start,
    this_invocation,
)
from asyncflow._failure import FailedAttempt, Failure
from asyncflow._runtime.failures import failed_with
from asyncflow.persistence import Checkpoint


@pytest.mark.clauses("R4")
async def test_attempts_of_a_method_with_persist_count_on_after_its_failure(log: Any) -> None:
    seen: list[int] = []

    class Partly(Flow[dict]):
        name = "Partly"

        @start()
        async def first(self) -> int:
            self.state["first"] = True
            return 1

        @listen(first, retry=Retry(attempts=2, initial=0))
        @persist(log)
        async def pay(self, n: int) -> None:
            seen.append(this_invocation().attempt)
            raise ConnectionError

    flow = Partly()
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError):
        await Partly.resume(flow.run_id)

    assert seen == [1, 2, 3, 4]
    loaded = await Partly.load(flow.run_id)
    assert (loaded.status, loaded.state["first"]) == ("failed", True)
    assert [attempt.number for attempt in loaded.method_error.failures[0].attempts] == [3, 4]


async def test_a_failure_is_stored_though_a_sibling_ends_after_it(store: Any) -> None:
    class Both(Flow[dict]):
        on_error = "cancel"

        @start()
        async def bad(self) -> None:
            raise ValueError("first")

        @start(retry=Retry(attempts=3, initial=60))
        async def other(self) -> None:
            raise ConnectionError

        @start()
        async def sleeps(self) -> None:
            await anyio.sleep(60)

    flow = Both(persistence=store)
    with anyio.fail_after(60), pytest.raises(MethodError):
        await flow.kickoff()
    loaded = await Both.load(flow.run_id, persistence=store)

    assert loaded.status == "failed"
    assert [failure.method for failure in loaded.method_error.failures] == ["bad"]


def test_the_failures_of_many_methods_are_stored_though_their_attempts_are_large() -> None:
    """Rather a failure without its attempts than none; and one that is too large takes no room from the next."""

    def failed(name: str, message: str) -> Failure:
        earlier = [FailedAttempt(n, 1.0, "builtins.ValueError", message, message) for n in range(1, 10)]
        return Failure(name, f"run/1/{name}:1", ValueError(message), earlier, 10, 2.0)

    stored = failed_with(
        [failed("a", "a" * 7_000), failed("b", "b" * 100_000), failed("c", "c"), failed("d", "d")], is_over=True
    )

    assert [failure.method for failure in stored.failures] == ["a", "c", "d"]
    assert [bool(failure.attempts) for failure in stored.failures] == [False, True, True]


async def test_the_message_of_an_attempt_is_cut(store: Any) -> None:
    class Large(Flow[dict]):
        @start(retry=Retry(attempts=2, initial=0))
        async def a(self) -> None:
            raise ValueError("b" * 100_000)

    flow = Large(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    (failure,) = (await Large.load(flow.run_id, persistence=store)).method_error.failures

    assert len(failure.message) == 100_000
    assert [len(attempt.message) for attempt in failure.attempts] == [8 * 1024] * 2


async def test_a_failure_without_retries_has_the_time_of_its_checkpoint_when_loaded(store: Any) -> None:
    class Once(Flow[dict]):
        @start()
        async def bad(self) -> None:
            raise ValueError("no")

    flow = Once(persistence=store)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    loaded = await Once.load(flow.run_id, persistence=store)

    (live,), (stored,) = caught.value.failures[0].attempts, loaded.method_error.failures[0].attempts
    assert (live.number, stored.number) == (1, 1)
    assert stored.at == pytest.approx(live.at, abs=1)


@pytest.mark.clauses("R5")
async def test_a_conflict_error_that_a_method_raises_itself_is_a_failed_attempt() -> None:
    calls: list[int] = []

    class Raising(Flow[dict]):
        @start(retry=Retry(attempts=2, initial=0))
        async def bad(self) -> None:
            calls.append(this_invocation().attempt)
            raise errors.StateConflictError("of another flow")

    with pytest.raises(MethodError):
        await Raising(persistence=MemoryFlowPersistence()).kickoff()

    assert calls == [1, 2]


class Refusing(MemoryFlowPersistence):
    """Refuses the checkpoint of a failure."""

    async def append(self, checkpoint: Checkpoint) -> None:
        if checkpoint.kind == "failed":
            raise errors.StorageBusyError("not now")
        await super().append(checkpoint)


async def test_a_time_limit_that_cannot_be_stored_leaves_the_run_interrupted() -> None:
    class Slow(Flow[dict]):
        run_timeout = 0.05

        @start()
        async def slow(self) -> None:
            await anyio.sleep(60)

    storage = Refusing()
    flow = Slow(persistence=storage)
    with anyio.fail_after(60), pytest.raises(errors.StorageBusyError):
        await flow.kickoff()

    assert flow.status == "interrupted"
    assert (await Slow.load(flow.run_id, persistence=storage)).status == "interrupted"


async def test_a_first_failed_attempt_after_the_end_of_a_runner_began_waits_for_nothing() -> None:
    storage = MemoryFlowPersistence()

    class Late(Flow[dict]):
        @start(retry=Retry(attempts=3, initial=60))
        async def late(self) -> None:
            await anyio.sleep(0.3)
            raise ConnectionError

    with anyio.fail_after(60):
        async with FlowRunner(storage, flows=[Late], grace=0.05, patience=30) as runner:
            handle = await runner.start(Late)
            await anyio.sleep(0.05)
    loaded = await Late.load(handle.run_id, persistence=storage)

    assert (loaded.status, loaded.pending) == ("interrupted", ("late:1",))
    assert [entry.kind for entry in await loaded.history()] == ["started", "retrying"]
