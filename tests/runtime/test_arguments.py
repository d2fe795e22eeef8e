"""Arguments that a call does not take, as those who come from CrewAI write them: taken where they mean something, else explained."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest

import asyncflow
from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    SQLiteFlowPersistence,
    and_,
    errors,
    listen,
    persist,
    router,
    start,
)
from asyncflow.errors import ArgumentsError


class Counter(FlowState):
    counter: int = 0


class Count(Flow[Counter]):
    @start()
    async def count(self) -> int:
        self.state.counter += 1
        return self.state.counter


# ---- taken -----------------------------------------------------------------------------------------------------------


@pytest.mark.found("C4")
async def test_a_backend_is_taken_by_the_name_persistence() -> None:
    storage, other = MemoryFlowPersistence(), MemoryFlowPersistence()

    @persist(persistence=storage)
    class OnTheClass(Count): ...

    class OnAMethod(Flow[Counter]):
        @persist(persistence=other, verbose=True)
        @start()
        async def count(self) -> None: ...

    @persist(storage, True)
    class ByPlace(Count): ...

    for cls, where in ((OnTheClass, storage), (OnAMethod, other), (ByPlace, storage)):
        flow = cls()
        await flow.kickoff()
        assert await where.load(flow.run_id) is not None
        assert cls._persisted.is_verbose == (cls is not OnTheClass)


@pytest.mark.found("C4")
async def test_a_condition_is_taken_by_its_name() -> None:
    class ByName(Flow[dict]):
        @start(condition=None)
        async def a(self) -> None: ...

        @listen(condition=a)
        async def b(self) -> str:
            return "b"

        @router(condition=and_(a, b), emit=["go"])
        async def c(self) -> str:
            return "go"

        @start(condition="go")
        async def d(self) -> str:
            return "d"

    assert await ByName().kickoff() == "d"


@pytest.mark.found("C4")
async def test_a_sqlite_storage_has_a_default_place_and_takes_crewais_name_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SQLiteFlowPersistence().path.name == "asyncflow.db"
    assert SQLiteFlowPersistence(db_path="runs.db").path.name == "runs.db"
    monkeypatch.setenv("ASYNCFLOW_DB", "elsewhere.db")
    assert SQLiteFlowPersistence().path.name == "elsewhere.db"
    assert await Count(persistence=SQLiteFlowPersistence()).kickoff() == 1


# ---- explained -------------------------------------------------------------------------------------------------------


def decorated(make: Callable[[], Any]) -> Any:
    return make()(lambda self: None)


CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a field of the state": (lambda: Count(counter=5), "write kickoff({'counter': ...}) or initial_state={'counter': ...}"),
    "tracing": (lambda: Count(tracing=True), "tracing=, which has no counterpart here"),
    "a typo": (lambda: Count(presistence=None), "did you mean persistence=?"),
    "a storage by place": (lambda: Count(MemoryFlowPersistence()), "Count takes keywords only, such as persistence="),
    "what the constructor takes": (lambda: Count(x=1), "persistence=, initial_state=, name=, durability=, on_error=, max_method_calls="),
    "a condition by another name": (lambda: decorated(lambda: listen(method="a")), "@listen does not take method=; @listen takes"),
    "two conditions": (lambda: decorated(lambda: listen("a", "b")), "@listen takes one condition, such as or_(a, b) or and_(a, b)"),
    "two starts": (lambda: decorated(lambda: start("a", "b")), "@start takes one condition"),
    "labels of a listener": (lambda: decorated(lambda: start(emit=["a"])), "emit=, which belongs to @router"),
    "labels by another name": (lambda: decorated(lambda: router("a", emits=["a"])), "did you mean emit=?"),
    "two backends": (lambda: persist(MemoryFlowPersistence(), persistence=MemoryFlowPersistence()), "@persist takes one backend"),
    "a backend by another name": (lambda: persist(persistance=None), "did you mean persistence=?"),
    "a storage's two paths": (lambda: SQLiteFlowPersistence("a", db_path="b"), "SQLiteFlowPersistence takes one path"),
    "a storage's keyword": (lambda: SQLiteFlowPersistence(timeout=5), "does not take timeout=; SQLiteFlowPersistence takes path="),
}  # fmt: skip


@pytest.mark.found("C4")
@pytest.mark.parametrize(("call", "told"), CALLS.values(), ids=CALLS)
def test_what_a_call_does_not_take_is_explained(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ArgumentsError) as refused:
        call()

    assert told in str(refused.value)
    assert isinstance(refused.value, TypeError)
    assert pickle.loads(pickle.dumps(refused.value)).unknown == refused.value.unknown


AWAITED: dict[str, tuple[Callable[[str, Any], Any], str]] = {
    "kickoff with a field": (lambda run_id, store: Count().kickoff(counter=5), "write kickoff({'counter': ...})"),
    "kickoff_async": (lambda run_id, store: Count().kickoff_async(input={}), "did you mean inputs=?"),
    "kickoff with a storage": (lambda run_id, store: Count().kickoff(persistence=store), "persistence=, which belongs to the constructor"),
    "resume at a seq": (lambda run_id, store: Count.resume(run_id, persistence=store, seq=0), "seq=, which belongs to load and fork"),
    "load with a wait": (lambda run_id, store: Count.load(run_id, persistence=store, wait=1), "wait=, which belongs to kickoff and resume"),
    "fork with a field": (lambda run_id, store: Count.fork(run_id, persistence=store, counter=1), "if it is a field of the state"),
}  # fmt: skip


@pytest.mark.found("C4")
@pytest.mark.parametrize(("call", "told"), AWAITED.values(), ids=AWAITED)
async def test_what_a_call_of_a_run_does_not_take_is_explained(call: Callable[[str, Any], Any], told: str) -> None:
    storage = MemoryFlowPersistence()
    flow = Count(persistence=storage)
    await flow.kickoff()
    before = await storage.load(flow.run_id)
    with pytest.raises(ArgumentsError) as refused:
        await call(flow.run_id, storage)

    assert told in str(refused.value)
    assert await storage.load(flow.run_id) == before


@pytest.mark.found("C4")
def test_a_listener_without_a_condition_is_refused_and_the_error_asks_for_one() -> None:
    with pytest.raises(errors.FlowDefinitionError) as refused:

        class Idle(Flow[dict]):
            @start()
            async def a(self) -> None: ...

            @listen()
            async def b(self) -> None: ...

    assert refused.value.problems == (
        "b has no trigger; give @listen a condition: a method, a label, or_(...) or and_(...)",
    )
    assert asyncflow.run(Count()) == 1


# ---- what a flow says of itself --------------------------------------------------------------------------------------


@pytest.mark.found("A1")
async def test_a_flow_shows_its_class_its_run_and_its_status() -> None:
    flow = Count()
    assert repr(flow) == f"<Count {flow.run_id}: new>"
    await flow.kickoff({"id": "order-7"})
    assert repr(flow) == "<Count order-7: finished>"
    assert repr(Count(initial_state={"id": " "})).endswith(": new>")


@pytest.mark.found("A1")
def test_a_flow_whose_constructor_failed_can_still_be_shown() -> None:
    class Failing(Count):
        def __init__(self) -> None:
            shown.append(repr(self))

    shown: list[str] = []
    Failing()
    assert "Failing object at" in shown[0]


@pytest.mark.found("C6")
@pytest.mark.parametrize(
    ("key", "told"),
    [
        (-1, "Write method_outputs['method'], or flow.result"),
        ("cuont", "no method of this name has completed in this process; completed: count"),
    ],
)
async def test_method_outputs_says_what_it_is_where_a_key_is_missing(key: Any, told: str) -> None:
    storage = MemoryFlowPersistence()
    flow = Count(persistence=storage)
    assert dict(flow.method_outputs) == {}
    await flow.kickoff()
    for each in (flow, await Count.load(flow.run_id, persistence=storage)):
        assert each.method_outputs == {"count": 1}
        with pytest.raises(errors.NoOutputError) as missing:
            each.method_outputs[key]

        assert isinstance(missing.value, KeyError)
        assert told in str(missing.value)
        assert each.method_outputs.get(key) is None


@pytest.mark.found("C6")
@pytest.mark.parametrize("given", [lambda: Count().kickoff(), lambda: Count, lambda: None])
def test_run_takes_a_flow_and_nothing_else(given: Callable[[], Any]) -> None:
    with pytest.raises(
        ArgumentsError, match=r"takes an instance of a flow, and its inputs: asyncflow.run\(MyFlow\(\), inputs\)"
    ):
        asyncflow.run(given())


@pytest.mark.found("C4")
def test_keywords_of_a_class_are_explained() -> None:
    with pytest.raises(ArgumentsError, match="class Wrong does not take tracing=, which has no counterpart here"):

        class Wrong(Count, tracing=True): ...  # type: ignore[call-arg]
