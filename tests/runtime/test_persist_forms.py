"""Every form of `@persist`, where a flow is stored, and how a storage opens and closes by itself."""

import asyncio
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from here import Here

import asyncflow
from asyncflow import (
    Flow,
    FlowRunner,
    FlowState,
    MemoryFlowPersistence,
    SQLiteFlowPersistence,
    errors,
    listen,
    persist,
    router,
    start,
)
from asyncflow.persistence import Checkpoint


class Work(FlowState):
    count: int = 0


async def stored(flow: Flow[Any], backend: Any) -> list[str]:
    """The methods that have a checkpoint in this backend."""
    rows = await backend.history(flow.run_id)
    return [row.method.split(":")[0] for row in rows if row.method]


# ---- the forms -----------------------------------------------------------------------------------------------------

CLASS_FORMS: dict[str, Callable[[Any], Callable[[type], type]]] = {
    "@persist": lambda backend: persist,
    "@persist()": lambda backend: persist(),
    "@persist(backend)": lambda backend: persist(backend),
    "@persist(backend, verbose=True)": lambda backend: persist(backend, verbose=True),
    "@persist(verbose=True)": lambda backend: persist(verbose=True),
}


@pytest.mark.parametrize("form", CLASS_FORMS)
async def test_a_class_with_persist_stores_every_method(form: str) -> None:
    backend = SQLiteFlowPersistence("asyncflow.db")

    @CLASS_FORMS[form](backend)
    class Two(Flow[Work]):
        @start()
        async def first(self) -> None:
            self.state.count = 1

        @listen(first)
        def second(self) -> None:
            self.state.count += 1

    flow = Two()
    await flow.kickoff()

    assert isinstance(Two, type)
    assert await stored(flow, backend) == ["first", "second"]
    assert (await Two.load(flow.run_id)).state.count == 2


@pytest.mark.parametrize("above", [True, False], ids=["above", "below"])
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "async"])
@pytest.mark.parametrize("form", CLASS_FORMS)
async def test_a_method_with_persist_is_stored_in_any_decorator_order(form: str, above: bool, plain: bool) -> None:
    backend = SQLiteFlowPersistence("asyncflow.db")
    form_of = CLASS_FORMS[form](backend)

    def decorated(mark: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return (lambda f: form_of(mark(f))) if above else (lambda f: mark(form_of(f)))

    class Three(Flow[Work]):
        @start()
        async def first(self) -> None:
            self.state.count = 1

        if plain:

            @decorated(listen(first))
            def second(self) -> str:
                self.state.count += 1
                return "go"
        else:

            @decorated(listen(first))
            async def second(self) -> str:
                self.state.count += 1
                return "go"

        @decorated(router(second))
        async def third(self, value: str) -> str:
            return value

        @listen("go")
        async def fourth(self) -> None: ...

        @listen(fourth)
        async def fifth(self) -> None: ...

    flow = Three()
    await flow.kickoff()

    assert (await stored(flow, backend))[:2] == ["second", "third"]
    assert "fourth" not in await stored(flow, backend)
    assert flow.state.count == 2


@pytest.mark.parametrize("order", ["persist above", "persist below", "persist between"])
async def test_persist_goes_with_a_stacked_router(order: str) -> None:
    backend = MemoryFlowPersistence()
    keep = persist(backend)
    marks = {
        "persist above": [keep, start(), router(emit=["go"])],
        "persist below": [start(), router(emit=["go"]), keep],
        "persist between": [start(), keep, router(emit=["go"])],
    }[order]

    def stacked(function: Any) -> Any:
        for mark in reversed(marks):
            function = mark(function)
        return function

    class Routed(Flow[Work]):
        @stacked
        async def first(self) -> str:
            return "go"

        @listen("go")
        async def second(self) -> str:
            return "went"

    flow = Routed()

    assert await flow.kickoff() == "went"
    assert "first" in await stored(flow, backend)


async def test_a_persistent_class_may_have_persistent_methods_too() -> None:
    backend = MemoryFlowPersistence()

    @persist(backend)
    class Both(Flow[Work]):
        @persist
        @start()
        async def first(self) -> None: ...

        @listen(first)
        async def second(self) -> None: ...

    flow = Both()
    await flow.kickoff()

    assert await stored(flow, backend) == ["first", "second"]


async def test_a_subclass_of_a_persistent_flow_is_persistent() -> None:
    backend = MemoryFlowPersistence()

    @persist(backend)
    class Base(Flow[Work]):
        @start()
        async def first(self) -> None: ...

    class Derived(Base):
        @listen(Base.first)
        async def second(self) -> None: ...

    flow = Derived()
    await flow.kickoff()

    assert await stored(flow, backend) == ["first", "second"]


async def test_a_persist_on_a_subclass_does_not_reach_its_base() -> None:
    class Base(Flow[Work]):
        @start()
        async def first(self) -> None: ...

    @persist
    class Derived(Base): ...

    await Base().kickoff()
    before = os.listdir()
    await Derived().kickoff()

    assert before == []
    assert os.listdir() == ["asyncflow.db"]


async def test_an_overriding_method_keeps_its_persist() -> None:
    backend = MemoryFlowPersistence()

    class Base(Flow[Work]):
        @persist(backend)
        @start()
        async def first(self) -> None: ...

        @listen(first)
        async def second(self) -> None: ...

        @listen(second)
        async def third(self) -> None: ...

    class Derived(Base):
        async def first(self) -> None:
            self.state.count = 5

    flow = Derived()
    await flow.kickoff()

    assert (await stored(flow, backend))[0] == "first"
    assert flow.state.count == 5


def test_a_persisted_class_keeps_its_name_and_docstring() -> None:
    @persist
    class Documented(Flow[Work]):
        """What it does."""

        @persist
        @start()
        def first(self) -> None:
            """Begin."""

    assert (Documented.__name__, Documented.__doc__) == ("Documented", "What it does.")
    assert (Documented.first.__name__, Documented.first.__doc__) == ("first", "Begin.")


def test_persist_on_something_else_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="flow class or a method"):
        persist(dict)


def test_a_backend_class_instead_of_an_object_is_reported() -> None:
    with pytest.raises(TypeError, match="as an object"):
        persist(SQLiteFlowPersistence)


def test_a_method_with_persist_alone_is_a_class_error() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="helper"):

        class Lost(Flow[Work]):
            @start()
            async def first(self) -> None: ...

            @persist
            async def helper(self) -> None: ...


# ---- where a flow is stored ----------------------------------------------------------------------------------------


class One(Flow[Work]):
    @start()
    async def first(self) -> None:
        self.state.count += 1


async def places(flow_class: Any, tried: dict[str, Any], **options: Any) -> list[str]:
    """In which of these backends a run of the class is stored."""
    flow = flow_class(**options)
    await flow.kickoff()
    return [name for name, backend in tried.items() if await backend.load(flow.run_id) is not None]


async def test_the_constructor_comes_before_the_class_before_persist_before_the_default() -> None:
    tried: dict[str, Any] = {name: MemoryFlowPersistence() for name in ("constructor", "class", "persist")}
    tried["default"] = SQLiteFlowPersistence("asyncflow.db")

    @persist(tried["persist"])
    class Marked(One): ...

    class WithBoth(Marked):
        persistence = tried["class"]

    @persist
    class Bare(One): ...

    assert await places(WithBoth, tried, persistence=tried["constructor"]) == ["constructor"]
    assert await places(Bare, tried, persistence=tried["constructor"]) == ["constructor"]
    assert await places(WithBoth, tried) == ["class"]
    assert await places(Marked, tried) == ["persist"]
    assert await places(Bare, tried) == ["default"]


async def test_the_default_is_read_from_the_environment_at_the_first_kickoff(monkeypatch: pytest.MonkeyPatch) -> None:
    @persist
    class Bare(One): ...

    flow = Bare()
    os.mkdir("elsewhere")
    monkeypatch.setenv("ASYNCFLOW_DB", "elsewhere/runs.db")
    await flow.kickoff()

    assert os.listdir() == ["elsewhere"]
    assert os.listdir("elsewhere") == ["runs.db"]


async def test_without_persist_nothing_is_stored() -> None:
    flow = One()
    await flow.kickoff()

    assert os.listdir() == []
    with pytest.raises(errors.CapabilityMissingError):
        await flow.history()


@pytest.mark.parametrize("where", ["constructor", "class"])
async def test_persistence_on_a_class_without_persist_stores_every_method(where: str) -> None:
    backend = MemoryFlowPersistence()

    class Plain(Flow[Work]):
        if where == "class":
            persistence = backend

        @start()
        async def first(self) -> None: ...

        @listen(first)
        async def second(self) -> None: ...

    flow = Plain() if where == "class" else Plain(persistence=backend)
    await flow.kickoff()

    assert await stored(flow, backend) == ["first", "second"]


@pytest.mark.parametrize("where", ["constructor", "class"])
async def test_persistence_none_switches_it_off(where: str) -> None:
    @persist(MemoryFlowPersistence())
    class Kept(One): ...

    class Off(Kept):
        persistence = None

    flow = Off() if where == "class" else Kept(persistence=None)
    await flow.kickoff()

    assert flow.state.count == 1
    with pytest.raises(errors.CapabilityMissingError):
        await flow.history()


def test_two_different_backends_in_one_class_are_a_class_error() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="two different backends"):

        class Methods(Flow[Work]):
            @persist(MemoryFlowPersistence())
            @start()
            async def first(self) -> None: ...

            @persist(MemoryFlowPersistence())
            @listen(first)
            async def second(self) -> None: ...

    class Marked(Flow[Work]):
        @persist(MemoryFlowPersistence())
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="two different backends"):
        persist(MemoryFlowPersistence())(Marked)


async def test_the_same_backend_twice_is_no_error() -> None:
    backend = MemoryFlowPersistence()

    @persist(backend)
    class Twice(Flow[Work]):
        @persist(backend)
        @start()
        async def first(self) -> None: ...

    flow = Twice()
    await flow.kickoff()

    assert await stored(flow, backend) == ["first"]


@pytest.mark.parametrize("nothing", [object(), "runs.db", 3])
async def test_what_is_no_backend_is_refused_with_the_cure(nothing: Any) -> None:
    with pytest.raises((errors.FlowDefinitionError, TypeError), match="save"):
        await One(persistence=nothing).kickoff()


# ---- what it says --------------------------------------------------------------------------------------------------


async def test_verbose_logs_what_happens_at_info(caplog: pytest.LogCaptureFixture) -> None:
    @persist(MemoryFlowPersistence(), verbose=True)
    class Loud(One): ...

    flow = Loud()
    with caplog.at_level(logging.INFO, logger="asyncflow"):
        await flow.kickoff()

    text = caplog.text
    assert {record.name for record in caplog.records} == {"asyncflow"}
    assert {record.levelname for record in caplog.records} == {"INFO"}
    for word in ("RunStarted", "MethodFinished", "first:1", "RunFinished", flow.run_id):
        assert word in text


async def test_without_verbose_no_event_is_logged_or_printed(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    @persist(MemoryFlowPersistence())
    class Quiet(One): ...

    with caplog.at_level(logging.DEBUG, logger="asyncflow"):
        await Quiet().kickoff()

    assert [record.msg for record in caplog.records if record.msg.startswith("run event")] == []
    assert capsys.readouterr().out == ""


async def test_the_log_holds_no_state_values(caplog: pytest.LogCaptureFixture) -> None:
    @persist(MemoryFlowPersistence(), verbose=True)
    class Secret(Flow[dict]):
        @start()
        async def first(self) -> str:
            self.state["password"] = "hunter2"
            return "hunter2"

    with caplog.at_level(logging.INFO, logger="asyncflow"):
        await Secret().kickoff({"token": "t0ken"})

    assert "hunter2" not in caplog.text
    assert "t0ken" not in caplog.text


# ---- opening and closing -------------------------------------------------------------------------------------------


def test_making_a_persistence_and_a_flow_does_no_io() -> None:
    threads = threading.enumerate()
    SQLiteFlowPersistence("folder/runs.db")

    @persist
    class Bare(One): ...

    @persist(SQLiteFlowPersistence("other.db"))
    class Marked(One): ...

    Bare()
    Marked()

    assert os.listdir() == []
    assert threading.enumerate() == threads


async def test_after_a_kickoff_nothing_is_left_open() -> None:
    threads = set(threading.enumerate())
    backend = SQLiteFlowPersistence("runs.db")
    await One(persistence=backend).kickoff()
    new = [thread for thread in set(threading.enumerate()) - threads if "sqlite" in repr(thread).lower()]

    assert sorted(os.listdir()) == ["runs.db"]
    assert new == []


async def test_entered_with_async_with_it_belongs_to_the_caller_that_entered_it() -> None:
    backend = SQLiteFlowPersistence("runs.db")
    async with backend:
        await One(persistence=backend).kickoff()
        during = sorted(os.listdir())
        await One(persistence=backend).kickoff()
    after = sorted(os.listdir())

    assert "runs.db-wal" in during
    assert after == ["runs.db"]


async def test_concurrent_kickoffs_share_one_opening() -> None:
    backend = SQLiteFlowPersistence("runs.db")
    flows = [One(persistence=backend) for _ in range(20)]
    async with anyio.create_task_group() as group:
        for flow in flows:
            group.start_soon(flow.kickoff)

    assert {flow.status for flow in flows} == {"finished"}
    assert os.listdir() == ["runs.db"]


@pytest.mark.parametrize("backend", [None, Here("runs.db")], ids=["default", "named"])
def test_two_event_loops_one_after_the_other_share_a_persistence(backend: Any, anyio_backend: Any) -> None:
    @persist(backend)
    class Bare(One): ...

    name, options = anyio_backend
    flow = Bare()
    anyio.run(flow.kickoff, backend=name, backend_options=options)
    anyio.run(flow.kickoff, backend=name, backend_options=options)
    asyncio.run(flow.kickoff())

    assert flow.state.count == 3


def test_the_default_storage_serves_two_loops_in_two_threads() -> None:
    @persist
    class Bare(One): ...

    flows = [Bare() for _ in range(4)]
    threads = [threading.Thread(target=asyncflow.run, args=(flow,)) for flow in flows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [flow.status for flow in flows] == ["finished"] * 4


def test_a_persistence_that_failed_to_open_can_be_used_later() -> None:
    os.mkdir("runs.db")
    backend = SQLiteFlowPersistence("runs.db")
    with pytest.raises(errors.StorageNotFoundError):
        asyncflow.run(One(persistence=backend))
    os.rmdir("runs.db")
    flow = One(persistence=backend)
    asyncflow.run(flow)

    assert flow.status == "finished"


BARE = """
import asyncflow, sys
from asyncflow import Flow, listen, persist, start

@persist
class Bare(Flow):
    @start()
    def first(self):
        self.state["runs"] = self.state.get("runs", 0) + 1

    @listen(first)
    async def second(self):
        return self.state["runs"]

flow = Bare()
{run}
print(flow.run_id, flow.state["runs"], sorted(m for m in ("aiosqlite", "trio") if m in sys.modules))
"""

RUNS = {
    "asyncio": "import asyncio; asyncio.run(flow.kickoff()); asyncio.run(flow.kickoff())",
    "run": "asyncflow.run(flow); asyncflow.run(flow)",
    "trio": "import trio; trio.run(flow.kickoff); trio.run(flow.kickoff)",
}


@pytest.mark.parametrize("way", RUNS)
def test_a_bare_script_exits_by_itself(way: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", BARE.format(run=RUNS[way])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)

    slow = "Executing <"  # asyncio's own report, in debug mode, of a callback that a busy machine held up
    assert [line for line in ended.stderr.splitlines() if not line.startswith(slow)] == []
    assert ended.returncode == 0
    assert ended.stdout.split()[1] == "2"
    assert os.listdir() == ["asyncflow.db"]


def test_a_script_that_fails_exits_by_itself_too() -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(asyncflow.__file__).parents[1])}
    program = BARE.format(run="asyncflow.run(flow)").replace(
        "return self.state", "raise SystemExit(3); return self.state"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=env)

    assert ended.returncode == 3


def test_flow_classes_and_errors_pickle() -> None:
    error = errors.RunLockedError("locked", run_id="x", owner="y")
    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.run_id, copy.owner) == ("locked", "x", "y")
    assert pickle.loads(pickle.dumps(One)) is One


# ---- what is no backend ----------------------------------------------------------------------------------------------


class Plain:
    def save(self, checkpoint: Any) -> None: ...
    async def load(self, run_id: str, seq: int | None = None) -> None: ...


class PlainWithoutAnnotations:
    def save(self, checkpoint):
        self.kept = checkpoint

    def load(self, run_id, seq=None):
        return None


class PlainLoad:
    async def save(self, checkpoint: Any) -> None: ...
    def load(self, run_id: str, seq: int | None = None) -> "Checkpoint | None": ...


class OfCrewAI:
    def save_state(self, flow_uuid: str, method_name: str, state_data: dict[str, Any]) -> None: ...
    def load_state(self, flow_uuid: str) -> None: ...


NO_BACKENDS: dict[str, tuple[Any, str]] = {
    "a text": ("runs.db", "str does not implement FlowPersistence: it needs `async def save"),
    "a class": (MemoryFlowPersistence, "MemoryFlowPersistence is a class; pass an instance: MemoryFlowPersistence"),
    "a plain save": (Plain(), "save of Plain must be `async def`"),
    "plain methods": (PlainWithoutAnnotations(), "save and load of PlainWithoutAnnotations must be `async def`"),
    "a plain load": (PlainLoad(), "load of PlainLoad must be `async def`"),
    "one of CrewAI": (OfCrewAI(), "examples/crewai_backend.py has an adapter"),
}  # fmt: skip


@pytest.mark.found("C5", "T9")
@pytest.mark.parametrize(("backend", "told"), NO_BACKENDS.values(), ids=NO_BACKENDS)
def test_what_is_no_backend_is_refused_before_it_is_used(backend: Any, told: str) -> None:
    class ByAttribute(Flow[dict]):
        persistence = backend

        @start()
        async def a(self) -> None: ...

    class ByKeyword(Flow[dict]):
        @start()
        async def a(self) -> None: ...

    def by_decorator() -> None:
        @persist(persistence=backend)
        class ByDecorator(ByKeyword): ...

    ways = (ByAttribute, lambda: ByKeyword(persistence=backend), lambda: FlowRunner(backend), by_decorator)
    for way in ways:
        with pytest.raises(errors.FlowDefinitionError) as refused:
            way()
        assert told in str(refused.value)


@pytest.mark.found("T9")
async def test_a_plain_method_that_returns_what_can_be_awaited_is_taken() -> None:
    inner = MemoryFlowPersistence()

    class Passing:
        def save(self, checkpoint):
            return inner.save(checkpoint)

        def load(self, run_id, seq=None):
            return inner.load(run_id, seq)

    class One(Flow[dict]):
        @start()
        async def a(self) -> str:
            return "a"

    flow = One(persistence=Passing())
    assert await flow.kickoff() == "a"
    assert await One.resume(flow.run_id, persistence=Passing()) == "a"


@pytest.mark.found("T9")
async def test_a_load_that_returns_no_checkpoint_is_an_error_that_says_what_to_return() -> None:
    class Bytes:
        async def save(self, checkpoint: Any) -> None:
            """Keep nothing."""

        async def load(self, run_id: str, seq: int | None = None) -> Any:
            return b"{}"

    class One(Flow[dict]):
        @start()
        async def a(self) -> None: ...

    with pytest.raises(
        errors.StorageError, match=r"load of Bytes returned a bytes; it must return a Checkpoint, or None"
    ):
        await One.resume("x", persistence=Bytes())


@pytest.mark.found("T9")
@pytest.mark.parametrize("verb", ["save", "load"])
async def test_a_plain_method_found_only_when_called_is_reported_before_a_method_runs(verb: str) -> None:
    inner, ran = MemoryFlowPersistence(), []

    class Passing:
        def save(self, checkpoint):
            return inner.save(checkpoint) if verb != "save" else len(ran)

        def load(self, run_id, seq=None):
            return inner.load(run_id, seq) if verb != "load" else ran or None

    class One(Flow[dict]):
        @start()
        async def a(self) -> None:
            ran.append("a")

    with pytest.raises(errors.FlowDefinitionError, match=f"{verb} of Passing must be `async def`"):
        await One(persistence=Passing()).kickoff({"id": "x"})
    assert ran == []


def test_a_path_in_the_place_of_a_backend_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(errors.FlowDefinitionError, match="SQLiteFlowPersistence"):

        @persist("runs.db")
        class Stored(Flow):
            @start()
            def first(self) -> None: ...
