"""What a request brings is validated once, as JSON, by the state's own model, and by the names that it takes."""

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, NamedTuple

import anyio
import httpx2
import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.testclient import TestClient
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import core_schema
from shop import Serve
from test_types import answer_of, only

from asyncflow import Flow, FlowRunner, FlowState, MemoryFlowPersistence, start
from asyncflow.integrations.fastapi import flow_router, lifespan, run_id_for


class Colour(Enum):
    RED = "red"


class Spot(NamedTuple):
    x: int
    y: int


@dataclass
class Size:
    width: Decimal


class Stay(BaseModel):
    model_config = ConfigDict(strict=True)
    since: datetime
    length: timedelta


class Strict(FlowState):
    model_config = ConfigDict(strict=True)
    on: date
    who: uuid.UUID
    pair: tuple[int, str]
    colour: Colour
    price: Decimal = Decimal(0)
    tags: frozenset[str] = frozenset()
    data: bytes = b""
    spot: Spot = Spot(0, 0)
    size: Size | None = None
    stays: list[Stay] = []  # noqa: RUF012 - as users write it


BODY: dict[str, Any] = {
    "on": "2026-01-02",
    "who": str(uuid.UUID(int=1)),
    "pair": [1, "a"],
    "colour": "red",
    "price": "1.50",
    "tags": ["a"],
    "data": "abc",
    "spot": [1, 2],
    "size": {"width": "2.5"},
    "stays": [{"since": "2026-01-02T03:04:05Z", "length": "PT1H"}],
}
VALUES = {
    "on": date(2026, 1, 2),
    "who": uuid.UUID(int=1),
    "pair": (1, "a"),
    "colour": Colour.RED,
    "price": Decimal("1.50"),
    "tags": frozenset({"a"}),
    "data": b"abc",
    "spot": Spot(1, 2),
    "size": Size(Decimal("2.5")),
    "stays": [Stay(since=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), length=timedelta(hours=1))],
}


def held_by(flow_state: Any, body: Any, **attributes: Any) -> tuple[Any, Any]:
    """The state that a run's method sees, and what is answered."""
    seen: list[Any] = []
    told, _ = answer_of(only(flow_state, seen.append, None, **attributes), body)
    return (seen or [None])[0], told


# ---- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.found("D6")
def test_a_field_that_decodes_is_decoded_once() -> None:
    class Upload(FlowState):
        data: Base64Bytes

    state, told = held_by(Upload, {"data": "aGVsbG8="})

    assert state.data == b"hello"
    assert told["state"]["data"].strip() == "aGVsbG8="


@pytest.mark.found("D6")
def test_validators_run_as_often_for_a_request_as_for_a_call() -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[[Any], Any]:
        return lambda value: calls.append(name) or value  # type: ignore[func-returns-value]

    class Checked(FlowState):
        one: Annotated[int, AfterValidator(noted("one"))]
        two: int = Field(ge=1)

        @field_validator("two")
        @classmethod
        def is_two(cls, two: int) -> int:
            return noted("two")(two)  # type: ignore[no-any-return]

    inputs = {"one": 1, "two": 2}
    flow = only(Checked)
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow]))
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(runner.run, flow, inputs)
        by_call = list(calls)
        calls.clear()
        assert client.post("/flows/Only", json=inputs).status_code == 202
        while runner.running:
            client.portal.call(anyio.sleep, 0.001)

    assert calls == by_call


@pytest.mark.found("D6")
def test_a_field_that_cannot_be_described_is_named_and_can_be_given(caplog: pytest.LogCaptureFixture) -> None:
    class Number(int):
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            plain = core_schema.plain_serializer_function_ser_schema(str)
            return core_schema.no_info_plain_validator_function(cls, serialization=plain)

    class Odd(FlowState):
        when: Number
        n: int = 1

    with caplog.at_level(logging.WARNING, "asyncflow"):
        told, schema = answer_of(only(Odd, lambda state: state.when + state.n), {"when": "4"})

    assert told["result"] == 5
    assert "no JSON schema: the field when of Only" in caplog.text
    assert schema["OnlyInputs"]["required"] == ["when"]
    assert schema["OnlyInputs"]["properties"]["n"]["type"] == "integer"


@pytest.mark.found("D6")
def test_a_field_that_no_json_sets_and_that_need_not_be_given_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    class Kept(FlowState):
        call: Callable[[], int] | None = Field(None, exclude=True)
        n: int = 1

    told, schema = answer_of(only(Kept, lambda state: state.n), {"n": 2})

    assert told["result"] == 2
    assert set(schema["OnlyInputs"]["properties"]) == {"n"}
    assert caplog.text == ""


# ---- as JSON ---------------------------------------------------------------------------------------------------------


@pytest.mark.found("D12")
@pytest.mark.parametrize("initial", [None, "dict", "model"])
def test_a_strict_model_takes_what_json_writes_as_text(initial: str | None) -> None:
    """Also where the flow's initial state sets some of it: that is taken as it is, and not as JSON."""
    preset = {"on": date(2020, 1, 1), "pair": (7, "b"), "stays": VALUES["stays"]}
    whole = Strict(**{**VALUES, **preset, "price": Decimal(9)})
    attributes = {None: {}, "dict": {"initial_state": preset}, "model": {"initial_state": whole}}[initial]

    state, told = held_by(Strict, BODY, **attributes)

    assert told["status"] == "finished", told
    assert {name: getattr(state, name) for name in VALUES} == VALUES
    assert type(state) is Strict
    assert state.id == told["run_id"]
    if initial is not None:
        given = {name: BODY[name] for name in ("who", "colour")}
        state, told = held_by(Strict, given, **attributes)
        assert {name: getattr(state, name) for name in preset} == preset
        assert (state.who, state.price) == (uuid.UUID(int=1), Decimal(9) if initial == "model" else Decimal(0))


@pytest.mark.found("D12")
@pytest.mark.parametrize("name", ["on", "who", "pair", "colour", "stays"])
def test_a_strict_model_refuses_what_is_no_such_text(name: str) -> None:
    told = held_by(Strict, {**BODY, name: "no"})[1]

    assert told["detail"][0]["loc"][:2] == ["body", name]


@pytest.mark.found("D12")
def test_the_values_of_a_dict_are_taken_as_json() -> None:
    state, told = held_by(dict[str, Stay], {"a": BODY["stays"][0]})

    assert state["a"] == VALUES["stays"][0]  # type: ignore[index]
    assert told["status"] == "finished"
    refused = held_by(dict[str, Stay], {"a": {"since": "x"}, "b": 1})[1]
    assert [found["loc"] for found in refused["detail"]] == [
        ["body", "a", "since"],
        ["body", "a", "length"],
        ["body", "b"],
    ]


def test_values_that_the_initial_state_holds_in_addition_to_its_fields_stay() -> None:
    class Kept(FlowState):
        model_config = ConfigDict(extra="allow")
        n: int = 1
        cache: dict[str, int] = Field(default={}, exclude=True)
        _count: int = PrivateAttr(0)

    initial = Kept(more="a", cache={"a": 1})
    initial._count = 3
    seen: list[Any] = []
    flow = only(
        Kept, lambda state: seen.append((state.n, state.more, state.cache, state._count)), initial_state=initial
    )

    assert answer_of(flow, {"n": 2})[0]["status"] == "finished"
    assert seen == [(2, "a", {"a": 1}, 3)]


def test_a_model_that_cannot_be_inherited_from_takes_inputs_all_the_same() -> None:
    class Last(FlowState):
        n: int = 1

        def __init_subclass__(cls, **kwargs: Any) -> None:
            raise TypeError("nobody inherits from it")

    state, told = held_by(Last, {"n": 2})

    assert (state.n, told["status"]) == (2, "finished")
    assert held_by(Last, {"n": "x"})[1]["detail"][0]["loc"] == ["body", "n"]


# ---- by the names that the model takes -------------------------------------------------------------------------------


class Inner(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    street_name: str


class Named(FlowState):
    to_where: Inner = Field(alias="toWhere")
    by_any: int = Field(0, validation_alias=AliasChoices("byAny", "any_by"))
    by_path: int = Field(0, validation_alias=AliasPath("path", 0))


@pytest.mark.found("D12")
def test_names_are_those_that_pydantic_takes_nested_ones_too() -> None:
    body = {"toWhere": {"streetName": "Rua"}, "any_by": 3, "path": [4]}
    state, told = held_by(Named, body)

    assert (state.to_where.street_name, state.by_any, state.by_path) == ("Rua", 3, 4)
    assert told["state"]["toWhere"] == {"streetName": "Rua"}
    for wrong in ({"to_where": {"streetName": "Rua"}}, {"toWhere": {"street_name": "Rua"}}, {**body, "by_any": 1}):
        assert held_by(Named, wrong)[1]["detail"][0]["loc"][0] == "body"


def test_the_id_is_not_given_by_another_name_of_it_either() -> None:
    class Order(FlowState):
        id: str = Field(default="", alias="orderId")
        n: int = 1

    told = held_by(Order, {"orderId": "mine", "n": 2})[1]

    assert told["detail"][0]["loc"] == ["body", "orderId"]


@pytest.mark.found("D12")
async def test_a_key_is_known_again_whatever_the_names_of_its_inputs_are() -> None:
    body = {"toWhere": {"streetName": "Rua"}, "any_by": 3, "path": [4]}
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [only(Named)]))
    with TestClient(app) as client:

        def ask(**other: Any) -> Any:
            return client.post("/flows/Only", json={**body, **other}, headers={"Idempotency-Key": "k"})

        assert ask().json()["run_id"] == ask().json()["run_id"] == run_id_for("Only", "k")
        assert ask(any_by=4).status_code == 409


@pytest.mark.found("D12")
async def test_a_key_whose_run_began_before_bodies_were_kept_as_json_is_known_again() -> None:
    """0.1 stored what a body was read as: a date-time in another spelling, a Decimal for a number."""

    class At(FlowState):
        at: datetime
        price: Decimal = Decimal(0)

    flow = only(At)
    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner))
    app.include_router(flow_router(runner, [flow]))
    before = {"at": datetime(2026, 1, 2, tzinfo=UTC), "price": Decimal("1.5")}
    with TestClient(app) as client:
        client.portal.call(lambda: runner.start(flow, before, run_id=run_id_for("Only", "k")))  # type: ignore[union-attr]

        def ask(price: float) -> int:
            body = {"at": "2026-01-02T00:00:00+00:00", "price": price}
            return client.post("/flows/Only", json=body, headers={"Idempotency-Key": "k"}).status_code

        assert (ask(1.5), ask(1.6)) == (202, 409)


# ---- what is no JSON -------------------------------------------------------------------------------------------------


@pytest.mark.found("R12")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "json_invalid"),
        (b"\xff", "json_invalid"),
        (b'{"item": "tea", "count": NaN}', "json_invalid"),
        (b'{"item": "tea", "count": -Infinity}', "json_invalid"),
        (b'{"item": "tea", "to": {"number": 1e999}}', "finite_number"),
        (b'{"item": "\\ud800"}', "json_invalid"),
        (b"[" * 5_000, "json_invalid"),
        (b'{"count": %b}' % (b"1" * 5_000), "json_invalid"),
        (b"[]", "dict_type"),
        (b"null", "missing"),
        (b"", "missing"),
    ],
)
async def test_a_body_that_is_no_json_is_a_422_as_the_schema_says(serve: Serve, body: bytes, kind: str) -> None:
    async with serve() as service:
        answer = await service.http.post("/flows/Order", content=body, headers={"content-type": "application/json"})
        runs = (await service.http.get("/runs")).json()["runs"]
        told = service.app.openapi()["paths"]["/flows/Order"]["post"]["responses"]

    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, kind)
    assert answer.json()["detail"][0]["loc"][0] == "body"
    assert runs == []
    assert "422" in told


@pytest.mark.found("R12")
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_a_body_that_does_not_say_it_is_json_is_refused(serve: Serve, kind: str) -> None:
    """A page of another site can send such a body without being asked."""
    async with serve() as service:
        answer = await service.http.post("/flows/Order", content=b'{"item": "tea"}', headers={"content-type": kind})

    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "content_type")


async def test_an_unauthorized_client_gets_that_error_and_not_the_ones_of_the_body(serve: Serve) -> None:
    async def authorize(token: str = Header(default="")) -> None:
        raise HTTPException(401)

    async with serve(authorize=authorize) as service:
        answer = await service.http.post("/flows/Order", content=b"{", headers={"content-type": "application/json"})

    assert answer.status_code == 401


@pytest.mark.parametrize("kind", ["application/json", "application/vnd.shop+json; charset=utf-8"])
async def test_a_guard_of_the_routes_can_read_the_body(kind: str) -> None:
    seen: list[Any] = []

    async def authorize(request: Request) -> None:
        seen.append((await request.body(), await request.json() if await request.body() else None))

    runner = FlowRunner(MemoryFlowPersistence())
    app = FastAPI(lifespan=lifespan(runner), dependencies=[Depends(authorize)])
    app.include_router(flow_router(runner, [only(dict[str, int], lambda state: state["n"])], authorize=authorize))
    with TestClient(app) as client:
        answer = client.post("/flows/Only?wait=60", content=b'{"n": 4}', headers={"content-type": kind})
        assert answer.json()["result"] == 4
        client.post(answer.headers["location"] + "/cancel", json={"why": "x"})

    assert seen == [(b'{"n": 4}', {"n": 4}), (b'{"why":"x"}', {"why": "x"})]


def test_a_body_may_begin_with_a_byte_order_mark() -> None:
    told, _ = answer_of(
        only(dict[str, int], lambda state: state["n"]), None, content=b'\xef\xbb\xbf{"n": 4}', headers=JSON
    )

    assert told["result"] == 4


JSON = {"content-type": "application/json"}


class Opaque:
    """A value that cannot be stored."""


class Flawed(FlowState):
    """Its default cannot be stored; whether `given` can is the client's concern."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    own: Any = Field(default_factory=Opaque)
    given: Annotated[Any, AfterValidator(lambda value: Opaque() if value == "opaque" else value)] = Field(
        default=None, alias="givenToo"
    )


FLAWED: list[Any] = [
    (Flawed, None, {}, 500),
    (Flawed, None, {"givenToo": 1}, 500),
    (Flawed, {"own": 1}, {"givenToo": "opaque"}, 422),
    (Flawed, {"own": 1}, {"givenToo": 1}, 202),
    (dict[str, Any], {"own": Opaque()}, {}, 500),
    (dict[str, Any], {"own": Opaque()}, {"other": 1}, 500),
]


@pytest.mark.parametrize(("state", "initial", "body", "status"), FLAWED)
async def test_a_state_that_cannot_be_stored_is_a_422_only_if_the_request_set_that_part(
    state: Any, initial: Any, body: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Starts(Flow[state]):
        initial_state = initial

        @start()
        async def begin(self) -> None: ...

    async with FlowRunner(MemoryFlowPersistence(), grace=0) as runner:
        app = FastAPI()
        app.include_router(flow_router(runner, [Starts]))
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http:
            answer = await http.post("/flows/Starts", json=body)

    assert answer.status_code == status
    assert "object at" not in answer.text
    assert ("cannot be stored" in caplog.text) == (status == 500)
