"""States and results of every kind go in and come out, and the schema of the service holds whatever a flow is made of."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from types import new_class
from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, each, listen, merge, start
from asyncflow.integrations.fastapi import flow_router, lifespan


def answer_of(flow: type[Flow[Any]], body: Any = None, **options: Any) -> Any:
    """The result of a run of a flow, or its refusal; and that the schema is there."""
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow]))
    with TestClient(app) as client:
        assert client.get("/openapi.json").status_code == 200
        schema = client.get("/openapi.json").json()["components"]["schemas"]
        told = client.post(f"/flows/{flow.__name__}?wait=5", json=body, **options).json()
        if "run_id" in told:
            assert client.get(f"/runs/{told['run_id']}").json() == told
    return told, schema


def only(
    state: Any, does: Callable[[Any], Any] = lambda state: None, returns: Any = Any, **attributes: Any
) -> type[Flow[Any]]:
    """A flow of one method."""

    async def method(self: Any) -> Any:
        return does(self.state)

    method.__annotations__["return"] = returns
    return new_class("Only", (Flow[state],), None, lambda body: body.update(method=start()(method), **attributes))


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int


class Receipt(BaseModel):
    total: Decimal
    on: date


class Opaque:
    """No schema can be made of it."""


# ---- in --------------------------------------------------------------------------------------------------------------


def test_fields_are_given_by_their_aliases() -> None:
    class Aliased(FlowState):
        model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)
        first: int = Field(alias="firstNumber")
        second: int = Field(2, validation_alias="secondNumber")

    flow = only(Aliased, lambda state: [state.first, state.second])

    assert answer_of(flow, {"firstNumber": 1, "secondNumber": 5})[0]["result"] == [1, 5]
    told, schema = answer_of(flow, {"firstNumber": 1})
    assert told["result"] == [1, 2]
    assert told["state"]["firstNumber"] == 1
    assert schema["OnlyInputs"]["required"] == ["firstNumber"]


def test_a_state_with_extra_fields_takes_any_extra_except_for_an_id() -> None:
    class Open(FlowState):
        model_config = ConfigDict(extra="allow")
        n: int = 0

    flow = only(Open, lambda state: state.model_extra)

    assert answer_of(flow, {"n": 1, "more": [1]})[0]["result"] == {"more": [1]}
    assert answer_of(flow, {"id": "mine"})[0]["detail"][0]["loc"] == ["body", "id"]


def test_what_the_initial_state_sets_need_not_be_given() -> None:
    class Two(BaseModel):
        a: int
        b: int

    of_dict, of_model = (
        only(Two, lambda s: s.a, initial_state={"a": 1}),
        only(Two, lambda s: s.a, initial_state=Two(a=1, b=2)),
    )

    assert answer_of(of_dict, {})[0]["detail"][0]["loc"] == ["body", "b"]
    assert answer_of(of_dict, {"b": 1})[0]["result"] == 1
    assert answer_of(of_model)[0]["result"] == 1
    told, schema = answer_of(of_model, {"a": 5})
    assert told["result"] == 5
    assert "required" not in schema["OnlyInputs"]


def test_values_come_as_their_types() -> None:
    class Typed(FlowState):
        at: date
        price: Decimal
        colour: Colour
        who: uuid.UUID
        added: Annotated[int, merge.add] = 0
        points: tuple[Receipt, ...] = ()
        kind: Literal["a", "b"] = "a"
        _hidden: int = PrivateAttr(3)

    body = {
        "at": "2026-01-02",
        "price": "1.50",
        "colour": "red",
        "who": str(uuid.UUID(int=1)),
        "points": [{"total": 1, "on": "2026-01-02"}],
    }
    told, _ = answer_of(
        only(Typed, lambda s: [type(v).__name__ for v in (s.at, s.price, s.colour, s.who, s.points[0])]), body
    )

    assert told["result"] == ["date", "Decimal", "Colour", "UUID", "Receipt"]
    assert {**told["state"], **body, "points": 0} == {**told["state"], "points": 0}


def test_validators_of_the_state_have_their_say() -> None:
    class Checked(FlowState):
        low: int
        high: int = 9

        @field_validator("low")
        @classmethod
        def even(cls, low: int) -> int:
            if low % 2:
                raise ValueError("odd, and secret")
            return low

        @model_validator(mode="after")
        def ordered(self) -> "Checked":
            if self.low > self.high:
                raise ValueError("wrong order")
            return self

    flow = only(Checked, lambda state: state.low)

    assert answer_of(flow, {"low": 2})[0]["result"] == 2
    for body, where in (({"low": 3}, ["body", "low"]), ({"low": 10}, ["body"])):
        (found,) = answer_of(flow, body)[0]["detail"]
        assert found["loc"] == where
        assert "fit Checked" in found["msg"]
        assert "secret" not in found["msg"]


def test_a_frozen_state_and_one_whose_id_is_a_uuid() -> None:
    class Frozen(BaseModel):
        model_config = ConfigDict(frozen=True)
        id: uuid.UUID
        n: int = 1

    told, schema = answer_of(only(Frozen, lambda state: state.n), {"n": 4}, headers={"Idempotency-Key": "order-7"})

    assert told["result"] == 4
    assert told["run_id"] == told["state"]["id"] == str(uuid.UUID(told["run_id"]))
    assert "id" not in schema["OnlyInputs"]["properties"]


def test_a_field_without_a_schema_cannot_be_given_and_harms_nothing() -> None:
    class Odd(FlowState):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        n: int = 1
        odd: Opaque | None = None

    told, schema = answer_of(only(Odd, lambda state: state.n), {"n": 3})

    assert told["result"] == 3
    assert set(schema["OnlyInputs"]["properties"]) == {"n"}


@pytest.mark.parametrize("state", [dict, dict[str, Any], dict[str, list[int]]])
def test_a_dict_takes_what_it_holds(state: Any) -> None:
    flow = only(state, lambda state: state["a"])

    assert answer_of(flow, {"a": [1]})[0]["result"] == [1]
    assert answer_of(flow, {"id": [1]})[0]["detail"][0]["loc"] == ["body", "id"]


@pytest.mark.parametrize("state", [dict[str, int], dict[str, Any], dict])
def test_a_dict_is_described_with_its_id(state: Any) -> None:
    told, schema = answer_of(only(state, lambda state: state["a"]), {"a": 1})

    described = schema["OnlyRun"]["properties"]["state"]
    assert described["properties"] == {"id": {"type": "string"}}
    assert described["required"] == ["id"]
    assert told["state"] == {"id": told["run_id"], "a": 1}


# ---- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "returns", "told"),
    [
        (Point(1, 2), Point, {"x": 1, "y": 2}),
        (Receipt(total=Decimal("1.5"), on=date(2026, 1, 2)), Receipt, {"total": "1.5", "on": "2026-01-02"}),
        (Colour.RED, Colour, "red"),
        (float("nan"), float, None),
        (float("inf"), Any, None),
        (b"bytes", bytes, "bytes"),
        ({"a": (1, 2)}, dict[str, tuple[int, int]], {"a": [1, 2]}),
        ([Point(1, 2)], list[Point], [{"x": 1, "y": 2}]),
        (None, None, None),
        ("\U0001f600 \u2028", str, "\U0001f600 \u2028"),
    ],
)
def test_a_result_is_answered_as_json(value: Any, returns: Any, told: Any) -> None:
    assert answer_of(only(dict, lambda state: value, returns), {})[0]["result"] == told


def test_a_declared_result_is_described_whatever_the_methods_declare() -> None:
    class Only(Flow[dict, int | str]):  # type: ignore[type-arg]
        @start()
        async def untyped(self):  # type: ignore[no-untyped-def]
            return 1

    told, schema = answer_of(Only, {})

    assert told["result"] == 1
    described = schema["OnlyRun"]["properties"]["result"]["anyOf"]
    assert [each["type"] for each in described] == ["integer", "string", "null"]


def test_the_result_of_a_method_with_items_is_described_as_a_list() -> None:
    class Only(Flow[dict]):  # type: ignore[type-arg]
        @start()
        async def fetch(self) -> list[str]:
            return ["a", "bc"]

        @listen(each(fetch))
        async def size(self, item: str) -> int:
            return len(item)

    told, schema = answer_of(Only, {})

    assert told["result"] == [1, 2]
    assert schema["OnlyRun"]["properties"]["result"]["anyOf"][0] == {"type": "array", "items": {"type": "integer"}}


def test_a_result_without_a_schema_is_described_as_anything() -> None:
    told, schema = answer_of(only(dict, lambda state: 1, Opaque | int), {})

    assert told["status"] in ("finished", "failed")
    assert "anyOf" not in schema["OnlyRun"]["properties"]["result"]


def test_a_name_with_spaces_is_a_name() -> None:
    class Spaced(Flow):
        name = "ship it (v2)"

        @start()
        async def only(self) -> int:
            return 1

        @listen(only)
        async def then(self) -> str:
            return "done"

    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [Spaced, only(dict)], prefix="/api"))
    with TestClient(app) as client:
        told = client.post("/api/flows/ship it (v2)?wait=5")
        assert (told.status_code, told.json()["result"], told.json()["flow"]) == (200, "done", "ship it (v2)")
        assert client.get(told.headers["location"]).json() == told.json()
        assert "ship_it__v2_Run" in client.get("/openapi.json").json()["components"]["schemas"]
