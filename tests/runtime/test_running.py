"""A run: what starts, what follows from what, what each method receives, and what the caller gets."""

import contextvars
import enum
import gc
import pickle
import sys
import threading
import uuid
from typing import Any, Literal

import anyio
import anyio.to_thread
import pytest
from pydantic import BaseModel

import asyncflow
from asyncflow import (
    Flow,
    FlowState,
    MemoryFlowPersistence,
    MethodError,
    and_,
    errors,
    listen,
    or_,
    persist,
    router,
    start,
)


class Counter(BaseModel):
    count: int = 0


class Named(FlowState):
    name: str
    size: int = 1


# ---- order and payloads ------------------------------------------------------------------------------------------


async def test_a_chain_runs_in_order_and_returns_the_last_output() -> None:
    class Chain(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count = 1
            return "one"

        @listen(first)
        async def second(self, text: str) -> str:
            self.state.count += 1
            return text + " two"

        @listen(second)
        async def third(self, text: str) -> str:
            self.state.count += 1
            return text + " three"

    flow = Chain()
    output = await flow.kickoff()

    assert output == "one two three"
    assert flow.state.count == 3
    assert flow.method_outputs == {"first": "one", "second": "one two", "third": "one two three"}
    assert flow.status == "finished"


async def test_a_listener_without_a_parameter_gets_nothing() -> None:
    class Quiet(Flow):
        @start()
        async def first(self) -> str:
            return "unheard"

        @listen(first)
        async def second(self) -> str:
            return "called"

    assert await Quiet().kickoff() == "called"


async def test_the_output_is_that_of_the_last_method_even_if_it_is_none() -> None:
    class Nothing(Flow):
        @start()
        async def first(self) -> int:
            return 1

        @listen(first)
        async def second(self) -> None: ...

    flow = Nothing()

    assert await flow.kickoff() is None
    assert flow.method_outputs == {"first": 1, "second": None}


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


@pytest.mark.parametrize(
    ("value", "label"),
    [("go", "go"), (0, "0"), (True, "True"), (Size.LARGE, "large")],
    ids=["str", "0", "bool", "enum"],
)
async def test_a_listener_of_a_label_gets_the_routers_value(value: Any, label: str) -> None:
    class Routed(Flow):
        @start()
        async def first(self) -> None: ...

        @router(first)
        async def decide(self):
            return value

        @listen(label)
        async def told(self, got: Any) -> tuple[str, Any]:
            return "told", got

    assert await Routed().kickoff() == ("told", value)


async def test_none_is_no_label() -> None:
    class Undecided(Flow):
        @start()
        async def first(self) -> None: ...

        @router(first)
        async def decide(self) -> Literal["None"] | None:
            return None

        @listen("None")
        async def told(self) -> None:
            raise AssertionError("None is no label")

    flow = Undecided()
    await flow.kickoff()

    assert set(flow.method_outputs) == {"first", "decide"}


async def test_a_stacked_router_starts_and_routes() -> None:
    class Stacked(Flow):
        @start()
        @router(emit=["left", "right"])
        async def decide(self) -> str:
            return "right"

        @listen("left")
        async def on_left(self) -> str:
            return "went left"

        @listen("right")
        async def on_right(self) -> str:
            return "went right"

    assert await Stacked().kickoff() == "went right"


async def test_an_undeclared_label_fails_the_router() -> None:
    class Surprising(Flow):
        @start()
        @router(emit=["left"])
        async def decide(self) -> str:
            return "up"

        @listen("left")
        async def on_left(self) -> None: ...

    with pytest.raises(MethodError) as caught:
        await Surprising().kickoff()

    assert isinstance(caught.value.__cause__, errors.UnknownLabelError)
    assert caught.value.method == "decide"


async def test_a_label_that_is_a_methods_name_fails_the_router() -> None:
    class Echo(Flow):
        @start()
        async def first(self) -> None: ...

        @router(first)
        async def decide(self):
            return "first"

    with pytest.raises(MethodError) as caught:
        await Echo().kickoff()

    assert isinstance(caught.value.__cause__, errors.UnknownLabelError)


async def test_unconditional_starts_run_at_the_same_time() -> None:
    here, there = anyio.Event(), anyio.Event()

    class Twins(Flow):
        @start()
        async def one(self) -> None:
            here.set()
            await there.wait()

        @start()
        async def two(self) -> None:
            there.set()
            await here.wait()

    flow = Twins()
    with anyio.fail_after(120):
        await flow.kickoff()

    assert set(flow.method_outputs) == {"one", "two"}


async def test_listeners_of_one_method_run_at_the_same_time() -> None:
    met = [anyio.Event() for _ in range(3)]

    async def meet(n: int) -> int:
        met[n].set()
        for other in met:
            await other.wait()
        return n

    class Fan(Flow):
        @start()
        async def begin(self) -> None: ...

        @listen(begin)
        async def a(self) -> int:
            return await meet(0)

        @listen(begin)
        async def b(self) -> int:
            return await meet(1)

        @listen(begin)
        async def c(self) -> int:
            return await meet(2)

        @listen(and_(a, b, c))
        async def join(self, c: int, a: int, b: int) -> list[int]:
            return [a, b, c]

    with anyio.fail_after(120):
        output = await Fan().kickoff()

    assert output == [0, 1, 2]


async def test_a_join_with_another_parameter_gets_the_last_result() -> None:
    class Join(Flow):
        @start()
        async def a(self) -> str:
            return "from a"

        @listen(a)
        async def b(self) -> str:
            return "from b"

        @listen(and_(a, b))
        async def join(self, value: str) -> str:
            return value

    assert await Join().kickoff() == "from b"


async def test_a_conditional_start_runs_when_its_condition_comes() -> None:
    ran: list[str] = []

    class Late(Flow):
        @start()
        async def first(self) -> str:
            ran.append("first")
            return "x"

        @start(first)
        async def second(self, value: str) -> None:
            ran.append(f"second {value}")

    await Late().kickoff()

    assert ran == ["first", "second x"]


async def test_where_no_start_is_unconditional_all_run() -> None:
    ran: list[str] = []

    class Loop(Flow):
        @start("again")
        async def a(self) -> None:
            ran.append("a")

        @start("again")
        async def b(self) -> None:
            ran.append("b")

        @router(and_(a, b))
        async def more(self) -> Literal["again"] | None:
            return "again" if len(ran) < 4 else None

    await Loop().kickoff()

    assert sorted(ran) == ["a", "a", "b", "b"]


async def test_a_method_called_by_another_is_a_plain_call_in_its_draft() -> None:
    class Direct(Flow[Counter]):
        @start()
        async def first(self) -> int:
            await self.helper()
            await self.second()
            return self.state.count

        async def helper(self) -> None:
            self.state.count += 10

        @listen(first)
        async def second(self) -> None:
            self.state.count += 1

    flow = Direct()
    await flow.kickoff()

    assert flow.method_outputs["first"] == 11
    assert flow.state.count == 12


@pytest.mark.clauses("V1")
async def test_a_receiver_that_changes_its_payload_changes_nothing_else() -> None:
    class Sharing(Flow):
        @start()
        async def make(self) -> list[int]:
            return [1]

        @listen(make)
        async def spoil(self, items: list[int]) -> None:
            items.append(99)

        @listen(make)
        async def keep(self, items: list[int]) -> list[int]:
            return items

        @listen(and_(spoil, keep))
        async def join(self) -> None: ...

    flow = Sharing()
    await flow.kickoff()

    assert flow.method_outputs["make"] == [1]
    assert flow.method_outputs["keep"] == [1]


@pytest.mark.clauses("V1")
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_a_join_gets_what_was_returned_even_if_that_object_was_changed_since(stored: bool) -> None:
    class Late(Flow):
        persistence = MemoryFlowPersistence() if stored else None

        def __init__(self) -> None:
            super().__init__()
            self.mine = [1]

        @start()
        async def make(self) -> list[int]:
            return self.mine

        @listen(make)
        async def spoil(self) -> None:
            self.mine.append(99)

        @listen(and_(make, spoil))
        async def join(self, make: list[int]) -> list[int]:
            return make

    flow = Late()

    assert await flow.kickoff() == [1]
    assert flow.method_outputs["make"] == [1]


async def test_kickoff_async_is_the_same_coroutine() -> None:
    class One(Flow[Counter]):
        @start()
        async def first(self) -> int:
            return self.state.count

    assert await One().kickoff_async({"count": 5}) == 5
    assert await One().kickoff_async(inputs={"count": 6}) == 6


async def test_an_invocation_is_told_its_id_and_only_inside() -> None:
    class Known(Flow):
        @start()
        async def first(self) -> str:
            return self.invocation_id

    flow = Known()
    output = await flow.kickoff()

    assert output == f"{flow.run_id}/1/first:1"
    with pytest.raises(LookupError):
        _ = flow.invocation_id


# ---- plain methods -------------------------------------------------------------------------------------------------

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


# ---- flows in flows, and beside flows ------------------------------------------------------------------------------


async def test_a_flow_inside_a_flow_has_its_own_state() -> None:
    class Inner(Flow[Counter]):
        @start()
        async def first(self) -> int:
            self.state.count += 100
            return self.state.count

    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> int:
            self.state.count = 1
            inner = await Inner().kickoff({"count": 5})
            self.state.count += 1
            return inner + self.state.count

    flow = Outer()

    assert await flow.kickoff() == 105 + 2
    assert flow.state.count == 2


async def test_an_inner_flow_may_use_the_outer_ones_draft() -> None:
    class Inner(Flow[Counter]):
        def __init__(self, outer: "Outer") -> None:
            super().__init__()
            self.outer = outer

        @start()
        async def first(self) -> None:
            self.state.count = 3
            self.outer.state.count += 40

        @listen(first)
        def second(self) -> None:
            self.state.count += 1
            self.outer.state.count += 2

    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> int:
            inner = Inner(self)
            await inner.kickoff()
            return inner.state.count

    flow = Outer()

    assert await flow.kickoff() == 4
    assert flow.state.count == 42


async def test_an_inner_flow_may_be_stored_where_the_outer_one_is() -> None:
    @persist
    class Inner(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count = 1
            return self.run_id

    @persist
    class Outer(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count = 5
            return await Inner().kickoff()

    flow = Outer()
    inner = await flow.kickoff()

    assert (await Inner.load(inner)).state.count == 1
    assert (await Outer.load(flow.run_id)).state.count == 5


async def test_a_flow_may_run_another_of_its_own_class() -> None:
    class Factorial(Flow[Counter]):
        @start()
        async def first(self) -> int:
            n = self.state.count
            return 1 if n < 2 else n * await Factorial().kickoff({"count": n - 1})

    assert await Factorial().kickoff({"count": 5}) == 120


async def test_a_second_kickoff_on_a_running_instance_is_refused() -> None:
    inside, go_on = anyio.Event(), anyio.Event()

    class Slow(Flow[Counter]):
        @start()
        async def first(self) -> str:
            self.state.count += 1
            inside.set()
            await go_on.wait()
            return "done"

    flow = Slow()
    outputs: list[str] = []

    async def kickoff() -> None:
        outputs.append(await flow.kickoff())

    async with anyio.create_task_group() as group:
        group.start_soon(kickoff)
        await inside.wait()
        with pytest.raises(errors.FlowBusyError):
            await flow.kickoff()
        go_on.set()

    assert outputs == ["done"]
    assert flow.state.count == 1


async def test_a_method_that_kicks_off_its_own_flow_is_refused() -> None:
    class Selfish(Flow):
        @start()
        async def first(self) -> None:
            await self.kickoff()

    with pytest.raises(MethodError) as caught:
        await Selfish().kickoff()

    assert isinstance(caught.value.__cause__, errors.FlowBusyError)


async def test_many_instances_run_at_once_each_with_its_own_state() -> None:
    everybody = anyio.Event()
    inside = 0

    class Member(Flow[Counter]):
        @start()
        async def first(self) -> None:
            nonlocal inside
            self.state.count += 1
            inside += 1
            if inside == 300:
                everybody.set()
            await everybody.wait()

        @listen(first)
        async def second(self) -> None:
            self.state.count *= 2

    flows = [Member() for _ in range(300)]
    with anyio.fail_after(120):
        async with anyio.create_task_group() as group:
            for n, flow in enumerate(flows):
                group.start_soon(flow.kickoff, {"count": n})

    assert [flow.state.count for flow in flows] == [2 * (n + 1) for n in range(300)]
    assert len({flow.run_id for flow in flows}) == 300


# ---- cycles and limits ---------------------------------------------------------------------------------------------


class Cycle(Flow[Counter]):
    @start()
    async def begin(self) -> None: ...

    @listen(or_(begin, "again"))
    async def turn(self) -> int:
        self.state.count += 1
        return self.state.count

    @router(turn)
    async def more(self, count: int) -> Literal["again", "enough"]:
        return "enough" if count >= 10_000 else "again"


async def test_a_cycle_of_20_000_steps_neither_nests_nor_grows() -> None:
    measured: list[tuple[int, int]] = []

    class Measured(Cycle):
        async def turn(self) -> int:
            self.state.count += 1
            if self.state.count in (1_000, 9_999):
                gc.collect()
                measured.append((len(gc.get_objects()), depth()))
            return self.state.count

    def depth() -> int:
        frame, n = sys._getframe(), 0
        while frame is not None:
            frame, n = frame.f_back, n + 1
        return n

    flow = Measured(max_method_calls=None)
    output = await flow.kickoff()

    assert output == "enough"
    assert flow.state.count == 10_000
    (early_objects, early_depth), (late_objects, late_depth) = measured
    assert late_objects - early_objects < 500
    assert early_depth == late_depth


@pytest.mark.clauses("V5")
async def test_a_method_called_too_often_in_a_pass_is_a_limit() -> None:
    flow = Cycle(max_method_calls=25)
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, errors.LimitExceededError)
    assert caught.value.__cause__.method == "turn"
    assert flow.state.count == 25


@pytest.mark.clauses("V5", "X3")
async def test_a_run_that_met_the_limit_goes_on_with_a_higher_one() -> None:
    store = MemoryFlowPersistence()
    flow = Cycle(max_method_calls=25, persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError):
        await Cycle.resume(flow.run_id, max_method_calls=50, persistence=store)
    loaded = await Cycle.load(flow.run_id, persistence=store)

    assert loaded.state.count == 50
    assert loaded.pending == ("turn:51",)


async def test_the_limit_counts_each_pass_anew() -> None:
    class Short(Cycle):
        max_method_calls = 5

        async def turn(self) -> int:
            self.state.count += 1
            return 10_000 if not self.state.count % 4 else 0

    flow = Short()
    await flow.kickoff()
    await flow.kickoff()

    assert flow.state.count == 8


# ---- the instance and its state ------------------------------------------------------------------------------------


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


async def test_a_subclass_that_forgets_super_init_is_told_so() -> None:
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


async def test_from_outside_a_running_flow_shows_a_copy_of_what_is_committed() -> None:
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
async def test_a_running_flow_tells_what_is_pending(storage: MemoryFlowPersistence | None) -> None:
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


@pytest.mark.found("T17")
async def test_the_output_of_parallel_last_methods_is_that_of_either_and_a_join_decides_it() -> None:
    class Racing(Flow[dict[str, Any]]):
        @start()
        async def left(self) -> str:
            return "left"

        @start()
        async def right(self) -> str:
            return "right"

    class Joined(Racing):
        @listen(and_(Racing.left, Racing.right))
        async def both(self) -> str:
            return " and ".join(self.method_outputs[name] for name in ("left", "right"))

    assert await Racing().kickoff() in ("left", "right")
    assert [await Joined().kickoff() for _ in range(20)] == ["left and right"] * 20
