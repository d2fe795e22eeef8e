"""An instance: its initial state, its inputs, and what it shows from outside."""

import pickle
import uuid
from typing import Any

import anyio
import pytest
from small import Counter

import asyncflow
from asyncflow import Flow, FlowState, MemoryFlowPersistence, errors, listen, start


class Named(FlowState):
    name: str
    size: int = 1


async def test_kickoff_async_is_the_same_coroutine() -> None:
    class One(Flow[Counter]):
        @start()
        async def first(self) -> int:
            return self.state.count

    assert await One().kickoff_async({"count": 5}) == 5
    assert await One().kickoff_async(inputs={"count": 6}) == 6


async def test_a_subclass_may_set_state_and_attributes_in_its_init() -> None:
    class Own(Flow[Counter]):
        def __init__(self, step: int) -> None:
            super().__init__()
            self.step = step
            self.state.count = 10

        @start()
        async def first(self) -> None:
            self.state.count += self.step

    flow = Own(5)
    await flow.kickoff()

    assert flow.state.count == 15


async def test_a_subclass_that_forgets_super_init_gets_an_error_that_says_so() -> None:
    class Forgetful(Flow[Counter]):
        def __init__(self) -> None:
            self.state.count = 10

        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="super"):
        Forgetful()


class Show(Flow[Named]):
    @start()
    async def first(self) -> tuple[str, int]:
        self.state.size += 1
        return self.state.name, self.state.size


PRESET = Named(name="preset", size=3)
AS_DICT = {"name": "dict", "size": 4}


@pytest.mark.parametrize(
    ("initial", "expected"), [(PRESET, ("preset", 4)), (AS_DICT, ("dict", 5))], ids=["instance", "dict"]
)
@pytest.mark.parametrize("where", ["constructor", "class attribute"])
async def test_an_initial_state_is_copied_never_shared(initial: Any, expected: Any, where: str) -> None:
    class Attribute(Show):
        initial_state = initial

    make = Attribute if where == "class attribute" else (lambda: Show(initial_state=initial))
    one, two = make(), make()
    outputs = [await one.kickoff(), await two.kickoff()]

    assert outputs == [expected, expected]
    assert one.run_id != two.run_id
    assert (PRESET.size, AS_DICT["size"]) == (3, 4)


async def test_an_initial_state_may_be_the_model_class() -> None:
    class ByClass(Flow):
        initial_state = Counter

        @start()
        async def first(self) -> None:
            self.state.count += 1

    flow = ByClass()
    await flow.kickoff()

    assert isinstance(flow.state, Counter)
    assert flow.state.count == 1


async def test_a_nested_dict_of_the_initial_state_is_not_shared() -> None:
    class Nested(Flow[dict]):
        initial_state = {"inner": {"seen": []}}  # noqa: RUF012 - what users write

        @start()
        async def first(self) -> list[int]:
            self.state["inner"]["seen"].append(1)
            return self.state["inner"]["seen"]

    assert await Nested().kickoff() == [1]
    assert await Nested().kickoff() == [1]


@pytest.mark.parametrize("initial", [FlowState(id="order-7"), {"id": "order-7"}], ids=["model instance", "dict"])
async def test_an_id_that_the_initial_state_brings_is_the_runs(initial: Any) -> None:
    class Ordered(Flow[FlowState]):
        @start()
        async def first(self) -> str:
            return self.state.id

    flow = Ordered(initial_state=initial)

    assert await flow.kickoff() == "order-7"
    assert flow.run_id == "order-7"


async def test_required_fields_come_from_the_inputs() -> None:
    flow = Show()

    assert await flow.kickoff({"name": "given"}) == ("given", 2)


async def test_a_missing_required_field_is_named_and_nothing_runs() -> None:
    flow = Show()
    with pytest.raises(errors.RunInputsError, match="name"):
        await flow.kickoff({"size": 3})

    assert flow.method_outputs == {}


@pytest.mark.clauses("S5")
async def test_inputs_that_do_not_fit_are_refused_without_their_values() -> None:
    with pytest.raises(errors.RunInputsError, match="size") as caught:
        await Show().kickoff({"name": "x", "size": "a secret"})

    assert "a secret" not in str(caught.value)


async def test_an_unknown_input_is_refused_with_a_suggestion() -> None:
    with pytest.raises(errors.RunInputsError, match="Did you mean 'name'"):
        await Show().kickoff({"nam": "x"})


async def test_the_state_of_a_plain_flow_is_a_dict_with_an_id() -> None:
    class Simple(Flow):
        @start()
        async def first(self) -> None:
            self.state["greeting"] = "hello"

    flow = Simple()
    await flow.kickoff({"who": "you"})

    assert flow.state == {"id": flow.run_id, "who": "you", "greeting": "hello"}
    assert str(uuid.UUID(flow.run_id)) == flow.run_id


async def test_the_values_of_a_typed_dict_state_are_validated_in_the_inputs() -> None:
    class Numbers(Flow[dict[str, int]]):
        @start()
        async def first(self) -> int:
            return self.state["a"]

    assert await Numbers().kickoff({"a": 3}) == 3
    with pytest.raises(errors.RunInputsError, match="the state: b: "):
        await Numbers().kickoff({"b": "no number"})


async def test_the_state_may_be_changed_before_kickoff() -> None:
    class Add(Flow[Counter]):
        @start()
        async def first(self) -> None:
            self.state.count += 1

    flow = Add()
    flow.state.count = 41
    before = flow.run_id
    await flow.kickoff()

    assert flow.state.count == 42
    assert flow.run_id == before == flow.state.id


async def test_from_outside_a_running_flow_shows_a_copy_of_the_committed_state() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Two(Flow[Counter]):
        @start()
        async def first(self) -> None:
            self.state.count = 1

        @listen(first)
        async def second(self) -> None:
            self.state.count = 2
            inside.set()
            await go_on.wait()

    flow = Two()
    async with anyio.create_task_group() as group:
        group.start_soon(flow.kickoff)
        await inside.wait()
        seen = flow.state
        seen.count = 99
        again, status = flow.state.count, flow.status
        go_on.set()

    assert (again, status) == (1, "running")
    assert flow.state.count == 2


@pytest.mark.parametrize("storage", [None, MemoryFlowPersistence()], ids=["forgets", "stored"])
async def test_a_running_flow_shows_its_pending_invocations(storage: MemoryFlowPersistence | None) -> None:
    class Two(Flow[Counter]):
        @start()
        async def first(self) -> None:
            seen.append(self.pending)

        @listen(first)
        async def second(self) -> None:
            seen.append(self.pending)

    seen: list[tuple[str, ...]] = []
    flow = Two(persistence=storage)
    await flow.kickoff()

    assert (seen, flow.pending) == ([("first:1",), ("second:1",)], ())


def test_a_model_without_an_id_gets_one_and_stays_that_model() -> None:
    class Any_(Flow[Counter]):
        @start()
        async def first(self) -> None: ...

    flow = Any_()
    copy = pickle.loads(pickle.dumps(flow.state))

    assert isinstance(flow.state, Counter)
    assert flow.state.id == flow.run_id
    assert copy == flow.state
    assert type(copy) is type(flow.state)


def test_run_drives_a_flow_from_synchronous_code() -> None:
    class Add(Flow[Counter]):
        @start()
        async def first(self) -> int:
            return self.state.count + 1

    assert asyncflow.run(Add(), {"count": 1}) == 2


async def test_run_inside_a_running_loop_is_refused() -> None:
    class Any_(Flow):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.RunningLoopError, match="await"):
        asyncflow.run(Any_())


@pytest.mark.clauses("D1")
async def test_outputs_are_shown_when_they_are_committed() -> None:
    seen: list[Any] = []

    class Watching(MemoryFlowPersistence):
        async def append(self, checkpoint: Any) -> None:
            if checkpoint.method:
                seen.append(dict(flow.method_outputs))
            await super().append(checkpoint)

    class One(Flow):
        @start()
        async def one(self) -> int:
            return 1

    flow = One(persistence=Watching())
    await flow.kickoff()

    assert seen == [{}]
    assert flow.method_outputs == {"one": 1}


class Plain(FlowState):
    n: int = 1


class Other(FlowState): ...


@pytest.mark.parametrize(
    ("state", "initial"), [(Plain, Other), (Plain, Other()), (Plain, 5), (dict, 5), (dict, Plain()), (dict, Plain)]
)
def test_an_initial_state_of_another_kind_is_refused_by_its_name(state: Any, initial: Any) -> None:
    class Holding(Flow[state]):
        @start()
        def first(self) -> None: ...

    with pytest.raises(errors.FlowDefinitionError, match="initial_state"):
        Holding(initial_state=initial)
