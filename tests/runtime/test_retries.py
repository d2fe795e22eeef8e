"""Retries: an attempt that raises is one checkpoint, its draft is dropped, and the next one follows after a pause."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import anyio
import pytest

from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    InvocationInfo,
    MemoryFlowPersistence,
    MethodError,
    Retry,
    RetryAfter,
    SQLiteFlowPersistence,
    errors,
    listen,
    or_,
    router,
    start,
    this_invocation,
)
from asyncflow._failure import TEXT
from asyncflow._runtime import retries
from asyncflow._runtime.observe import events_from
from asyncflow.events import Event, MethodFailed, MethodRetrying, RunFailed
from asyncflow.testing import Delay, FaultyPersistence

STORES: dict[str, Callable[[], Any]] = {
    "memory": MemoryFlowPersistence,
    "sqlite": lambda: SQLiteFlowPersistence("runs.db"),
}
AT_ONCE = Retry(attempts=3, initial=0)
LONG = Retry(attempts=3, initial=timedelta(days=2), maximum=timedelta(days=2))


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Any:
    return STORES[request.param]()


@pytest.fixture(params=["none", *STORES])
def storage(request: pytest.FixtureRequest) -> Any:
    return None if request.param == "none" else STORES[request.param]()


class Log(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it
    n: int = 0


class Unsteady(Flow[Log]):
    """`call` raises in its first attempts, and changes the state each time; `after` follows."""

    name = "Unsteady"

    def __init__(self, fails: int, error: Callable[[], Exception] = lambda: ValueError("no"), **options: Any) -> None:
        super().__init__(**options)
        self.fails = fails
        self.error = error
        self.seen: list[InvocationInfo] = []

    @start(retry=AT_ONCE)
    async def call(self) -> str:
        self.seen.append(this_invocation())
        self.state.done.append(f"call {this_invocation().attempt}")
        if len(self.seen) <= self.fails:
            raise self.error()
        return "called"

    @listen(call)
    async def after(self, value: str) -> str:
        self.seen.append(this_invocation())
        return value


class Plain(Unsteady):
    @start(retry=AT_ONCE)
    def call(self) -> str:  # type: ignore[override]  # a plain method in place of an async one
        self.seen.append(this_invocation())
        self.state.done.append(f"call {this_invocation().attempt}")
        if len(self.seen) <= self.fails:
            raise self.error()
        return "called"


FORMS = pytest.mark.parametrize("form", [Unsteady, Plain])


async def events_of(store: Any, run_id: str) -> list[Event]:
    return [event for c in await store.history(run_id) for event in events_from(c)]


# ---- attempts --------------------------------------------------------------------------------------------------


@pytest.mark.clauses("R1", "E1", "E4")
@FORMS
async def test_an_attempt_that_raises_is_followed_by_another_and_leaves_nothing_in_the_state(
    form: Any, storage: Any
) -> None:
    flow = form(2, persistence=storage)

    assert await flow.kickoff() == "called"

    assert [info.attempt for info in flow.seen] == [1, 2, 3, 1]
    assert flow.state.done == ["call 3"]
    assert flow.seen[0] == InvocationInfo(flow.run_id, 1, "call", 1, f"{flow.run_id}/1/call:1", 1)
    assert {info.invocation_id for info in flow.seen[:3]} == {f"{flow.run_id}/1/call:1"}


@pytest.mark.clauses("R1")
async def test_a_failed_attempt_is_one_checkpoint_with_its_number_and_its_error(store: Any) -> None:
    flow = Unsteady(2, persistence=store)
    before = time.time()
    await flow.kickoff()
    rows, history = await store.history(flow.run_id), await flow.history()

    assert [(row.kind, row.status, row.method) for row in rows] == [
        ("started", "running", ""),
        ("retrying", "running", "call:1"),
        ("retrying", "running", "call:1"),
        ("method", "running", "call:1"),
        ("finished", "finished", "after:1"),
    ]
    assert [(entry.error, entry.changed) for entry in history[1:3]] == [("builtins.ValueError: no", {})] * 2
    assert all("test_retries.py" in entry.traceback for entry in history[1:3])
    retrying = [event for event in await events_of(store, flow.run_id) if isinstance(event, MethodRetrying)]
    assert [(event.invocation, event.attempt, event.type) for event in retrying] == [
        ("call:1", 1, "builtins.ValueError"),
        ("call:1", 2, "builtins.ValueError"),
    ]
    assert all(before <= event.due <= time.time() for event in retrying)


async def test_a_run_without_a_failed_attempt_stores_nothing_of_retries(store: Any) -> None:
    flow = Unsteady(0, persistence=store)
    await flow.kickoff()

    rows = await store.history(flow.run_id)
    assert [row.kind for row in rows] == ["started", "method", "finished"]
    assert not any(b"attempts" in (row.progress or b"") for row in rows)


@pytest.mark.clauses("R1", "X1")
async def test_out_of_attempts_the_method_has_failed_with_the_errors_of_all(store: Any) -> None:
    flow = Unsteady(9, persistence=store)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    loaded = await Unsteady.load(flow.run_id, fails=0, persistence=store)

    assert [info.attempt for info in flow.seen] == [1, 2, 3]
    assert (flow.status, loaded.status, loaded.state.done) == ("failed", "failed", [])
    assert "(call:1, attempt 3)" in str(caught.value)
    (live,) = caught.value.failures
    (again,) = pickle.loads(pickle.dumps(caught.value)).failures
    assert loaded.method_error is not None
    (stored,) = loaded.method_error.failures
    assert live.exception is caught.value.__cause__
    for failure in (live, stored, again):
        assert failure.number == 3
        assert [(a.number, a.type, a.message) for a in failure.attempts] == [
            (n, "builtins.ValueError", "no") for n in (1, 2, 3)
        ]
        assert all(a.at > 1e9 for a in failure.attempts)
    assert [a.at for a in stored.attempts] == [a.at for a in live.attempts]
    assert all("test_retries.py" in a.traceback for a in stored.attempts)
    kinds = [type(event) for event in await events_of(store, flow.run_id)][1:]
    assert kinds == [MethodRetrying, MethodRetrying, MethodFailed, RunFailed]


async def test_the_newest_10_attempts_are_kept_and_8_kb_of_each_traceback(store: Any) -> None:
    class Often(Flow[dict]):
        @start(retry=Retry(attempts=14, initial=0))
        async def call(self) -> None:
            raise ValueError(f"{this_invocation().attempt}" + "x" * 20_000 + "end")

    flow = Often(persistence=store)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    loaded = await Often.load(flow.run_id, persistence=store)

    assert loaded.method_error is not None
    for error in (caught.value, loaded.method_error):
        attempts = error.failures[0].attempts
        assert [a.number for a in attempts] == list(range(5, 15))
        assert {len(a.traceback) for a in attempts} == {TEXT} == {8192}
        assert all(a.traceback.rstrip().endswith("end") for a in attempts)


@pytest.mark.parametrize("error", [lambda: LookupError("\ud800"), lambda: LookupError()])
async def test_any_text_of_an_error_can_be_stored(error: Callable[[], Exception], store: Any) -> None:
    flow = Unsteady(9, error, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()

    loaded = await Unsteady.load(flow.run_id, fails=0, persistence=store)
    assert loaded.method_error is not None
    assert len(loaded.method_error.failures[0].attempts) == 3


async def test_an_exception_that_is_not_covered_fails_at_once(storage: Any) -> None:
    class Picky(Unsteady):
        @start(retry=Retry(initial=0, on=lambda error: "again" in str(error)))
        async def call(self) -> str:
            return await Unsteady.call(self)

    flow = Picky(9, persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()
    other = Picky(1, lambda: ValueError("try again"), persistence=storage)
    await other.kickoff()

    assert [len(flow.seen), len(other.seen)] == [1, 3]


async def test_a_predicate_that_raises_is_logged_and_the_method_has_failed(
    storage: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Unsteady):
        @start(retry=Retry(initial=0, on=lambda error: 1 / 0))
        async def call(self) -> str:
            return await Unsteady.call(self)

    flow = Broken(1, persistence=storage)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, ValueError)
    (record,) = [record for record in caplog.records if record.message.startswith("retry policy failed:")]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_asyncflows_own_errors_are_not_retried(storage: Any) -> None:
    class Unstorable(Unsteady):
        @start(retry=AT_ONCE)
        async def call(self) -> str:
            self.seen.append(this_invocation())
            raise errors.StateError("mine")

    flow = Unstorable(0, persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert len(flow.seen) == 1


async def test_a_retry_after_sets_the_pause_and_counts_as_an_attempt(store: Any) -> None:
    flow = Unsteady(2, lambda: RetryAfter(0.05, "busy"), persistence=store)
    await flow.kickoff()

    retrying = [event for event in await events_of(store, flow.run_id) if isinstance(event, MethodRetrying)]
    assert [event.type.rpartition(".")[2] for event in retrying] == ["RetryAfter"] * 2
    assert all(0.04 < event.due - event.at < 0.06 for event in retrying)
    assert [info.attempt for info in flow.seen] == [1, 2, 3, 1]


async def test_a_retry_after_without_a_policy_fails_the_method(storage: Any) -> None:
    class Bare(Flow[dict]):
        @start()
        async def call(self) -> None:
            raise RetryAfter(0)

    with pytest.raises(MethodError) as caught:
        await Bare(persistence=storage).kickoff()

    assert isinstance(caught.value.__cause__, RetryAfter)


async def test_this_invocation_is_known_only_in_a_method() -> None:
    with pytest.raises(LookupError, match="only inside a method"):
        this_invocation()


async def test_each_occurrence_of_a_cycle_counts_its_own_attempts(storage: Any) -> None:
    class Turning(Flow[dict]):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.seen: list[tuple[int, int]] = []

        @start()
        async def begin(self) -> None: ...

        @listen(or_(begin, "again"), retry=AT_ONCE)
        async def turn(self) -> int:
            info = this_invocation()
            self.seen.append((info.occurrence, info.attempt))
            if info.attempt < 2:
                raise ValueError
            return info.occurrence

        @router(turn, emit=["again"])
        async def check(self, n: int) -> str | None:
            return "again" if n < 3 else None

    flow = Turning(persistence=storage)
    await flow.kickoff()

    assert flow.seen == [(n, attempt) for n in (1, 2, 3) for attempt in (1, 2)]


# ---- states ----------------------------------------------------------------------------------------------------


@pytest.mark.clauses("E4")
async def test_a_large_state_that_was_lent_to_a_failed_attempt_is_as_before(storage: Any) -> None:
    class Large(Flow[dict]):
        @start()
        async def fill(self) -> None:
            self.state["rows"] = [{"n": n, "text": "x" * 100} for n in range(5_000)]

        @listen(fill, retry=AT_ONCE)
        async def change(self) -> None:
            self.state["rows"][0]["text"] = f"changed {this_invocation().attempt}"
            self.state["rows"].append({"n": this_invocation().attempt})
            if this_invocation().attempt < 3:
                raise ValueError

    flow = Large(persistence=storage)
    await flow.kickoff()

    assert len(flow.state["rows"]) == 5_001
    assert flow.state["rows"][0]["text"] == "changed 3"
    if storage is not None:
        assert (await Large.load(flow.run_id, persistence=storage)).state == flow.state


@pytest.mark.clauses("R1")
async def test_siblings_continue_while_one_pauses_and_the_next_attempt_sees_what_they_stored(storage: Any) -> None:
    class Pair(Flow[Log]):
        @start(retry=Retry(initial=0.1, jitter=0))
        async def shaky(self) -> None:
            self.seen.append(list(self.state.done))
            if this_invocation().attempt == 1:
                raise ValueError

        @start()
        async def steady(self) -> None:
            self.state.done.append("steady")

        @listen(steady)
        async def more(self) -> None:
            self.state.done.append("more")

    flow = Pair(persistence=storage)
    flow.seen = []
    await flow.kickoff()

    assert flow.seen == [[], ["steady", "more"]]
    assert flow.status == "finished"


# ---- merge conflicts -------------------------------------------------------------------------------------------


class Race(Flow[Log]):
    """While `late` runs, `write` stores another value of the same field, `conflicts` times."""

    def __init__(self, conflicts: int, **options: Any) -> None:
        super().__init__(**options)
        self.conflicts = conflicts
        self.seen: list[tuple[int, int]] = []
        self.began = [anyio.Event() for _ in range(conflicts)]
        self.written = [anyio.Event() for _ in range(conflicts)]

    @start(retry=Retry(attempts=2, initial=0))
    async def late(self) -> None:
        turn = len(self.seen)
        self.seen.append((self.state.n, this_invocation().attempt))
        if turn < self.conflicts:
            self.began[turn].set()
            await self.written[turn].wait()
        self.state.n = 1_000 + turn

    @start()
    async def begin(self) -> None: ...

    @router(or_(begin, "more"), emit=["more"])
    async def write(self) -> str | None:
        turn = this_invocation().occurrence - 1
        if turn:
            self.written[turn - 1].set()  # this invocation began after the one before it was stored
        if turn == self.conflicts:
            return None
        await self.began[turn].wait()
        self.state.n += 1
        return "more"


class Uncovered(Race):
    @start(retry=Retry(initial=0, on=ValueError))
    async def late(self) -> None:
        await Race.late(self)


async def kinds_of_late(flow: Flow[Any]) -> list[str]:
    return [entry.kind for entry in await flow.history() if entry.method == "late:1"]


@pytest.mark.clauses("R5")
async def test_a_conflict_runs_the_method_again_on_the_newest_state_and_stores_nothing(storage: Any) -> None:
    flow = Race(4, persistence=storage)
    await flow.kickoff()

    assert flow.seen == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]
    assert flow.state.n == 1_004
    if storage is not None:
        assert await kinds_of_late(flow) in (["method"], ["finished"])


@pytest.mark.clauses("R5")
async def test_a_conflict_that_no_policy_covers_fails_the_method(storage: Any) -> None:
    flow = Uncovered(1, persistence=storage)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, errors.StateConflictError)
    assert flow.seen == [(0, 1)]


@pytest.mark.clauses("R5")
async def test_after_too_many_conflicts_in_a_row_one_counts_as_a_failed_attempt(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retries.CONFLICTS == 100
    monkeypatch.setattr(retries, "CONFLICTS", 2)
    flow = Race(5, persistence=store)
    with anyio.fail_after(30):
        await flow.kickoff()

    assert [attempt for _, attempt in flow.seen] == [1, 1, 1, 2, 2, 2]
    assert (await kinds_of_late(flow))[0] == "retrying"
    assert len(await kinds_of_late(flow)) == 2


# ---- failures --------------------------------------------------------------------------------------------------


def has_pauses(flow: Flow[Any]) -> bool:
    engine = flow._instance._engine
    return flow.status == "waiting" or (engine is not None and bool(engine._steps.pauses))


class Together(Flow[Log]):
    """`paused` waits for its second attempt, `broken` fails then."""

    name = "Together"

    def __init__(self, broken: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.broken_now = broken
        self.seen: list[str] = []

    @start(retry=LONG)
    async def paused(self) -> None:
        self.seen.append(f"paused {this_invocation().attempt}")
        if this_invocation().attempt == 1:
            raise ValueError("paused")

    @start()
    async def broken(self) -> None:
        self.seen.append("broken")
        if self.broken_now:
            while not has_pauses(self):  # noqa: ASYNC110 - no event to wait for
                await anyio.sleep(0.001)
            raise LookupError("broken")


class Cancelling(Together):
    on_error = "cancel"


@pytest.mark.clauses("R3")
@pytest.mark.parametrize("form", [Together, Cancelling])
async def test_once_a_method_has_failed_a_pause_ends_at_once_without_an_attempt(form: Any, storage: Any) -> None:
    flow = form(persistence=storage)
    with anyio.fail_after(60), pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert sorted(flow.seen) == ["broken", "paused 1"]
    assert [failure.method for failure in caught.value.failures] == ["broken"]
    assert (flow.status, set(flow.pending)) == ("failed", {"paused:1", "broken:1"})
    if storage is not None:
        assert (await form.load(flow.run_id, persistence=storage)).status == "failed"


@pytest.mark.clauses("R3")
async def test_a_pause_that_ends_while_a_failure_is_being_stored_starts_no_attempt(store: Any) -> None:
    class Near(Together):
        @start(retry=Retry(initial=0.05, jitter=0))
        async def paused(self) -> None:
            await Together.paused(self)

    flow = Near(persistence=FaultyPersistence(store, Delay(at=3, seconds=0.3)))
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert sorted(flow.seen) == ["broken", "paused 1"]
    assert (await Near.load(flow.run_id, persistence=store)).status == "failed"


@pytest.mark.clauses("R3")
async def test_an_attempt_that_fails_after_a_failure_is_stored_and_made_again_by_a_resume(store: Any) -> None:
    class Later(Together):
        @start(retry=AT_ONCE)
        async def paused(self) -> None:
            self.seen.append(f"paused {this_invocation().attempt}")
            if this_invocation().attempt == 1:
                while not self._instance._engine.journal.failures:  # noqa: ASYNC110 - no event to wait for
                    await anyio.sleep(0.001)
                raise ValueError("paused")

        @start()
        async def broken(self) -> None:
            if self.broken_now:
                raise LookupError("broken")

    flow = Later(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    again = Later(broken=False, persistence=store)
    await again.kickoff({"id": flow.run_id})

    assert [entry.kind for entry in await flow.history()][1:3] == ["failed", "retrying"]
    assert (flow.seen, again.seen) == (["paused 1"], ["paused 2"])


@pytest.mark.clauses("R4")
async def test_a_resume_grants_new_attempts_and_the_number_counts_on(store: Any) -> None:
    flow = Unsteady(9, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    second = Unsteady(9, persistence=store)
    with pytest.raises(MethodError) as caught:
        await second.kickoff({"id": flow.run_id})
    third = Unsteady(1, persistence=store)
    await third.kickoff({"id": flow.run_id})

    assert [info.attempt for info in second.seen] == [4, 5, 6]
    assert [attempt.number for attempt in caught.value.failures[0].attempts] == [4, 5, 6]
    assert [info.attempt for info in third.seen] == [7, 8, 1]
    assert {info.invocation_id for f in (flow, second, third) for info in f.seen[:2]} == {f"{flow.run_id}/1/call:1"}


# ---- what ends a pass during a pause ---------------------------------------------------------------------------


class Pausing(Flow[Log]):
    """Its method fails once, and then waits for two days."""

    name = "Pausing"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attempts: list[int] = []

    @start(retry=LONG)
    async def call(self) -> str:
        self.attempts.append(this_invocation().attempt)
        self.state.done.append("call")
        if this_invocation().attempt == 1:
            raise ValueError("no")
        return "called"


async def is_pausing(flow: Flow[Any]) -> None:
    with anyio.fail_after(60):
        while not has_pauses(flow):  # noqa: ASYNC110 - no event to wait for
            await anyio.sleep(0.001)


@pytest.mark.clauses("R2", "C1")
async def test_a_cancelled_pause_leaves_a_run_that_can_be_resumed(store: Any) -> None:
    flow = Pausing(persistence=store)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(flow.kickoff)
            await is_pausing(flow)
            group.cancel_scope.cancel()

    assert (flow.status in ("waiting", "interrupted"), flow.pending, flow.state.done) == (True, ("call:1",), [])
    assert len(await store.history(flow.run_id)) == 2


@pytest.mark.clauses("C4")
async def test_cancel_ends_a_pause_permanently(storage: Any) -> None:
    flow = Pausing(persistence=storage)

    async def kickoff() -> None:
        with pytest.raises(errors.RunCancelledError):
            await flow.kickoff()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(kickoff)
            await is_pausing(flow)
            await flow.cancel()

    assert (flow.status, flow.attempts) == ("cancelled", [1])
    if storage is not None:
        assert (await Pausing.load(flow.run_id, persistence=storage)).status == "cancelled"


async def test_a_runner_that_winds_down_does_not_wait_for_the_end_of_a_pause(store: Any) -> None:
    with anyio.fail_after(60):
        async with FlowRunner(store, grace=0, patience=30) as runner:
            handle = await runner.start(Pausing, run_id="p")
            while (stored := await store.load("p")) is None or stored.kind != "retrying":  # noqa: ASYNC110
                await anyio.sleep(0.001)
        with pytest.raises(errors.RunInterruptedError):
            await handle.result()

    assert (await Pausing.load("p", persistence=store)).status in ("waiting", "interrupted")


@pytest.mark.clauses("E1")
async def test_an_attempt_costs_one_commit_and_a_conflict_none() -> None:
    store = MemoryFlowPersistence()
    await Unsteady(0, persistence=store).kickoff({"id": "none"})
    await Unsteady(2, persistence=store).kickoff({"id": "two"})

    assert len(await store.history("two")) - len(await store.history("none")) == 2
