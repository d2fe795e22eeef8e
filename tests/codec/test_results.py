"""Which results are stored, for how long, and as what they load."""

import enum
import threading
from typing import Any

import pytest
from awkward import exact

from asyncflow import Flow, MemoryFlowPersistence, MethodError, errors, listen, start


@pytest.mark.clauses("V1")
async def test_a_result_that_no_listener_receives_is_not_stored_and_may_be_anything() -> None:
    store = MemoryFlowPersistence()
    client = threading.Lock()

    class Quiet(Flow):
        persistence = store

        @start()
        async def first(self):
            return client

        @listen(first)
        async def second(self) -> str:
            return "the unheard one"

        @listen(second)
        async def third(self) -> str:
            return "end"

    flow = Quiet()
    output = await flow.kickoff()
    rows = await store.history(flow.run_id)

    assert output == "end"
    assert flow.method_outputs["first"] is client
    assert not any(b"unheard" in row.to_bytes() for row in rows)


@pytest.mark.clauses("V1")
async def test_the_output_of_the_run_is_stored_or_refused() -> None:
    class Last(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self):
            return threading.Lock()

    with pytest.raises(MethodError) as caught:
        await Last().kickoff()

    assert isinstance(caught.value.__cause__, errors.ResultNotStorableError)


@pytest.mark.clauses("V1")
async def test_the_output_is_what_it_will_load_as() -> None:
    class Float(Flow):
        persistence = MemoryFlowPersistence()

        @start()
        async def first(self) -> float:
            return 1

    flow = Float()
    outputs = [await flow.kickoff(), flow.method_outputs["first"], await Float.resume(flow.run_id)]

    assert list(map(exact, outputs)) == [exact(1.0)] * 3


async def test_a_result_is_dropped_once_no_listener_waits_for_it() -> None:
    store = MemoryFlowPersistence()

    class Once(Flow):
        persistence = store

        @start()
        async def first(self) -> str:
            return "needle"

        @listen(first)
        async def second(self, value: str) -> None: ...

        @listen(second)
        async def third(self) -> None: ...

    flow = Once()
    await flow.kickoff()
    newest = await store.load(flow.run_id)

    assert newest is not None
    assert b"needle" not in (newest.progress or b"")


@pytest.mark.clauses("V2")
async def test_a_return_type_that_has_changed_since_is_reported() -> None:
    store = MemoryFlowPersistence()

    class Old(Flow):
        name = "typed"

        @start()
        async def first(self) -> str:
            return "text"

        @listen(first)
        async def second(self, value: Any) -> None:
            raise RuntimeError

    class New(Flow):
        name = "typed"

        @start()
        async def first(self) -> int:
            return 1

        @listen(first)
        async def second(self, value: Any) -> None: ...

    flow = Old(persistence=store)
    with pytest.raises(MethodError):
        await flow.kickoff()
    with pytest.raises(MethodError) as caught:
        await New.resume(flow.run_id, persistence=store)

    assert isinstance(caught.value.__cause__, errors.StateSchemaError)


class Level(enum.IntEnum):
    LOW = 1


async def test_a_result_is_of_its_own_method_s_type_though_another_s_is_the_same_json() -> None:
    """Python has one object for all bytes of one digit."""

    class Measuring(Flow[dict]):
        @start()
        async def number(self) -> int:
            return 1

        @listen(number)
        async def level(self, number: int) -> Level:
            return Level(number)

        @listen(level)
        async def told(self, level: Level) -> str:
            return repr(level)

    assert await Measuring(persistence=MemoryFlowPersistence()).kickoff() == "<Level.LOW: 1>"
