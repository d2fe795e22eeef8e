"""What starts, what follows from what, and what each method receives."""

import enum
from typing import Any, Literal

import anyio
import pytest
from small import Counter

from asyncflow import Flow, MemoryFlowPersistence, MethodError, and_, errors, listen, router, start


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


async def test_an_invocation_can_read_its_id_and_only_inside() -> None:
    class Known(Flow):
        @start()
        async def first(self) -> str:
            return self.invocation_id

    flow = Known()
    output = await flow.kickoff()

    assert output == f"{flow.run_id}/1/first:1"
    with pytest.raises(LookupError):
        _ = flow.invocation_id


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
