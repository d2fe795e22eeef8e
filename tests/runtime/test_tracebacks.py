"""What a run failed with can be read: here, later, and in another process; and a traceback shows the user's code."""

import copy
import os
import pickle
import subprocess
import sys
import traceback
from typing import Any

import anyio
import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    MemoryFlowPersistence,
    MethodError,
    SQLiteFlowPersistence,
    errors,
    listen,
    start,
)


def helper(key: str) -> str:
    return {"known": "value"}[key]


class Async(Flow[dict[str, Any]]):
    @start()
    async def fails(self) -> str:
        return helper("secret")


class Plain(Flow[dict[str, Any]]):
    @start()
    def fails(self) -> str:
        return helper("secret")


class Both(Flow[dict[str, Any]]):
    @start()
    async def here(self) -> None:
        helper("one")

    @start()
    def there(self) -> None:
        raise TimeoutError("too slow")


def functions(error: BaseException | None) -> list[str]:
    """The functions of an error's traceback, outermost first."""
    assert error is not None
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def failed(flow: Flow[Any]) -> MethodError:
    with pytest.raises(MethodError) as raised:
        await flow.kickoff()
    return raised.value


STORES = pytest.mark.parametrize("store", [lambda: SQLiteFlowPersistence("runs.db"), MemoryFlowPersistence])


@pytest.mark.found("T12")
@pytest.mark.parametrize("cls", [Async, Plain])
@pytest.mark.parametrize("store", [None, MemoryFlowPersistence])
async def test_the_traceback_of_a_methods_exception_begins_in_the_method(cls: Any, store: Any) -> None:
    error = await failed(cls(persistence=None if store is None else store()))

    assert functions(error.__cause__) == ["fails", "helper"]
    assert error.failures[0].traceback.count("File ") == 2
    assert len([name for name in functions(error) if name not in ("failed",)]) <= 2


@pytest.mark.found("T12")
async def test_all_frames_are_kept_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCFLOW_FULL_TRACEBACKS", "1")

    error = await failed(Async())

    assert functions(error.__cause__)[-2:] == ["fails", "helper"]
    assert "step" in functions(error.__cause__)
    assert "drive" in functions(error)


@pytest.mark.found("T12")
async def test_an_error_of_asyncflows_own_has_no_frames_of_the_engine() -> None:
    class Circling(Flow[dict[str, Any]]):
        max_method_calls = 0

        @start()
        async def begin(self) -> None: ...

    error = await failed(Circling())

    assert isinstance(error.__cause__, errors.LimitExceededError)
    assert functions(error.__cause__) == []


@pytest.mark.found("T12")
def test_a_program_that_fails_prints_its_own_code_and_no_other_exception() -> None:
    program = (
        "import asyncflow\n"
        "class F(asyncflow.Flow):\n"
        "    @asyncflow.start()\n"
        "    async def fails(self):\n"
        "        return {}['x']\n"
        "asyncflow.run(F())\n"
    )

    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    ).stderr

    assert told.count("  File ") <= 4
    assert "During handling" not in told
    assert "KeyError: 'x'" in told


@pytest.mark.found("T12")
async def test_the_result_of_a_handle_raises_without_the_engines_frames_each_time() -> None:
    async with FlowRunner(MemoryFlowPersistence(), flows=[Async]) as runner:
        handle = await runner.start(Async)
        seen = []
        for _ in range(3):
            with pytest.raises(MethodError) as raised:
                await handle.result()
            seen.append(functions(raised.value))

    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) <= 2


@pytest.mark.found("T4")
@STORES
async def test_a_loaded_run_shows_what_each_method_raised_and_where(store: Any) -> None:
    storage = store()
    flow = Both(persistence=storage)
    raised = await failed(flow)

    loaded = await Both.load(flow.run_id, persistence=storage)
    error = loaded.method_error

    assert isinstance(error, errors.MethodErrorGroup)
    assert [(f.method, f.invocation_id, f.type, f.message) for f in error.failures] == [
        (f.method, f.invocation_id, f.type, f.message) for f in raised.failures
    ]
    assert {f.type for f in error.failures} == {"builtins.KeyError", "builtins.TimeoutError"}
    assert [f.traceback for f in error.failures] == [f.traceback for f in raised.failures]
    assert "return {" in next(f.traceback for f in error.failures if f.method == "here")
    assert isinstance(error.__cause__, errors.RecordedException)
    printed = "".join(traceback.format_exception(error))
    assert all(f.traceback.rstrip().splitlines()[-1] in printed for f in raised.failures)
    assert error.failures[0].invocation_id == f"{flow.run_id}/1/{error.failures[0].method}:1"


@pytest.mark.found("T4")
async def test_a_run_that_resumes_no_longer_shows_its_earlier_failure() -> None:
    class Once(Flow[dict[str, Any]]):
        is_well = False

        @start()
        async def tried(self) -> int:
            if not Once.is_well:
                raise ValueError("not yet")
            return 1

    store = SQLiteFlowPersistence("runs.db")
    flow = Once(persistence=store)
    await failed(flow)
    loaded = await Once.load(flow.run_id, persistence=store)
    before = loaded.method_error
    Once.is_well = True
    await loaded.kickoff({"id": flow.run_id})

    assert before is not None
    assert before.failures[0].message == "not yet"
    assert loaded.method_error is None
    assert (await Once.load(flow.run_id, persistence=store)).method_error is None


@pytest.mark.found("T4")
async def test_the_history_and_a_runners_view_have_the_traceback() -> None:
    store = SQLiteFlowPersistence("runs.db")
    flow = Async(persistence=store)
    raised = (await failed(flow)).failures[0]

    entry = (await flow.history())[-1]
    async with FlowRunner(store) as runner:  # knows no flow
        handle = await runner.get(flow.run_id)
        view = await handle.snapshot()
        with pytest.raises(MethodError) as again:
            await handle.result()

    assert entry.traceback == raised.traceback
    assert view.error is not None
    assert (view.error.traceback, view.error.invocation_id) == (raised.traceback, raised.invocation_id)
    assert raised.traceback not in repr(view)
    assert raised.traceback not in repr(entry)
    assert again.value.failures[0].traceback == raised.traceback


@pytest.mark.found("T4")
async def test_a_rebuilt_error_can_be_pickled_and_copied() -> None:
    store = MemoryFlowPersistence()
    flow = Both(persistence=store)
    await failed(flow)
    error = (await Both.load(flow.run_id, persistence=store)).method_error
    assert error is not None

    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert [(f.method, f.type, f.traceback) for f in again.failures] == [
            (f.method, f.type, f.traceback) for f in error.failures
        ]


@pytest.mark.found("T4")
async def test_a_method_error_names_the_invocation_and_quotes_asyncflows_own_errors_alone() -> None:
    class Conflicting(Flow[dict[str, Any]]):
        @start()
        async def early(self) -> None:
            self.state["x"] = "secret value"

        @start()
        async def late(self) -> None:
            self.state["x"] = "another secret"
            await anyio.sleep(0.01)

    class Secret(Flow[dict[str, Any]]):
        @start()
        async def begin(self) -> None: ...

        @listen(begin)
        async def tells(self) -> None:
            raise ValueError("a secret value")

    conflict, secret = str(await failed(Conflicting())), str(await failed(Secret()))

    assert "Conflicting.late raised StateConflictError (late:1): Conflicting.late and early ran at the same" in conflict
    assert "Secret.tells raised ValueError (tells:1)" in secret
    assert "secret value" not in conflict + secret


@pytest.mark.found("T4")
async def test_a_failure_in_a_run_of_thousands_has_a_short_message() -> None:
    class Many(Flow[dict[str, Any]]):
        @start()
        async def begin(self) -> None: ...

    methods = {}
    for n in range(40):

        async def fails(self: Any, n: int = n) -> None:
            raise ValueError(n)

        fails.__name__ = f"m{n}"
        methods[f"m{n}"] = listen("begin")(fails)
    cls = type("ManyFail", (Many,), methods)
    store = SQLiteFlowPersistence("runs.db")
    flow = cls(persistence=store)

    error = await failed(flow)
    loaded = await cls.load(flow.run_id, persistence=store)

    assert "and 30 more raised" in str(error)
    assert len(error.failures) == 40
    assert loaded.method_error is not None
    assert len(loaded.method_error.failures) == 21


def test_a_run_from_synchronous_code_raises_what_it_raised_with_no_context() -> None:
    with pytest.raises(MethodError) as raised:
        asyncflow.run(Async())

    assert raised.value.__context__ is None or raised.value.__suppress_context__
    assert raised.value.__cause__ is not None
    assert raised.value.__cause__.__context__ is None
