"""`step` in a method: called once, stored, and returned without a call by whatever runs the method again."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from moments import interrupted_once, stored
from pydantic import BaseModel

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    SQLiteFlowPersistence,
    errors,
    finish,
    listen,
    persist,
    start,
    step,
    step_sync,
    this_invocation,
)
from asyncflow._runtime import memos
from asyncflow.persistence.checkpoint import decode_progress
from asyncflow.testing import cancel_everywhere, crash_everywhere

calls: list[Any] = []
AGAIN = Retry(attempts=2, initial=0)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


class Answer(BaseModel):
    words: set[str] = set()
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int


async def doubled(x: int) -> int:
    calls.append(x)
    return 2 * x


def tripled(x: int) -> int:
    calls.append(x)
    return 3 * x


async def answered(words: list[str]) -> Answer:
    calls.append(words)
    return Answer(words=set(words))


class Twice(Flow[dict]):
    """Calls its steps in an attempt that raises, and in one that does not."""

    name = "Twice"

    @start(retry=AGAIN)
    async def work(self) -> list[Any]:
        found = [await step(doubled, 1), await step(tripled, 2), await step(doubled, 3)]
        answer = await step(answered, ["a"])
        assert answer == Answer(words={"a"})
        if this_invocation().attempt == 1:
            raise ValueError("again")
        return found


async def cause(flow: Flow[Any]) -> BaseException | None:
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    return caught.value.__cause__


def flow_of(body: Callable[[], Any], **options: Any) -> type[Flow[dict]]:
    class Once(Flow[dict]):
        @start(**options)
        async def work(self) -> Any:
            return await body()

    return Once


# ---- stored once -----------------------------------------------------------------------------------------------------


@pytest.mark.clauses("M1")
async def test_a_method_that_runs_again_gets_the_results_in_order_without_a_call(store: Any) -> None:
    assert await Twice(persistence=store).kickoff() == [2, 6, 6]
    assert calls == [1, 2, 3, ["a"]]


@pytest.mark.clauses("M1")
async def test_a_method_of_a_runner_that_runs_again_gets_the_results_without_a_call(log: Any) -> None:
    async with FlowRunner(log, flows=[Twice]) as runner:
        assert await (await runner.start(Twice)).result() == [2, 6, 6]
    assert calls == [1, 2, 3, ["a"]]


@pytest.mark.clauses("M1")
async def test_without_persistence_a_further_attempt_gets_the_results_too() -> None:
    assert await Twice().kickoff() == [2, 6, 6]
    assert calls == [1, 2, 3, ["a"]]


@pytest.mark.clauses("M1", "E4")
async def test_each_step_is_a_checkpoint_that_commits_nothing_of_the_state(log: Any) -> None:
    reached = anyio.Event()

    class Cut(Flow[dict]):
        name = "Cut"

        @start()
        async def work(self) -> int:
            self.state["n"] = self.state.get("n", 0) + 1
            found = await step(doubled, 1)
            if not reached.is_set():
                reached.set()
                await anyio.sleep_forever()
            return found + self.state["n"]

    flow = Cut(persistence=log)
    await interrupted_once(flow.kickoff, stored(log, flow.run_id, 1))
    loaded = await Cut.load(flow.run_id, persistence=log)
    assert [(entry.kind, entry.method) for entry in await loaded.history()] == [("started", ""), ("step", "work:1")]
    assert "n" not in loaded.state

    assert await Cut.resume(flow.run_id, persistence=log) == 3
    assert calls == [1]


@pytest.mark.clauses("M1")
async def test_every_crash_ends_alike_and_calls_nothing_twice_that_was_stored() -> None:
    class Worker(Flow[dict]):
        def __init__(self, outside: list[str]) -> None:
            super().__init__()
            self.outside = outside

        async def noted(self, what: str) -> str:
            self.outside.append(what)
            return what

        @start()
        async def work(self) -> list[str]:
            first = await step(self.noted, "a")
            async with anyio.create_task_group() as group:
                for key in "bc":
                    group.start_soon(functools.partial(step, self.noted, key, key=key))
            return [first, await step(self.noted, "b", key="b")]

        @listen(work)
        def plain(self, found: list[str]) -> list[str]:
            def noted(what: str) -> str:
                self.outside.append(what)
                return what

            return [*found, step_sync(noted, "d"), step_sync(noted, "e", key="e", timeout=60)]

    seen: list[list[str]] = []

    def outside() -> list[str]:
        seen.append([])
        return seen[-1]

    report = await crash_everywhere(Worker, outside=outside)

    assert report.commits == 3 * (1 + 3 + 1 + 2 + 1)
    for effects in seen:
        assert set(effects) == set("abcde")
        assert len(effects) <= 7, "a crash repeats only what was not stored: one call, or the two that run at once"


@pytest.mark.clauses("M2")
async def test_a_caller_gets_the_value_as_it_will_load(log: Any) -> None:
    kept = Answer(words={"a"})

    async def same() -> Answer:
        return kept

    async def whole() -> float:
        return 1

    async def body() -> Any:
        found, number = await step(same), await step(whole)
        found.words.add("b")
        return [type(number).__name__, sorted((await step(same)).words)]

    assert await flow_of(body)(persistence=log).kickoff() == ["float", ["a"]]


@pytest.mark.clauses("M2")
async def test_a_result_that_cannot_be_stored_names_the_step_and_the_path(log: Any) -> None:
    async def objects() -> Any:
        return {"a": [object()]}

    async def body() -> Any:
        return await step(objects, key="k")

    error = await cause(flow_of(body, retry=Retry(attempts=3, initial=0))(persistence=log))

    assert isinstance(error, errors.ResultNotStorableError)
    assert error.path == "a[0]"
    assert "objects (key 'k') of work returned cannot be stored: object at 'a[0]'" in str(error)


# ---- names and arguments ---------------------------------------------------------------------------------------------


@pytest.mark.clauses("M3")
@pytest.mark.parametrize(
    "nameless", [lambda: 1, functools.partial(doubled, 1), type("Callable", (), {"__call__": lambda self: 1})()]
)
async def test_what_has_no_name_of_its_own_needs_a_key(nameless: Any) -> None:
    async def without() -> Any:
        return await step(nameless)

    async def with_one() -> Any:
        return await step(nameless, key="k")

    error = await cause(flow_of(without)())
    assert isinstance(error, errors.StepKeyError)
    assert "give the step a key: step(..., key=...)" in str(error)
    assert await flow_of(with_one)().kickoff() in (1, 2)


@pytest.mark.clauses("M3")
async def test_two_steps_of_one_name_at_once_need_keys() -> None:
    async def slow() -> None:
        await anyio.sleep(0.01)

    async def body() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(step, slow)

    error = await cause(flow_of(body)())
    assert isinstance(error, BaseExceptionGroup)
    assert isinstance(error.exceptions[0], errors.StepKeyError)


@pytest.mark.parametrize("key", ["", "a" * 201, "a\n", 1, b"a"])
async def test_a_key_is_printable(key: Any) -> None:
    async def body() -> Any:
        return await step(doubled, 1, key=key)

    assert isinstance(await cause(flow_of(body)()), ValueError)


async def test_a_call_in_place_of_the_function_says_how_to_pass_it() -> None:
    async def fetch(n: int) -> int:
        return n

    async def body() -> Any:
        return await step(fetch(1))  # type: ignore[call-overload]  # the mistake

    error = await cause(flow_of(body)())
    assert isinstance(error, TypeError)
    assert "step(fetch, ...)" in str(error)


@pytest.mark.clauses("M3")
async def test_a_key_that_is_used_again_is_the_same_step(store: Any) -> None:
    async def body() -> Any:
        return [await step(doubled, 1, key="k"), await step(doubled, 1, key="k"), await step(tripled, 1, key="k")]

    assert await flow_of(body)(persistence=store).kickoff() == [2, 2, 3]
    assert calls == [1, 1]


@pytest.mark.clauses("M4")
@pytest.mark.parametrize("on", [Exception, errors.AsyncflowError, errors.StepMismatchError, lambda error: True])
async def test_other_arguments_are_a_mismatch_that_is_never_retried(store: Any, on: Any) -> None:
    attempts: list[int] = []

    class Changed(Flow[dict]):
        @start(retry=Retry(attempts=5, initial=0, on=on))
        async def work(self) -> None:
            attempts.append(this_invocation().attempt)
            await step(doubled, 1, key="k")
            await step(doubled, 2, key="k")

    error = await cause(Changed(persistence=store))
    assert attempts == [1]
    assert isinstance(error, errors.StepMismatchError)
    assert error.method == "work"
    assert "the step doubled (key 'k') of work was stored with other arguments" in str(error)
    assert calls == [1]


@pytest.mark.clauses("M4")
@pytest.mark.parametrize(
    "argument", [{"b", "a", "c"}, {"x": 1, "y": (1, b"2")}, Answer(words={"x", "y"}), Colour.RED, Point(3), [Point(1)]]
)
async def test_equal_arguments_are_the_same_whatever_their_order(argument: Any) -> None:
    async def shown(argument: Any) -> str:
        calls.append(argument)
        return str(type(argument))

    async def body() -> Any:
        found = await step(shown, argument)
        if this_invocation().attempt == 1:
            raise ValueError("again")
        return found

    assert await flow_of(body, retry=AGAIN)(persistence=MemoryFlowPersistence()).kickoff() == str(type(argument))
    assert len(calls) == 1


@pytest.mark.clauses("M4")
async def test_arguments_that_cannot_be_stored_need_a_key_which_alone_is_compared() -> None:
    async def taken(thing: object) -> str:
        calls.append(thing)
        return "taken"

    async def without() -> Any:
        return await step(taken, [object()])

    async def with_one() -> Any:
        found = await step(taken, [object()], key="k")
        if this_invocation().attempt == 1:
            raise ValueError("again")
        return found

    error = await cause(flow_of(without)())
    assert isinstance(error, errors.StepKeyError)
    assert "gets an argument at '[0][0]' that cannot be compared" in str(error)
    assert await flow_of(with_one, retry=AGAIN)(persistence=MemoryFlowPersistence()).kickoff() == "taken"
    assert len(calls) == 1


@pytest.mark.clauses("M5")
async def test_an_invocation_stores_a_limited_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memos, "MEMOS", 3)

    async def body() -> None:
        for number in range(4):
            await step(doubled, number)

    error = await cause(flow_of(body)())
    assert isinstance(error, errors.LimitExceededError)
    assert calls == [0, 1, 2, 3]


@pytest.mark.clauses("M5")
async def test_values_live_until_their_invocation_completes(log: Any) -> None:
    class Two(Flow[dict]):
        @start()
        async def first(self) -> int:
            return await step(doubled, 1)

        @listen(first)
        async def second(self, n: int) -> int:
            return await step(doubled, 1) + n

    flow = Two(persistence=log)
    assert await flow.kickoff() == 4
    assert calls == [1, 1]
    newest = await log.load(flow.run_id)
    assert decode_progress(newest.progress).attempts == {}


# ---- where it may be called ------------------------------------------------------------------------------------------


async def test_outside_of_a_method_there_is_no_step() -> None:
    with pytest.raises(LookupError, match="elsewhere, call the function"):
        await step(doubled, 1)
    with pytest.raises(LookupError, match="elsewhere, call the function"):
        step_sync(tripled, 1)


@pytest.mark.clauses("M6")
async def test_within_a_step_only_the_outer_one_is_stored(log: Any) -> None:
    async def outer() -> int:
        return await step(doubled, 1) + await step(tripled, 1) + await step(lambda: 5)

    def plain() -> int:
        return step_sync(tripled, 1)

    async def body() -> Any:
        return [await step(outer), await step(plain)]

    flow = flow_of(body)(persistence=log)
    assert await flow.kickoff() == [10, 3]
    assert [entry.kind for entry in await flow.history()] == ["started", "step", "step", "finished"]


@pytest.mark.clauses("M6")
async def test_the_function_of_a_step_reads_the_draft_and_cannot_end_the_run() -> None:
    class Reads(Flow[dict]):
        @start()
        async def work(self) -> Any:
            self.state["n"] = 1
            return [await step(self.read), await step(self.read_plainly), await step(self.end)]

        async def read(self) -> int:
            return self.state["n"]

        def read_plainly(self) -> int:
            return self.state["n"] + this_invocation().attempt

        async def end(self) -> str:
            with pytest.raises(errors.StateError, match="call it in work itself"):
                finish()
            return "refused"

    assert await Reads().kickoff() == [1, 2, "refused"]


@pytest.mark.clauses("M6")
async def test_a_flow_in_the_function_of_a_step_has_steps_of_its_own(log: Any) -> None:
    class Inner(Flow[dict]):
        @start()
        async def work(self) -> int:
            return await step(doubled, 1)

    inner = Inner(persistence=log)

    async def body() -> Any:
        async def other() -> Any:
            return await inner.kickoff()

        return await step(other)

    assert await flow_of(body)(persistence=log).kickoff() == 2
    assert [entry.kind for entry in await inner.history()] == ["started", "step", "finished"]


async def test_only_methods_that_persist_store_their_steps(log: Any) -> None:
    class Some(Flow[dict]):
        @start()
        async def first(self) -> int:
            return await step(doubled, 1)

        @persist(log)
        @listen(first)
        async def second(self, n: int) -> int:
            return n

    flow = Some()
    assert await flow.kickoff() == 2
    assert "step" not in [entry.kind for entry in await flow.history()]


# ---- in threads ------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("M7")
async def test_a_plain_method_stores_its_steps_in_its_thread(store: Any) -> None:
    threads: list[int] = []

    def here(x: int) -> int:
        threads.append(threading.get_ident())
        return tripled(x)

    class Plain(Flow[dict]):
        @start(retry=AGAIN)
        def work(self) -> Any:
            found = [step_sync(here, 1), step_sync(here, 2, key="k", timeout=60)]
            if this_invocation().attempt == 1:
                assert threads[0] == threading.get_ident() != threads[1]
                raise ValueError("again")
            return found

    assert await Plain(persistence=store).kickoff() == [3, 6]
    assert calls == [1, 2]


@pytest.mark.clauses("M7")
async def test_step_sync_is_refused_elsewhere() -> None:
    class Wrong(Flow[dict]):
        @start()
        async def in_the_loop(self) -> str:
            with pytest.raises(errors.StateError, match=r"in an async method, await asyncflow\.step\(\)"):
                step_sync(tripled, 1)
            return "refused"

        @listen(in_the_loop)
        def of_an_async_function(self) -> str:
            with pytest.raises(TypeError, match=r"make the method async, and use step\(\)"):
                step_sync(doubled, 1)
            return "refused"

    assert await Wrong().kickoff() == "refused"
    assert calls == []


# ---- cancelled -------------------------------------------------------------------------------------------------------


class Cut(Flow[FlowState]):
    name = "Cut"
    seen: ClassVar[list[str]] = []

    @staticmethod
    async def noted(what: str) -> str:
        Cut.seen.append(what)
        await anyio.lowlevel.checkpoint()
        return what

    @staticmethod
    def noted_plainly(what: str) -> str:
        Cut.seen.append(what)
        return what

    @start()
    async def work(self) -> list[str]:
        return [await step(Cut.noted, "a"), await step(Cut.noted_plainly, "b"), await step(Cut.noted, "c")]

    @listen(work)
    def plain(self, found: list[str]) -> list[str]:
        return [*found, step_sync(Cut.noted_plainly, "d"), step_sync(Cut.noted_plainly, "e")]


@pytest.mark.clauses("M8", "C1", "C2")
async def test_a_cancellation_at_any_await_tears_nothing(log: Any) -> None:
    run_ids: list[str] = []

    async def work() -> None:
        Cut.seen = []
        flow = Cut(persistence=log)
        run_ids.append(flow.run_id)
        await flow.kickoff()

    async def then() -> None:
        run_id = run_ids[-1]
        newest = await log.load(run_id)
        if newest is None:
            return
        done = [entry for entry in await log.history(run_id) if entry.kind == "step"]
        if newest.status != "finished":
            assert await Cut.resume(run_id, persistence=log) == list("abcde")
        assert len(Cut.seen) <= 5 + 2, Cut.seen
        assert set(Cut.seen) == set("abcde")
        assert len(done) <= 5

    moments = (0.0,) if isinstance(log, MemoryFlowPersistence) else (0.0, 0.002)
    assert await cancel_everywhere(work, then, moments=moments) > 10


@pytest.mark.clauses("M8")
async def test_a_step_that_a_sibling_cancels_is_not_stored_and_runs_again(log: Any) -> None:
    async def slow() -> str:
        calls.append("slow")
        if calls.count("slow") == 1:
            await anyio.sleep_forever()
        return "slow"

    async def body() -> Any:
        with anyio.move_on_after(0.02):
            await step(slow, key="k")
        return await step(slow, key="k")

    flow = flow_of(body)(persistence=log)
    assert await flow.kickoff() == "slow"
    assert [entry.kind for entry in await flow.history()] == ["started", "step", "finished"]


@pytest.mark.clauses("M8")
async def test_a_method_continues_after_the_cancellation_of_a_commit(is_trio: bool) -> None:
    """The value is stored all the same: without it, the chain of the run would be broken."""
    storage = SQLiteFlowPersistence("runs.db")

    class Many(Flow[dict]):
        @start()
        async def work(self) -> int:
            for number in range(300):
                try:
                    async with asyncio.timeout(0.0003) if not is_trio else _entered(anyio.move_on_after(0.0003)):
                        await step(doubled, number, key=str(number))
                except TimeoutError:
                    pass
            return sum([await step(doubled, number, key=str(number)) for number in range(300)])

    async with storage:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_check, Many(persistence=storage))


async def _check(flow: Flow[Any]) -> None:
    assert await flow.kickoff() == 2 * sum(range(300))


class _entered:
    """A plain context manager as an async one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __aenter__(self) -> None:
        self.inner.__enter__()

    async def __aexit__(self, *error: Any) -> Any:
        return self.inner.__exit__(*error)
