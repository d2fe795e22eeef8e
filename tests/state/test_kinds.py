"""Kinds of state: the type of the id, what cannot be copied, dataclasses, and keys of dict states."""

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from asyncflow import Flow, FlowState, MemoryFlowPersistence, MethodError, errors, listen, start

pytestmark = pytest.mark.usefixtures("size")


def change_model_id(flow: Any) -> None:
    flow.state.id = "another"


def change_dict_id(flow: Any) -> None:
    flow.state["id"] = "another"


def delete_dict_id(flow: Any) -> None:
    del flow.state["id"]


@pytest.mark.parametrize(
    ("kind", "change"),
    [(FlowState, change_model_id), (dict, change_dict_id), (dict, delete_dict_id)],
    ids=["model", "dict", "deleted"],
)
async def test_a_method_that_changes_the_id_fails(kind: Any, change: Callable[[Any], None]) -> None:
    class Changing(Flow[kind]):
        @start()
        async def first(self) -> None:
            change(self)

    flow = Changing()
    with pytest.raises(MethodError) as caught:
        await flow.kickoff()

    assert isinstance(caught.value.__cause__, errors.StateError)
    assert caught.value.__cause__.method == "first"
    assert (flow.state.id if kind is FlowState else flow.state["id"]) == flow.run_id


class WithUuid(BaseModel):
    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    count: int = 0


class WithStr(BaseModel):
    id: str = ""
    count: int = 0


class Without(BaseModel):
    count: int = 0


@pytest.mark.parametrize(("model", "kind"), [(WithUuid, uuid.UUID), (WithStr, str), (Without, str)])
@pytest.mark.parametrize("stored", [False, True], ids=["unstored", "stored"])
async def test_the_id_is_of_the_type_that_the_model_declares(model: Any, kind: type, stored: bool) -> None:
    class Count(Flow[model]):
        persistence = MemoryFlowPersistence() if stored else None

        @start()
        async def first(self) -> None:
            self.state.count += 1

    mine = uuid.UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF")
    flow = Count()
    await flow.kickoff({"id": mine})

    assert flow.run_id == str(mine)
    assert flow.state.id == (mine if kind is uuid.UUID else str(mine))
    assert type(flow.state.id) is kind
    assert flow.state.count == 1


async def test_a_run_id_that_is_no_uuid_does_not_fit_a_uuid_model() -> None:
    class Count(Flow[WithUuid]):
        @start()
        async def first(self) -> None: ...

    with pytest.raises(errors.InvalidRunIdError):
        await Count().kickoff({"id": "order-7"})


class Lock:
    """What cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.uses = 0


class Client(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    client: Lock = Field(default_factory=Lock)
    count: int = 0


async def test_what_cannot_be_copied_is_shared_in_an_unstored_state() -> None:
    class Using(Flow[Client]):
        @start()
        async def first(self) -> None:
            self.state.client.uses += 1
            self.state.count += 1

        @listen(first)
        def second(self) -> None:
            self.state.client.uses += 1
            self.state.count += 1

    mine = Lock()
    flow = Using(initial_state=Client(client=mine))
    await flow.kickoff()

    assert flow.state.client is mine
    assert (mine.uses, flow.state.count) == (2, 2)


@pytest.mark.clauses("V1")
async def test_what_cannot_be_copied_is_refused_in_a_stored_state() -> None:
    class Using(Flow[Client]):
        @start()
        async def first(self) -> None:
            raise AssertionError("nothing may start")

    with pytest.raises(errors.StateNotStorableError) as caught:
        await Using(persistence=MemoryFlowPersistence()).kickoff()

    assert (caught.value.path, caught.value.type_name) == ("client", "Lock")


@dataclass
class Point:
    x: int = 0
    marks: list[str] = field(default_factory=list)


async def test_dataclasses_in_the_state_are_copied_for_each_draft() -> None:
    class Mapped(FlowState):
        point: Point = Field(default_factory=Point)

    strays: list[Point] = []

    class Draw(Flow[Mapped]):
        @start()
        async def first(self) -> None:
            strays.append(self.state.point)
            self.state.point.marks.append("a")

        @listen(first)
        async def second(self) -> None:
            strays[0].marks.append("stray")
            self.state.point.marks.append("b")

    flow = Draw()
    await flow.kickoff()

    assert flow.state.point == Point(0, ["a", "b"])


@pytest.mark.found("B5")
@pytest.mark.clauses("V1")
@pytest.mark.parametrize("key", [5, b"x", (1, 2), None, 1.5, True], ids=repr)
@pytest.mark.parametrize("annotation", [dict, dict[str, Any], dict[str, int]], ids=str)
async def test_a_key_of_the_state_that_is_no_string_is_refused_before_anything_is_stored(
    annotation: Any, key: Any
) -> None:
    storage = MemoryFlowPersistence()

    class Keys(Flow[annotation]):
        fails = True

        @start()
        async def first(self) -> None:
            self.state["count"] = 1

        @listen(first)
        async def second(self) -> str:
            if self.fails:
                self.state[key] = 5
            return "done"

    with pytest.raises(MethodError) as failed:
        await Keys(persistence=storage).kickoff({"id": "x"})
    refused = failed.value.failures[0].exception
    assert isinstance(refused, errors.StateNotStorableError)
    assert f"one is of type {type(key).__name__}" in str(refused)
    assert "use strings as keys of the state" in str(refused)

    Keys.fails = False
    assert await Keys.resume("x", persistence=storage) == "done"
    assert (await Keys.load("x", persistence=storage)).state == {"id": "x", "count": 1}
