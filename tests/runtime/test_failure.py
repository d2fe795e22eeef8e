"""Failure: recorded, raised as one error, and repaired by running again only what failed or never started."""

import pickle
import threading
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, SQLiteFlowPersistence, errors, listen, start
from asyncflow.persistence import Checkpoint
from asyncflow.testing.loops import pause, simulated
from asyncflow.testing.simulation import SimulatedStorage


class Work(FlowState):
    done: list[str] = []  # noqa: RUF012 - pydantic copies it


@pytest.fixture(params=["memory", "sqlite"])
def storage(request: pytest.FixtureRequest) -> Any:
    return MemoryFlowPersistence() if request.param == "memory" else SQLiteFlowPersistence("runs.db")


class Broken(Exception):
    """A user's own exception, with more than a message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> Any:
        return Broken, (self.args[0], self.code)


class Shaky(Flow[Work]):
    """`shaky` raises, while `steady` runs at the same time; `after` follows from `steady`, `later` from `shaky`."""

    def __init__(self, effects: list[str], *, mended: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects
        self.mended = mended
        self.raised = anyio.Event()
        self.error = Broken("it broke", 7)

    def note(self, name: str) -> None:
        self.effects.append(name)
        self.state.done.append(name)

    @start()
    async def shaky(self) -> str:
        self.note("shaky")
        if not self.mended:
            self.raised.set()
            raise self.error
        return "mended"

    @start()
    async def steady(self) -> str:
        if not self.mended:
            await self.raised.wait()
        self.note("steady")
        return "steady"

    @listen(steady)
    async def after(self, value: str) -> str:
        self.note("after")
        return value

    @listen(shaky)
    async def later(self, value: str) -> str:
        self.note("later")
        return value


@pytest.mark.clauses("X2")
async def test_an_exception_becomes_a_method_error_with_the_users_own_as_its_cause() -> None:
    flow = Shaky([])
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    error = caught.value
    assert error.__cause__ is flow.error
    assert flow.error.__cause__ is None
    assert (error.method, error.run_id) == ("shaky", flow.run_id)
    (failure,) = error.failures
    assert (failure.method, failure.exception) == ("shaky", flow.error)
    assert failure.invocation_id == f"{flow.run_id}/1/shaky:1"
    assert not isinstance(error, ExceptionGroup)
    assert flow.status == "failed"


@pytest.mark.clauses("X2")
async def test_siblings_that_run_finish_and_nothing_new_starts(storage: Any) -> None:
    effects: list[str] = []
    flow = Shaky(effects, persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert effects == ["shaky", "steady"]
    assert flow.state.done == ["steady"]
    assert (await Shaky.load(flow.run_id, effects=[], persistence=storage)).state.done == ["steady"]


@pytest.mark.clauses("X1")
async def test_a_failure_is_recorded_in_its_own_checkpoint(storage: Any) -> None:
    flow = Shaky([], persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()
    history = await flow.history()

    failed = [entry for entry in history if entry.kind == "failed"]
    assert [entry.method for entry in failed] == ["shaky:1"]
    assert "Broken: it broke" in failed[0].error
    assert failed[0].changed == {}
    assert [entry.seq for entry in history] == list(range(len(history)))
    assert (await Shaky.load(flow.run_id, effects=[], persistence=storage)).status == "failed"


@pytest.mark.clauses("X1")
async def test_the_recorded_failure_holds_type_message_and_traceback(storage: Any) -> None:
    flow = Shaky([], persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()
    (stored,) = [c for c in await storage.history(flow.run_id) if c.kind == "failed"]

    for part in (b"Broken", b"it broke", b"test_failure.py"):
        assert part in stored.outcome


@pytest.mark.clauses("X3", "E2")
async def test_resume_runs_only_what_failed_or_never_started(storage: Any) -> None:
    flow = Shaky([], persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()
    effects: list[str] = []
    await Shaky.resume(flow.run_id, effects=effects, mended=True, persistence=storage)
    resumed = await Shaky.load(flow.run_id, effects=[], persistence=storage)

    assert sorted(effects) == ["after", "later", "shaky"]
    assert sorted(resumed.state.done) == ["after", "later", "shaky", "steady"]
    assert resumed.status == "finished"


@pytest.mark.clauses("X3")
async def test_the_same_instance_resumes_after_a_failure(storage: Any) -> None:
    effects: list[str] = []
    flow = Shaky(effects, persistence=storage)
    with pytest.raises(MethodError):
        await flow.kickoff()
    del effects[:]
    flow.mended = True
    await flow.kickoff()

    assert sorted(effects) == ["after", "later", "shaky"]
    assert flow.status == "finished"


@pytest.mark.clauses("X3", "E1")
async def test_a_run_may_fail_again_and_again(storage: Any) -> None:
    flow = Shaky([], persistence=storage)
    for _ in range(3):
        with pytest.raises(MethodError):
            await flow.kickoff()
    await Shaky.resume(flow.run_id, effects=[], mended=True, persistence=storage)
    history = await flow.history()

    assert [entry.method for entry in history if entry.kind == "failed"] == ["shaky:1"] * 3
    completed = [entry.method for entry in history if entry.kind in ("method", "finished")]
    assert sorted(completed) == ["after:1", "later:1", "shaky:1", "steady:1"]


@pytest.mark.clauses("X1")
async def test_a_failing_plain_method_fails_like_any_other(storage: Any) -> None:
    class Plain(Flow[Work]):
        persistence = storage

        @start()
        def first(self) -> None:
            self.state.done.append("half")
            raise KeyError("gone")

    flow = Plain()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, KeyError)
    assert flow.state.done == []


class Item(BaseModel):
    sku: int
    amount: int = 0

    def __hash__(self) -> int:
        return hash(self.sku)


@pytest.mark.clauses("E4", "X1")
async def test_the_elements_of_a_set_are_a_drafts_own() -> None:
    class Items(FlowState):
        items: set[Item] = Field(default_factory=set)

    class Failing(Flow[Items]):
        name = "Failing"

        @start()
        async def first(self) -> None:
            self.state.items.add(Item(sku=1))

        @listen(first)
        async def bad(self) -> None:
            next(iter(self.state.items)).amount = 99
            raise ValueError

    flow = Failing()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert [item.amount for item in flow.state.items] == [0]


@pytest.mark.clauses("C1", "X4")
async def test_an_error_on_release_does_not_replace_the_one_that_ended_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Any, run_id: str, epoch: int) -> None:
        raise errors.StorageBusyError("busy")

    monkeypatch.setattr(SQLiteFlowPersistence, "release", fail)

    class Leaving(Flow):
        @start()
        async def leave(self) -> None:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        await Leaving(persistence=SQLiteFlowPersistence("runs.db")).kickoff()


@pytest.mark.clauses("X2")
async def test_siblings_that_end_together_with_a_failure_do_not_hide_it() -> None:
    class Failing(Flow):
        name = "Failing"
        on_error = "cancel"
        persistence = SQLiteFlowPersistence("runs.db", durability="process")

        @start()
        async def bad(self) -> None:
            await anyio.lowlevel.checkpoint()
            raise ValueError

        @start()
        async def a(self) -> None:
            await anyio.lowlevel.checkpoint()

        @start()
        async def b(self) -> None:
            await anyio.lowlevel.checkpoint()

        @start()
        async def c(self) -> None:
            await anyio.lowlevel.checkpoint()

    ended: list[str] = []

    async def kickoff() -> None:
        try:
            await Failing().kickoff()
        except Exception as error:
            ended.append(type(error).__name__)

    async with Failing.persistence, anyio.create_task_group() as group:
        for _ in range(60):
            group.start_soon(kickoff)

    assert ended == ["MethodError"] * 60


@pytest.mark.clauses("X1")
def test_a_failure_that_cancels_its_siblings_is_recorded() -> None:
    # a sibling's acknowledgement, on its way then, cancelled what was running: the record of the failure, too
    class Both(Flow[dict[str, int]]):
        on_error = "cancel"

        @start()
        async def well(self) -> None:
            await pause()
            self.state["n"] = 1

        @start()
        async def fails(self) -> None:
            await pause()
            raise ValueError

    class Queued(SimulatedStorage):
        """Stores one after the other, and after a pause: what is cancelled until then is withdrawn."""

        def __init__(self) -> None:
            super().__init__()
            self.turn = anyio.Lock()

        async def append(self, checkpoint: Any) -> None:
            async with self.turn:
                await pause()
                await super().append(checkpoint)

    async def kinds() -> list[str]:
        flow = Both(persistence=Queued())
        with pytest.raises(MethodError):
            await flow.kickoff()
        return [entry.kind for entry in await flow.history()]

    for seed in range(50):
        assert "failed" in simulated(kinds, seed=seed), seed


# ---- several failures ----------------------------------------------------------------------------------------------


class Both(Flow[Work]):
    """Two methods that raise, one after the other."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.raised = anyio.Event()

    @start()
    async def one(self) -> None:
        self.raised.set()
        raise ValueError("first")

    @start()
    async def two(self) -> None:
        await self.raised.wait()
        raise KeyError("second")


@pytest.mark.clauses("X2")
async def test_several_failures_are_one_method_error_and_one_group() -> None:
    with pytest.raises(MethodError) as caught:
        await Both().kickoff()

    error = caught.value
    assert isinstance(error, errors.MethodErrorGroup)
    assert isinstance(error, ExceptionGroup)
    assert [failure.method for failure in error.failures] == ["one", "two"]
    assert error.__cause__ is error.failures[0].exception
    assert error.exceptions == tuple(failure.exception for failure in error.failures)


@pytest.mark.clauses("X2")
async def test_except_star_picks_the_users_exceptions_out_of_the_group() -> None:
    values: list[BaseException] = []
    keys: list[BaseException] = []
    try:
        await Both().kickoff()
    except* ValueError as group:
        values.extend(group.exceptions)
    except* KeyError as group:
        keys.extend(group.exceptions)

    assert [str(error) for error in values] == ["first"]
    assert [error.args for error in keys] == [("second",)]


@pytest.mark.clauses("X2")
async def test_what_except_star_leaves_is_still_a_method_error() -> None:
    async def without_value_errors() -> None:
        try:
            await Both().kickoff()
        except* ValueError:
            pass

    with pytest.raises(MethodError) as caught:
        await without_value_errors()

    assert [failure.method for failure in caught.value.failures] == ["two"]


@pytest.mark.clauses("S5")
@pytest.mark.parametrize("flow_class", [Shaky, Both])
async def test_method_errors_pickle(flow_class: Any) -> None:
    flow = flow_class([]) if flow_class is Shaky else flow_class()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.run_id, copy.method) == (type(error), str(error), error.run_id, error.method)
    assert [failure.method for failure in copy.failures] == [failure.method for failure in error.failures]


# ---- on_error ------------------------------------------------------------------------------------------------------


class Cancelling(Flow[Work]):
    """`patient` would wait without limit; `shaky` raises."""

    on_error = "cancel"

    def __init__(self, effects: list[str], *, mended: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects
        self.mended = mended
        self.waiting = anyio.Event()

    @start()
    async def shaky(self) -> None:
        self.effects.append("shaky")
        if not self.mended:
            await self.waiting.wait()
            raise ValueError("broken")

    @start()
    async def patient(self) -> None:
        self.effects.append("patient")
        self.state.done.append("patient")
        if not self.mended:
            self.waiting.set()
            try:
                await anyio.sleep_forever()
            finally:
                self.effects.append("patient ended")


@pytest.mark.clauses("X2")
async def test_on_error_cancel_ends_the_siblings(storage: Any) -> None:
    effects: list[str] = []
    flow = Cancelling(effects, persistence=storage)
    with anyio.fail_after(120), pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert [failure.method for failure in caught.value.failures] == ["shaky"]
    assert effects[-1] == "patient ended"
    assert flow.state.done == []
    assert flow.status == "failed"


@pytest.mark.clauses("X3")
async def test_a_sibling_that_was_cancelled_runs_again_on_resume(storage: Any) -> None:
    flow = Cancelling([], persistence=storage)
    with anyio.fail_after(120), pytest.raises(MethodError):
        await flow.kickoff()
    effects: list[str] = []
    await Cancelling.resume(flow.run_id, effects=effects, mended=True, persistence=storage)
    resumed = await Cancelling.load(flow.run_id, effects=[], persistence=storage)

    assert sorted(effects) == ["patient", "shaky"]
    assert resumed.state.done == ["patient"]


async def test_on_error_is_a_constructor_keyword_too() -> None:
    effects: list[str] = []
    flow = Cancelling(effects, on_error="cancel")
    with anyio.fail_after(120), pytest.raises(MethodError):
        await flow.kickoff()

    assert "patient ended" in effects


def test_an_unknown_on_error_is_refused() -> None:
    with pytest.raises((errors.AsyncflowError, ValueError), match="on_error"):
        Shaky([], on_error="explode")


# ---- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.clauses("X4")
@pytest.mark.parametrize("crash", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_a_crash_leaves_as_itself_and_the_run_is_resumable(
    crash: type[BaseException], plain: bool, storage: Any
) -> None:
    effects: list[str] = []
    crashes = [crash]

    class Crashing(Flow[Work]):
        @start()
        async def first(self) -> None:
            effects.append("first")
            self.state.done.append("first")

        if plain:

            @listen(first)
            def second(self) -> None:
                self.go()
        else:

            @listen(first)
            async def second(self) -> None:
                self.go()

        def go(self) -> None:
            effects.append("second")
            self.state.done.append("second")
            if crashes:
                raise crashes.pop()

        @listen(second)
        async def third(self) -> None:
            effects.append("third")

    flow = Crashing(persistence=storage)
    with pytest.raises(crash) as caught:
        await flow.kickoff()
    kinds = [entry.kind for entry in await flow.history()]
    status = flow.status
    await Crashing.resume(flow.run_id, persistence=storage)
    resumed = await Crashing.load(flow.run_id, persistence=storage)

    assert type(caught.value) is crash
    assert kinds == ["started", "method"]
    assert status == "interrupted"
    assert effects == ["first", "second", "second", "third"]
    assert resumed.state.done == ["first", "second"]


@pytest.mark.clauses("X4")
async def test_a_crash_ends_the_siblings(storage: Any) -> None:
    ended: list[str] = []
    waiting = anyio.Event()

    class Crashing(Flow[Work]):
        persistence = storage

        @start()
        async def patient(self) -> None:
            waiting.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("patient")

        @start()
        async def second(self) -> None:
            await waiting.wait()
            raise KeyboardInterrupt

    with anyio.fail_after(120), pytest.raises(KeyboardInterrupt):
        await Crashing().kickoff()

    assert ended == ["patient"]


# ---- a storage that fails ------------------------------------------------------------------------------------------


class Failing:
    """A backend of two verbs that keeps its runs in memory, and fails at one of its saves."""

    def __init__(self, at: int, error: Exception) -> None:
        self.kept = MemoryFlowPersistence()
        self.at = at
        self.error = error
        self.saves = 0

    async def save(self, checkpoint: Checkpoint) -> None:
        self.saves += 1
        if self.saves == self.at:
            raise self.error
        await self.kept.save(checkpoint)

    async def load(self, run_id: str, seq: int | None = None) -> Checkpoint | None:
        return await self.kept.load(run_id, seq)


class Steps(Flow[Work]):
    effects: list[str]

    def __init__(self, effects: list[str], **options: Any) -> None:
        super().__init__(**options)
        self.effects = effects

    @start()
    async def first(self) -> None:
        self.note("first")

    @listen(first)
    async def second(self) -> None:
        self.note("second")

    @listen(second)
    def third(self) -> str:
        self.note("third")
        return "end"

    def note(self, name: str) -> None:
        self.effects.append(name)
        self.state.done.append(name)


@pytest.mark.clauses("D1", "D2")
@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "error", [errors.StorageWriteError("the disk is full", outcome="not saved"), OSError("no route to the storage")]
)
async def test_a_save_that_fails_stops_the_run_and_nothing_follows(at: int, error: Exception) -> None:
    effects: list[str] = []
    storage = Failing(at, error)
    flow = Steps(effects, persistence=storage)
    with pytest.raises(type(error)) as caught:
        await flow.kickoff()

    assert caught.value is error
    assert effects == ["first", "second", "third"][: at - 1]
    assert flow.state.done == effects[:-1]


@pytest.mark.clauses("E2", "E3")
@pytest.mark.parametrize("at", [2, 3, 4])
async def test_a_run_whose_save_failed_resumes_once_the_storage_works_again(at: int) -> None:
    storage = Failing(at, errors.StorageWriteError("the disk is full"))
    effects: list[str] = []
    flow = Steps(effects, persistence=storage)
    with pytest.raises(errors.StorageWriteError):
        await flow.kickoff()
    output = await Steps.resume(flow.run_id, effects=effects, persistence=storage)
    resumed = await Steps.load(flow.run_id, effects=[], persistence=storage)

    assert output == "end"
    twice = ["first", "second", "third"][at - 2]
    assert {name: effects.count(name) for name in effects} == {"first": 1, "second": 1, "third": 1} | {twice: 2}
    assert resumed.state.done == ["first", "second", "third"]


@pytest.mark.clauses("D1")
async def test_a_save_that_fails_ends_the_siblings() -> None:
    waiting, ended = anyio.Event(), []

    class Pair(Flow[Work]):
        @start()
        async def patient(self) -> None:
            waiting.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append("patient")

        @start()
        async def quick(self) -> None:
            await waiting.wait()

    with anyio.fail_after(120), pytest.raises(OSError, match="no route"):
        await Pair(persistence=Failing(2, OSError("no route"))).kickoff()

    assert ended == ["patient"]


# ---- odd exceptions ------------------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


@pytest.mark.clauses("X1", "X2")
@pytest.mark.parametrize(
    "error",
    [
        Mute(),
        ValueError("a lone surrogate \ud800"),
        ExceptionGroup("many", [ValueError(1)]),
        StopIteration(1),
        OSError(5, "io"),
    ],
    ids=["no text", "surrogate", "group", "StopIteration", "OSError"],
)
@pytest.mark.parametrize("plain", [False, True], ids=["async", "plain"])
async def test_whatever_a_method_raises_is_recorded_and_reported(error: Exception, plain: bool, storage: Any) -> None:
    class Raising(Flow[Work]):
        persistence = storage

        if plain:

            @start()
            def first(self) -> None:
                raise error
        else:

            @start()
            async def first(self) -> None:
                raise error

    flow = Raising()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    if not isinstance(error, StopIteration):  # which no coroutine can raise: Python makes it a RuntimeError
        assert caught.value.__cause__ is error
    assert [entry.kind for entry in await flow.history()] == ["started", "failed"]


@pytest.mark.clauses("X1")
async def test_a_timeout_within_a_method_is_its_own_failure(storage: Any) -> None:
    class Slow(Flow[Work]):
        persistence = storage

        @start()
        async def first(self) -> None:
            with anyio.fail_after(0):
                await anyio.sleep_forever()

    with pytest.raises(MethodError) as caught:
        await Slow().kickoff()

    assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.clauses("X2")
async def test_a_failure_in_a_thread_next_to_others_lets_them_finish(storage: Any) -> None:
    raised = threading.Event()

    class Threads(Flow[Work]):
        persistence = storage

        @start()
        def bad(self) -> None:
            raised.set()
            raise ValueError

        @start()
        def good(self) -> None:
            raised.wait(5)
            self.state.done.append("good")

    flow = Threads()
    with pytest.raises(MethodError):
        await flow.kickoff()

    assert flow.state.done == ["good"]
